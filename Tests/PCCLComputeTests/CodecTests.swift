import CKernels
import PCCLBase
import PCCLCompute
import Testing

private let levels = [pccl_kernel_level_plain, pccl_kernel_level_avx2, pccl_kernel_level_avx512]

private func best(_ format: UInt32, _ type: UInt32) -> UnsafePointer<pccl_kernel_codec>? {
    pccl_kernel_codec_at(pccl_kernel_best_level(), format, type)
}

private let float32Formats = Codec.Format.allCases.filter { $0 != .none && $0 != .minMax32 && $0 != .zeroPoint32 }

/// Numbers of one kind, the same in each run.
enum Distribution: CaseIterable {
    case normal
    case uniform
    case heavyTailed
    case withOutliers
    case farFromZero

    func values(_ count: Int, seed: UInt64) -> [Float] {
        var source = RandomSource(seed: seed)
        func unit() -> Double { Double(source.next() >> 11) * 0x1p-53 }
        func normal() -> Double { (0..<12).reduce(-6) { sum, _ in sum + unit() } }
        return (0..<count).map { index in
            switch self {
            case .normal: Float(normal() * 1e-3)
            case .uniform: Float(2 * unit() - 1)
            case .heavyTailed: Float(normal() / max(abs(normal()), 1e-3))
            case .withOutliers: Float(normal() * (index % 97 == 0 ? 1000 : 1))
            case .farFromZero: Float(1e6 + unit())
            }
        }
    }
}

/// How far a decoded value may be from what was coded, in terms of its block, as docs/collectives.md says.
func codingBound(_ format: Codec.Format, _ block: (low: Double, high: Double), _ x: Float) -> Double {
    let (low, high) = block
    let peak = max(abs(low), abs(high))
    // A rounding or two of the arithmetic itself.
    let slack = peak * 0x1p-22
    return slack
        + {
            switch format {
            case .minMax8: (high - low) / 255 / 2
            case .minMax16: (high - low) / 65535 / 2
            case .zeroPoint8: (max(high, 0) - min(low, 0)) / 255
            case .zeroPoint16: (max(high, 0) - min(low, 0)) / 65535
            case .int4: peak / 7 / 2
            case .int4PowerScale: peak / 7
            case .e3m0: max(Double(abs(x)) / 3, peak / 128)
            case .e3m0PowerScale: max(Double(abs(x)) / 3, peak / 64)
            case .e4m3: max(Double(abs(x)) / 16, peak / 448 * 0x1p-10)
            case .e4m3PowerScale: max(Double(abs(x)) / 16, peak / 224 * 0x1p-10)
            case .float16: max(Double(abs(x)) * 0x1p-11, 0x1p-25)
            case .bfloat16: Double(abs(x)) * 0x1p-8
            case .none, .minMax32, .zeroPoint32: 0
            }
        }()
}

func extremes(_ block: ArraySlice<Float>) -> (low: Double, high: Double) {
    (Double(block.min() ?? 0), Double(block.max() ?? 0))
}

private func encode(_ codec: pccl_kernel_codec, _ values: [Float], block: Int, seed: UInt64? = nil, at offset: Int = 0)
    -> [UInt8]
{
    let rest = values.count % block
    let blockBytes = codec.header_bytes + (block * codec.code_bits + 7) / 8
    let size =
        values.count / block * blockBytes + (rest == 0 ? 0 : codec.header_bytes + (rest * codec.code_bits + 7) / 8)
    var codes = [UInt8](repeating: 0xa5, count: size + offset + 8)
    codes.withUnsafeMutableBytes { codes in
        values.withUnsafeBytes { values in
            let (to, from) = (codes.baseAddress! + offset, values.baseAddress!)
            if let seed {
                codec.encode_randomly(to, from, values.count / 4, block, seed)
            } else {
                codec.encode(to, from, values.count / 4, block)
            }
        }
    }
    #expect(codes.suffix(8).allSatisfy { $0 == 0xa5 }, "nothing is written beyond the codes")
    return Array(codes[offset..<offset + size])
}

