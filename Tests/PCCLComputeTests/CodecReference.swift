import PCCLBase

/// Codecs of float32, as docs/collectives.md describes them, one value at a time and without a thought for speed.
struct CodecReference {
    let format: Codec.Format
    let blockElements: Int

    /// The codes of a buffer, laid out block after block.
    func encode(_ values: [Float]) -> [UInt8] {
        blocks(values.count).flatMap { encodeBlock(Array(values[$0])) }
    }

    /// What a buffer of codes says.
    func decode(_ codes: [UInt8], count: Int) -> [Float] {
        let layout = Codec(format, blockElements: blockElements).layout(of: .float32)
        return blocks(count).flatMap { block in
            let start = layout.byteCount(block.lowerBound)
            return decodeBlock(Array(codes[start..<start + layout.byteCount(block.count)]), count: block.count)
        }
    }

    private func blocks(_ count: Int) -> [Range<Int>] {
        stride(from: 0, to: count, by: blockElements).map { $0..<min($0 + blockElements, count) }
    }

    // MARK: a block

    private func encodeBlock(_ x: [Float]) -> [UInt8] {
        let isTame = x.allSatisfy { abs($0) < 0x1p126 }
        switch format {
        case .float16: return x.flatMap { bytes($0.isNaN ? 0x7e00 : Float16($0).bitPattern) }
        case .bfloat16: return x.flatMap { bytes(ScalarReference.bfloat16(of: $0)) }
        case .minMax8, .minMax16, .zeroPoint8, .zeroPoint16:
            let top: Float = format.codeBits == 8 ? 255 : 65535
            guard isTame else {
                return bytes(Float.nan) + bytes(Float.nan) + [UInt8](repeating: 0, count: x.count * format.codeBits / 8)
            }
            // The lesser of the two zeros is the one below.
            var low = x.min { $0 == $1 ? $0.sign == .minus && $1.sign == .plus : $0 < $1 } ?? 0
            var high = x.max { $0 == $1 ? $0.sign == .minus && $1.sign == .plus : $0 < $1 } ?? 0
            let hasZero = format == .zeroPoint8 || format == .zeroPoint16
            if hasZero { (low, high) = (low < 0 ? low : 0, high > 0 ? high : 0) }
            let scale = (high - low) * (1 / top)
            let inverse = inverse(scale)
            if hasZero {
                let zero = min((-low * inverse).rounded(.toNearestOrEven) + 0, top)
                let codes = x.map { min(Self.rounded($0 * inverse, plus: zero), top) }
                return bytes(scale) + bytes(zero) + codes.flatMap { code($0) }
            }
            return bytes(scale) + bytes(low) + x.flatMap { code((($0 - low) * inverse).rounded(.toNearestOrEven)) }
        case .int4, .int4PowerScale:
            return scaled(x, isTame, top: 7) { t in
                UInt8(Int8(max(-7, min(7, t.rounded(.toNearestOrEven)))) + 8)
            }
        case .e3m0, .e3m0PowerScale:
            return scaled(x, isTame, top: 1) { t in Self.nearest(t, among: Self.e3m0, tiesToLarger: true) }
        case .e4m3, .e4m3PowerScale:
            return scaled(x, isTame, top: 448) { t in Self.nearest(t, among: Self.e4m3, tiesToLarger: false) }
        case .none, .minMax32, .zeroPoint32: fatalError("not of float32")
        }
    }

    private func decodeBlock(_ codes: [UInt8], count: Int) -> [Float] {
        switch format {
        case .float16:
            return (0..<count).map {
                Float(Float16(bitPattern: UInt16(codes[2 * $0]) | UInt16(codes[2 * $0 + 1]) << 8))
            }
        case .bfloat16:
            return (0..<count).map {
                Float(bitPattern: UInt32(codes[2 * $0]) << 16 | UInt32(codes[2 * $0 + 1]) << 24)
            }
        case .minMax8, .minMax16, .zeroPoint8, .zeroPoint16:
            let (scale, second) = (float(codes, at: 0), float(codes, at: 4))
            return (0..<count).map { i in
                let code: Float =
                    format.codeBits == 8
                    ? Float(codes[8 + i]) : Float(UInt16(codes[8 + 2 * i]) | UInt16(codes[9 + 2 * i]) << 8)
                if format == .minMax8 || format == .minMax16 {
                    let product = code * scale
                    return second + product
                }
                return (code - second) * scale
            }
        case .int4, .int4PowerScale, .e3m0, .e3m0PowerScale, .e4m3, .e4m3PowerScale:
            let header = isPower ? 1 : 4
            let scale = isPower ? power(codes[0]) : float(codes, at: 0)
            return (0..<count).map { i in
                let code: UInt8
                if format.codeBits == 8 {
                    code = codes[header + i]
                } else {
                    let half = (count + 1) / 2
                    code = i < half ? codes[header + i] & 15 : codes[header + i - half] >> 4
                }
                let value: Float
                switch format {
                case .int4, .int4PowerScale: value = Float(Int(code) - 8)
                case .e3m0, .e3m0PowerScale: value = Self.signed(code, Self.e3m0, bits: 3)
                // A code that nobody writes continues the row.
                default: value = Self.signed(code, Self.e4m3 + [480], bits: 7)
                }
                return value * scale
            }
        case .none, .minMax32, .zeroPoint32: fatalError("not of float32")
        }
    }

