import PCCLBase

/// What a peer says to its master.
package enum ToMaster: Hashable, Sendable {
    /// The first message: asks to be registered.
    case hello(Hello)
    case heartbeat
    /// The caller is at a join point of its group.
    case voteJoin
    /// The caller asks, jointly with its group, whether newcomers wait.
    case votePending
    /// Links to everybody in the proposed view stand.
    case linked(epoch: Epoch)
    /// Links to these members of the proposed view could not be made.
    case cannotReach(epoch: Epoch, peers: [PeerID])
    /// A link of the current view broke while operations were in flight, or could not be made again.
    case brokenLink(epoch: Epoch, peer: PeerID, gaveUp: Bool)
    /// A link of the current view broke while nothing was under way: no harm, unless its other end is gone altogether.
    case downLink(epoch: Epoch, peer: PeerID)
    /// A link that was down or given up stands again.
    case mendedLink(epoch: Epoch, peer: PeerID)
    /// The answer to a flush: every operation in flight here, and what has failed here in the epoch that ends.
    case flushReport(epoch: Epoch, operations: [OperationReport], failed: [FailedCalls] = [])
    /// An operation has waited, so long by now, for members that did not enter it. Said from a third of the time-out on.
    case stalled(epoch: Epoch, tag: Tag, missing: [PeerID], waitedMilliseconds: UInt32 = 0)
    case leave
    /// The caller asks, jointly with its group, for better use of the links; this is what is known of those from here.
    case voteOptimize(figures: [LinkFigure])
    /// The first message of a peer that was registered before, on a new connection or to a master that was started anew.
    case attach(Attachment)
    /// The caller synchronises its shared state, jointly with its group, and brings this.
    case offerState(StateOffer)
    /// What the decision of this session says is here, or why it cannot be had.
    case stateReceived(session: UInt32, failure: String? = nil)
    /// All operations of this epoch that do not move here; what was said before holds no longer. Nobody acts on it.
    case stuck(epoch: Epoch, operations: [StuckOperation])
}

/// One operation in flight at a peer, as it tells the master in a flush.
package struct OperationReport: Hashable, Sendable {
    package enum State: UInt8, Sendable {
        case inProgress = 0
        /// This peer holds the whole result.
        case prepared = 1
    }
    package var tag: Tag
    package var launch: LaunchNumber
    package var state: State
    /// The launch numbers under which other peers are known to have entered the same operation.
    package var known: [KnownLaunch]
    package var elementCount: Int
    package var onLoss: LossPolicy
    /// Under which number it was resumed in the epoch that ends; 0: it was not.
    package var resumption: UInt64
    /// What of its result is final here.
    package var final: [ResultPart]

    package init(
        tag: Tag, launch: LaunchNumber, state: State, known: [KnownLaunch], elementCount: Int = 0,
        onLoss: LossPolicy = .abort, resumption: UInt64 = 0, final: [ResultPart] = []
    ) {
        self.tag = tag
        self.launch = launch
        self.state = state
        self.known = known
        self.elementCount = elementCount
        self.onLoss = onLoss
        self.resumption = resumption
        self.final = final
    }
}

package struct KnownLaunch: Hashable, Sendable {
    package var peer: PeerID
    package var launch: LaunchNumber
    package init(peer: PeerID, launch: LaunchNumber) {
        self.peer = peer
        self.launch = launch
    }
}

/// So many calls of a tag, which failed because the members' descriptors differ. No member can commit such a call, so each
/// of them fails it sooner or later: who has counted fewer than another has yet to learn of the difference.
package struct FailedCalls: Hashable, Sendable {
    package var tag: Tag
    package var count: UInt32
    package init(tag: Tag, count: UInt32) {
        self.tag = tag
        self.count = count
    }
}

extension ToMaster {
    package var bytes: [UInt8] {
        var w = ByteWriter()
        switch self {
        case .hello(let hello):
            w.write(UInt8(1))
            w.write(hello)
        case .heartbeat:
            w.write(UInt8(2))
        case .voteJoin:
            w.write(UInt8(3))
        case .votePending:
            w.write(UInt8(4))
        case .linked(let epoch):
            w.write(UInt8(5))
            w.write(epoch.value)
        case .cannotReach(let epoch, let peers):
            w.write(UInt8(6))
            w.write(epoch.value)
            w.write(peers) { $0.write($1.value) }
        case .brokenLink(let epoch, let peer, let gaveUp):
            w.write(UInt8(7))
            w.write(epoch.value)
            w.write(peer.value)
            w.write(gaveUp)
        case .flushReport(let epoch, let operations, let failed):
            w.write(UInt8(8))
            w.write(epoch.value)
            w.write(operations) { $0.write($1) }
            w.write(failed)
        case .stalled(let epoch, let tag, let missing, let waited):
            w.write(UInt8(9))
            w.write(epoch.value)
            w.write(tag.value)
            w.write(missing) { $0.write($1.value) }
            w.write(waited)
        case .leave:
            w.write(UInt8(10))
        case .voteOptimize(let figures):
            w.write(UInt8(11))
            w.write(figures) { $0.write($1) }
        case .attach(let attachment):
            w.write(UInt8(12))
            w.write(attachment)
        case .mendedLink(let epoch, let peer):
            w.write(UInt8(13))
            w.write(epoch.value)
            w.write(peer.value)
        case .downLink(let epoch, let peer):
            w.write(UInt8(14))
            w.write(epoch.value)
            w.write(peer.value)
        case .offerState(let offer):
            w.write(UInt8(15))
            w.write(offer)
        case .stateReceived(let session, let failure):
            w.write(UInt8(16))
            w.write(session)
            w.write(failure != nil)
            if let failure { w.write(failure) }
        case .stuck(let epoch, let operations):
            w.write(UInt8(17))
            w.write(epoch.value)
            w.write(operations)
        }
        return w.bytes
    }

