/// A process that takes part in a run. Given by the master when the process first registers, and never given twice.
package struct PeerID: Hashable, Comparable, Sendable, CustomStringConvertible {
    package let value: UInt64
    package init(_ value: UInt64) { self.value = value }
    package static func < (a: PeerID, b: PeerID) -> Bool { a.value < b.value }
    package var description: String { "peer \(value)" }
}

extension [PeerID] {
    /// "peer 1", "peers 1 and 2", "peers 1, 2 and 5 more": no more than so many by their numbers.
    package func enumerated(upTo limit: Int) -> String {
        guard count > 1 else { return first.map { "\($0)" } ?? "nobody" }
        let numbers = prefix(limit).map { "\($0.value)" }
        let rest = count - numbers.count
        let last = rest > 0 ? "\(rest) more" : numbers[numbers.count - 1]
        let before = rest > 0 ? numbers[...] : numbers.dropLast()
        return "peers \(before.joined(separator: ", ")) and \(last)"
    }
}

/// A random 128-bit name of a run. Knowing it is what lets a stranger's connection pass for a peer's, so it is never
/// sent to anybody who has not been registered.
package struct RunID: Hashable, Sendable {
    package let high: UInt64
    package let low: UInt64
    package init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }
}

/// What a peer proves itself with when it attaches to its master again. Random, and known to the two alone.
package struct PeerSecret: Hashable, Sendable {
    package let high: UInt64
    package let low: UInt64
    package init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }
}

/// The version of one group's view: greater by at least one with each change of the view.
package struct Epoch: Hashable, Comparable, Sendable, CustomStringConvertible {
    package let value: UInt32
    package init(_ value: UInt32) { self.value = value }
    package static func < (a: Epoch, b: Epoch) -> Bool { a.value < b.value }
    package var next: Epoch { Epoch(value + 1) }
    package var description: String { "epoch \(value)" }
    package static let none = Epoch(0)
}

/// The caller's name of a collective operation. Operations with different tags run side by side.
package struct Tag: Hashable, Comparable, Sendable, CustomStringConvertible {
    package let value: UInt64
    package init(_ value: UInt64) { self.value = value }
    package static func < (a: Tag, b: Tag) -> Bool { a.value < b.value }
    package var description: String { "tag \(value)" }
}

/// How often this peer has launched an operation, counted over all tags and epochs.
///
/// Every frame carries its sender's launch number, so that a late frame of an earlier operation with the same tag is
/// told apart without a counter for each tag ever used.
package struct LaunchNumber: Hashable, Comparable, Sendable {
    package let value: UInt32
    package init(_ value: UInt32) { self.value = value }
    package static func < (a: LaunchNumber, b: LaunchNumber) -> Bool { a.value < b.value }
}

/// A group of peers that reduce with each other. Each group has its own view and epoch.
package struct GroupID: Hashable, Comparable, Sendable, CustomStringConvertible {
    package let value: UInt32
    package init(_ value: UInt32) { self.value = value }
    package static func < (a: GroupID, b: GroupID) -> Bool { a.value < b.value }
    package var description: String { "group \(value)" }
}
