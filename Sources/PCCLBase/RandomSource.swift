/// A seeded generator (xoshiro256**, Blackman & Vigna 2018; seeded through SplitMix64): the same seed gives the same
/// schedule on every machine and in every process.
package struct RandomSource: RandomNumberGenerator, Sendable {
    private var state: (UInt64, UInt64, UInt64, UInt64)

    package init(seed: UInt64) {
        var x = seed
        func splitMix() -> UInt64 {
            x &+= 0x9e37_79b9_7f4a_7c15
            var z = x
            z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
            z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
            return z ^ (z >> 31)
        }
        state = (splitMix(), splitMix(), splitMix(), splitMix())
    }

    package mutating func next() -> UInt64 {
        func rotated(_ x: UInt64, _ k: UInt64) -> UInt64 { (x << k) | (x >> (64 - k)) }
        let result = rotated(state.1 &* 5, 7) &* 9
        let t = state.1 << 17
        state.2 ^= state.0
        state.3 ^= state.1
        state.1 ^= state.2
        state.0 ^= state.3
        state.2 ^= t
        state.3 = rotated(state.3, 45)
        return result
    }

    /// A number in `0..<bound`. The bias of a plain remainder is below 2^-32 for the small bounds used here.
    package mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }
    /// True once in `n` times on average.
    package mutating func oneIn(_ n: Int) -> Bool { below(n) == 0 }
}
