import PCCLBase

/// What the master says to a peer.
package enum ToPeer: Hashable, Sendable {
    /// The answer to `hello`. The time-outs are the master's: the same knobs for the whole run.
    case welcome(
        peer: PeerID, run: RunID, secret: PeerSecret, deadTimeMilliseconds: UInt32, masterGraceMilliseconds: UInt32,
        stragglerDeadlineMilliseconds: UInt32 = 0)
    /// The peer is not, or no longer, part of the run. The connection ends with this message.
    case turnedAway(reason: String)
    case heartbeat
    /// Make the links that this view needs, then answer `linked` or `cannotReach`.
    case propose(epoch: Epoch, members: [Member])
    /// The proposed view holds from now on.
    case view(epoch: Epoch, members: [Member], world: WorldCounts, arrangement: Arrangement = .plain)
    /// The join point is over and nobody was admitted: view and epoch stay.
    case joinUnchanged(world: WorldCounts)
    case pendingAnswer(arePending: Bool)
    /// Another group's view changed.
    case world(WorldCounts)
    /// Stop every operation in flight and report it. `epoch` is the epoch that the verdict will open.
    case flush(epoch: Epoch)
    /// The outcome of every operation that this peer reported, and the view that holds from now on. The calls in `missed`
    /// have failed at other members, and this peer has not made them yet: when it does, they fail at once.
    case verdict(
        epoch: Epoch, members: [Member], world: WorldCounts, arrangement: Arrangement = .plain,
        operations: [OperationVerdict], missed: [FailedCalls] = [])
    /// The joint call this peer waits in cannot be: other members wait in another one.
    case callRefused(reason: String)
    /// The optimise call is over, and what is in force could not be bettered: view, epoch and arrangement stay.
    case optimizeUnchanged
    /// The answer to `attach`: the peer is who it was. What it has missed comes next.
    case attached(world: WorldCounts)
    /// After that: say again what you bring to the synchronisation that you wait in.
    case repeatOffer
    /// Receive this, then answer `stateReceived`.
    case receiveState(StateDecision)
    /// The synchronisation is over. All hold the elected content with this revision; nil: nobody could give one.
    case stateSynchronized(revision: UInt64?)
    /// What the peer brought to the synchronisation does not go with what others brought: it is no longer part of the run.
    /// The connection ends with this message.
    case stateRefused(reason: String)
}

/// The master's word on one operation of the peer it is sent to.
package struct OperationVerdict: Hashable, Sendable {
    package enum Outcome: UInt8, CaseIterable, Sendable {
        /// Every survivor holds the whole result: it is a success everywhere.
        case commit = 0
        /// Some survivor has not entered the call: begin again in the new epoch; no caller learns of it.
        case restart = 1
        /// The input is to be made whole and the caller told that a member was lost.
        case abort = 2
        /// The members are in calls that wait for each other.
        case misuse = 3
        /// Other members have told their callers that the descriptors differ.
        case mismatch = 4
        /// Go on in the new epoch with what is final; no caller learns of it.
        case resume = 5
    }
    package var tag: Tag
    package var launch: LaunchNumber
    package var outcome: Outcome
    /// How to go on, with `resume`.
    package var resumption: Resumption?
    package init(tag: Tag, launch: LaunchNumber, outcome: Outcome, resumption: Resumption? = nil) {
        self.tag = tag
        self.launch = launch
        self.outcome = outcome
        self.resumption = resumption
    }
}

