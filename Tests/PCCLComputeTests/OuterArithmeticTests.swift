import CKernels
import PCCLBase
import Testing

@testable import PCCLCompute

/// Memory that threads write parts of.
private final class Array32: @unchecked Sendable {
    let base: UnsafeMutablePointer<Float>
    let count: Int
    init(_ count: Int, _ value: (Int) -> Float) {
        self.count = count
        base = .allocate(capacity: count)
        for i in 0..<count { base[i] = value(i) }
    }
    deinit { base.deallocate() }
    var values: [Float] { Array(UnsafeBufferPointer(start: base, count: count)) }
}

@Suite("Outer arithmetic")
struct OuterArithmeticTests {
    // Several pieces, the last one neither whole nor of whole vectors.
    static let counts = [1, 7, 4097, (1 << 20) * 2 + 1003]

    private func noise(_ i: Int, _ seed: Int) -> Float { Float((i &* 7919 &+ seed &* 104_729) % 2001 - 1000) / 777 }

    @Test("each operation is what plain arithmetic gives, to the bit, by one thread and by several", arguments: counts)
    func elementwise(count: Int) {
        let gradient = Array32(count) { noise($0, 1) }
        let outer = Array32(count) { noise($0, 2) }
        let momentum = Array32(count) { noise($0, 3) }
        let (g, o, m) = (gradient.values, outer.values, momentum.values)
        OuterArithmetic.accumulate(gradient.base, into: momentum.base, factor: 0.9, count: count)
        OuterArithmetic.descendAhead(
            outer.base, momentum: momentum.base, gradient: gradient.base, rate: 0.7, factor: 0.9, count: count)
        OuterArithmetic.divide(gradient.base, by: 3, count: count)
        var wanted = (momentum: m, outer: o, gradient: g)
        for i in 0..<count {
            let decayed = 0.9 * m[i]
            wanted.momentum[i] = decayed + g[i]
            let ahead = 0.9 * wanted.momentum[i]
            let length = 0.7 * (g[i] + ahead)
            wanted.outer[i] = o[i] - length
            wanted.gradient[i] = g[i] / 3
        }
        #expect(momentum.values == wanted.momentum)
        #expect(outer.values == wanted.outer)
        #expect(gradient.values == wanted.gradient)
        let before = outer.values
        OuterArithmetic.descend(outer.base, along: gradient.base, rate: 0.5, count: count)
        let lengths = wanted.gradient.map { 0.5 * $0 }
        #expect(outer.values == zip(before, lengths).map { $0 - $1 })
    }

    @Test(
        "parameters of each type of float, wherever they lie, are loaded, compared and mixed as float32",
        arguments: [DataType.float16, .bfloat16, .float32, .float64], [0, 1])
    func types(type: DataType, misalignment: Int) {
        let count = 9001
        let unit = type.byteCount
        // Values that each type holds exactly.
        let values = (0..<count).map { Float($0 % 31 - 15) / 4 }
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: count * unit + 2 * 64, alignment: 64)
        defer { bytes.deallocate() }
        for i in bytes.indices { bytes[i] = 0xa5 }
        let lent = 64 + misalignment..<64 + misalignment + count * unit
        let local = OuterArithmetic.Local(UnsafeMutableRawBufferPointer(rebasing: bytes[lent]).baseAddress!, type)
        let source = Array32(count) { values[$0] }
        OuterArithmetic.mix(source.base, into: local, mixing: 0, count: count)
        let loaded = Array32(count) { _ in -1 }
        OuterArithmetic.load(local, into: loaded.base, count: count)
        #expect(loaded.values == values)

        let outer = Array32(count) { Float($0 % 3) }
        let difference = Array32(count) { _ in 0 }
        OuterArithmetic.difference(of: outer.base, and: local, times: 0.5, into: difference.base, count: count)
        let outerValues = outer.values
        let halves: [Float] = (0..<count).map { i in 0.5 * (outerValues[i] - values[i]) }
        #expect(difference.values == halves)
        OuterArithmetic.mix(outer.base, into: local, mixing: 0.5, count: count)
        OuterArithmetic.load(local, into: loaded.base, count: count)
        let mixed: [Float] = (0..<count).map { i in 0.5 * values[i] + 0.5 * outerValues[i] }
        #expect(loaded.values == mixed)
        #expect(bytes.indices.allSatisfy { lent.contains($0) || bytes[$0] == 0xa5 })
    }

    @Test("sums of squares do not depend on who adds them up", arguments: counts)
    func squares(count: Int) {
        let a = Array32(count) { noise($0, 5) }
        let b = Array32(count) { noise($0, 6) }
        let sum = OuterArithmetic.squares(of: a.base, minus: b.base, count: count)
        #expect(OuterArithmetic.squares(of: a.base, minus: b.base, count: count) == sum)
        let (x, y) = (a.values, b.values)
        var exact = 0.0
        for i in 0..<count {
            let difference = Double(x[i]) - Double(y[i])
            exact += difference * difference
        }
        #expect(abs(sum - exact) <= exact * 1e-10)
        a.base[count / 2] = .nan
        #expect(OuterArithmetic.squares(of: a.base, count: count).isNaN)
    }

    @Test("what is no number is the usual one of them, whoever has made it: peers compare bits")
    func notNumbers() {
        let count = 9
        let odd: [UInt32] = [0x7f80_0001, 0xffab_cdef, 0xffc0_0000, 0x7fff_ffff]
        let spoilt = Array32(count) { $0 < odd.count ? Float(bitPattern: odd[$0]) : $0 < 6 ? .infinity : 1 }
        let usual: UInt32 = 0x7fc0_0000
        func noNumbers(_ array: Array32) -> [UInt32] { array.values.filter(\.isNaN).map(\.bitPattern) }
        let local = OuterArithmetic.Local(spoilt.base, .float32)
        let (out, other) = (Array32(count) { _ in 0 }, Array32(count) { _ in .infinity })
        OuterArithmetic.load(local, into: out.base, count: count)
        #expect(noNumbers(out) == [UInt32](repeating: usual, count: 4))
        // Infinity less infinity is none either.
        OuterArithmetic.difference(of: other.base, and: local, times: 1, into: out.base, count: count)
        #expect(noNumbers(out) == [UInt32](repeating: usual, count: 6))
        OuterArithmetic.descend(other.base, along: spoilt.base, rate: 1, count: count)
        #expect(noNumbers(other) == [UInt32](repeating: usual, count: 6))
        OuterArithmetic.accumulate(spoilt.base, into: other.base, factor: 0, count: count)
        OuterArithmetic.divide(spoilt.base, by: .infinity, count: count)
        #expect(noNumbers(spoilt) == [UInt32](repeating: usual, count: 6))
        #expect(noNumbers(other).allSatisfy { $0 == usual })
        OuterArithmetic.mix(other.base, into: local, mixing: 0.5, count: count)
        #expect(noNumbers(spoilt).allSatisfy { $0 == usual })
    }
}
