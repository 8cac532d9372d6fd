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

    /// Returns the verdicts for each report, in the order of the reports.
    package static func verdicts(for reports: [Report], cause: Cause) -> [[OperationVerdict]] {
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

        let survivors = reports.map(\.peer)
        return reports.map { report in
            report.operations.map { operation in
                let root = components.root(
                    of: components.index(of: Node(peer: report.peer, launch: operation.launch)))
                let allEntered = entered[root]?.isSuperset(of: survivors) ?? false
                let outcome: OperationVerdict.Outcome
                switch (allEntered, unfinished[root] ?? false, cause) {
                case (true, false, _): outcome = .commit
                case (false, _, .misuse): outcome = .misuse
                case (false, _, .loss), (false, _, .repair): outcome = .restart
                case (true, true, .loss): outcome = .abort
                case (true, true, .repair), (true, true, .misuse): outcome = .restart
                }
                return OperationVerdict(tag: operation.tag, launch: operation.launch, outcome: outcome)
            }
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
