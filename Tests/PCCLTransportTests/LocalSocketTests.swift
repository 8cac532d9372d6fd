import CShims
import Glibc
import PCCLTestSupport
import PCCLTransport
import Testing

/// A socket on a loop of its own. What comes is told with what the descriptor is of.
private final class LocalEnd: @unchecked Sendable {
    struct Message: Equatable, Sendable {
        var bytes: [UInt8]
        /// Of the file that came.
        var content: [UInt8]
    }
    let loop: EventLoop
    let messages = Mailbox<Message>("messages of a local socket")
    // The loop's thread only.
    private var socket: LocalSocket?
    private(set) var name: [UInt8] = []

    init() throws {
        loop = try EventLoop(name: "test")
        try loop.sync { [self] in
            socket = try? LocalSocket(loop, mostBytes: 8) { [messages] bytes, descriptor in
                var content = [UInt8](repeating: 0, count: 16)
                let count = pread(descriptor, &content, content.count, 0)
                close(descriptor)
                messages.put(Message(bytes: bytes, content: Array(content.prefix(max(count, 0)))))
            }
            name = socket?.name ?? []
        }
    }
    deinit { loop.stop() }

    func end() throws {
        try loop.sync { [self] in
            socket?.close()
            socket = nil
        }
    }

    /// What it says when that fails.
    func send(_ bytes: [UInt8], _ descriptor: CInt, to name: [UInt8]) throws -> String? {
        try loop.sync { [self] in
            do {
                try socket?.send(bytes, descriptor, to: name)
                return nil
            } catch {
                return "\(error)"
            }
        }
    }
}

@Suite("Sockets that hand over descriptors", .timeLimit(.minutes(1)))
struct LocalSocketTests {
    private func file(_ content: [UInt8]) -> CInt {
        var template = Array("/tmp/pccl-local-XXXXXX".utf8CString)
        let descriptor = mkstemp(&template)
        unlink(&template)
        _ = content.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        return descriptor
    }

    @Test("names are the kernel's, in no folder, and the network has one of its own")
    func names() throws {
        let ends = (try LocalEnd(), try LocalEnd())
        #expect(ends.0.name.count == 6 && ends.0.name[0] == 0 && ends.0.name != ends.1.name)
        #expect(LocalSocket.network != nil)
        try ends.0.end()
        try ends.1.end()
    }

    @Test("a message comes with a descriptor of the same file, which the sender may close")
    func handOver() throws {
        let (sender, receiver) = (try LocalEnd(), try LocalEnd())
        let descriptor = file([1, 2, 3])
        #expect(try sender.send([7, 8], descriptor, to: receiver.name) == nil)
        close(descriptor)
        #expect(try receiver.messages.take() == LocalEnd.Message(bytes: [7, 8], content: [1, 2, 3]))
        try sender.end()
        try receiver.end()
    }

    @Test("what has no descriptor, or is too long, is dropped, and nothing stays open")
    func strangers() throws {
        let (sender, receiver) = (try LocalEnd(), try LocalEnd())
        let descriptor = file([4])
        var name = [UInt8](repeating: 0, count: Int(pccl_shim_socket_name_bytes))
        var count: CInt = 0
        let stranger = pccl_shim_open_local_socket(&name, &count)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: receiver.name) }
        let length = socklen_t(MemoryLayout<sa_family_t>.size + receiver.name.count)
        let bare = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { sendto(stranger, [9], 1, 0, $0, length) }
        }
        #expect(bare == 1)
        close(stranger)
        let before = countEntries("/proc/self/fd")
        #expect(try sender.send([UInt8](repeating: 1, count: 9), descriptor, to: receiver.name) == nil)
        #expect(try sender.send([5], descriptor, to: receiver.name) == nil)
        #expect(try receiver.messages.take() == LocalEnd.Message(bytes: [5], content: [4]))
        // Other tests open and close some meanwhile.
        #expect(countEntries("/proc/self/fd") < before + 50)
        close(descriptor)
        try sender.end()
        try receiver.end()
    }

    @Test("nobody is there, or nobody listens: the sender is told")
    func nobody() throws {
        let (sender, receiver) = (try LocalEnd(), try LocalEnd())
        let descriptor = file([])
        #expect(try sender.send([1], descriptor, to: [0, 1, 2, 3])?.contains("refused") == true)
        try receiver.end()
        #expect(try sender.send([1], descriptor, to: receiver.name)?.contains("refused") == true)
        close(descriptor)
        try sender.end()
    }
}
