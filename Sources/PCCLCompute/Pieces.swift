import Glibc
import Synchronization

/// Work in pieces that do not depend on each other.
enum Pieces {
    /// Runs the body once for each number below `count`, by up to so many threads, this one included. Blocks until all are
    /// done.
    static func run(_ count: Int, threads: Int, _ body: @escaping @Sendable (Int) -> Void) {
        let work = PieceWork(count, body)
        let helpers = (1..<max(1, min(threads, count, processors))).compactMap { _ in start(work) }
        work.run()
        for helper in helpers { pthread_join(helper, nil) }
    }

    private static let processors = sysconf(CInt(_SC_NPROCESSORS_ONLN))

    /// Nil if there are no more threads: then the others do its part.
    private static func start(_ work: PieceWork) -> pthread_t? {
        var thread = pthread_t()
        let context = Unmanaged.passRetained(work)
        guard pthread_create(&thread, nil, runPieces, context.toOpaque()) == 0 else {
            context.release()
            return nil
        }
        return thread
    }
}

private func runPieces(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let context else { return nil }
    // Signals belong to the host process' threads.
    var all = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_BLOCK, &all, nil)
    Unmanaged<PieceWork>.fromOpaque(context).takeRetainedValue().run()
    return nil
}

/// Whichever thread is free takes the next piece.
private final class PieceWork: Sendable {
    private let count: Int
    private let body: @Sendable (Int) -> Void
    private let next = Atomic(0)

    init(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
        self.count = count
        self.body = body
    }

    func run() {
        while true {
            let index = next.add(1, ordering: .relaxed).oldValue
            guard index < count else { return }
            body(index)
        }
    }
}
