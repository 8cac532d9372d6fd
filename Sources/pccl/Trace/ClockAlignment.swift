import PCCLBase
import PCCLRecorder

/// The clocks of several peers, each as its distance from that of the first.
///
/// A message is received after it was sent. So what peer A has sent B and B has received bounds the distance of their clocks from
/// one side, and what B has sent A from the other: the distance is taken to be in the middle, and is wrong by at most half of
/// what is between the bounds, which is half of the shortest time there and back. Peers that have no messages of each other
/// are reached by way of others. After Cristian, Probabilistic clock synchronization, 1989. Clocks that drift apart
/// while events are recorded make that worse by as much as they do.
struct ClockAlignment {
    enum Basis: Equatable {
        case reference
        /// It has the same clock: the running kernel is the same.
        case sameMachine
        /// Wrong by so many nanoseconds at most.
        case messages(error: UInt64)
        /// No messages connect it with the first: by what the machines take for the time of day.
        case timeOfDay
    }
    struct Clock: Equatable {
        /// To be added to this peer's time.
        var offset: Int64
        var basis: Basis
    }

    /// In the order of the files.
    private(set) var clocks: [Clock]

    /// What bounds the distance from one clock to another, "theirs minus ours".
    private struct Bounds {
        var low: Int64?
        var high: Int64?
    }

    private struct Message: Hashable {
        var isEntry: Bool
        var to: PeerID
        var launch: LaunchNumber
        var tag: Tag
    }

    init(_ files: [TraceFile]) {
        clocks = files.map { file in
            // Until it is connected.
            let first = files[0].clocks
            let offset =
                Int64(bitPattern: file.clocks.wallNanoseconds &- file.clocks.monotonicNanoseconds)
                &- Int64(bitPattern: first.wallNanoseconds &- first.monotonicNanoseconds)
            return Clock(offset: offset, basis: .timeOfDay)
        }
        guard !files.isEmpty else { return }
        clocks[0] = Clock(offset: 0, basis: .reference)
        let sent = files.map(ClockAlignment.sent)
        let received = files.map(ClockAlignment.received)
        var errors: [UInt64?] = Array(repeating: nil, count: files.count)
        errors[0] = 0
        var edges: [(from: Int, to: Int, distance: Int64, error: UInt64, isSame: Bool)] = []
        for from in files.indices {
            for to in files.indices where to > from {
                if !files[from].boot.isEmpty, files[from].boot == files[to].boot {
                    edges.append((from, to, 0, 0, true))
                    continue
                }
                let bounds = ClockAlignment.bounds(
                    files[from].peer, sent[from], received[from], files[to].peer, sent[to], received[to])
                guard let low = bounds.low, let high = bounds.high else { continue }
                edges.append((from, to, low / 2 + high / 2, (high &- low).magnitude / 2, false))
            }
        }
        // The exactest edge to somebody who is not connected yet, until there is none.
        while true {
            var best: (to: Int, offset: Int64, error: UInt64, isSame: Bool)?
            for edge in edges {
                for (from, to, distance) in [(edge.from, edge.to, edge.distance), (edge.to, edge.from, -edge.distance)]
                {
                    guard let known = errors[from], errors[to] == nil else { continue }
                    let error = known &+ edge.error
                    guard error < best?.error ?? .max else { continue }
                    let isSame = edge.isSame && (clocks[from].basis == .reference || clocks[from].basis == .sameMachine)
                    best = (to, clocks[from].offset &- distance, error, isSame)
                }
            }
            guard let best else { return }
            errors[best.to] = best.error
            clocks[best.to] = Clock(
                offset: best.offset, basis: best.isSame ? .sameMachine : .messages(error: best.error))
        }
    }

    /// The first time that each message was sent: one that is sent again, when a link is made again, was not received before.
    private static func sent(_ file: TraceFile) -> [Message: UInt64] {
        times(file, entry: .entrySent, prepared: .preparedSent)
    }
    private static func received(_ file: TraceFile) -> [Message: UInt64] {
        times(file, entry: .entryReceived, prepared: .preparedReceived)
    }
    private static func times(
        _ file: TraceFile, entry: TraceEvent.Kind, prepared: TraceEvent.Kind
    ) -> [Message: UInt64] {
        var times: [Message: UInt64] = [:]
        for event in file.events where event.kind == entry || event.kind == prepared {
            guard let peer = event.peer else { continue }
            let message = Message(isEntry: event.kind == entry, to: peer, launch: event.launch, tag: event.tag)
            if times[message] == nil { times[message] = event.nanoseconds }
        }
        return times
    }

    private static func bounds(
        _ us: PeerID, _ ourSent: [Message: UInt64], _ ourReceived: [Message: UInt64], _ them: PeerID,
        _ theirSent: [Message: UInt64], _ theirReceived: [Message: UInt64]
    ) -> Bounds {
        var bounds = Bounds()
        for (message, at) in ourSent where message.to == them {
            var arrival = message
            arrival.to = us
            guard let there = theirReceived[arrival] else { continue }
            let most = Int64(bitPattern: there &- at)
            bounds.high = min(bounds.high ?? most, most)
        }
        for (message, at) in theirSent where message.to == us {
            var arrival = message
            arrival.to = them
            guard let here = ourReceived[arrival] else { continue }
            let least = Int64(bitPattern: at &- here)
            bounds.low = max(bounds.low ?? least, least)
        }
        return bounds
    }
}
