import CKernels
import PCCLBase

/// Folds contributions that travel as codes, and codes results.
///
/// All work is done on the accumulators of the wide type, float32, or float64 for buffers of float64, tile by tile, so that
/// what is read several times is read from the first-level cache. It belongs to one thread. Elements are those of the
/// caller's buffers, codes are laid out as `layout` says; both begin at a block. Counts are in elements.
package final class Coder {
    package let layout: BlockLayout
    package let elementBytes: Int
    /// Of one element of a sum.
    package let wideBytes: Int

    private let blockElements: Int
    private let worldSize: Int
    private let loops: Loops
    private let isRandom: Bool
    private let tiles: UnsafeMutableRawPointer

    /// Two tiles of float32, as many as are in use at a time, are half of a first-level cache.
    private static let tileElements = 2048
    private static let tileCount = 4

    private struct Loops {
        let wide: Reducer
        /// Converts elements of 16 bits to float32 and back.
        let narrow: Reducer?
        /// float64 that is coded as float32.
        let isRounded: Bool
        /// Adds what was lost before.
        let sum: Reducer
        let loss: pccl_kernel_loss
        /// Constant memory of the kernels.
        let codec: UnsafePointer<pccl_kernel_codec>

        init?(_ codec: Codec, type: DataType, operation: ReduceOperation, worldSize: Int, level: pccl_kernel_level) {
            guard codec.canCode(type) else { return nil }
            let wideType: DataType = type == .float64 ? .float64 : .float32
            let codedType: DataType = codec.format.hasFloat64 ? wideType : .float32
            guard let wide = Reducer(type: wideType, operation: operation, worldSize: worldSize, level: level),
                let sum = Reducer(type: wideType, operation: .sum, worldSize: 1, level: level),
                let loss = pccl_kernel_loss_at(level, wideType.rawValue),
                let loops = pccl_kernel_codec_at(level, UInt32(codec.format.rawValue) - 1, codedType.rawValue)
            else { return nil }
            self.sum = sum
            self.loss = loss
            self.wide = wide
            self.codec = loops
            narrow = type == wideType ? nil : Reducer(type: type, operation: .sum, worldSize: 1, level: level)
            isRounded = codedType != wideType
        }
    }

    /// What one member gives to a sum.
    package enum Contribution {
        /// This member's own, with what was lost of it before.
        case elements(UnsafeRawPointer, Losses? = nil)
        case codes(UnsafeRawPointer)
    }

    /// For a codec that can code the type.
    package convenience init(_ codec: Codec, type: DataType, operation: ReduceOperation, worldSize: Int) {
        guard
            let loops = Loops(
                codec, type: type, operation: operation, worldSize: worldSize, level: pccl_kernel_best_level())
        else { preconditionFailure("\(codec) cannot code \(type)") }
        self.init(codec, type: type, worldSize: worldSize, loops)
    }

    /// The loops of one level; nil where this machine lacks it.
    package convenience init?(
        _ codec: Codec, type: DataType, operation: ReduceOperation, worldSize: Int, level: pccl_kernel_level
    ) {
        guard let loops = Loops(codec, type: type, operation: operation, worldSize: worldSize, level: level) else {
            return nil
        }
        self.init(codec, type: type, worldSize: worldSize, loops)
    }

    private init(_ codec: Codec, type: DataType, worldSize: Int, _ loops: Loops) {
        self.loops = loops
        self.worldSize = worldSize
        layout = codec.layout(of: type)
        blockElements = codec.blockElements
        elementBytes = type.byteCount
        wideBytes = loops.wide.elementBytes
        isRandom = codec.rounding == .stochastic
        tiles = .allocate(byteCount: Coder.tileCount * Coder.tileElements * wideBytes, alignment: 64)
    }

    deinit { tiles.deallocate() }

    // MARK: coding

    /// Elements become codes. `seed` is what random rounding depends on, beside the values.
    package func encode(
        _ elements: UnsafeRawPointer, into codes: UnsafeMutableRawPointer, count: Int, seed: UInt64,
        _ losses: Losses? = nil
    ) {
        forTiles(count) { start, count in
            let losses = losses?.at(start * wideBytes)
            let values = own(elements + start * elementBytes, losses, count)
            encodeWide(values, codes, start, count, seed)
            noteLoss(losses, values, codes, start, count, factor: 1)
        }
    }

    /// Sums become codes.
    package func encode(
        sums: UnsafeRawPointer, into codes: UnsafeMutableRawPointer, count: Int, seed: UInt64, _ losses: Losses? = nil
    ) {
        forTiles(count) { start, count in
            let values = sums + start * wideBytes
            encodeWide(values, codes, start, count, seed)
            noteLoss(losses?.at(start * wideBytes), values, codes, start, count, factor: 1)
        }
    }

    /// Codes become elements.
    package func decode(_ codes: UnsafeRawPointer, into elements: UnsafeMutableRawPointer, count: Int) {
        forTiles(count) { start, count in
            decodeElements(codes + layout.byteCount(start), elements + start * elementBytes, count)
        }
    }

    // MARK: folding

    /// sums = first
    package func load(_ first: Contribution, into sums: UnsafeMutableRawPointer, count: Int) {
        switch first {
        case .elements(let elements, .some(let losses)):
            forTiles(count) { start, count in
                let (values, sums) = (elements + start * elementBytes, sums + start * wideBytes)
                loops.sum.start(widened(values, count), losses.kept + start * wideBytes, into: sums, count: count)
            }
        case .elements(let elements, nil):
            if let narrow = loops.narrow {
                narrow.load(elements, into: sums, count: count)
            } else {
                sums.copyMemory(from: elements, byteCount: count * wideBytes)
            }
        case .codes(let codes):
            forTiles(count) { start, count in
                decodeWide(codes + layout.byteCount(start), sums + start * wideBytes, count)
            }
        }
    }

    /// sums = sums ∘ next
    package func more(_ next: Contribution, into sums: UnsafeMutableRawPointer, count: Int) {
        switch next {
        case .elements(let elements, nil) where loops.narrow == nil: loops.wide.more(elements, into: sums, count: count)
        case .elements(let elements, let losses):
            forTiles(count) { start, count in
                let values = own(elements + start * elementBytes, losses?.at(start * wideBytes), count)
                loops.wide.more(values, into: sums + start * wideBytes, count: count)
            }
        case .codes(let codes) where adds && !loops.isRounded:
            loops.codec.pointee.add(sums, codes, count, blockElements)
        case .codes(let codes):
            forTiles(count) { start, count in
                decodeWide(codes + layout.byteCount(start), tile(0), count)
                loops.wide.more(tile(0), into: sums + start * wideBytes, count: count)
            }
        }
    }

    /// elements = finished(sums), without coding. The sums are used up.
    package func finish(_ sums: UnsafeMutableRawPointer, into elements: UnsafeMutableRawPointer, count: Int) {
        loops.wide.finish(sums, into: sums, count: count)
        narrowed(sums, elements, count)
    }

    /// codes = finished(sums), and elements = what these are decoded to. The sums are used up.
    package func finish(
        _ sums: UnsafeMutableRawPointer, into codes: UnsafeMutableRawPointer, _ elements: UnsafeMutableRawPointer,
        count: Int, seed: UInt64, _ losses: Losses? = nil
    ) {
        forTiles(count) { start, count in
            finishTile(sums + start * wideBytes, codes, elements, start, count, seed, losses)
        }
    }

    /// The same for finished(first ∘ second). `elements` may be those of a contribution.
    package func whole(
        _ first: Contribution, _ second: Contribution, into codes: UnsafeMutableRawPointer,
        _ elements: UnsafeMutableRawPointer, count: Int, seed: UInt64, _ losses: Losses? = nil
    ) {
        forTiles(count) { start, count in
            load(at(start, first), into: tile(1), count: count)
            more(at(start, second), into: tile(1), count: count)
            finishTile(tile(1), codes, elements, start, count, seed, losses)
        }
    }

    // MARK: tiles

    private var adds: Bool { loops.wide.operation == .sum || loops.wide.operation == .average }

    /// Pieces of whole blocks, as many elements as a tile has.
    private func forTiles(_ count: Int, _ body: (_ start: Int, _ count: Int) -> Void) {
        var start = 0
        while start < count {
            body(start, min(count - start, Coder.tileElements))
            start += Coder.tileElements
        }
    }

    private func tile(_ index: Int) -> UnsafeMutableRawPointer { tiles + index * Coder.tileElements * wideBytes }

    private func at(_ start: Int, _ contribution: Contribution) -> Contribution {
        switch contribution {
        case .elements(let elements, let losses):
            .elements(elements + start * elementBytes, losses?.at(start * wideBytes))
        case .codes(let codes): .codes(codes + layout.byteCount(start))
        }
    }

    private func finishTile(
        _ sums: UnsafeMutableRawPointer, _ codes: UnsafeMutableRawPointer, _ elements: UnsafeMutableRawPointer,
        _ start: Int, _ count: Int, _ seed: UInt64, _ losses: Losses?
    ) {
        loops.wide.finish(sums, into: sums, count: count)
        encodeWide(sums, codes, start, count, seed)
        // What is missing in an average is missing as often as there are contributions.
        let factor = loops.wide.operation == .average ? Float(worldSize) : 1
        noteLoss(losses?.at(start * wideBytes), sums, codes, start, count, factor: factor)
        decodeElements(codes + layout.byteCount(start), elements + start * elementBytes, count)
    }

    /// Elements with what was lost of them before: themselves, or in tile 0 or 3.
    private func own(_ elements: UnsafeRawPointer, _ losses: Losses?, _ count: Int) -> UnsafeRawPointer {
        guard let losses else { return widened(elements, count) }
        // Sums are in tile 1, and tile 2 is the coder's if it rounds.
        loops.sum.start(widened(elements, count), losses.kept, into: tile(3), count: count)
        return UnsafeRawPointer(tile(3))
    }

    private func noteLoss(
        _ losses: Losses?, _ values: UnsafeRawPointer, _ codes: UnsafeRawPointer, _ start: Int, _ count: Int,
        factor: Float
    ) {
        guard let losses else { return }
        decodeWide(codes + layout.byteCount(start), tile(0), count)
        loops.loss(losses.next, values, tile(0), factor, count)
    }

    /// Elements as the wide type: themselves, or in tile 0, which holds them no longer than until the next tile.
    private func widened(_ elements: UnsafeRawPointer, _ count: Int) -> UnsafeRawPointer {
        guard let narrow = loops.narrow else { return elements }
        narrow.load(elements, into: tile(0), count: count)
        return UnsafeRawPointer(tile(0))
    }

    private func narrowed(_ values: UnsafeRawPointer, _ elements: UnsafeMutableRawPointer, _ count: Int) {
        if let narrow = loops.narrow {
            narrow.finish(values, into: elements, count: count)
        } else if values != UnsafeRawPointer(elements) {
            elements.copyMemory(from: values, byteCount: count * wideBytes)
        }
    }

    private func encodeWide(
        _ values: UnsafeRawPointer, _ codes: UnsafeMutableRawPointer, _ start: Int, _ count: Int, _ seed: UInt64
    ) {
        let codes = codes + layout.byteCount(start)
        let values = loops.isRounded ? rounded(values, count) : values
        if isRandom {
            // Each tile has numbers of its own.
            let seed = seed &+ UInt64(start) &* 0x9e37_79b9_7f4a_7c15
            loops.codec.pointee.encode_randomly(codes, values, count, blockElements, seed)
        } else {
            loops.codec.pointee.encode(codes, values, count, blockElements)
        }
    }

    private func decodeWide(_ codes: UnsafeRawPointer, _ values: UnsafeMutableRawPointer, _ count: Int) {
        guard loops.isRounded else { return loops.codec.pointee.decode(values, codes, count, blockElements) }
        loops.codec.pointee.decode(tile(2), codes, count, blockElements)
        for i in 0..<count {
            let value = tile(2).loadUnaligned(fromByteOffset: 4 * i, as: Float.self)
            values.storeBytes(of: Double(value), toByteOffset: 8 * i, as: Double.self)
        }
    }

    private func decodeElements(_ codes: UnsafeRawPointer, _ elements: UnsafeMutableRawPointer, _ count: Int) {
        guard loops.narrow != nil else { return decodeWide(codes, elements, count) }
        decodeWide(codes, tile(0), count)
        narrowed(tile(0), elements, count)
    }

    /// float64 as float32, in tile 2. What is out of its range becomes infinite.
    private func rounded(_ values: UnsafeRawPointer, _ count: Int) -> UnsafeRawPointer {
        for i in 0..<count {
            let value = values.loadUnaligned(fromByteOffset: 8 * i, as: Double.self)
            tile(2).storeBytes(of: Float(value), toByteOffset: 4 * i, as: Float.self)
        }
        return UnsafeRawPointer(tile(2))
    }
}
