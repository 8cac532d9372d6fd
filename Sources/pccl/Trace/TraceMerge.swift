import PCCLBase
import PCCLRecorder

/// Dumps of several peers of one run, on one clock.
struct TraceMerge {
    /// One of each peer, in the order of their ids; its events in the order of their times, which are those of the first.
    private var files: [TraceFile]
    private let alignment: ClockAlignment

    /// Several dumps of one peer are taken together.
    init(_ all: [TraceFile]) throws(TraceProblem) {
        let runs = Set(all.map(\.run).filter { $0 != 0 }).sorted()
        guard runs.count <= 1 else {
            let names = runs.map { String($0, radix: 16) }.joined(separator: ", ")
            throw TraceProblem(
                description:
                    "the dumps are of several runs (\(names)), whose peers have the same numbers; name those of one")
        }
        struct Key: Hashable {
            var peer: PeerID
            var process: UInt32
            var boot: String
        }
        files = Dictionary(grouping: all) { Key(peer: $0.peer, process: $0.process, boot: $0.boot) }.values
            .map { group in
                var last = group.max { $0.clocks.monotonicNanoseconds < $1.clocks.monotonicNanoseconds } ?? group[0]
                guard group.count > 1 else { return last }
                last.events = Set(group.flatMap(\.events)).sorted {
                    ($0.nanoseconds, $0.kind.rawValue, $0.peer?.value ?? 0)
                        < ($1.nanoseconds, $1.kind.rawValue, $1.peer?.value ?? 0)
                }
                last.lost = group.map(\.lost).min() ?? 0
                return last
            }
            .sorted { ($0.peer, $0.process) < ($1.peer, $1.process) }
        alignment = ClockAlignment(files)
        // From the first event on.
        let times = zip(files, alignment.clocks).flatMap { file, clock in
            file.events.map { Int64(bitPattern: $0.nanoseconds) &+ clock.offset }
        }
        let start = times.min() ?? 0
        for index in files.indices {
            for event in files[index].events.indices {
                let time = Int64(bitPattern: files[index].events[event].nanoseconds) &+ alignment.clocks[index].offset
                files[index].events[event].nanoseconds = UInt64(bitPattern: time &- start)
            }
        }
    }

    /// A line for each peer: how much there is of it, and how exact its times are.
    var summary: [String] {
        zip(files, alignment.clocks).map { file, clock in
            "peer \(file.peer.value) on \(TraceText.plain(file.host)): \(file.events.count) events, "
                + TraceMerge.words(clock.basis)
        }
    }

    private static func words(_ basis: ClockAlignment.Basis) -> String {
        switch basis {
        case .reference: "whose clock is taken"
        case .sameMachine: "the same clock"
        case .messages(let error): "its clock aligned by messages, ± \(TraceMerge.micros(error)) µs"
        case .timeOfDay: "no messages with the others, so its times are by the machines' time of day"
        }
    }

    private static func micros(_ nanoseconds: UInt64) -> String {
        "\(nanoseconds / 1000).\(nanoseconds % 1000 / 100)"
    }

    // MARK: - the trace

    private enum Track {
        static let calls = 1
        static let messages = 2
        static let links = 3
        /// Of the first tag.
        static let tags = 10
    }

    var json: [UInt8] {
        var w = TraceEventWriter()
        let arrivals = arrivals
        for (file, clock) in zip(files, alignment.clocks) { write(file, clock, arrivals, to: &w) }
        return w.document
    }

    private struct Message: Hashable {
        var isEntry: Bool
        var from: PeerID
        var to: PeerID
        var launch: LaunchNumber
        var tag: Tag
    }

    private func message(_ event: TraceEvent, of file: TraceFile) -> (Message, isSent: Bool)? {
        guard let peer = event.peer else { return nil }
        func message(_ isEntry: Bool, _ isSent: Bool) -> (Message, isSent: Bool) {
            (
                Message(
                    isEntry: isEntry, from: isSent ? file.peer : peer, to: isSent ? peer : file.peer,
                    launch: event.launch, tag: event.tag), isSent
            )
        }
        return switch event.kind {
        case .entrySent: message(true, true)
        case .preparedSent: message(false, true)
        case .entryReceived: message(true, false)
        case .preparedReceived: message(false, false)
        default: nil
        }
    }

    /// Of messages that were sent and received, a number for the arrow between.
    private var arrivals: [Message: UInt64] {
        var sent: Set<Message> = []
        var received: Set<Message> = []
        for file in files {
            for event in file.events {
                guard let (message, isSent) = message(event, of: file) else { continue }
                if isSent { sent.insert(message) } else { received.insert(message) }
            }
        }
        let both = sent.intersection(received).sorted {
            ($0.from, $0.to, $0.launch, $0.isEntry ? 0 : 1) < ($1.from, $1.to, $1.launch, $1.isEntry ? 0 : 1)
        }
        return Dictionary(uniqueKeysWithValues: both.enumerated().map { ($1, UInt64($0) + 1) })
    }

