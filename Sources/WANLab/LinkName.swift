/// Which links a setting is for. In writing:
///
///     up:2  down:2  access:2     the way out of node 2, the way in, both; access:* for all nodes
///     path:0>1  path:0-1         from node 0 to node 1; in both directions; path:* for all pairs
///     trunk:0>1 trunk:0-1        the same between two sites
package struct LinkName: Equatable, Sendable {
    package enum Ends: Equatable, Sendable {
        case up(Int?)
        case down(Int?)
        case access(Int?)
        case path(Pair?)
        case trunk(Pair?)
    }

    package struct Pair: Equatable, Sendable {
        package var from: Int
        package var to: Int
        package var isBothWays: Bool

        package init(from: Int, to: Int, isBothWays: Bool) {
            self.from = from
            self.to = to
            self.isBothWays = isBothWays
        }

        package func covers(from: Int, to: Int) -> Bool {
            (self.from, self.to) == (from, to) || isBothWays && (self.from, self.to) == (to, from)
        }
    }

    package var ends: Ends

    package init(_ text: String) throws(LabError) {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        guard parts.count == 2 else { throw Self.error(text) }
        let isAll = parts[1] == "*"
        switch parts[0] {
        case "up": ends = .up(isAll ? nil : try Self.index(parts[1], in: text))
        case "down": ends = .down(isAll ? nil : try Self.index(parts[1], in: text))
        case "access": ends = .access(isAll ? nil : try Self.index(parts[1], in: text))
        case "path": ends = .path(isAll ? nil : try Self.pair(parts[1], in: text))
        case "trunk": ends = .trunk(isAll ? nil : try Self.pair(parts[1], in: text))
        default: throw Self.error(text)
        }
    }

    private static func index(_ digits: String, in text: String) throws(LabError) -> Int {
        guard let number = UInt16(digits) else { throw error(text) }
        return Int(number)
    }

    private static func pair(_ part: String, in text: String) throws(LabError) -> Pair {
        guard let mark = part.first(where: { $0 == ">" || $0 == "-" }) else { throw error(text) }
        let ends = part.split(separator: mark, omittingEmptySubsequences: false).map(String.init)
        guard ends.count == 2 else { throw error(text) }
        let pair = Pair(from: try index(ends[0], in: text), to: try index(ends[1], in: text), isBothWays: mark == "-")
        guard pair.from != pair.to else { throw LabError("\"\(text)\" has the same end twice") }
        return pair
    }

    private static func error(_ text: String) -> LabError {
        LabError(
            "\"\(text)\" names no link; it is one of up:N, down:N, access:N, path:A>B, path:A-B, trunk:A>B, trunk:A-B, "
                + "or one with * for all, as in access:*")
    }

    /// Throws if it names a node or a site that is not there.
    package func check(nodes: Int, sites: Int) throws(LabError) {
        let (kind, count, numbers): (String, Int, [Int]) =
            switch ends {
            case .up(let node), .down(let node), .access(let node): ("node", nodes, node.map { [$0] } ?? [])
            case .path(let pair): ("node", nodes, pair.map { [$0.from, $0.to] } ?? [])
            case .trunk(let pair): ("site", sites, pair.map { [$0.from, $0.to] } ?? [])
            }
        if let number = numbers.first(where: { $0 >= count }) {
            throw LabError("there is no \(kind) \(number): the lab has \(count), numbered from 0")
        }
    }
}
