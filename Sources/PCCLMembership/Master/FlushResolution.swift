import PCCLBase
import PCCLWire

/// Gives one verdict for each operation in flight, from what all survivors reported.
///
/// Reports name an operation by (peer, launch number); a report also lists under which launch numbers its peer knows the
/// others' part of the same operation. Reports joined by such knowledge are one operation. Two operations with the same
/// tag can be in flight at most: whoever launched the second has committed the first, so the first is prepared at all.
///
/// A member that others know to have entered, but that does not report the operation, has finished it. It can only have
/// finished by commit when all others are prepared; if they are not, it returned an error to its caller.
package struct FlushResolution {
    package struct Report: Hashable, Sendable {
        package var peer: PeerID
        package var operations: [OperationReport]
        package init(peer: PeerID, operations: [OperationReport]) {
            self.peer = peer
            self.operations = operations
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

        var reporting: [Int: SortedPeers] = [:]
        for report in reports {
            for operation in report.operations {
                let index = components.index(of: Node(peer: report.peer, launch: operation.launch))
                reporting[components.root(of: index), default: SortedPeers()].insert(report.peer)
            }
        }
        let survivors = reports.map(\.peer)
        return reports.map { report in
            report.operations.map { operation in
                let root = components.root(
                    of: components.index(of: Node(peer: report.peer, launch: operation.launch)))
                let allEntered = entered[root]?.isSuperset(of: survivors) ?? false
                let outcome: OperationVerdict.Outcome
                // Somebody is known to have entered and yet does not report it: it has finished. While others have not,
                // that was no commit: the descriptors differed, its caller was told, and it will not come again.
                let isFailed =
                    (unfinished[root] ?? false)
                    && survivors.contains {
                        entered[root]?.contains($0) == true && reporting[root]?.contains($0) != true
                    }
                switch (allEntered, unfinished[root] ?? false, cause) {
                case (true, false, _): outcome = .commit
                case _ where isFailed: outcome = .misuse
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
