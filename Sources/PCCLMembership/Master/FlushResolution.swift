import PCCLBase
import PCCLWire

/// Gives one verdict for each operation in flight, from what all survivors reported.
///
/// Reports name an operation by (peer, launch number); a report also lists under which launch numbers its peer knows the
/// others' part of the same operation. Reports joined by such knowledge are one operation. Two operations with the same
/// tag can be in flight at most: whoever launched the second has committed the first, so the first is prepared at all.
///
/// A call whose descriptors differ fails at every member, by itself, and no member can be prepared for it. So if a survivor
/// counts more failed calls of a tag than another, the call that the other is in and not prepared for is the next of them;
/// is it in none, or prepared for an earlier one, then it has missed them: they fail when it makes them.
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
    package enum Cause: Hashable, Sendable {
        /// A connection broke, nobody was lost: inputs are whole and everybody is here, so it simply begins again.
        case repair
        case loss
        /// Members wait for each other in different calls.
        case misuse
    }

    private struct Node: Hashable {
        var peer: PeerID
        var launch: LaunchNumber
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
    /// whom others wait in vain.
    package static func verdicts(
        for reports: [Report], cause: Cause, waiting: Waiting? = nil
    ) -> [[OperationVerdict]] {
        var components = Components()
        for report in reports {
            for operation in report.operations {
                let own = components.index(of: Node(peer: report.peer, launch: operation.launch))
                for known in operation.known {
                    components.join(own, components.index(of: Node(peer: known.peer, launch: known.launch)))
                }
            }
        }

        // For each component: who has entered, and is there anybody who has entered but does not hold the result?
        var entered: [Int: SortedPeers] = [:]
        var unfinished: [Int: Bool] = [:]
        for (index, node) in components.nodes.enumerated() {
            entered[components.root(of: index), default: SortedPeers()].insert(node.peer)
        }
        for report in reports {
            for operation in report.operations where operation.state == .inProgress {
                let index = components.index(of: Node(peer: report.peer, launch: operation.launch))
                unfinished[components.root(of: index)] = true
            }
        }

        let mostFailed = mostFailed(reports)
        let survivors = reports.map(\.peer)
        return reports.map { report in
            report.operations.map { operation in
                let root = components.root(
                    of: components.index(of: Node(peer: report.peer, launch: operation.launch)))
                let allEntered = entered[root]?.isSuperset(of: survivors) ?? false
                let outcome: OperationVerdict.Outcome
                let isFailed =
                    operation.state == .inProgress
                    && mostFailed[operation.tag] ?? 0 > report.failed[operation.tag] ?? 0
                switch (allEntered, unfinished[root] ?? false, cause) {
                case (true, false, _): outcome = .commit
                case _ where isFailed: outcome = .mismatch
                case (false, _, .misuse):
                    let isMissed = isMissed(operation.tag, by: entered[root] ?? SortedPeers(), reports, waiting)
                    outcome = isMissed ? .misuse : .restart
                case (false, _, .loss), (false, _, .repair): outcome = .restart
                case (true, true, .loss): outcome = .abort
                case (true, true, .repair), (true, true, .misuse): outcome = .restart
                }
                return OperationVerdict(tag: operation.tag, launch: operation.launch, outcome: outcome)
            }
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
