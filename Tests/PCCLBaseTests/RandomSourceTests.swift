import PCCLBase
import Testing

@Suite("The seeded generator")
struct RandomSourceTests {
    /// Computed independently, from the published definitions of SplitMix64 and xoshiro256**.
    @Test("it gives the published sequence of its algorithm")
    func knownVectors() {
        func first(_ seed: UInt64) -> [UInt64] {
            var random = RandomSource(seed: seed)
            return (0..<4).map { _ in random.next() }
        }
        #expect(
            first(0) == [
                0x99ec_5f36_cb75_f2b4, 0xbf6e_1f78_4956_452a, 0x1a5f_849d_4933_e6e0, 0x6aa5_94f1_262d_2d2c,
            ])
        #expect(
            first(1) == [
                0xb3f2_af6d_0fc7_10c5, 0x853b_5596_4736_4cea, 0x92f8_9756_082a_4514, 0x642e_1c7b_c266_a3a7,
            ])
        #expect(
            first(.max) == [
                0x8f55_20d5_2a7e_ad08, 0xc476_a018_caa1_802d, 0x81de_31c0_d260_469e, 0xbf65_8d7e_065f_3c2f,
            ])
    }

    @Test("equal seeds give equal sequences, other seeds other ones")
    func determinism() {
        func sequence(_ seed: UInt64) -> [UInt64] {
            var random = RandomSource(seed: seed)
            return (0..<1000).map { _ in random.next() }
        }
        #expect(sequence(42) == sequence(42))
        #expect(Set((0..<100).map { sequence($0)[0] }).count == 100)
        #expect(Set(sequence(42)).count == 1000)
    }

    @Test("a copy goes on from where the original was")
    func copies() {
        var random = RandomSource(seed: 7)
        _ = random.next()
        var copy = random
        #expect((0..<10).map { _ in random.next() } == (0..<10).map { _ in copy.next() })
    }

    @Test("numbers below a bound are below it, and all of them occur")
    func bounds() {
        var random = RandomSource(seed: 3)
        for bound in 1...20 {
            let drawn = (0..<1000).map { _ in random.below(bound) }
            #expect(Set(drawn) == Set(0..<bound))
        }
    }
}
