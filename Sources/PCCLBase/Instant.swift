/// A point of a monotonic clock that starts anywhere. The pure rooms receive it; they never ask for it.
package struct Instant: Hashable, Comparable, Sendable {
    package var nanoseconds: UInt64
    package init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }
    package static func < (a: Instant, b: Instant) -> Bool { a.nanoseconds < b.nanoseconds }
    package static func + (a: Instant, b: Interval) -> Instant { Instant(nanoseconds: a.nanoseconds &+ b.nanoseconds) }
    package static func - (a: Instant, b: Instant) -> Interval {
        Interval(nanoseconds: a.nanoseconds > b.nanoseconds ? a.nanoseconds - b.nanoseconds : 0)
    }
}

/// A length of time.
package struct Interval: Hashable, Comparable, Sendable {
    package var nanoseconds: UInt64
    package init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }
    package static func < (a: Interval, b: Interval) -> Bool { a.nanoseconds < b.nanoseconds }
    package static func milliseconds(_ n: UInt64) -> Interval { Interval(nanoseconds: n * 1_000_000) }
    package static func seconds(_ n: Double) -> Interval { Interval(nanoseconds: UInt64(n * 1e9)) }
    package static func / (a: Interval, b: UInt64) -> Interval { Interval(nanoseconds: a.nanoseconds / b) }
    package static func * (a: Interval, b: UInt64) -> Interval { Interval(nanoseconds: a.nanoseconds * b) }
    package var milliseconds: UInt64 { nanoseconds / 1_000_000 }
    package var seconds: Double { Double(nanoseconds) / 1e9 }
}
