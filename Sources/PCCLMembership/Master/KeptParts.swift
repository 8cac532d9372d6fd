import PCCLBase

/// What of an operation's result stays when the survivors go on with it, from what each of them holds.
package enum KeptParts {
    /// By rank of the new view: the parts that are final there, ascending and without overlap.
    package typealias Holdings = [[ResultPart]]

    /// Empty: nothing is kept.
    package static func choose(
        from holdings: Holdings, elementCount: Int, worldSize: Int, isOneViewDemanded: Bool, limit: Int
    ) -> [KeptPart] {
        let all = pieces(of: holdings)
        guard isOneViewDemanded else { return fitting(all, limit) }
        for size in Set(all.map(\.part.worldSize)) {
            let made = all.filter { $0.part.worldSize == size }
            guard made.reduce(0, { $0 + $1.part.elements.count }) == elementCount else { continue }
            let fitting = fitting(made, limit)
            if fitting.reduce(0, { $0 + $1.part.elements.count }) == elementCount { return fitting }
        }
        // View sizes tell views apart: while an operation is in flight, members only go.
        return fitting(all.filter { $0.part.worldSize == worldSize }, limit)
    }

    /// Divides the elements wherever a part begins or ends at anybody, and joins neighbours that the same ranks hold.
    private static func pieces(of holdings: Holdings) -> [KeptPart] {
        let bounds = Set(holdings.joined().flatMap { [$0.elements.lowerBound, $0.elements.upperBound] }).sorted()
        var next = [Int](repeating: 0, count: holdings.count)
        var pieces: [KeptPart] = []
        for (start, end) in zip(bounds, bounds.dropFirst()) {
            var holders: [(rank: Int, worldSize: Int)] = []
            for (rank, parts) in holdings.enumerated() {
                while next[rank] < parts.count, parts[next[rank]].elements.upperBound <= start { next[rank] += 1 }
                guard next[rank] < parts.count, parts[next[rank]].elements.contains(start) else { continue }
                holders.append((rank, parts[next[rank]].worldSize))
            }
            // One value of each element is final; if peers that err say otherwise, that of the largest view counts.
            guard let worldSize = holders.map(\.worldSize).max() else { continue }
            let piece = KeptPart(
                ResultPart(elements: start..<end, worldSize: worldSize),
                holders: holders.filter { $0.worldSize == worldSize }.map(\.rank))
            if let last = pieces.last, last.part.elements.upperBound == start, last.holders == piece.holders,
                last.part.worldSize == worldSize
            {
                pieces[pieces.count - 1].part.elements = last.part.elements.lowerBound..<end
            } else {
                pieces.append(piece)
            }
        }
        return pieces
    }

    /// Joins neighbours that some ranks have both of, if there are too many; who has one of them only is sent all of it again.
    /// Of what is too many still, the longest.
    private static func fitting(_ pieces: [KeptPart], _ limit: Int) -> [KeptPart] {
        guard pieces.count > limit else { return pieces }
        var joined: [KeptPart] = []
        for piece in pieces {
            if let last = joined.last, last.part.elements.upperBound == piece.part.elements.lowerBound,
                last.part.worldSize == piece.part.worldSize
            {
                let both = Set(piece.holders)
                let holders = last.holders.filter(both.contains)
                if !holders.isEmpty {
                    joined[joined.count - 1].part.elements =
                        last.part.elements.lowerBound..<piece.part.elements.upperBound
                    joined[joined.count - 1].holders = holders
                    continue
                }
            }
            joined.append(piece)
        }
        guard joined.count > limit else { return joined }
        let kept = Set(joined.map(\.part).longest(limit))
        return joined.filter { kept.contains($0.part) }
    }
}