extension ToPeer {
    package var bytes: [UInt8] {
        var w = ByteWriter()
        switch self {
        case .welcome(let peer, let run, let secret, let deadTime, let masterGrace, let stragglerDeadline):
            w.write(UInt8(1))
            w.write(peer.value)
            w.write(run)
            w.write(secret)
            w.write(deadTime)
            w.write(masterGrace)
            w.write(stragglerDeadline)
        case .turnedAway(let reason):
            w.write(UInt8(2))
            w.write(reason)
        case .heartbeat:
            w.write(UInt8(3))
        case .propose(let epoch, let members):
            w.write(UInt8(4))
            w.write(epoch.value)
            w.write(members) { $0.write($1) }
        case .view(let epoch, let members, let world, let arrangement):
            w.write(UInt8(5))
            w.write(epoch.value)
            w.write(world)
            w.write(members) { $0.write($1) }
            w.write(arrangement)
        case .joinUnchanged(let world):
            w.write(UInt8(6))
            w.write(world)
        case .pendingAnswer(let arePending):
            w.write(UInt8(7))
            w.write(arePending)
        case .world(let world):
            w.write(UInt8(8))
            w.write(world)
        case .flush(let epoch):
            w.write(UInt8(9))
            w.write(epoch.value)
        case .verdict(let epoch, let members, let world, let arrangement, let operations, let missed):
            w.write(UInt8(10))
            w.write(epoch.value)
            w.write(world)
            w.write(members) { $0.write($1) }
            w.write(arrangement)
            w.write(operations)
            w.write(missed)
        case .callRefused(let reason):
            w.write(UInt8(11))
            w.write(reason)
        case .optimizeUnchanged:
            w.write(UInt8(12))
        case .attached(let world):
            w.write(UInt8(13))
            w.write(world)
        case .repeatOffer:
            w.write(UInt8(14))
        case .receiveState(let decision):
            w.write(UInt8(15))
            w.write(decision)
        case .stateSynchronized(let revision):
            w.write(UInt8(16))
            w.write(revision)
        case .stateRefused(let reason):
            w.write(UInt8(17))
            w.write(reason)
        }
        return w.bytes
    }

    package init(_ bytes: [UInt8]) throws(WireError) {
        var r = ByteReader(bytes)
        let kind = try r.read(UInt8.self)
        switch kind {
        case 1:
            let peer = PeerID(try r.read())
            let (run, secret) = (try r.readRun(), try r.readSecret())
            self = .welcome(
                peer: peer, run: run, secret: secret, deadTimeMilliseconds: try r.read(),
                masterGraceMilliseconds: try r.read(), stragglerDeadlineMilliseconds: try r.read())
        case 2: self = .turnedAway(reason: try r.readText())
        case 3: self = .heartbeat
        case 4: self = .propose(epoch: Epoch(try r.read()), members: try r.readMembers())
        case 5:
            let epoch = Epoch(try r.read())
            let world = try r.readCounts()
            let members = try r.readMembers()
            self = .view(epoch: epoch, members: members, world: world, arrangement: try r.readArrangement())
        case 6: self = .joinUnchanged(world: try r.readCounts())
        case 7: self = .pendingAnswer(arePending: try r.readBool())
        case 8: self = .world(try r.readCounts())
        case 9: self = .flush(epoch: Epoch(try r.read()))
        case 10:
            let epoch = Epoch(try r.read())
            let world = try r.readCounts()
            let members = try r.readMembers()
            let arrangement = try r.readArrangement()
            self = .verdict(
                epoch: epoch, members: members, world: world, arrangement: arrangement,
                operations: try r.readVerdicts(), missed: try r.readFailedCalls())
        case 11: self = .callRefused(reason: try r.readText())
        case 12: self = .optimizeUnchanged
        case 13: self = .attached(world: try r.readCounts())
        case 14: self = .repeatOffer
        case 15: self = .receiveState(try r.readStateDecision())
        case 16: self = .stateSynchronized(revision: try r.readRevision())
        case 17: self = .stateRefused(reason: try r.readText())
        default: throw .unknownKind(kind)
        }
        try r.finish()
    }
}

extension ByteWriter {
    package mutating func write(_ verdicts: [OperationVerdict]) {
        write(verdicts) {
            $0.write($1.tag.value)
            $0.write($1.launch.value)
            $0.write($1.outcome.rawValue)
            if let resumption = $1.resumption { $0.write(resumption) }
        }
    }
}

extension ByteReader {
    package mutating func readVerdicts() throws(WireError) -> [OperationVerdict] {
        try readList("operations", limit: WireLimits.operations) { (r) throws(WireError) in
            try r.readOperationVerdict()
        }
    }

    fileprivate mutating func readOperationVerdict() throws(WireError) -> OperationVerdict {
        let tag = Tag(try read())
        let launch = LaunchNumber(try read())
        let outcome = try read(UInt8.self)
        guard let outcome = OperationVerdict.Outcome(rawValue: outcome) else {
            throw .unknownValue(field: "outcome", value: UInt64(outcome))
        }
        return OperationVerdict(
            tag: tag, launch: launch, outcome: outcome, resumption: outcome == .resume ? try readResumption() : nil)
    }
}
