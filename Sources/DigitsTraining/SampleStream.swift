/// The samples one peer draws. Step and peer alone decide them, so a step that is tried again uses the same ones, and
/// a newcomer needs no history.
package struct SampleStream: Sendable {
    private let seed: UInt64

    package init(peer: Int) {
        var generator = SplitMix(state: UInt64(truncatingIfNeeded: peer) &+ 0x5043_434C)
        seed = generator.next()
    }

    /// `count` indices below `population`, drawn with replacement.
    package func samples(step: Int, count: Int, population: Int) -> [Int] {
        var generator = SplitMix(state: seed ^ (UInt64(truncatingIfNeeded: step) &* SplitMix.increment))
        return (0..<count).map { _ in generator.below(population) }
    }
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): small, and the same on every machine.
struct SplitMix {
    static let increment: UInt64 = 0x9E37_79B9_7F4A_7C15

    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= Self.increment
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// The high half of the product keeps the bias below population / 2^64.
    mutating func below(_ population: Int) -> Int {
        Int(next().multipliedFullWidth(by: UInt64(population)).high)
    }

    /// Evenly spread over -limit ..< limit, in steps that a Float holds exactly.
    mutating func symmetric(_ limit: Float) -> Float {
        let fraction = Float(next() >> 40) / Float(1 << 24)
        return (fraction * 2 - 1) * limit
    }
}
