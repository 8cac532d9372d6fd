import CShims
import Glibc
import PCCLBase
import PCCLRecorder
import PCCLTransport

/// What is recorded of a peer, and where it is written to.
package struct RecorderConfiguration: Sendable {
    /// 0: nothing is recorded.
    package var bytes = Recorder.usualBytes
    /// Nil: nothing is written unless a call asks for it.
    package var directory: String?
    /// At this one, which the program has no use for, all recorders of the process are written. Nil: at none.
    package var signal: RecorderSignal?
    /// For whoever reads a dump.
    package var release = ""
    package init() {}
}

/// A signal of the process that asks for dumps. The library takes no other.
package struct RecorderSignal: Hashable, Sendable {
    package var number: CInt
    package var name: String

    /// "USR2", "SIGUSR2"; nil for what is not one of the two that are the user's.
    package init?(_ text: String) {
        let name = text.uppercased()
        switch name.hasPrefix("SIG") ? String(name.dropFirst(3)) : name {
        case "USR1": (number, self.name) = (SIGUSR1, "SIGUSR1")
        case "USR2": (number, self.name) = (SIGUSR2, "SIGUSR2")
        default: return nil
        }
    }

    /// How often it has come since it was first asked; the first question makes the process count it. The handler does that and
    /// nothing else, and loops look when they have something to do, at least once between two heartbeats.
    var count: UInt32 {
        guard Self.isCounted(self) else { return 0 }
        return pccl_shim_signal_count()
    }

    private static let counted = Guarded<[CInt: Bool]>([:])

    private static func isCounted(_ signal: RecorderSignal) -> Bool {
        counted.withLock { counted in
            if let known = counted[signal.number] { return known }
            let problem = pccl_shim_count_signal(signal.number)
            if problem != 0 {
                let why = problem < 0 ? "the program has a handler of its own" : SystemError.text(problem)
                Log.write(.error, "PCCL_RECORDER_SIGNAL: \(signal.name) is not taken: \(why)")
            }
            counted[signal.number] = problem == 0
            return problem == 0
        }
    }
}
