import PCCLBase

/// Who attaches again, and all that a master needs to know of it: what this peer may have missed, what it waits for, and
/// enough of the view that a master which knows nothing can go on with it.
package struct Attachment: Hashable, Sendable {
    package var run: RunID
    package var peer: PeerID
    package var secret: PeerSecret
    /// As it was said first.
    package var hello: Hello
    /// Nil: not admitted yet.
    package var view: HeldView?

    package init(run: RunID, peer: PeerID, secret: PeerSecret, hello: Hello, view: HeldView?) {
        self.run = run
        self.peer = peer
        self.secret = secret
        self.hello = hello
        self.view = view
    }
}

/// The view in force at a member, and where its calls stand.
package struct HeldView: Hashable, Sendable {
    package var epoch: Epoch
    /// The highest epoch that this member has heard of.
    package var highestEpoch: Epoch
    package var members: [Member]
    package var arrangement: Arrangement
    /// How many joint calls were answered in this epoch and left it as it was, and the last of these answers.
    package var answers: UInt32
    package var lastAnswer: JointAnswer?
    /// The joint call that the caller waits in, and has voted for.
    package var call: JointCall?
    /// With the vote to optimise.
    package var figures: [LinkFigure]
    /// Of the shared state, the last that this member has heard to be agreed on.
    package var revision: UInt64?
    /// It stands still for a verdict.
    package var isHalted: Bool
    /// What was under way on a link is lost; operations go on in a new epoch only.
    package var needsRepair: Bool

    package init(
        epoch: Epoch, highestEpoch: Epoch, members: [Member], arrangement: Arrangement, answers: UInt32 = 0,
        lastAnswer: JointAnswer? = nil, call: JointCall? = nil, figures: [LinkFigure] = [], revision: UInt64? = nil,
        isHalted: Bool = false, needsRepair: Bool = false
    ) {
        self.epoch = epoch
        self.highestEpoch = highestEpoch
        self.members = members
        self.arrangement = arrangement
        self.answers = answers
        self.lastAnswer = lastAnswer
        self.call = call
        self.figures = figures
        self.revision = revision
        self.isHalted = isHalted
        self.needsRepair = needsRepair
    }
}

/// The calls that all members of a group make together.
package enum JointCall: UInt8, Sendable {
    case updateTopology = 0
    case arePeersPending = 1
    case optimizeTopology = 2
    /// What it brings is not with it, but said when the master asks.
    case synchronizeState = 3
}

/// An answer to such a call that leaves view and epoch as they were.
package enum JointAnswer: UInt8, Sendable {
    case joinUnchanged = 0
    case nonePending = 1
    case somePending = 2
    case optimizeUnchanged = 3
    /// With the revision that the master keeps.
    case stateSynchronized = 4
    case noSharedState = 5
}

extension ByteWriter {
    package mutating func write(_ run: RunID) {
        write(run.high)
        write(run.low)
    }
    package mutating func write(_ secret: PeerSecret) {
        write(secret.high)
        write(secret.low)
    }
    /// 0 is nothing.
    package mutating func write(_ answer: JointAnswer?) { write((answer?.rawValue).map { $0 + 1 } ?? 0) }

    mutating func write(_ attachment: Attachment) {
        write(attachment.run)
        write(attachment.peer.value)
        write(attachment.secret)
        write(attachment.hello)
        write(attachment.view != nil)
        guard let view = attachment.view else { return }
        write(view.epoch.value)
        write(view.highestEpoch.value)
        write(view.members) { $0.write($1) }
        write(view.arrangement)
        write(view.answers)
        write(view.lastAnswer)
        write((view.call?.rawValue).map { $0 + 1 } ?? 0)
        write(view.figures) { $0.write($1) }
        write(view.revision)
        write(view.isHalted)
        write(view.needsRepair)
    }
}

extension ByteReader {
    package mutating func readRun() throws(WireError) -> RunID { RunID(high: try read(), low: try read()) }
    package mutating func readSecret() throws(WireError) -> PeerSecret {
        PeerSecret(high: try read(), low: try read())
    }
    mutating func readAttachment() throws(WireError) -> Attachment {
        let run = try readRun()
        let peer = PeerID(try read())
        let secret = try readSecret()
        return Attachment(
            run: run, peer: peer, secret: secret, hello: try readHello(),
            view: try readBool() ? try readHeldView() : nil)
    }
    private mutating func readHeldView() throws(WireError) -> HeldView {
        let epoch = Epoch(try read())
        let highest = Epoch(try read())
        let members = try readMembers()
        let arrangement = try readArrangement()
        let answers: UInt32 = try read()
        let lastAnswer: JointAnswer? = try readOptional("joint answer")
        let call: JointCall? = try readOptional("joint call")
        let figures = try readFigures()
        return HeldView(
            epoch: epoch, highestEpoch: highest, members: members, arrangement: arrangement, answers: answers,
            lastAnswer: lastAnswer, call: call, figures: figures, revision: try readRevision(),
            isHalted: try readBool(), needsRepair: try readBool())
    }
    /// 0 is nothing.
    package mutating func readOptional<T: RawRepresentable<UInt8>>(_ field: StaticStringName) throws(WireError) -> T? {
        let value = try read(UInt8.self)
        guard value > 0 else { return nil }
        guard let known = T(rawValue: value - 1) else { throw .unknownValue(field: field, value: UInt64(value)) }
        return known
    }
}