    private func write(
        _ file: TraceFile, _ clock: ClockAlignment.Clock, _ arrivals: [Message: UInt64], to w: inout TraceEventWriter
    ) {
        let process = file.peer.value
        func name(_ kind: String, _ track: Int, _ name: String) {
            w.add("M", kind, process: process, track: track, arguments: [("name", .text(name))])
        }
        name(
            "process_name", 0,
            "peer \(process) on \(file.host), process \(file.process), \(TraceMerge.words(clock.basis))")
        name("thread_name", Track.calls, "calls")
        name("thread_name", Track.messages, "entries and words of completion")
        name("thread_name", Track.links, "links, master, views")
        let tags = Set(file.events.filter { $0.kind.isOfOperation }.map(\.tag)).sorted()
        var tracks: [Tag: Int] = [:]
        for (index, tag) in tags.enumerated() {
            tracks[tag] = Track.tags + index
            name("thread_name", Track.tags + index, "\(tag)")
        }
        writeMessages(file, arrivals, to: &w)
        writeCalls(file, to: &w)
        writeWaits(file, tracks, to: &w)
        for slice in OperationSlices(file).slices {
            w.add(
                "X", slice.name, process: process, track: tracks[slice.tag] ?? Track.tags, nanoseconds: slice.start,
                duration: slice.end - slice.start, arguments: slice.arguments.map { ($0, .text($1)) })
        }
        for event in file.events where event.kind.isInstant {
            let isOfOperation = event.kind.isOfOperation
            w.add(
                "i", TraceText.words(event), process: process,
                track: isOfOperation ? tracks[event.tag] ?? Track.tags : Track.links, nanoseconds: event.nanoseconds,
                more: isOfOperation ? #","s":"t""# : #","s":"p""#)
        }
    }

    /// Arrows begin and end in slices: each message gets one, as short as a message is.
    private func writeMessages(_ file: TraceFile, _ arrivals: [Message: UInt64], to w: inout TraceEventWriter) {
        let messages = file.events.compactMap { event in message(event, of: file).map { (event, $0.0, $0.isSent) } }
        var drawn: Set<UInt64> = []
        for (index, (event, message, isSent)) in messages.enumerated() {
            let next = index + 1 < messages.count ? messages[index + 1].0.nanoseconds : .max
            let what = message.isEntry ? "entry" : "prepared"
            let name = isSent ? "\(what), \(event.tag), to \(message.to)" : "\(what), \(event.tag), of \(message.from)"
            w.add(
                "X", name, process: file.peer.value, track: Track.messages, nanoseconds: event.nanoseconds,
                duration: min(1000, next - event.nanoseconds))
            // A message that was sent again has one arrow, from where it was sent first.
            guard let id = arrivals[message], drawn.insert(id).inserted else { continue }
            w.add(
                isSent ? "s" : "f", what, process: file.peer.value, track: Track.messages,
                nanoseconds: event.nanoseconds, id: id, category: "message", more: isSent ? "" : #","bp":"e""#)
        }
    }

    private func writeCalls(_ file: TraceFile, to w: inout TraceEventWriter) {
        var began: [UInt64: UInt64] = [:]
        let end = file.events.last?.nanoseconds ?? 0
        func write(_ call: UInt64, from start: UInt64, to end: UInt64, _ result: String) {
            let name = TraceCall(rawValue: UInt8(truncatingIfNeeded: call)).map { "\($0)" } ?? "call"
            w.add(
                "X", name, process: file.peer.value, track: Track.calls, nanoseconds: start, duration: end - start,
                arguments: [("result", .text(result))])
        }
        for event in file.events {
            switch event.kind {
            case .callBegan: began[event.value & 0xff] = event.nanoseconds
            case .callEnded:
                guard let start = began.removeValue(forKey: event.value & 0xff) else { continue }
                let result = TraceResult(rawValue: UInt8(truncatingIfNeeded: event.value >> 8)).map { "\($0)" }
                write(event.value & 0xff, from: start, to: event.nanoseconds, result ?? "?")
            default: break
            }
        }
        for (call, start) in began.sorted(by: { $0.value < $1.value }) {
            write(call, from: start, to: end, "not back yet")
        }
    }

    /// Threads that wait for an outcome overlap: they are asynchronous slices.
    private func writeWaits(_ file: TraceFile, _ tracks: [Tag: Int], to w: inout TraceEventWriter) {
        var waiting: [Tag: Int] = [:]
        func write(_ phase: String, _ tag: Tag, _ at: UInt64) {
            w.add(
                phase, "a caller waits", process: file.peer.value, track: tracks[tag] ?? Track.tags, nanoseconds: at,
                id: tag.value, category: "wait-\(file.peer.value)")
        }
        for event in file.events {
            switch event.kind {
            case .waitBegan:
                waiting[event.tag, default: 0] += 1
                write("b", event.tag, event.nanoseconds)
            case .waitEnded:
                guard let count = waiting[event.tag], count > 0 else { continue }
                waiting[event.tag] = count - 1
                write("e", event.tag, event.nanoseconds)
            default: break
            }
        }
        let end = file.events.last?.nanoseconds ?? 0
        for (tag, count) in waiting.sorted(by: { $0.key < $1.key }) { for _ in 0..<count { write("e", tag, end) } }
    }
}

/// Operations of one peer as slices, each of which lies within the one before it or behind it.
struct OperationSlices {
    struct Slice {
        var tag: Tag
        var name: String
        var start: UInt64
        var end: UInt64
        var arguments: [(String, String)] = []
    }
    private struct Operation {
        var launched: UInt64
        var started: UInt64?
        var descriptor = "operation"
        var lastEntry: (at: UInt64, peer: PeerID)?
        var whole: UInt64?
        var finished: UInt64?
    }

    private(set) var slices: [Slice] = []

    init(_ file: TraceFile) {
        var open: [Tag: Operation] = [:]
        for event in file.events {
            let (tag, now) = (event.tag, event.nanoseconds)
            switch event.kind {
            case .launched:
                // Launched again before it has ended: that was refused.
                if open[tag] == nil { open[tag] = Operation(launched: now) }
            case .started, .resumed:
                var operation = open[tag] ?? Operation(launched: now)
                if operation.started == nil { operation.started = now }
                if event.kind == .started { operation.descriptor = TraceDescriptor(word: event.value).text }
                // It begins again, or goes on, in a new epoch: what it lacked then is over.
                (operation.whole, operation.finished, operation.lastEntry) = (nil, nil, nil)
                open[tag] = operation
            case .entryReceived:
                if let peer = event.peer { open[tag]?.lastEntry = (now, peer) }
            case .resultWhole: open[tag]?.whole = now
            case .finished: open[tag]?.finished = now
            case .completed:
                guard let operation = open.removeValue(forKey: tag) else { continue }
                let result = TraceResult(rawValue: UInt8(truncatingIfNeeded: event.value)).map { "\($0)" } ?? "?"
                add(operation, tag, until: now, result)
            default: break
            }
        }
        let end = file.events.last?.nanoseconds ?? 0
        for (tag, operation) in open.sorted(by: { $0.key < $1.key }) {
            add(operation, tag, until: end, "not ended yet")
        }
    }

    private mutating func add(_ operation: Operation, _ tag: Tag, until end: UInt64, _ result: String) {
        slices.append(
            Slice(
                tag: tag, name: operation.descriptor, start: operation.launched, end: end,
                arguments: [("outcome", result)]))
        guard var at = operation.started else { return }
        func part(_ name: String, until moment: UInt64?, of slices: inout [Slice]) {
            guard let moment, moment > at, moment <= end else { return }
            slices.append(Slice(tag: tag, name: name, start: at, end: moment))
            at = moment
        }
        if let entry = operation.lastEntry { part("waits for \(entry.peer) to call", until: entry.at, of: &slices) }
        part("moves data", until: operation.whole ?? end, of: &slices)
        if operation.whole != nil {
            part("waits until all hold the result", until: operation.finished ?? end, of: &slices)
        }
    }
}

extension TraceEvent.Kind {
    /// It has a tag.
    fileprivate var isOfOperation: Bool {
        switch self {
        case .launched, .waitBegan, .waitEnded, .started, .resumed, .entrySent, .entryReceived, .firstInputReceived,
            .lastInputReceived, .firstResultReceived, .lastResultReceived, .firstInputSent, .lastInputSent,
            .firstResultSent, .lastResultSent, .resultWhole, .preparedSent, .preparedReceived, .finished, .completed,
            .stuck:
            true
        case .callBegan, .callEnded, .halted, .flush, .verdict, .view, .proposed, .linked, .departed, .linkUp,
            .linkDown,
            .stripeBroken, .stripeAdded, .masterConnected, .masterLost, .attached, .stateLent, .stateFetched,
            .stateReturned:
            false
        }
    }

    /// Shown as a moment; the others are ends of slices.
    fileprivate var isInstant: Bool {
        switch self {
        case .callBegan, .callEnded, .launched, .waitBegan, .waitEnded, .started, .entrySent, .preparedSent, .completed:
            false
        case .resumed, .entryReceived, .firstInputReceived, .lastInputReceived, .firstResultReceived,
            .lastResultReceived, .firstInputSent, .lastInputSent, .firstResultSent, .lastResultSent, .resultWhole,
            .preparedReceived, .finished, .stuck, .halted, .flush, .verdict, .view, .proposed, .linked, .departed,
            .linkUp,
            .linkDown, .stripeBroken, .stripeAdded, .masterConnected, .masterLost, .attached, .stateLent, .stateFetched,
            .stateReturned:
            true
        }
    }
}
