import CKernels
import Glibc
import PCCLBase
import PCCLCompute

private let levels = [pccl_kernel_level_plain, pccl_kernel_level_avx2, pccl_kernel_level_avx512]

/// Six bytes choose codec, type, operation and count; the others are what is coded, or decoded, over and over.
func checkCodecs(_ bytes: [UInt8]) throws {
    var input = FuzzInput(bytes)
    let formats = Codec.Format.allCases.filter { $0 != .none }
    let types = DataType.allCases.filter(\.isFloat)
    let (format, type) = (formats[input.below(formats.count)], types[input.below(types.count)])
    let choices = input.byte()
    let codec = Codec(
        format, blockElements: Codec.blockSizes[Int(choices & 3)], rounding: choices & 4 == 0 ? .nearest : .stochastic)
    let operation = ReduceOperation.allCases[input.below(ReduceOperation.allCases.count)]
    // Several tiles at most.
    let count = input.number16() % 5000
    guard codec.canCode(type) else { return }
    let worldSize = 1 + Int(choices >> 3)
    let content = input.rest()

    let codes = Block(codec.layout(of: type).byteCount(count), content)
    let elements = Block(count * type.byteCount, content)
    var first: [Block]?
    for level in levels {
        guard let coder = Coder(codec, type: type, operation: operation, worldSize: worldSize, level: level) else {
            continue
        }
        let work = CodecWork(coder, codes: codes, elements: elements, count: count)
        try expect(work.finishedElements == work.finishedDecoded, "\(codec) of \(type): members end with other bits")
        // No coder writes a NaN but the canonical one, and of others any may come out.
        work.decoded.makeNaNsOne(of: type)
        let all = [work.decoded, work.coded, work.decodedAgain, work.finishedCodes, work.finishedElements]
        if let first {
            for (i, (one, other)) in zip(first, all).enumerated() {
                try expect(
                    one == other,
                    "\(codec) of \(count) × \(type), \(operation): level \(level.rawValue) differs in part \(i)")
            }
        }
        first = first ?? all
    }
}

/// All that one level makes of an input.
private struct CodecWork {
    let decoded: Block
    let coded: Block
    let decodedAgain: Block
    /// Of sums of what the codes say and of the elements.
    let finishedCodes: Block
    let finishedElements: Block
    let finishedDecoded: Block

    init(_ coder: Coder, codes: Block, elements: Block, count: Int) {
        let (codeBytes, elementBytes) = (codes.count, elements.count)
        decoded = Block(elementBytes)
        coder.decode(codes.base, into: decoded.base, count: count)
        coded = Block(codeBytes)
        coder.encode(elements.base, into: coded.base, count: count, seed: 7)
        decodedAgain = Block(elementBytes)
        coder.decode(coded.base, into: decodedAgain.base, count: count)

        let sums = Block(count * coder.wideBytes)
        coder.load(.codes(codes.base), into: sums.base, count: count)
        coder.more(.elements(elements.base), into: sums.base, count: count)
        coder.more(.codes(coded.base), into: sums.base, count: count)
        finishedCodes = Block(codeBytes)
        finishedElements = Block(elementBytes)
        coder.finish(sums.base, into: finishedCodes.base, finishedElements.base, count: count, seed: 8)
        finishedDecoded = Block(elementBytes)
        coder.decode(finishedCodes.base, into: finishedDecoded.base, count: count)
    }
}

/// Memory of exactly that size, so that the address sanitizer sees who leaves it.
private final class Block: Equatable {
    let base: UnsafeMutableRawPointer
    let count: Int

    init(_ count: Int, _ content: [UInt8] = []) {
        self.count = count
        base = .allocate(byteCount: count, alignment: 1)
        for i in 0..<count {
            base.storeBytes(of: content.isEmpty ? 0 : content[i % content.count], toByteOffset: i, as: UInt8.self)
        }
    }
    deinit { base.deallocate() }

    func makeNaNsOne(of type: DataType) {
        let size = type.byteCount
        for offset in stride(from: 0, to: count, by: size) {
            let element = UnsafeRawBufferPointer(start: base + offset, count: size)
            let isNaN =
                switch type {
                case .float64: element.loadUnaligned(as: Double.self).isNaN
                case .float32: element.loadUnaligned(as: Float.self).isNaN
                case .float16: element.loadUnaligned(as: UInt16.self) & 0x7fff > 0x7c00
                default: element.loadUnaligned(as: UInt16.self) & 0x7fff > 0x7f80
                }
            if isNaN { memset(base + offset, 0xff, size) }
        }
    }

    static func == (a: Block, b: Block) -> Bool { a.count == b.count && memcmp(a.base, b.base, a.count) == 0 }
}

/// The first byte says how long the content is, two more where it is cut.
func checkHash(_ bytes: [UInt8]) throws {
    var input = FuzzInput(bytes)
    let repeats = input.byte()
    let (cut, skipped) = (input.number16(), input.below(64))
    let content = input.rest()
    // Several chunks take a millisecond: once in a while.
    let count = repeats == 255 ? 2 << 20 | cut : content.count * (1 + Int(repeats & 7))
    let block = Block(skipped + count, content)
    let whole = UnsafeRawBufferPointer(start: block.base + skipped, count: count)

    let plain = pccl_kernel_xxh3_at(pccl_kernel_level_plain)
    for level in levels {
        guard let plain, let other = pccl_kernel_xxh3_at(level) else { continue }
        let (a, b) = (plain(whole.baseAddress, count), other(whole.baseAddress, count))
        try expect(a.high == b.high && a.low == b.low, "level \(level.rawValue) hashes \(count) bytes otherwise")
    }

    let chunks = ContentHash.chunkCount(of: count)
    let middle = cut % (chunks + 1)
    let parts = ContentHash.ofChunks(0..<middle, of: whole) + ContentHash.ofChunks(middle..<chunks, of: whole)
    try expect(ContentHash(ofChunks: parts, byteCount: count) == ContentHash(whole), "chunks of \(count) bytes")
    try expect(ContentHash.ofChunks(of: [whole])[0] == parts, "threads hash \(count) bytes otherwise")
    if let last = (0..<chunks).last {
        let range = ContentHash.range(ofChunk: last, byteCount: count)
        try expect(range.upperBound == count, "the last chunk ends at \(range.upperBound) of \(count)")
    }
}