    // MARK: scales and codes

    private var isPower: Bool {
        format == .int4PowerScale || format == .e3m0PowerScale || format == .e4m3PowerScale
    }

    private func inverse(_ scale: Float) -> Float { scale > 0 ? min(1 / scale, 0x1p127) : 0 }

    private func power(_ byte: UInt8) -> Float {
        byte == 255 ? .nan : Float(sign: .plus, exponent: Int(byte) - 127, significand: 1)
    }

    private func scaled(_ x: [Float], _ isTame: Bool, top: Float, _ code: (Float) -> UInt8) -> [UInt8] {
        let size = (x.count * format.codeBits + 7) / 8
        guard isTame else { return (isPower ? [255] : bytes(Float.nan)) + [UInt8](repeating: 0, count: size) }
        let quotient = (x.map { abs($0) }.max() ?? 0) * (1 / top)
        var header: [UInt8]
        let scale: Float
        if isPower {
            var byte: UInt8 = quotient > 0 ? 1 : 0
            while power(byte) < quotient { byte += 1 }
            header = [byte]
            scale = power(byte)
        } else {
            header = bytes(quotient)
            scale = quotient
        }
        let inverse = inverse(scale)
        let codes = x.map { code($0 * inverse) }
        guard format.codeBits == 4 else { return header + codes }
        let half = (x.count + 1) / 2
        header += (0..<half).map { codes[$0] | (half + $0 < codes.count ? codes[half + $0] << 4 : 0) }
        return header
    }

    static let e3m0: [Float] = [0] + (1...7).map { Float(sign: .plus, exponent: $0 - 7, significand: 1) }
    static let e4m3: [Float] = (0..<127).map { code in
        let (exponent, mantissa) = (code >> 3, Float(code & 7))
        return exponent == 0
            ? mantissa * 0x1p-9 : Float(sign: .plus, exponent: exponent - 7, significand: 1 + mantissa / 8)
    }

    private static func signed(_ code: UInt8, _ magnitudes: [Float], bits: UInt8) -> Float {
        let magnitude = magnitudes[Int(code & (1 << bits - 1))]
        return code >> bits & 1 == 1 ? -magnitude : magnitude
    }

    /// The code of the nearest magnitude; of two that are as near, the larger one or the one whose code is even.
    private static func nearest(_ t: Float, among magnitudes: [Float], tiesToLarger: Bool) -> UInt8 {
        let distance = { (code: Int) in abs(Double(magnitudes[code]) - Double(abs(t))) }
        let best = magnitudes.indices.min { a, b in
            guard distance(a) == distance(b) else { return distance(a) < distance(b) }
            return tiesToLarger ? a > b : a % 2 == 0 && b % 2 == 1
        }
        return UInt8(best ?? 0) | (t.sign == .minus ? UInt8(magnitudes.count > 8 ? 0x80 : 8) : 0)
    }

    /// x + whole, rounded once to a whole number: where float32 has no fractions left, as the kernels do it.
    private static func rounded(_ x: Float, plus whole: Float) -> Float {
        let base: Float = 0x1.8p23
        return (x + (base + whole)) - base
    }

    private func code(_ value: Float) -> [UInt8] {
        format.codeBits == 8 ? [UInt8(value)] : bytes(UInt16(value))
    }
    private func bytes(_ x: Float) -> [UInt8] {
        withUnsafeBytes(of: (x.isNaN ? 0x7fc0_0000 : x.bitPattern).littleEndian) { Array($0) }
    }
    private func bytes(_ x: UInt16) -> [UInt8] { [UInt8(truncatingIfNeeded: x), UInt8(x >> 8)] }
    private func float(_ codes: [UInt8], at offset: Int) -> Float {
        Float(bitPattern: (0..<4).reduce(0) { $0 | UInt32(codes[offset + $1]) << (8 * $1) })
    }
}
