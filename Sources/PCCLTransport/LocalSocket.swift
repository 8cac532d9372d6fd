import CShims
import Glibc
import PCCLWire

/// A socket through which processes of this host hand each other descriptors. It has no place in the file system, and nothing
/// is left of it when its process has ended. Anyone on the host can send to it: what comes must prove where it is from.
///
/// Bound to its loop.
package final class LocalSocket {
    /// For others to send to, in the abstract namespace.
    package let name: [UInt8]
    private let socket: Socket
    private var poll: Poll?
    private let mostBytes: Int
    private static let messagesPerTurn = 16
    /// What came. The descriptor is the callee's.
    private let onMessage: ([UInt8], CInt) -> Void

    /// Messages have at most so many bytes: longer ones are dropped, as are those without a descriptor.
    package init(
        _ loop: EventLoop, mostBytes: Int, _ onMessage: @escaping ([UInt8], CInt) -> Void
    ) throws(SystemError) {
        self.mostBytes = mostBytes
        self.onMessage = onMessage
        var chosen = [UInt8](repeating: 0, count: Int(pccl_shim_socket_name_bytes))
        var count: CInt = 0
        let descriptor = pccl_shim_open_local_socket(&chosen, &count)
        guard descriptor >= 0 else { throw SystemError(doing: "opening a socket of this host") }
        name = Array(chosen.prefix(Int(count)))
        socket = Socket(owning: descriptor)
        poll = Poll(loop, descriptor: descriptor) { [weak self] _ in self?.receive() }
        poll?.watch(.read)
    }

    /// In which network names mean the same: that of a container, of a host, since it was started. Nil where the kernel does not
    /// say.
    package static let network: WindowToken? = {
        var content = stat()
        guard let file = fopen("/proc/sys/kernel/random/boot_id", "r") else { return nil }
        defer { fclose(file) }
        var text = [UInt8](repeating: 0, count: 64)
        let count = fread(&text, 1, text.count, file)
        let digits = text.prefix(count).compactMap { Character(UnicodeScalar($0)).hexDigitValue }
        guard digits.count == 32, stat("/proc/self/ns/net", &content) == 0 else { return nil }
        func number(_ digits: ArraySlice<Int>) -> UInt64 { digits.reduce(0) { $0 << 4 | UInt64($1) } }
        return WindowToken(high: number(digits[..<16]), low: number(digits[16...]) ^ UInt64(content.st_ino))
    }()

    package func close() {
        poll?.close()
        poll = nil
    }

    /// A message for a socket of that name. Fails if nobody has it, or its owner has not taken what came before.
    package func send(_ bytes: [UInt8], _ descriptor: CInt, to name: [UInt8]) throws(SystemError) {
        let code = pccl_shim_send_descriptor(
            socket.descriptor, name, CInt(name.count), bytes, bytes.count, descriptor)
        guard code == 0 else { throw SystemError(doing: "handing a descriptor to a process of this host") }
    }

    private func receive() {
        var buffer = [UInt8](repeating: 0, count: mostBytes)
        // Somebody who sends without end does not keep the loop.
        for _ in 0..<LocalSocket.messagesPerTurn where poll != nil {
            var descriptor: CInt = -1
            let count = pccl_shim_receive_descriptor(socket.descriptor, &buffer, buffer.count, &descriptor)
            guard count >= 0 else { return }
            guard descriptor >= 0 else { continue }
            if count > mostBytes { Glibc.close(descriptor) } else { onMessage(Array(buffer.prefix(count)), descriptor) }
        }
    }
}