private func decode(_ codec: pccl_kernel_codec, _ codes: [UInt8], count: Int, block: Int, adding: [Float]? = nil)
    -> [Float]
{
    var values = adding ?? [Float](repeating: 0, count: count)
    // So that an empty buffer has an address too.
    let codes = codes + [0]
    values.withUnsafeMutableBytes { values in
        codes.withUnsafeBytes { codes in
            guard let to = values.baseAddress else { return }
            if adding == nil {
                codec.decode(to, codes.baseAddress!, count, block)
            } else {
                codec.add(to, codes.baseAddress!, count, block)
            }
        }
    }
    return values
}

private func bits(_ values: [Float]) -> [UInt32] { values.map { $0.isNaN ? 0x7fc0_0000 : $0.bitPattern } }

@Suite("Codecs: what values become, and what becomes of them")
struct CodecTests {
    /// Finite values of every size, with zeros, neighbours of powers of two, and subnormals.
    private func hard(_ count: Int, seed: UInt64) -> [Float] {
        var source = RandomSource(seed: seed)
        let spread = [0, 3, 20, 120][Int(seed % 4)]
        return (0..<count).map { _ in
            let bits = source.next()
            if bits % 13 == 0 { return [0, -0.0, .leastNonzeroMagnitude, -.leastNormalMagnitude][Int(bits >> 8 % 4)] }
            let exponent = spread == 0 ? 0 : Int(bits >> 16 % UInt64(2 * spread)) - spread
            let significand = bits % 3 == 0 ? 1 + Float(bits >> 40 & 15) / 16 : 1 + Float(bits >> 40) * 0x1p-24
            return Float(sign: bits & 1 << 9 == 0 ? .plus : .minus, exponent: exponent, significand: significand)
        }
    }

    @Test("every level writes what the reference says, for any block and any rest", arguments: float32Formats)
    func reference(format: Codec.Format) throws {
        for block in Codec.blockSizes {
            let reference = CodecReference(format: format, blockElements: block)
            let counts = block == 64 ? [1, 2, 3, 15, 31, 63, 64, 65, 127, 128, 129, 1021] : [1, block, block + 33]
            for count in counts {
                for seed in 0..<4 {
                    let values = hard(count, seed: UInt64(count * 4 + seed))
                    let expected = reference.encode(values)
                    let decoded = bits(reference.decode(expected, count: count))
                    let start = hard(count, seed: 99)
                    for level in levels {
                        guard
                            let codec = pccl_kernel_codec_at(
                                level, UInt32(format.rawValue) - 1, DataType.float32.rawValue)?.pointee
                        else { continue }
                        let codes = encode(codec, values, block: block, at: count % 5)
                        try #require(codes == expected, "\(format)/\(block), \(count) values, seed \(seed), \(level)")
                        try #require(bits(decode(codec, codes, count: count, block: block)) == decoded)
                        let sums = zip(start, decoded).map { $0 + Float(bitPattern: $1) }
                        let added = decode(codec, codes, count: count, block: block, adding: start)
                        try #require(bits(added) == bits(sums))
                    }
                }
            }
        }
    }

