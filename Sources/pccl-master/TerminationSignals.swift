import Glibc

/// SIGTERM and SIGINT as a call on a thread of its own, where anything may be done, and not as a handler, where almost
/// nothing may.
struct TerminationSignals {
    private let set: sigset_t

    /// To be called before any other thread is made: threads inherit the mask, and one without it would be chosen by
    /// the kernel to die of the signal.
    static func block() -> TerminationSignals {
        var set = sigset_t()
        sigemptyset(&set)
        sigaddset(&set, SIGTERM)
        sigaddset(&set, SIGINT)
        pthread_sigmask(SIG_BLOCK, &set, nil)
        // A log that nobody reads any more is no reason to end.
        signal(SIGPIPE, SIG_IGN)
        return TerminationSignals(set: set)
    }

    /// Calls `action` at the first of them. The second one ends the process at once: who asks twice has waited enough.
    func onFirst(_ action: @escaping @Sendable () -> Void) {
        let waiter = Unmanaged.passRetained(Waiter(set: set, action: action))
        var thread = pthread_t()
        let problem = pthread_create(&thread, nil, awaitTerminationSignal, waiter.toOpaque())
        if problem == 0 {
            pthread_detach(thread)
        } else {
            // Without the thread the signals must at least kill.
            waiter.release()
            var set = set
            pthread_sigmask(SIG_UNBLOCK, &set, nil)
        }
    }

    fileprivate final class Waiter: Sendable {
        let set: sigset_t
        let action: @Sendable () -> Void
        init(set: sigset_t, action: @escaping @Sendable () -> Void) {
            self.set = set
            self.action = action
        }
    }
}

private func awaitTerminationSignal(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let context else { return nil }
    let waiter = Unmanaged<TerminationSignals.Waiter>.fromOpaque(context).takeRetainedValue()
    var set = waiter.set
    var caught: Int32 = 0
    while sigwait(&set, &caught) != 0 {}
    pthread_sigmask(SIG_UNBLOCK, &set, nil)
    waiter.action()
    // This thread stays, as the one that the second signal can reach: all the others block it.
    while true { pause() }
}