    package init(_ bytes: [UInt8]) throws(WireError) {
        var r = ByteReader(bytes)
        let kind = try r.read(UInt8.self)
        switch kind {
        case 1: self = .hello(try r.readHello())
        case 2: self = .heartbeat
        case 3: self = .voteJoin
        case 4: self = .votePending
        case 5: self = .linked(epoch: Epoch(try r.read()))
        case 6: self = .cannotReach(epoch: Epoch(try r.read()), peers: try r.readPeers())
        case 7:
            self = .brokenLink(epoch: Epoch(try r.read()), peer: PeerID(try r.read()), gaveUp: try r.readBool())
        case 8:
            let epoch = Epoch(try r.read())
            let operations = try r.readList("operations", limit: WireLimits.operations) { (r) throws(WireError) in
                try r.readOperationReport()
            }
            let parts = operations.reduce(0) { $0 + $1.final.count }
            guard parts <= ResultPart.limitOfAll else {
                throw .tooMany(field: "final parts", count: parts, limit: ResultPart.limitOfAll)
            }
            self = .flushReport(epoch: epoch, operations: operations, failed: try r.readFailedCalls())
        case 9:
            self = .stalled(
                epoch: Epoch(try r.read()), tag: Tag(try r.read()), missing: try r.readPeers(),
                waitedMilliseconds: try r.read())
        case 10: self = .leave
        case 11: self = .voteOptimize(figures: try r.readFigures())
        case 12: self = .attach(try r.readAttachment())
        case 13: self = .mendedLink(epoch: Epoch(try r.read()), peer: PeerID(try r.read()))
        case 14: self = .downLink(epoch: Epoch(try r.read()), peer: PeerID(try r.read()))
        case 15: self = .offerState(try r.readStateOffer())
        case 16: self = .stateReceived(session: try r.read(), failure: try r.readBool() ? try r.readText() : nil)
        case 17: self = .stuck(epoch: Epoch(try r.read()), operations: try r.readStuckOperations())
        default: throw .unknownKind(kind)
        }
        try r.finish()
    }
}

extension ByteWriter {
    package mutating func write(_ failed: [FailedCalls]) {
        write(failed) {
            $0.write($1.tag.value)
            $0.write($1.count)
        }
    }

    fileprivate mutating func write(_ report: OperationReport) {
        write(report.tag.value)
        write(report.launch.value)
        write(report.state.rawValue)
        write(report.known) {
            $0.write($1.peer.value)
            $0.write($1.launch.value)
        }
        write(UInt64(report.elementCount))
        write(report.onLoss.rawValue)
        write(report.resumption)
        write(report.final) { $0.write($1) }
    }
}

extension ByteReader {
    package mutating func readFailedCalls() throws(WireError) -> [FailedCalls] {
        try readList("failed calls", limit: WireLimits.operations) { (r) throws(WireError) in
            FailedCalls(tag: Tag(try r.read()), count: try r.read())
        }
    }

    fileprivate mutating func readOperationReport() throws(WireError) -> OperationReport {
        let tag = Tag(try read())
        let launch = LaunchNumber(try read())
        let state = try read(UInt8.self)
        guard let state = OperationReport.State(rawValue: state) else {
            throw .unknownValue(field: "operation state", value: UInt64(state))
        }
        let known = try readList("known launches", limit: WireLimits.members) { (r) throws(WireError) in
            KnownLaunch(peer: PeerID(try r.read()), launch: LaunchNumber(try r.read()))
        }
        let elementCount: UInt64 = try read()
        let onLoss = try read(UInt8.self)
        guard let onLoss = LossPolicy(rawValue: onLoss) else {
            throw .unknownValue(field: "loss policy", value: UInt64(onLoss))
        }
        guard let elementCount = Int(exactly: elementCount) else {
            throw .unknownValue(field: "element count", value: elementCount)
        }
        return OperationReport(
            tag: tag, launch: launch, state: state, known: known, elementCount: elementCount, onLoss: onLoss,
            resumption: try read(), final: try readParts())
    }
}
