import PCCLBase
import PCCLWire

/// The caller's handle on one operation, from launch to outcome, whatever epochs it passes through.
package struct OperationID: Hashable, Comparable, Sendable {
    package let value: UInt64
    package init(_ value: UInt64) { self.value = value }
    package static func < (a: Self, b: Self) -> Bool { a.value < b.value }
}

/// Which operations are in flight at this peer in this epoch, who has entered them and who holds their result.
///
/// It pairs the n-th call of a tag here with the n-th call of that tag at every other member, by order of arrival alone:
/// nobody launches a tag again before all others have entered it, so each member's `enter` frames of a tag come in the
/// order of its calls, and at most one of them comes before our own call. Nothing is kept for a tag that is not in flight.
///
/// ```
///  launched ──all entered, result whole──▶ prepared ──all prepared──▶ committed (forgotten)
///      └────── a descriptor differs ─────▶ failed (counted, and entries still owed are swallowed)
/// ```
///
/// Failed calls are counted, by tag, for as long as the epoch lasts: a call that fails at one member fails at all of them, so
/// the counts tell after a flush who has yet to fail which call. A call that others have failed before the flush, and that
/// comes after it, is `missed`: nobody waits in it any more.
package struct OperationLedger: Sendable {
    package struct Operation: Sendable {
        package let id: OperationID
        package let tag: Tag
        package let launch: LaunchNumber
        package let descriptor: OperationDescriptor
        package let onLoss: LossPolicy
        /// Set if it was interrupted, and goes on in this epoch with what was final.
        package let resumption: Resumption?
        package let since: Instant
        /// Launch numbers of the members that entered, in the order heard.
        package var entered: [KnownLaunch] = []
        package var isWhole = false
        package var isPrepared = false
        package var preparedPeers = SortedPeers()
        package var nextStallCheck: Instant

        package init(
            id: OperationID, tag: Tag, launch: LaunchNumber, descriptor: OperationDescriptor, since: Instant,
            nextStallCheck: Instant, onLoss: LossPolicy = .abort, resumption: Resumption? = nil
        ) {
            self.id = id
            self.tag = tag
            self.launch = launch
            self.descriptor = descriptor
            self.onLoss = onLoss
            self.resumption = resumption
            self.since = since
            self.nextStallCheck = nextStallCheck
        }

        /// Of the whole result, in a view of this size.
        package func parts(worldSize: Int) -> [ResultPart] {
            let count = Int(descriptor.count)
            guard count > 0 else { return [] }
            return resumption?.parts(elementCount: count, worldSize: worldSize)
                ?? [ResultPart(elements: 0..<count, worldSize: worldSize)]
        }

        package func hasEntered(_ peer: PeerID) -> Bool { entered.contains { $0.peer == peer } }
    }

    package struct Mismatch: Hashable, Sendable {
        package var peer: PeerID
        package var theirs: OperationDescriptor
        package var mine: OperationDescriptor
    }

    private struct PeerTag: Hashable {
        var peer: PeerID
        var tag: Tag
    }
    private struct EarlyEntry {
        var launch: LaunchNumber
        var descriptor: OperationDescriptor
    }

    private var operations: [Tag: Operation] = [:]
    private var early: [PeerTag: [EarlyEntry]] = [:]
    private var owed: [PeerTag: Int] = [:]
    /// Who is prepared under a launch that it is not known to have entered yet: the stripes of a link keep no order between
    /// them, so the word may overtake the entry.
    private var earlyPrepared: Set<KnownLaunch> = []
    private var failed: [Tag: UInt32] = [:]
    private var missed: [Tag: UInt32] = [:]

    package init() {}

    package var isEmpty: Bool { operations.isEmpty }
    /// Something is to come from others: an entry is lost for good if its link breaks, also that to a call which has failed.
    package var isWaiting: Bool { !operations.isEmpty || !owed.isEmpty }
    package func contains(_ tag: Tag) -> Bool { operations[tag] != nil }
    package subscript(tag: Tag) -> Operation? { operations[tag] }
    /// In the order of their launch: the same in every replay.
    package var inLaunchOrder: [Operation] { operations.values.sorted { $0.launch < $1.launch } }

    /// Forgets everything: all members have come to a join point, and calls are counted from here.
    package mutating func reset() { self = OperationLedger() }

    /// A verdict begins an epoch. Calls that were missed before are still to come, before those that are missed now.
    package mutating func reset(missing calls: [FailedCalls]) {
        var all = missed
        for call in calls where call.count > 0 { all[call.tag, default: 0] &+= call.count }
        reset()
        missed = all
    }

    /// Whether the call of this tag that now comes is one that all others have failed already. Then it is used up.
    package mutating func takeMissed(_ tag: Tag) -> Bool {
        guard let count = missed[tag] else { return false }
        missed[tag] = count > 1 ? count - 1 : nil
        return true
    }

    /// The caller's call. Entries of members that called earlier are taken up; the first that differs is returned, and
    /// the operation is then to be failed.
    package mutating func launch(_ operation: Operation, members: [PeerID]) -> Mismatch? {
        operations[operation.tag] = operation
        var mismatch: Mismatch?
        for peer in members {
            let key = PeerTag(peer: peer, tag: operation.tag)
            guard var entries = early[key] else { continue }
            let entry = entries.removeFirst()
            early[key] = entries.isEmpty ? nil : entries
            let found = note(entry, of: peer, for: operation.tag)
            mismatch = mismatch ?? found
        }
        return mismatch
    }

    package enum Pairing: Hashable, Sendable {
        /// It belongs to our operation in flight.
        case bound(LaunchNumber)
        /// Our caller has not called yet.
        case early
        /// It belongs to a call of ours that has failed already: nothing more of it is of interest.
        case swallowed
        case mismatch(Mismatch)
    }

    /// A member's caller has called.
    package mutating func enter(
        _ peer: PeerID, _ tag: Tag, _ launch: LaunchNumber, _ descriptor: OperationDescriptor
    ) -> Pairing {
        let key = PeerTag(peer: peer, tag: tag)
        if let count = owed[key] {
            owed[key] = count == 1 ? nil : count - 1
            return .swallowed
        }
        let entry = EarlyEntry(launch: launch, descriptor: descriptor)
        guard let operation = operations[tag], !operation.hasEntered(peer) else {
            early[key, default: []].append(entry)
            return .early
        }
        if let mismatch = note(entry, of: peer, for: tag) { return .mismatch(mismatch) }
        return .bound(operation.launch)
    }

    private mutating func note(_ entry: EarlyEntry, of peer: PeerID, for tag: Tag) -> Mismatch? {
        guard let mine = operations[tag]?.descriptor else { return nil }
        let known = KnownLaunch(peer: peer, launch: entry.launch)
        operations[tag]?.entered.append(known)
        if earlyPrepared.remove(known) != nil { operations[tag]?.preparedPeers.insert(peer) }
        return entry.descriptor == mine ? nil : Mismatch(peer: peer, theirs: entry.descriptor, mine: mine)
    }

    /// This peer holds the whole result. It is prepared once everybody's descriptor was seen to agree.
    package mutating func noteWhole(_ tag: Tag, _ launch: LaunchNumber) {
        guard operations[tag]?.launch == launch else { return }
        operations[tag]?.isWhole = true
    }

    package mutating func notePrepared(_ peer: PeerID, _ tag: Tag, _ launch: LaunchNumber) {
        let known = KnownLaunch(peer: peer, launch: launch)
        // Whoever is prepared has heard our entry, so the operation is in flight here, unless it has failed.
        guard let operation = operations[tag] else { return }
        if operation.entered.contains(known) {
            operations[tag]?.preparedPeers.insert(peer)
        } else {
            earlyPrepared.insert(known)
        }
    }

    /// True once, when the operation has just become prepared.
    package mutating func becomesPrepared(_ tag: Tag, members: [PeerID]) -> Bool {
        guard let operation = operations[tag], operation.isWhole, !operation.isPrepared,
            members.allSatisfy({ operation.hasEntered($0) })
        else { return false }
        operations[tag]?.isPrepared = true
        return true
    }

    package func isCommitted(_ tag: Tag, members: [PeerID]) -> Bool {
        guard let operation = operations[tag], operation.isPrepared else { return false }
        return operation.preparedPeers.isSuperset(of: members)
    }

    @discardableResult
    package mutating func remove(_ tag: Tag) -> Operation? { operations.removeValue(forKey: tag) }

    /// Ends an operation whose descriptors differ. Members that have not entered yet owe an entry to this failed call:
    /// it must not be taken for one of the next call with the tag.
    package mutating func fail(_ tag: Tag, members: [PeerID]) {
        guard let operation = operations.removeValue(forKey: tag) else { return }
        // A program that is wrong in more tags than a report may list is told of it often enough.
        if failed[tag] != nil || failed.count < WireLimits.operations { failed[tag, default: 0] &+= 1 }
        for peer in members where !operation.hasEntered(peer) {
            owed[PeerTag(peer: peer, tag: tag), default: 0] += 1
        }
    }

    package mutating func postponeStallCheck(_ tag: Tag, to instant: Instant) {
        operations[tag]?.nextStallCheck = instant
    }

    package var earliestStallCheck: Instant? { operations.values.map(\.nextStallCheck).min() }

    /// How many calls of which tags have failed here in this epoch.
    package var failedCalls: [FailedCalls] {
        failed.sorted { $0.key.value < $1.key.value }.map { FailedCalls(tag: $0.key, count: $0.value) }
    }

    /// `final`: what the engine has said. Of what is prepared and not mentioned there all is final; the engine mentions it
    /// where the result lies where it cannot be given to others.
    package func reports(final: [LaunchNumber: [ResultPart]], worldSize: Int) -> [OperationReport] {
        let operations = inLaunchOrder
        var parts = operations.map { operation in
            // What one member alone has a use for, nobody else can go on with.
            guard operation.descriptor.collective.hasOneResult else { return [ResultPart]() }
            return (final[operation.launch] ?? (operation.isPrepared ? operation.parts(worldSize: worldSize) : []))
                .longest(ResultPart.limit(worldSize: worldSize))
        }
        var left = ResultPart.limitOfAll
        // Those with few first: a whole result is one.
        for index in parts.indices.sorted(by: { (parts[$0].count, $0) < (parts[$1].count, $1) }) {
            parts[index] = parts[index].longest(left)
            left -= parts[index].count
        }
        return zip(operations, parts).map { operation, parts in
            OperationReport(
                tag: operation.tag, launch: operation.launch, state: operation.isPrepared ? .prepared : .inProgress,
                known: operation.entered, elementCount: Int(operation.descriptor.count), onLoss: operation.onLoss,
                resumption: operation.resumption?.number ?? 0, final: parts)
        }
    }
}
