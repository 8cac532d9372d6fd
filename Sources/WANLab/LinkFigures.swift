import PCCLBase
import StrictJSON

/// What a link does to the packets that pass it. A link without figures lets everything through at once.
package struct LinkFigures: Equatable, Sendable {
    /// Bits a second, counted in whole IP packets; nil for no limit.
    package var bitsPerSecond: UInt64?
    package var delay = Interval(nanoseconds: 0)
    /// Up to this much is added to the delay of a packet, evenly distributed.
    package var jitter = Interval(nanoseconds: 0)
    /// Whether jitter may let a packet overtake another. Without it a packet waits for the one before it.
    package var mayReorder = false
    /// The share of packets that are lost, from 0 to 1.
    package var loss = 0.0
    /// How many packets in a row a loss takes on average. Up to 1: each packet is lost or not for itself.
    package var burstPackets = 1.0
    /// How much may wait for its turn. What finds no room is dropped.
    package var queue = Queue.time(Interval.milliseconds(50))

    package enum Queue: Equatable, Sendable {
        case time(Interval)
        case bytes(UInt64)
    }

    package init() {}

    package var isNeutral: Bool {
        bitsPerSecond == nil && delay.nanoseconds == 0 && jitter.nanoseconds == 0 && loss == 0
    }

    /// How long the last packet that is let in may have to wait, in nanoseconds.
    package var longestWaitNanoseconds: UInt64 {
        switch queue {
        case .time(let time): time.nanoseconds
        case .bytes(let bytes): UInt64(Double(bytes) * 8e9 / Double(bitsPerSecond ?? .max))
        }
    }
}

/// One figure of a link with its new value, as a file, an event or the control socket sets it.
package struct FigureSetting: Equatable, Sendable {
    package enum Figure: String, CaseIterable, Sendable {
        case rate = "rate_mbit"
        case delay = "delay_ms"
        case jitter = "jitter_ms"
        case reorder
        case loss = "loss_percent"
        case burst = "burst_packets"
        case queueTime = "queue_ms"
        case queueBytes = "queue_bytes"
    }

    package var figure: Figure
    /// In the figure's own unit; 0 as a rate means no limit; 0 or 1 for `reorder`.
    package var value: Double

    package init(_ name: String, _ value: JSONValue) throws(LabError) {
        guard let figure = Figure(rawValue: name) else {
            throw LabError(
                "a link has no figure \"\(name)\"; it has "
                    + Figure.allCases.map(\.rawValue).joined(separator: ", "))
        }
        switch (figure, value) {
        case (.reorder, .bool(let flag)): self.init(figure, flag ? 1 : 0)
        case (.reorder, _): throw LabError("reorder is true or false, not \(value.kind)")
        case (.rate, .null): self.init(.rate, 0)
        case (_, .number(let number)): self.init(figure, number)
        case (_, _): throw LabError("\(name) is a number, not \(value.kind)")
        }
        guard Self.limits(of: figure).contains(self.value) else {
            let limits = Self.limits(of: figure)
            throw LabError(
                "\(name) goes from \(plain(limits.lowerBound)) to \(plain(limits.upperBound)), not \(plain(self.value))"
            )
        }
    }

    package init(_ figure: Figure, _ value: Double) {
        self.figure = figure
        self.value = value
    }

    /// Wide enough for any link there is, narrow enough that no later sum or product overflows.
    private static func limits(of figure: Figure) -> ClosedRange<Double> {
        switch figure {
        case .rate: 0...1_000_000
        case .delay, .jitter, .queueTime: 0...60_000
        case .reorder: 0...1
        case .loss: 0...100
        case .burst: 1...10_000
        case .queueBytes: 1500...1e10
        }
    }

    package func apply(to figures: inout LinkFigures) {
        switch figure {
        case .rate: figures.bitsPerSecond = value == 0 ? nil : max(1, UInt64(value * 1e6))
        case .delay: figures.delay = Self.interval(milliseconds: value)
        case .jitter: figures.jitter = Self.interval(milliseconds: value)
        case .reorder: figures.mayReorder = value != 0
        case .loss: figures.loss = value / 100
        case .burst: figures.burstPackets = value
        case .queueTime: figures.queue = .time(Self.interval(milliseconds: value))
        case .queueBytes: figures.queue = .bytes(UInt64(value))
        }
    }

    private static func interval(milliseconds: Double) -> Interval {
        Interval(nanoseconds: UInt64((milliseconds * 1e6).rounded()))
    }
}

/// What is wrong with a lab's description or with a command to it, for the person who wrote it.
package struct LabError: Error, Equatable, CustomStringConvertible {
    package var description: String
    package init(_ description: String) { self.description = description }
}

/// A number without a needless ".0".
package func plain(_ value: Double) -> String {
    value == value.rounded() && abs(value) < 1e15 ? String(Int64(value)) : String(value)
}
