import Glibc
import PCCLBase
import PCCLTransport

/// Something that runs on a thread of its own, because it blocks.
package final class InThread<Value: Sendable>: Sendable {
    private let outcome = Mailbox<Result<Value, any Error>>("a thread's result")

    package init(_ body: @escaping @Sendable () throws -> Value) {
        let outcome = self.outcome
        startThread { outcome.put(Result { try body() }) }
    }

    /// Waits for its end. To be called once.
    package func result() throws -> Value { try outcome.take().get() }
    package func failure() throws -> (any Error)? {
        switch try outcome.take() {
        case .success: nil
        case .failure(let error): error
        }
    }
    package var hasEnded: Bool { !outcome.all.isEmpty }
}

private final class ThreadBody {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}

private func runThread(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    if let argument { Unmanaged<ThreadBody>.fromOpaque(argument).takeRetainedValue().body() }
    return nil
}

package func startThread(_ body: @escaping @Sendable () -> Void) {
    var thread = pthread_t()
    let code = pthread_create(&thread, nil, runThread, Unmanaged.passRetained(ThreadBody(body)).toOpaque())
    precondition(code == 0, "no thread for a test")
    pthread_detach(thread)
}

/// All bodies at once, each on its thread; their values in order.
package func together<Value: Sendable>(_ bodies: [@Sendable () throws -> Value]) throws -> [Value] {
    let threads = bodies.map { InThread($0) }
    return try threads.map { try $0.result() }
}

package func together<Value: Sendable>(
    _ count: Int, _ body: @escaping @Sendable (Int) throws -> Value
) throws -> [Value] {
    try together((0..<count).map { index in { @Sendable in try body(index) } })
}

extension EventLoop {
    /// Runs on the loop's thread, and waits for the value.
    @discardableResult
    package func sync<Value: Sendable>(_ body: @escaping @Sendable () -> Value) throws -> Value {
        let done = Completion<Value>()
        guard submit({ done.set(body()) }) else { throw Stuck(waitingFor: "a stopped loop") }
        return try done.value("a job of a loop")
    }
}

/// Entries of a folder of the process file system that describes this process.
package func countEntries(_ path: String) -> Int {
    guard let folder = opendir(path) else { return -1 }
    defer { closedir(folder) }
    var count = 0
    while let entry = readdir(folder) {
        let first = withUnsafeBytes(of: entry.pointee.d_name) { $0[0] }
        if first != UInt8(ascii: ".") { count += 1 }
    }
    return count - (path == "/proc/self/fd" ? 1 : 0)
}

package var openDescriptors: Int { countEntries("/proc/self/fd") }
package var runningThreads: Int { countEntries("/proc/self/task") }

/// Whether no more than that many threads run, soon. One that was joined is still listed for a moment, on a busy machine for
/// a longer one: that is no leak, nor one that was counted before.
package func threadsFall(to count: Int) -> Bool {
    let start = EventLoop.now
    while runningThreads > count {
        if (EventLoop.now - start).seconds > Double(patienceSeconds) { return false }
        sched_yield()
    }
    return true
}
