import PCCLBase

/// What a reduction must give, one element at a time, in wide or exact arithmetic. Elements are their bits.
enum ScalarReference {
    /// The finished result of folding the contributions to one element, in their order.
    static func reduce(
        _ contributions: [UInt64], type: DataType, operation: ReduceOperation, worldSize: Int
    ) -> UInt64 {
        switch type {
        case .uint8: integers(contributions.map { UInt8(truncatingIfNeeded: $0) }, operation, worldSize)
        case .int8: integers(contributions.map { Int8(truncatingIfNeeded: $0) }, operation, worldSize)
        case .uint16: integers(contributions.map { UInt16(truncatingIfNeeded: $0) }, operation, worldSize)
        case .int16: integers(contributions.map { Int16(truncatingIfNeeded: $0) }, operation, worldSize)
        case .uint32: integers(contributions.map { UInt32(truncatingIfNeeded: $0) }, operation, worldSize)
        case .int32: integers(contributions.map { Int32(truncatingIfNeeded: $0) }, operation, worldSize)
        case .uint64: integers(contributions, operation, worldSize)
        case .int64: integers(contributions.map { Int64(bitPattern: $0) }, operation, worldSize)
        case .float16:
            UInt64(
                float16(
                    of: floats(
                        contributions.map { Float(Float16(bitPattern: UInt16($0))) }, operation, Float(worldSize))))
        case .bfloat16:
            UInt64(
                bfloat16(
                    of: floats(
                        contributions.map { Float(bitPattern: UInt32($0) << 16) }, operation, Float(worldSize))))
        case .float32:
            UInt64(
                canonical(
                    floats(contributions.map { Float(bitPattern: UInt32($0)) }, operation, Float(worldSize))
                ).bitPattern)
        case .float64:
            canonical(
                floats(contributions.map { Double(bitPattern: $0) }, operation, Double(worldSize))
            ).bitPattern
        }
    }

    private static func integers<T: FixedWidthInteger>(
        _ contributions: [T], _ operation: ReduceOperation, _ worldSize: Int
    ) -> UInt64 {
        let result: T
        switch operation {
        case .sum: result = contributions.reduce(0, &+)
        case .product: result = contributions.reduce(1, &*)
        case .maximum: result = contributions.max()!
        case .minimum: result = contributions.min()!
        case .average: result = T(contributions.reduce(Int128(0)) { $0 + Int128($1) } / Int128(worldSize))
        }
        return UInt64(truncatingIfNeeded: result) & (UInt64.max >> (64 - T.bitWidth))
    }

    private static func floats<T: BinaryFloatingPoint>(
        _ contributions: [T], _ operation: ReduceOperation, _ worldSize: T
    ) -> T {
        var result = contributions[0]
        for next in contributions.dropFirst() {
            switch operation {
            case .sum, .average: result = result + next
            case .product: result = result * next
            case .maximum: result = isLess(result, next) || next.isNaN ? next : result
            case .minimum: result = isLess(next, result) || next.isNaN ? next : result
            }
        }
        return operation == .average ? result / worldSize : result
    }

    private static func isLess<T: BinaryFloatingPoint>(_ a: T, _ b: T) -> Bool {
        a < b || (a == 0 && b == 0 && a.sign == .minus && b.sign == .plus)
    }

    static func canonical(_ x: Float) -> Float { x.isNaN ? Float(bitPattern: 0x7fc0_0000) : x }
    static func canonical(_ x: Double) -> Double { x.isNaN ? Double(bitPattern: 0x7ff8_0000_0000_0000) : x }

    static func float16(of x: Float) -> UInt16 { x.isNaN ? 0x7e00 : Float16(x).bitPattern }

    /// The nearer of the two neighbours by their distances, which a Double holds exactly.
    static func bfloat16(of x: Float) -> UInt16 {
        if x.isNaN { return 0x7fc0 }
        if x.isInfinite { return UInt16(x.bitPattern >> 16) }
        let magnitude = Double(x.magnitude)
        let below = UInt16(x.magnitude.bitPattern >> 16)
        let above = below + 1
        let belowDistance = magnitude - value(ofMagnitude: below)
        let aboveDistance = value(ofMagnitude: above) - magnitude
        let isAboveNearer = aboveDistance < belowDistance || (aboveDistance == belowDistance && above & 1 == 0)
        return (isAboveNearer ? above : below) | (x.sign == .minus ? 0x8000 : 0)
    }

    /// Infinity counts as the power of two that would follow the largest finite value.
    private static func value(ofMagnitude bits: UInt16) -> Double {
        bits == 0x7f80 ? 0x1p128 : Double(Float(bitPattern: UInt32(bits) << 16))
    }
}

/// Element bits that are hard on arithmetic: extremes, ties, signed zeros, subnormals, infinities, NaNs of every kind.
struct HardElements {
    private var source: RandomSource

    init(seed: UInt64) {
        source = RandomSource(seed: seed)
    }

    mutating func next(of type: DataType) -> UInt64 {
        let mask = UInt64.max >> (64 - 8 * UInt64(type.byteCount))
        let kind = source.below(8)
        if kind < 3 { return source.next() & mask }
        if kind < 5 {
            let specials = Self.specials(of: type)
            return specials[source.below(specials.count)]
        }
        // Small values of either sign meet each other without overflow, so that sums have ties and cancellations.
        let small = Int64(source.below(4001)) - 2000
        switch type {
        case .float16: return UInt64(Float16(Float(small) / 8).bitPattern)
        case .bfloat16: return UInt64(Float(small / 8).bitPattern >> 16)
        case .float32: return UInt64((Float(small) / 7).bitPattern)
        case .float64: return (Double(small) / 7).bitPattern
        default: return UInt64(bitPattern: small) & mask
        }
    }

    mutating func array(of type: DataType, count: Int) -> [UInt64] {
        (0..<count).map { _ in next(of: type) }
    }

    private static func specials(of type: DataType) -> [UInt64] {
        switch type {
        case .uint8, .int8: [0, 1, 2, 0x7e, 0x7f, 0x80, 0x81, 0xfe, 0xff]
        case .uint16, .int16: [0, 1, 2, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff]
        case .uint32, .int32: [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, 0xffff_fffe, 0xffff_ffff]
        case .uint64, .int64:
            [0, 1, 2, UInt64(Int64.max), UInt64(Int64.max) + 1, UInt64(Int64.max) + 2, UInt64.max - 1, UInt64.max]
        case .float16: floatSpecials(bits: 16, significandBits: 10)
        case .bfloat16: floatSpecials(bits: 16, significandBits: 7)
        case .float32: floatSpecials(bits: 32, significandBits: 23)
        case .float64: floatSpecials(bits: 64, significandBits: 52)
        }
    }

    private static func floatSpecials(bits: UInt64, significandBits: UInt64) -> [UInt64] {
        let sign = UInt64(1) << (bits - 1)
        let infinity = ((sign - 1) >> significandBits) << significandBits
        let quiet = UInt64(1) << (significandBits - 1)
        let one = (sign >> 1) - (UInt64(1) << significandBits)
        let positives = [
            0, 1, 2, quiet, (UInt64(1) << significandBits) - 1,  // zero and subnormals
            UInt64(1) << significandBits, one, one + 1, infinity - 1,  // smallest normal, one, largest
            infinity, infinity | 1, infinity | quiet, infinity | quiet | 5,  // infinity; signalling and quiet NaNs
        ]
        return positives + positives.map { $0 | sign }
    }
}