    @Test("float64 is coded alike at every level, and no worse than float32", arguments: Codec.Format.allCases)
    func float64(format: Codec.Format) throws {
        guard format.hasFloat64 else { return }
        let values = Distribution.normal.values(1000, seed: 5).map(Double.init)
        var first: [UInt8]?
        for level in levels {
            guard
                let codec = pccl_kernel_codec_at(level, UInt32(format.rawValue) - 1, DataType.float64.rawValue)?.pointee
            else { continue }
            var codes = [UInt8](repeating: 0, count: Codec(format).layout(of: .float64).byteCount(1000))
            var decoded = [Double](repeating: 0, count: 1000)
            codec.encode(&codes, values, 1000, 256)
            codec.decode(&decoded, codes, 1000, 256)
            if let first { #expect(codes == first) }
            first = codes
            let step = (values.max()! - values.min()!) / Double((1 << format.codeBits) - 1)
            let worst = zip(values, decoded).map { abs($0 - $1) }.max() ?? 1
            #expect(worst <= step * 0.5001, "\(format) at \(level)")
        }
        #expect(first != nil)
    }

    @Test("no value is further from what it was than the documentation says", arguments: float32Formats)
    func bounds(format: Codec.Format) throws {
        let codec = try #require(best(UInt32(format.rawValue) - 1, DataType.float32.rawValue)).pointee
        for distribution in Distribution.allCases {
            // float16 has no numbers beyond 65504.
            if distribution == .farFromZero, format == .float16 { continue }
            for block in Codec.blockSizes {
                let values = distribution.values(2000, seed: UInt64(block))
                let decoded = decode(codec, encode(codec, values, block: block), count: 2000, block: block)
                for start in stride(from: 0, to: 2000, by: block) {
                    let range = start..<min(start + block, 2000)
                    let ends = extremes(values[range])
                    for i in range {
                        let error = abs(Double(values[i]) - Double(decoded[i]))
                        let bound = codingBound(format, ends, values[i])
                        try #require(error <= bound, "\(format)/\(block), \(distribution): \(values[i])")
                    }
                }
            }
        }
    }

    @Test("rounding at random is right in the mean, the same for the same seed, and next to the value")
    func stochastic() throws {
        for format in float32Formats {
            let pointer = try #require(best(UInt32(format.rawValue) - 1, DataType.float32.rawValue))
            let codec = pointer.pointee
            let values = Distribution.uniform.values(256, seed: 3)
            let step: Double
            switch format {
            case .minMax8, .zeroPoint8: step = 2.0 / 255
            case .minMax16, .zeroPoint16: step = 2.0 / 65535
            case .int4: step = 1.0 / 7
            case .int4PowerScale: step = 1.0 / 4
            case .e3m0, .e3m0PowerScale: step = 1.0 / 2
            case .e4m3, .e4m3PowerScale: step = 1.0 / 8
            case .float16: step = 0x1p-11
            default: step = 0x1p-8
            }
            var sums = [Double](repeating: 0, count: 256)
            let rounds = 600
            for round in 0..<rounds {
                let codes = encode(codec, values, block: 64, seed: UInt64(round))
                #expect(codes == encode(codec, values, block: 64, seed: UInt64(round)))
                for level in levels {
                    guard round < 3,
                        let other = pccl_kernel_codec_at(level, UInt32(format.rawValue) - 1, DataType.float32.rawValue)
                    else { continue }
                    #expect(encode(other.pointee, values, block: 64, seed: UInt64(round)) == codes)
                }
                for (i, y) in decode(codec, codes, count: 256, block: 64).enumerated() {
                    sums[i] += Double(y)
                    // The clamped ends may miss by what the arithmetic rounds.
                    #expect(abs(Double(y) - Double(values[i])) <= step * 1.001, "\(format)")
                }
            }
            // Of 256 means, each with a deviation of at most half a step / √600, none is 6 deviations off.
            for i in 0..<256 {
                let error = abs(sums[i] / Double(rounds) - Double(values[i]))
                #expect(error < 6 * step / 2 / Double(rounds).squareRoot(), "\(format) of \(values[i])")
            }
        }
    }

    @Test("a block with what is no number, or nearly out of range, is NaN all through, and its neighbours are not")
    func untame() throws {
        for format in float32Formats where format != .float16 && format != .bfloat16 {
            let codec = try #require(best(UInt32(format.rawValue) - 1, DataType.float32.rawValue))
                .pointee
            for special: Float in [.nan, -.nan, .infinity, -.infinity, 0x1p126, -.greatestFiniteMagnitude] {
                var values = [Float](repeating: 1, count: 96)
                values[40] = special
                let decoded = decode(codec, encode(codec, values, block: 32), count: 96, block: 32)
                for i in 0..<96 { #expect(decoded[i].isNaN == (32..<64).contains(i), "\(format) of \(special)") }
            }
            let largest = [Float](repeating: Float(0x1p126).nextDown, count: 32)
            let decoded = decode(codec, encode(codec, largest, block: 32), count: 32, block: 32)
            #expect(decoded.allSatisfy { $0.isFinite && $0 > 0x1p125 }, "\(format)")
        }
        for format in [Codec.Format.float16, .bfloat16] {
            let codec = try #require(best(UInt32(format.rawValue) - 1, DataType.float32.rawValue))
                .pointee
            let values: [Float] = [1, .nan, -.infinity, .greatestFiniteMagnitude]
            let decoded = decode(codec, encode(codec, values, block: 32), count: 4, block: 32)
            #expect(decoded[0] == 1 && decoded[1].isNaN && decoded[2] == -.infinity && decoded[3] == .infinity)
        }
    }

    @Test("zeros, equal values and negative ones come out as they went in")
    func plainBlocks() throws {
        for format in float32Formats {
            let codec = try #require(best(UInt32(format.rawValue) - 1, DataType.float32.rawValue))
                .pointee
            for value: Float in [0, 1, -1, 0.5, -1024, 0x1p-20] {
                for count in [1, 5, 32, 77] {
                    let values = [Float](repeating: value, count: count)
                    let decoded = decode(codec, encode(codec, values, block: 32), count: count, block: 32)
                    // A power of two is a code of every format; of some, up to a rounding of its scale.
                    let isNear = decoded.allSatisfy { abs($0 - value) <= abs(value) * 0x1p-22 }
                    #expect(isNear || format == .int4PowerScale, "\(format) of \(value): \(decoded[0])")
                }
            }
        }
    }

    @Test("any bytes are decoded, alike at every level and as the reference does", arguments: float32Formats)
    func rubbish(format: Codec.Format) throws {
        var source = RandomSource(seed: UInt64(format.rawValue))
        for round in 0..<200 {
            let (block, count) = (Codec.blockSizes[round % 4], 1 + source.below(400))
            let layout = Codec(format, blockElements: block).layout(of: .float32)
            let codes = (0..<layout.byteCount(count)).map { _ in UInt8(truncatingIfNeeded: source.next()) }
            let expected = bits(CodecReference(format: format, blockElements: block).decode(codes, count: count))
            for level in levels {
                let kernel = pccl_kernel_codec_at(level, UInt32(format.rawValue) - 1, DataType.float32.rawValue)
                guard let codec = kernel?.pointee else { continue }
                #expect(bits(decode(codec, codes, count: count, block: block)) == expected, "\(format)/\(block)")
            }
        }
    }

    @Test("layouts are those of the kernels")
    func layouts() throws {
        for format in Codec.Format.allCases where format != .none {
            for type in [DataType.float32, .float64] {
                let codec = Codec(format)
                guard let kernel = best(UInt32(format.rawValue) - 1, type.rawValue)?.pointee else {
                    #expect(type == .float64 ? !format.hasFloat64 : format.codeBits == 32)
                    continue
                }
                #expect(kernel.value_bytes == type.byteCount)
                let layout = codec.layout(of: type)
                for count in [0, 1, 2, 31, 255, 256, 257, 1000] {
                    let rest = count % codec.blockElements
                    let whole = kernel.header_bytes + (codec.blockElements * kernel.code_bits + 7) / 8
                    let tail = rest == 0 ? 0 : kernel.header_bytes + (rest * kernel.code_bits + 7) / 8
                    #expect(layout.byteCount(count) == count / codec.blockElements * whole + tail)
                    #expect(layout.elements(inBytes: layout.byteCount(count), limit: count) == count)
                }
                #expect(layout.elements(inBytes: layout.blockBytes, limit: codec.blockElements - 2) == nil)
                #expect(layout.elements(inBytes: layout.blockBytes + 1, limit: 10_000) == nil)
            }
        }
        #expect(best(14, DataType.float32.rawValue) == nil)
        #expect(best(0, DataType.float16.rawValue) == nil)
    }

    @Test("names are read back")
    func names() {
        for format in Codec.Format.allCases {
            for block in Codec.blockSizes {
                for rounding in Codec.Rounding.allCases {
                    let codec = Codec(format, blockElements: block, rounding: rounding)
                    #expect(Codec("\(codec)") == codec)
                }
            }
        }
        for wrong in ["", "int5", "int4/", "int4/33", "int4/64/64", "int4+random", "INT4", "+stochastic"] {
            #expect(Codec(wrong) == nil, "\(wrong)")
        }
    }
}
