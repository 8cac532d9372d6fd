import PCCLBase
import PCCLWire

/// Gives one verdict for each operation in flight, from what all survivors reported.
///
/// Reports name an operation by (peer, launch number); a report also lists under which launch numbers its peer knows the
/// others' part of the same operation. Reports joined by such knowledge are one operation. Two operations with the same
/// tag can be in flight at most: whoever launched the second has committed the first, so the first is prepared at all.
///
/// A call whose descriptors differ fails at every member, by itself, and no member can commit it. So if a survivor counts
/// more failed calls of a tag than another, the call that the other is in and not prepared for is the next of them; is it in
/// none, or prepared for an earlier one, then it has missed them: they fail when it makes them. Where an entry was lost with
/// its link, somebody still in a call that has failed takes the next call of another for its partner. What such a pair knows
/// of each other is no knowledge: a call that has failed is nobody's.
///
/// What everybody entered and not all hold goes on in the new view, if the callers want it so or nobody was lost: with what
/// is final at any survivor, or from the beginning where that is nothing. An operation that was resumed before has a number,
/// under which all survivors have it in flight, whether they have heard of each other in this epoch or not.
package struct FlushResolution {
    package struct Report: Hashable, Sendable {
        package var peer: PeerID
        package var operations: [OperationReport]
        /// How many calls of a tag have failed there in the epoch that ends, because descriptors differ.
        package var failed: [Tag: UInt32]
        package init(peer: PeerID, operations: [OperationReport], failed: [FailedCalls] = []) {
            self.peer = peer
            self.operations = operations
            self.failed = Dictionary(failed.map { ($0.tag, $0.count) }, uniquingKeysWith: max)
        }
    }
    /// What brought the flush about decides what becomes of an operation that everybody entered and not all hold.
    package enum Cause: String, CaseIterable, Sendable {
        /// A connection broke, nobody was lost: inputs are whole and everybody is here, so it simply begins again.
        case repair
        case loss
        /// Members wait for each other in different calls.
        case misuse
    }

    private enum Node: Hashable {
        case launch(PeerID, LaunchNumber)
        case resumed(UInt64)
    }
    /// One operation, at all survivors.
    private struct Operation {
        var entered = SortedPeers()
        /// Somebody has entered and does not hold the result.
        var isUnfinished = false
        var policies: Set<LossPolicy> = []
        var elementCounts: Set<Int> = []
        var final: [PeerID: [ResultPart]] = [:]
        var resumption: Resumption?
    }

    /// The survivors in a membership call: in a join point, or asking whether peers are pending.
    package struct Waiting: Hashable, Sendable {
        package var joining: SortedPeers
        package var asking: SortedPeers
        package init(joining: SortedPeers, asking: SortedPeers) {
            self.joining = joining
            self.asking = asking
        }
        func contains(_ peer: PeerID) -> Bool { joining.contains(peer) || asking.contains(peer) }
    }

    /// Returns the verdicts for each report, in the order of the reports. Without `waiting`, everybody may be the one for
    /// whom others wait in vain. `members` are the survivors in the order of ranks; `epoch` is the one that begins.
    package static func verdicts(
        for reports: [Report], cause: Cause, waiting: Waiting? = nil, members: [PeerID]? = nil, epoch: Epoch = .none
    ) -> [[OperationVerdict]] {
        let failing = failing(reports)
        var components = Components()
        for report in reports {
            for operation in report.operations {
                let own = components.index(of: .launch(report.peer, operation.launch))
                guard !failing.contains(.launch(report.peer, operation.launch)) else { continue }
                for known in operation.known {
                    let theirs = Node.launch(known.peer, known.launch)
                    if !failing.contains(theirs) { components.join(own, components.index(of: theirs)) }
                }
                if operation.resumption > 0 {
                    components.join(own, components.index(of: .resumed(operation.resumption)))
                }
            }
        }
        func root(_ peer: PeerID, _ operation: OperationReport) -> Int {
            components.root(of: components.index(of: .launch(peer, operation.launch)))
        }

        var operations: [Int: Operation] = [:]
        for (index, node) in components.nodes.enumerated() {
            guard case .launch(let peer, _) = node else { continue }
            operations[components.root(of: index), default: Operation()].entered.insert(peer)
        }
        var order: [Int] = []
        for report in reports {
            for operation in report.operations {
                let root = root(report.peer, operation)
                if operations[root]?.policies.isEmpty ?? true { order.append(root) }
                if operation.state == .inProgress { operations[root]?.isUnfinished = true }
                operations[root]?.policies.insert(operation.onLoss)
                operations[root]?.elementCounts.insert(operation.elementCount)
                operations[root]?.final[report.peer] = operation.final
            }
        }
        let survivors = reports.map(\.peer)
        resume(&operations, order, among: members ?? survivors, cause, epoch)

        return reports.map { report in
            report.operations.map { reported in
                let operation = operations[root(report.peer, reported)] ?? Operation()
                let allEntered = operation.entered.isSuperset(of: survivors)
                let outcome: OperationVerdict.Outcome
                switch (allEntered, operation.isUnfinished, cause) {
                case _ where failing.contains(.launch(report.peer, reported.launch)): outcome = .mismatch
                case (true, false, _): outcome = .commit
                case (false, _, .misuse):
                    let isMissed = isMissed(reported.tag, by: operation.entered, reports, waiting)
                    outcome = isMissed ? .misuse : .restart
                case (false, _, .loss), (false, _, .repair): outcome = .restart
                case (true, true, _) where operation.resumption != nil: outcome = .resume
                case (true, true, .loss):
                    // Alone nobody can go on.
                    outcome = operation.policies.contains(.abort) || survivors.count < 2 ? .abort : .restart
                case (true, true, .repair), (true, true, .misuse): outcome = .restart
                }
                return OperationVerdict(
                    tag: reported.tag, launch: reported.launch, outcome: outcome,
                    resumption: outcome == .resume ? operation.resumption : nil)
            }
        }
    }

    /// Finds for each operation what the members can go on with.
    private static func resume(
        _ operations: inout [Int: Operation], _ order: [Int], among members: [PeerID], _ cause: Cause, _ epoch: Epoch
    ) {
        guard members.count > 1 else { return }
        var left = ResultPart.limitOfAll
        let most = ResultPart.limit(worldSize: members.count)
        /// Those with few parts first: a whole result is one.
        let byCount = order.enumerated().map { index, root in
            (index: index, root: root, parts: operations[root]?.final.values.reduce(0) { $0 + $1.count } ?? 0)
        }.sorted { ($0.parts, $0.index) < ($1.parts, $1.index) }
        for (index, root, parts) in byCount where parts > 0 && left > 0 {
            guard let operation = operations[root], operation.isUnfinished, operation.elementCounts.count == 1,
                let elementCount = operation.elementCounts.first, operation.entered.isSuperset(of: members),
                // Where nobody was lost it is the same operation still, whatever the callers want.
                cause != .loss || !operation.policies.contains(.abort)
            else { continue }
            let holdings = members.map { operation.final[$0] ?? [] }
            guard holdings.allSatisfy({ $0.count <= most && $0.isValid(elementCount: elementCount) }) else { continue }
            let kept = KeptParts.choose(
                from: holdings, elementCount: elementCount, worldSize: members.count,
                isOneViewDemanded: operation.policies != [.resume],
                limit: min(left, most))
            guard !kept.isEmpty else { continue }
            left -= kept.count
            operations[root]?.resumption = Resumption(number: UInt64(epoch.value) << 32 | UInt64(index), kept: kept)
        }
    }

    /// The calls that each survivor has yet to make and others have failed, in the order of the reports, given the verdicts
    /// on what it is in now.
    package static func missed(
        for reports: [Report], verdicts: [[OperationVerdict]]
    ) -> [[FailedCalls]] {
        let most = mostFailed(reports).sorted { $0.key.value < $1.key.value }
        return zip(reports, verdicts).map { report, verdicts in
            let failing = Set(verdicts.filter { $0.outcome == .mismatch }.map(\.tag))
            return most.compactMap { tag, count in
                var left = count - (report.failed[tag] ?? 0)
                if left > 0, failing.contains(tag) { left -= 1 }
                return left > 0 ? FailedCalls(tag: tag, count: left) : nil
            }
        }
    }

    /// The launches of calls that have failed at other survivors: those that are not prepared while others have failed more,
    /// and those that were paired with a call made after the failure.
    private static func failing(_ reports: [Report]) -> Set<Node> {
        let most = mostFailed(reports)
        guard !most.isEmpty else { return [] }
        var counts: [Node: UInt32] = [:]
        for report in reports {
            for operation in report.operations {
                counts[.launch(report.peer, operation.launch)] = report.failed[operation.tag] ?? 0
            }
        }
        var failing: Set<Node> = []
        for report in reports {
            for operation in report.operations {
                let (own, count) = (Node.launch(report.peer, operation.launch), report.failed[operation.tag] ?? 0)
                if operation.state == .inProgress, count < most[operation.tag] ?? 0 { failing.insert(own) }
                for known in operation.known {
                    let theirs = Node.launch(known.peer, known.launch)
                    guard let theirCount = counts[theirs], theirCount != count else { continue }
                    failing.insert(theirCount < count ? theirs : own)
                }
            }
        }
        return failing
    }

    private static func mostFailed(_ reports: [Report]) -> [Tag: UInt32] {
        var most: [Tag: UInt32] = [:]
        for report in reports { most.merge(report.failed, uniquingKeysWith: max) }
        return most
    }

    /// Whether an operation waits for somebody who waits for its members in another call.
    ///
    /// Whoever is in a join point can launch nothing before it ends. Whoever asks may launch from another thread; it waits
    /// in vain only if those who have not asked all have operations in flight. And whoever has the tag in flight was just
    /// not heard, over a link that stalls.
    private static func isMissed(
        _ tag: Tag, by entered: SortedPeers, _ reports: [Report], _ waiting: Waiting?
    ) -> Bool {
        let missing = reports.filter { !entered.contains($0.peer) }
        guard let waiting else { return !missing.isEmpty }
        let silent = reports.filter { !waiting.contains($0.peer) }
        let isAskedInVain = !silent.isEmpty && silent.allSatisfy { !$0.operations.isEmpty }
        return missing.contains { other in
            (waiting.joining.contains(other.peer) || (isAskedInVain && waiting.asking.contains(other.peer)))
                && !other.operations.contains { $0.tag == tag }
        }
    }

    /// Disjoint sets with path halving.
    private struct Components {
        var nodes: [Node] = []
        private var indices: [Node: Int] = [:]
        private var parents: [Int] = []

        mutating func index(of node: Node) -> Int {
            if let index = indices[node] { return index }
            indices[node] = nodes.count
            parents.append(nodes.count)
            nodes.append(node)
            return nodes.count - 1
        }
        mutating func root(of index: Int) -> Int {
            var index = index
            while parents[index] != index {
                parents[index] = parents[parents[index]]
                index = parents[index]
            }
            return index
        }
        mutating func join(_ a: Int, _ b: Int) {
            let (a, b) = (root(of: a), root(of: b))
            if a != b { parents[max(a, b)] = min(a, b) }
        }
    }
}
