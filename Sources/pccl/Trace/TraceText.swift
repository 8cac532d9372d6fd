import PCCLBase
import PCCLRecorder

/// A dump as lines for people.
struct TraceText {
    var file: TraceFile
    init(_ file: TraceFile) { self.file = file }

    var lines: [String] {
        let first = file.events.first?.nanoseconds ?? 0
        let run = String(file.run, radix: 16)
        var head = [
            "peer \(file.peer.value) of group \(file.group.value), run \(String(repeating: "0", count: 8 - run.count))\(run), "
                + "process \(file.process) on \(TraceText.plain(file.host)), release \(TraceText.plain(file.release))",
            "written because: \(TraceText.plain(file.reason))",
            "\(file.events.count) events"
                + (file.lost > 0 ? ", and \(file.lost) before them that were overwritten" : ""),
        ]
        head += file.events.map { event in
            "\(TraceText.seconds(event.nanoseconds &- first).trailing(14))  \(TraceText.words(event))"
        }
        return head
    }

    /// "12.345678"
    static func seconds(_ nanoseconds: UInt64) -> String {
        let micros = nanoseconds / 1000
        return "\(micros / 1_000_000).\(String(micros % 1_000_000 + 1_000_000).dropFirst())"
    }

    /// On one line, and nothing that a terminal would obey.
    static func plain(_ text: String) -> String {
        String(
            String.UnicodeScalarView(
                text.unicodeScalars.map { $0.properties.generalCategory == .control ? " " : $0 }))
    }

    static func words(_ event: TraceEvent) -> String {
        let peer = event.peer.map { "peer \($0.value)" } ?? "?"
        let operation = "tag \(event.tag.value), launch \(event.launch.value)"
        let call = TraceCall(rawValue: UInt8(truncatingIfNeeded: event.value)).map { "\($0)" } ?? "a call"
        func result(_ raw: UInt64) -> String {
            TraceResult(rawValue: UInt8(truncatingIfNeeded: raw)).map { "\($0)" } ?? "?"
        }
        switch event.kind {
        case .callBegan: return "\(call) is called"
        case .callEnded: return "\(call) returns: \(result(event.value >> 8))"
        case .launched: return "tag \(event.tag.value): launched, \(event.value) bytes"
        case .waitBegan: return "tag \(event.tag.value): a caller waits for it"
        case .waitEnded: return "tag \(event.tag.value): a caller has its outcome"
        case .started: return "\(operation): begins: \(TraceDescriptor(word: event.value).text)"
        case .resumed: return "\(operation): goes on, was launch \(event.value)"
        case .entrySent: return "\(operation): \(peer) is told that it is called"
        case .entryReceived: return "tag \(event.tag.value): \(peer) has called it, its launch \(event.launch.value)"
        case .firstInputReceived: return "\(operation): first contribution of \(peer), \(event.value) bytes"
        case .lastInputReceived: return "\(operation): last contribution of \(peer), \(event.value) bytes in all"
        case .firstResultReceived: return "\(operation): first result of \(peer), \(event.value) bytes"
        case .lastResultReceived: return "\(operation): last result of \(peer), \(event.value) bytes in all"
        case .firstInputSent: return "\(operation): first contribution to \(peer), \(event.value) bytes"
        case .lastInputSent: return "\(operation): last contribution to \(peer), \(event.value) bytes in all"
        case .firstResultSent: return "\(operation): first result to \(peer), \(event.value) bytes"
        case .lastResultSent: return "\(operation): last result to \(peer), \(event.value) bytes in all"
        case .resultWhole: return "\(operation): the result is whole"
        case .preparedSent: return "\(operation): \(peer) is told that this one is prepared"
        case .preparedReceived: return "tag \(event.tag.value): \(peer) is prepared, its launch \(event.launch.value)"
        case .finished:
            return "\(operation): \(event.value == 1 ? "committed" : "ended without success, the input is whole")"
        case .completed: return "tag \(event.tag.value): the outcome is \(result(event.value))"
        case .stuck: return "tag \(event.tag.value): has waited \(seconds(event.value)) s for \(peer)"
        case .halted: return "everything stands still"
        case .flush: return "the master asks for all operations, for epoch \(event.value)"
        case .verdict: return "the master's verdict, epoch \(event.value)"
        case .view: return "a view, epoch \(event.value)"
        case .proposed: return "a view is proposed, epoch \(event.value)"
        case .linked: return "all of it is linked, epoch \(event.value)"
        case .departed: return "not a member any more"
        case .linkUp: return "the link to \(peer) stands"
        case .linkDown: return "the link to \(peer) is down"
        case .stripeBroken: return "a connection to \(peer) broke, \(event.value) are left"
        case .stripeAdded: return "a connection to \(peer) was added, \(event.value) in all"
        case .masterConnected: return "connected to the master"
        case .masterLost: return "the master is lost"
        case .attached: return "attached to the master again"
        case .stateLent: return "the shared state is lent"
        case .stateFetched: return event.value == 1 ? "the shared state is here" : "the shared state cannot be had"
        case .stateReturned: return "the shared state is the caller's again"
        }
    }
}
