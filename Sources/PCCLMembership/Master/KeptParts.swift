import PCCLBase

/// What of an operation's result stays when the survivors go on with it, from what each of them holds.
package enum KeptParts {
    /// By rank of the new view: the parts that are final there, ascending and without overlap.
    package typealias Holdings = [[ResultPart]]

    /// Empty: nothing is kept.
    package static func choose(
        from holdings: Holdings, elementCount: Int, worldSize: Int, isOneViewDemanded: Bool, limit: Int
    ) -> [KeptPart] {
        let all = longest(pieces(of: holdings), limit)
        guard isOneViewDemanded else { return all }
        for size in Set(all.map(\.part.worldSize)) {
            let made = all.filter { $0.part.worldSize == size }
            if made.reduce(0, { $0 + $1.part.elements.count }) == elementCount { return made }
        }
        // View sizes tell views apart: while an operation is in flight, members only go.
        return all.filter { $0.part.worldSize == worldSize }
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

    private static func longest(_ pieces: [KeptPart], _ limit: Int) -> [KeptPart] {
        guard pieces.count > limit else { return pieces }
        let kept = Set(pieces.map(\.part).longest(limit))
        return pieces.filter { kept.contains($0.part) }
    }
}
