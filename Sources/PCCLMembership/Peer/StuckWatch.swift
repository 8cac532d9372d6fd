import PCCLBase
import PCCLWire

/// Finds the operations of one member and epoch that do not move, and the members that keep them.
///
/// It is asked to look only when something has been in flight for a while; a run without waits costs it nothing.
package struct StuckWatch: Sendable {
    /// Pairs of an operation and a member that are looked at at once, the oldest operations first: who waits in more waits for
    /// the same members there.
    static let lookLimit = 4096
    /// Lines to the log at once; of further operations it only says how many there are.
    static let lineLimit = 8

    /// What one member had brought to an operation when it was last seen to bring something.
    private struct Key: Hashable, Sendable {
        var launch: LaunchNumber
        var peer: PeerID
    }
    private struct Mark: Sendable {
        var stage: Stage
        var bytes: UInt64
        var movedAt: Instant
        var loggedAt: Instant?
    }
    private enum Stage: Hashable, Sendable {
        case absent
        case moving
        case whole
        case prepared
    }

    /// Nil: nothing is in flight, as far as is known.
    private(set) var nextLook: Instant?
    private var marks: [Key: Mark] = [:]
    /// What the master was told last, and when.
    private var told: (operations: [StuckOperation], at: Instant)?
    /// When the present flush was first seen.
    private var interruptedAt: Instant?
    private var hasLoggedInterruption = false

    package struct Finding: Sendable {
        package var launch: LaunchNumber
        package var id: OperationID
        package var report: StuckOperation
    }

    mutating func noteLaunch(at now: Instant, _ timeouts: Timeouts) {
        if nextLook == nil { nextLook = now + timeouts.stuckPeriod }
    }

    /// A new epoch begins: launches are others.
    mutating func reset() { self = StuckWatch() }

    /// The master has another connection: what it was told may be lost.
    mutating func forgetTold() { told = told.map { ($0.operations, Instant(nanoseconds: 0)) } }

    /// Which operations are to be looked at now, if it is time for that.
    mutating func due(
        _ operations: @autoclosure () -> [OperationLedger.Operation], memberCount: Int, at now: Instant,
        _ timeouts: Timeouts
    ) -> [LaunchNumber]? {
        guard let look = nextLook, look <= now else { return nil }
        let all = operations()
        let old = all.filter { $0.since + timeouts.stuckPeriod <= now }
        if !old.isEmpty {
            nextLook = now + timeouts.stuckPeriod
        } else {
            nextLook = all.map { $0.since + timeouts.stuckPeriod }.min()
        }
        // An empty list tells that what was stuck is not any more.
        guard !old.isEmpty || !marks.isEmpty || told != nil else { return nil }
        return old.prefix(max(StuckWatch.lookLimit / max(memberCount, 1), 1)).map(\.launch)
    }

    /// What is stuck now, of the operations that were looked at.
    mutating func findings(
        _ operations: [OperationLedger.Operation], _ progress: [LaunchNumber: OperationProgress], _ others: [PeerID],
        isInterrupted: Bool, at now: Instant, _ timeouts: Timeouts
    ) -> [Finding] {
        let launches = Set(operations.map(\.launch))
        marks = marks.filter { launches.contains($0.key.launch) }
        interruptedAt = isInterrupted ? interruptedAt ?? now : nil
        if !isInterrupted { hasLoggedInterruption = false }
        return operations.compactMap { operation in
            let entered = Set(operation.entered.map(\.peer))
            let known = Dictionary(
                (progress[operation.launch]?.members ?? []).map { ($0.peer, $0) },
                uniquingKeysWith: { first, _ in first })
            let culprits = culprits(
                of: operation, entered, known, others, isInterrupted: isInterrupted, at: now, timeouts)
            if isInterrupted {
                guard let since = interruptedAt, since + timeouts.stuckPatience <= now else { return nil }
            } else if culprits.isEmpty {
                return nil
            }
            return Finding(
                launch: operation.launch, id: operation.id,
                report: StuckOperation(
                    tag: operation.tag, descriptor: operation.descriptor,
                    milliseconds: UInt32(clamping: (now - operation.since).milliseconds),
                    worldSize: UInt16(clamping: others.count + 1),
                    called: UInt16(clamping: entered.count + 1),
                    prepared: UInt16(clamping: operation.preparedPeers.count + (operation.isPrepared ? 1 : 0)),
                    culprits: Array(culprits.prefix(WireLimits.culprits)),
                    moreCulprits: UInt16(clamping: max(0, culprits.count - WireLimits.culprits))))
        }
    }

    /// Those that nothing has come of for the patience. Who has not called keeps all others, and who is not heard at all
    /// explains what those lack that are.
    private mutating func culprits(
        of operation: OperationLedger.Operation, _ entered: Set<PeerID>, _ known: [PeerID: OperationProgress.Member],
        _ others: [PeerID], isInterrupted: Bool, at now: Instant, _ timeouts: Timeouts
    ) -> [StuckOperation.Culprit] {
        var found: [(culprit: StuckOperation.Culprit, class: Int)] = []
        for peer in others {
            let member = known[peer]
            let stage: Stage =
                !entered.contains(peer)
                ? .absent : !operation.isWhole ? .moving : operation.preparedPeers.contains(peer) ? .prepared : .whole
            let unmoved = note(operation, peer, stage, member, at: now)
            guard !isInterrupted, now - unmoved >= timeouts.stuckPatience else { continue }
            let isSilent = member.map { $0.silence.map { $0 >= timeouts.stuckPatience } ?? true } ?? false
            let reason: StuckOperation.Culprit.Reason
            let rank: Int
            switch stage {
            case .prepared: continue
            case .absent: (reason, rank) = (.hasNotCalled, 0)
            case .whole: (reason, rank) = (.isNotPrepared, isSilent ? 1 : 2)
            case .moving:
                guard let member, member.receivedBytes < member.expectedBytes || member.unsentBytes > 0 || isSilent
                else { continue }
                reason =
                    member.receivedBytes < member.expectedBytes || member.unsentBytes == 0
                    ? .sendsNothing : .takesNothing
                rank = isSilent ? 1 : member.owesInput || reason == .takesNothing ? 2 : 3
            }
            let silence = member.flatMap(\.silence).map { UInt32(clamping: $0.milliseconds) }
            found.append(
                (
                    StuckOperation.Culprit(
                        peer: peer, reason: reason, milliseconds: UInt32(clamping: (now - unmoved).milliseconds),
                        receivedBytes: member?.receivedBytes ?? 0, expectedBytes: member?.expectedBytes ?? 0,
                        silentMilliseconds: silence), rank
                ))
        }
        let worst = found.map(\.class).min()
        return found.filter { $0.class == worst }.map(\.culprit)
    }

    /// Since when nothing has come of that member, for all that is known.
    private mutating func note(
        _ operation: OperationLedger.Operation, _ peer: PeerID, _ stage: Stage, _ member: OperationProgress.Member?,
        at now: Instant
    ) -> Instant {
        let bytes = (member?.receivedBytes ?? 0) &- (member?.unsentBytes ?? 0)
        var moved = operation.since
        let key = Key(launch: operation.launch, peer: peer)
        if var mark = marks[key] {
            if mark.stage != stage || mark.bytes != bytes {
                (mark.stage, mark.bytes, mark.movedAt) = (stage, bytes, now)
                marks[key] = mark
            }
            moved = mark.movedAt
        } else {
            // Seen for the first time: whatever it has brought, it may have brought a moment ago.
            if stage != .absent { moved = now }
            marks[key] = Mark(stage: stage, bytes: bytes, movedAt: moved)
        }
        // But not after its last byte.
        guard stage != .absent, let silence = member?.silence else { return moved }
        let heard = Instant(nanoseconds: now.nanoseconds - min(silence.nanoseconds, now.nanoseconds))
        return max(operation.since, min(moved, heard))
    }

    /// Lines for the log: of each operation and member one in a dead time.
    mutating func lines(_ findings: [Finding], at now: Instant, _ timeouts: Timeouts) -> [String] {
        var lines: [String] = []
        var further = 0
        for finding in findings {
            if finding.report.culprits.isEmpty {
                // All of them wait for the one word.
                guard !hasLoggedInterruption else { continue }
                hasLoggedInterruption = true
                lines.append(finding.report.text)
                continue
            }
            let fresh = finding.report.culprits.map { Key(launch: finding.launch, peer: $0.peer) }
                .filter { marks[$0]?.loggedAt.map { $0 + timeouts.deadTime <= now } ?? true }
            guard !fresh.isEmpty else { continue }
            for key in fresh { marks[key]?.loggedAt = now }
            if lines.count < StuckWatch.lineLimit { lines.append(finding.report.text) } else { further += 1 }
        }
        if further > 0 { lines.append("\(further) more operations wait as well") }
        return lines
    }

    /// What the master is to be told, if it was told anything else, or long ago.
    mutating func message(_ findings: [Finding], at now: Instant, _ timeouts: Timeouts) -> [StuckOperation]? {
        // A verdict that is awaited, the master knows of.
        let operations = findings.map(\.report).filter { !$0.culprits.isEmpty }.prefix(WireLimits.stuckOperations)
        guard !operations.isEmpty else {
            defer { told = nil }
            return told == nil ? nil : []
        }
        if let told, told.at + timeouts.deadTime > now, told.operations.count == operations.count,
            zip(told.operations, operations).allSatisfy({ $0.isSameWait(as: $1) })
        {
            return nil
        }
        told = (Array(operations), now)
        return Array(operations)
    }
}

extension StuckOperation {
    /// But for the time that has passed.
    fileprivate func isSameWait(as other: StuckOperation) -> Bool {
        tag == other.tag && descriptor == other.descriptor && called == other.called && prepared == other.prepared
            && moreCulprits == other.moreCulprits
            && culprits.elementsEqual(other.culprits) {
                $0.peer == $1.peer && $0.reason == $1.reason && $0.receivedBytes == $1.receivedBytes
            }
    }
}
