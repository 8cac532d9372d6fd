/// What becomes of an operation that every survivor had entered when a member was lost. If survivors differ, that of the
/// first in this order holds for all: `abort`, `resumeWhole`, `resume`.
public enum LossPolicy: UInt8, Sendable, CaseIterable {
    /// Inputs are made whole and the callers told: `rankConnectionLost`.
    case abort = 0
    /// The survivors finish it and no call returns before: what is final at any of them is kept, with the lost member's
    /// contribution, and travels to those who lack it; all else is reduced from the contributions of those who are left.
    case resume = 1
    /// The same, but all elements have the contributions of the same members: what is final is kept if everything is final
    /// somewhere, or was made by the members who are left. Otherwise the operation begins again.
    case resumeWhole = 2
}

/// Elements of a result, one after the other, that the same members have made.
public struct ResultPart: Hashable, Sendable {
    /// Counted from the start of the buffer.
    public var elements: Range<Int>
    /// Of how many members the contributions are.
    public var worldSize: Int
    public init(elements: Range<Int>, worldSize: Int) {
        self.elements = elements
        self.worldSize = worldSize
    }

    /// How many parts of one operation a member tells its master of, and the master all members: many enough for the chunks
    /// of all but the largest groups, and few enough that what all members tell can be compared part by part. What is left
    /// out is reduced again.
    package static func limit(worldSize: Int) -> Int { min(256, max(16, 16_384 / max(worldSize, 1))) }
    /// Of all operations in flight together.
    package static let limitOfAll = 4096
}

extension [ResultPart] {
    /// Ascending and without overlap, within so many elements.
    package func isValid(elementCount: Int) -> Bool {
        var end = 0
        for part in self {
            guard part.elements.lowerBound >= end, !part.elements.isEmpty, part.worldSize > 0 else { return false }
            end = part.elements.upperBound
        }
        return end <= elementCount
    }

    /// The same parts, neighbours of one world size joined.
    package var joined: [ResultPart] {
        var parts: [ResultPart] = []
        for part in self {
            if let last = parts.last, last.elements.upperBound == part.elements.lowerBound,
                last.worldSize == part.worldSize
            {
                parts[parts.count - 1].elements = last.elements.lowerBound..<part.elements.upperBound
            } else {
                parts.append(part)
            }
        }
        return parts
    }

    /// The so many longest, in their order.
    package func longest(_ limit: Int) -> [ResultPart] {
        guard count > limit else { return self }
        return sorted { ($0.elements.count, $1.elements.lowerBound) > ($1.elements.count, $0.elements.lowerBound) }
            .prefix(limit).sorted { $0.elements.lowerBound < $1.elements.lowerBound }
    }
}

/// A part that stays when an operation goes on in another view.
package struct KeptPart: Hashable, Sendable {
    package var part: ResultPart
    /// The ranks of that view that have it already, ascending; the others get it from them.
    package var holders: [Int]
    package init(_ part: ResultPart, holders: [Int]) {
        self.part = part
        self.holders = holders
    }
}

/// How an operation goes on after a flush: the same for all members of the view.
package struct Resumption: Hashable, Sendable {
    /// Names the operation from here on, among those of its group.
    package var number: UInt64
    /// Ascending and without overlap; the rest is reduced again.
    package var kept: [KeptPart]
    package init(number: UInt64, kept: [KeptPart]) {
        self.number = number
        self.kept = kept
    }

    package func isValid(elementCount: Int, worldSize: Int) -> Bool {
        kept.map(\.part).isValid(elementCount: elementCount)
            && kept.allSatisfy { kept in
                !kept.holders.isEmpty && zip(kept.holders, kept.holders.dropFirst()).allSatisfy { $0 < $1 }
                    && (kept.holders.last ?? 0) < worldSize && kept.holders[0] >= 0
            }
    }

    /// What is not kept.
    package func rest(elementCount: Int) -> [Range<Int>] {
        var rest: [Range<Int>] = []
        var end = 0
        for kept in kept {
            if kept.part.elements.lowerBound > end { rest.append(end..<kept.part.elements.lowerBound) }
            end = kept.part.elements.upperBound
        }
        if end < elementCount { rest.append(end..<elementCount) }
        return rest
    }

    /// The whole result, once all of it is final.
    package func parts(elementCount: Int, worldSize: Int) -> [ResultPart] {
        let new = rest(elementCount: elementCount).map { ResultPart(elements: $0, worldSize: worldSize) }
        return (kept.map(\.part) + new).sorted { $0.elements.lowerBound < $1.elements.lowerBound }.joined
    }
}
