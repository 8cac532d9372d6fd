/// What travels of floats instead of themselves, so that fewer bytes do: each block of values as small codes with a scale.
///
/// Contributions are coded once, where they are sent, and the result once more, where it is made; its maker takes what the
/// others will decode, so that all members end with the same bits. `docs/collectives.md` has the formats, what each of them
/// loses at most, and what becomes of values that are no numbers.
public struct Codec: Hashable, Sendable {
    /// How a value becomes a code. The numbers are those of frames.
    public enum Format: UInt8, Sendable, CaseIterable {
        /// The values themselves travel.
        case none = 0
        /// Codes of 8, 16 or 32 bits, from the lowest value of a block to its highest. 32 bits are for float64.
        case minMax8, minMax16, minMax32
        /// The same for a range that contains zero, which is decoded as zero.
        case zeroPoint8, zeroPoint16, zeroPoint32
        /// Whole numbers from -7 to 7 times a scale, which is a float32 or, with `PowerScale`, a power of two in one byte.
        case int4, int4PowerScale
        /// Zero and powers of two from 1/64 to 1, with sign, times a scale.
        case e3m0, e3m0PowerScale
        /// Floats of 8 bits: sign, 4 bits of exponent, 3 of mantissa, times a scale.
        case e4m3, e4m3PowerScale
        /// Floats of 16 bits, each by itself.
        case float16, bfloat16
    }

    public enum Rounding: UInt8, Sendable, CaseIterable {
        case nearest = 0
        /// Up or down at random, so that the mean of many roundings is the value.
        case stochastic = 1
    }

    public var format: Format
    /// How many values share a scale: 32, 64, 128 or 256. Casts have none.
    public var blockElements: Int
    public var rounding: Rounding

    public static let none = Codec(.none)

    /// Without a number of elements, as many as suit the format: 256 where two floats are kept for a block, otherwise 64,
    /// or 32 with scales of one byte.
    public init(_ format: Format, blockElements: Int? = nil, rounding: Rounding = .nearest) {
        self.format = format
        self.blockElements = blockElements ?? format.usualBlockElements
        self.rounding = rounding
    }

    public static let blockSizes = [32, 64, 128, 256]
}

extension Codec.Format {
    fileprivate var usualBlockElements: Int {
        switch self {
        case .int4, .e3m0, .e4m3: 64
        case .int4PowerScale, .e3m0PowerScale, .e4m3PowerScale: 32
        default: 256
        }
    }

    package var codeBits: Int {
        switch self {
        case .none: 0
        case .int4, .int4PowerScale, .e3m0, .e3m0PowerScale: 4
        case .minMax8, .zeroPoint8, .e4m3, .e4m3PowerScale: 8
        case .minMax16, .zeroPoint16, .float16, .bfloat16: 16
        case .minMax32, .zeroPoint32: 32
        }
    }

    /// Of a block, where the values that are coded are float64 or float32.
    fileprivate func headerBytes(float64: Bool) -> Int {
        switch self {
        case .none, .float16, .bfloat16: 0
        case .int4PowerScale, .e3m0PowerScale, .e4m3PowerScale: 1
        case .int4, .e3m0, .e4m3: 4
        default: float64 ? 16 : 8
        }
    }

    /// Whether float64 is coded as such; otherwise it is rounded to float32 before.
    package var hasFloat64: Bool {
        switch self {
        case .minMax8, .minMax16, .minMax32, .zeroPoint8, .zeroPoint16, .zeroPoint32: true
        default: false
        }
    }
}

extension Codec {
    /// Whether this type can be coded, into fewer bits than it has.
    public func canCode(_ type: DataType) -> Bool {
        type.isFloat && format.codeBits < 8 * type.byteCount && format != .none
            && Codec.blockSizes.contains(blockElements)
    }

    /// How values of a type that it can code are laid out.
    package func layout(of type: DataType) -> BlockLayout {
        guard format != .none else { return BlockLayout(elementBytes: type.byteCount) }
        return BlockLayout(
            blockElements: blockElements, headerBytes: format.headerBytes(float64: type == .float64),
            codeBits: format.codeBits)
    }
}

extension Codec: CustomStringConvertible {
    /// As it is written on a command line: `int4`, `int4/128`, `min-max8+stochastic`.
    public var description: String {
        let block = blockElements == format.usualBlockElements ? "" : "/\(blockElements)"
        return format.name + block + (rounding == .stochastic ? "+stochastic" : "")
    }

    /// Reads what `description` writes; nil for anything else.
    public init?(_ text: String) {
        var text = text[...]
        var rounding = Rounding.nearest
        let suffix = "+stochastic"
        if text.hasSuffix(suffix) {
            text = text.dropLast(suffix.count)
            rounding = .stochastic
        }
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count <= 2, let format = Format.allCases.first(where: { $0.name == parts[0] }) else { return nil }
        var blockElements: Int?
        if parts.count == 2 {
            guard let count = Int(parts[1]), Codec.blockSizes.contains(count) else { return nil }
            blockElements = count
        }
        self.init(format, blockElements: blockElements, rounding: rounding)
    }
}

extension Codec.Format {
    fileprivate var name: String {
        switch self {
        case .none: "none"
        case .minMax8: "min-max8"
        case .minMax16: "min-max16"
        case .minMax32: "min-max32"
        case .zeroPoint8: "zero-point8"
        case .zeroPoint16: "zero-point16"
        case .zeroPoint32: "zero-point32"
        case .int4: "int4"
        case .int4PowerScale: "int4-e8m0"
        case .e3m0: "e3m0"
        case .e3m0PowerScale: "e3m0-e8m0"
        case .e4m3: "e4m3"
        case .e4m3PowerScale: "e4m3-e8m0"
        case .float16: "float16"
        case .bfloat16: "bfloat16"
        }
    }
}

/// Where elements lie that travel in blocks: each block with its header before its codes, one after the other, the last
/// one maybe shorter. Elements that travel as they are, are blocks of one.
package struct BlockLayout: Hashable, Sendable {
    package let blockElements: Int
    package let blockBytes: Int
    private let headerBytes: Int
    private let codeBits: Int

    package init(blockElements: Int, headerBytes: Int, codeBits: Int) {
        self.blockElements = blockElements
        self.headerBytes = headerBytes
        self.codeBits = codeBits
        blockBytes = headerBytes + (blockElements * codeBits + 7) / 8
    }

    package init(elementBytes: Int) {
        self.init(blockElements: 1, headerBytes: 0, codeBits: 8 * elementBytes)
    }

    /// Of that many elements from the beginning of a block on; also the offset of an element at the beginning of one.
    package func byteCount(_ elements: Int) -> Int {
        let (blocks, rest) = elements.quotientAndRemainder(dividingBy: blockElements)
        return blocks * blockBytes + (rest == 0 ? 0 : headerBytes + (rest * codeBits + 7) / 8)
    }

    /// How many elements that many bytes are, of `limit` that are left of a buffer: all of these, or whole blocks. Nil when
    /// it is neither.
    package func elements(inBytes bytes: Int, limit: Int) -> Int? {
        let (blocks, rest) = bytes.quotientAndRemainder(dividingBy: blockBytes)
        if rest == 0, blocks * blockElements <= limit { return blocks * blockElements }
        return bytes == byteCount(limit) ? limit : nil
    }
}
