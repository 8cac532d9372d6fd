import PCCLBase

/// What happened at a peer at one moment, in 32 bytes.
package struct TraceEvent: Hashable, Sendable {
    /// The numbers are those of files.
    package enum Kind: UInt8, Sendable, CaseIterable {
        // Calls, by the threads that make them. `launch`: their number; `value`: which one, `TraceCall`.
        case callBegan = 1
        /// `value`: which one, and in the byte above its result, `TraceResult`.
        case callEnded = 2
        /// A caller has launched an operation. `value`: bytes of its buffer.
        case launched = 3
        /// A caller begins to wait for the operation's outcome, and has it. `value`: `TraceResult`.
        case waitBegan = 4
        case waitEnded = 5

        // Operations. `launch`: this peer's number of it, unless something else is said.
        /// `value`: `TraceDescriptor`.
        case started = 10
        /// Goes on after a flush. `value`: the launch number that it had.
        case resumed = 11
        case entrySent = 12
        /// `launch`: the number that `peer` has for it.
        case entryReceived = 13
        /// Pieces of a chunk that is to be reduced, and of a result. `value`: bytes so far.
        case firstInputReceived = 14
        case lastInputReceived = 15
        case firstResultReceived = 16
        case lastResultReceived = 17
        case firstInputSent = 18
        case lastInputSent = 19
        case firstResultSent = 20
        case lastResultSent = 21
        case resultWhole = 22
        case preparedSent = 23
        /// `launch`: the number that `peer` has for it.
        case preparedReceived = 24
        /// `value`: 1 with success.
        case finished = 25
        /// The caller has the outcome. `value`: `TraceResult`.
        case completed = 26
        /// Nothing has come of `peer` for long. `value`: for how many nanoseconds.
        case stuck = 27

        // Membership. `value`: an epoch, where one is meant.
        case halted = 40
        case flush = 41
        case verdict = 42
        case view = 43
        case proposed = 44
        case linked = 45
        case departed = 46

        // Links and the master.
        case linkUp = 60
        case linkDown = 61
        /// `value`: stripes that are left.
        case stripeBroken = 62
        case stripeAdded = 63
        case masterConnected = 64
        case masterLost = 65
        case attached = 66

        // Shared state.
        case stateLent = 80
        case stateFetched = 81
        case stateReturned = 82
    }

    /// Of the monotonic clock of the peer's machine.
    package var nanoseconds: UInt64
    package var kind: Kind
    /// Nil: of none in particular.
    package var peer: PeerID?
    package var launch: LaunchNumber
    package var tag: Tag
    package var value: UInt64

    package init(
        nanoseconds: UInt64, kind: Kind, peer: PeerID? = nil, launch: LaunchNumber = LaunchNumber(0), tag: Tag = Tag(0),
        value: UInt64 = 0
    ) {
        self.nanoseconds = nanoseconds
        self.kind = kind
        self.peer = peer
        self.launch = launch
        self.tag = tag
        self.value = value
    }
}

// MARK: - as four words

extension TraceEvent {
    static let words = 4
    static let byteCount = 32
    /// Ids of peers in the second word: above, a run has had more peers than it is likely to ever have.
    private static let peerLimit: UInt64 = 0xff_ffff

    /// Kind, peer and launch number.
    @inline(__always)
    static func word(_ kind: Kind, _ peer: PeerID?, _ launch: LaunchNumber) -> UInt64 {
        UInt64(kind.rawValue) | min(peer?.value ?? 0, peerLimit) << 8 | UInt64(launch.value) << 32
    }

    /// Nil: of no kind that this release knows.
    init?(_ w0: UInt64, _ w1: UInt64, _ w2: UInt64, _ w3: UInt64) {
        guard let kind = Kind(rawValue: UInt8(truncatingIfNeeded: w1)) else { return nil }
        let peer = w1 >> 8 & TraceEvent.peerLimit
        self.init(
            nanoseconds: w0, kind: kind, peer: peer == 0 ? nil : PeerID(peer),
            launch: LaunchNumber(UInt32(truncatingIfNeeded: w1 >> 32)), tag: Tag(w2), value: w3)
    }
}

/// Blocking calls of a program, but for collectives.
package enum TraceCall: UInt8, Sendable, CaseIterable {
    case connect = 1
    case updateTopology = 2
    case arePeersPending = 3
    case optimizeTopology = 4
    case synchronizeState = 5
}

package enum TraceResult: UInt8, Sendable, CaseIterable {
    case success = 0
    case memberLost = 1
    case mismatch = 2
    case misuse = 3
    case masterLost = 4
    case outOfMemory = 5
    case refused = 6
    case destroyed = 7
}

/// An operation's descriptor in one word.
package struct TraceDescriptor: Hashable, Sendable {
    package var word: UInt64
    package init(word: UInt64) { self.word = word }

    private static let countLimit = UInt64(1) << 44 - 1

    package init(_ descriptor: OperationDescriptor) {
        let collective: UInt64 =
            switch descriptor.collective {
            case .allReduce: 0
            case .allGather: 1
            case .reduceScatter: 2
            case .broadcast: 3
            case .barrier: 4
            }
        word =
            collective << 60 | UInt64(descriptor.operation.rawValue & 15) << 56
            | UInt64(descriptor.algorithm.rawValue & 15) << 52 | UInt64(descriptor.type.rawValue & 255) << 44
            | min(descriptor.count, TraceDescriptor.countLimit)
    }

    package var count: UInt64 { word & TraceDescriptor.countLimit }
    package var name: String {
        let names = ["all-reduce", "all-gather", "reduce-scatter", "broadcast", "barrier"]
        let index = Int(word >> 60)
        return names.indices.contains(index) ? names[index] : "operation"
    }
    package var type: DataType? { DataType(rawValue: UInt32(word >> 44 & 255)) }
    package var operation: ReduceOperation? { ReduceOperation(rawValue: UInt32(word >> 56 & 15)) }
    package var algorithm: Algorithm? { Algorithm(rawValue: UInt8(word >> 52 & 15)) }

    /// "all-reduce, 4000000 × float32, sum, direct"
    package var text: String {
        guard name != "barrier" else { return name }
        var parts = [name, "\(count) × \(type.map { "\($0)" } ?? "?")"]
        if name == "all-reduce" || name == "reduce-scatter" { parts.append(operation.map { "\($0)" } ?? "?") }
        parts.append(algorithm.map { "\($0)" } ?? "?")
        return parts.joined(separator: ", ")
    }
}
