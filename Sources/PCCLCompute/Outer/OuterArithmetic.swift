import CKernels
import PCCLBase

/// The element-wise arithmetic of outer optimisers, on parameters in float32: the same bits on every machine, by however
/// many threads it is worked out, and by devices (`OuterPlace`).
///
/// Pointers to float32 have its alignment.
package enum OuterArithmetic {
    /// Of what is shared among threads; takes several times as long as starting one. Sums of squares are added up piece by
    /// piece.
    static let pieceElements = 1 << 20

    /// Parameters of a model, of any type of float, which may lie anywhere.
    package struct Local: @unchecked Sendable {
        package var memory: UnsafeMutableRawPointer
        package var type: DataType
        package init(_ memory: UnsafeMutableRawPointer, _ type: DataType) {
            self.memory = memory
            self.type = type
        }
    }

    /// out = local
    package static func load(_ local: Local, into out: UnsafeMutablePointer<Float>, count: Int) {
        let out = Floats(out)
        inPieces(count) { range in
            local.withTiles(range) { tile, part in pccl_kernel_outer_load(out + part, tile, part.count) }
        }
    }

    /// out = weight × (outer - local)
    package static func difference(
        of outer: UnsafePointer<Float>, and local: Local, times weight: Float, into out: UnsafeMutablePointer<Float>,
        count: Int
    ) {
        let (outer, out) = (Floats(outer), Floats(out))
        inPieces(count) { range in
            local.withTiles(range) { tile, part in
                pccl_kernel_outer_difference(out + part, outer + part, tile, weight, part.count)
            }
        }
    }

    /// values = values / divisor
    package static func divide(_ values: UnsafeMutablePointer<Float>, by divisor: Float, count: Int) {
        let values = Floats(values)
        inPieces(count) { pccl_kernel_outer_divide(values + $0, divisor, $0.count) }
    }

    /// outer = outer - rate × gradient
    package static func descend(
        _ outer: UnsafeMutablePointer<Float>, along gradient: UnsafePointer<Float>, rate: Float, count: Int
    ) {
        let (outer, gradient) = (Floats(outer), Floats(gradient))
        inPieces(count) { pccl_kernel_outer_descend(outer + $0, gradient + $0, rate, $0.count) }
    }

    /// momentum = factor × momentum + gradient
    package static func accumulate(
        _ gradient: UnsafePointer<Float>, into momentum: UnsafeMutablePointer<Float>, factor: Float, count: Int
    ) {
        let (gradient, momentum) = (Floats(gradient), Floats(momentum))
        inPieces(count) { pccl_kernel_outer_accumulate(momentum + $0, gradient + $0, factor, $0.count) }
    }

    /// outer = outer - rate × (gradient + factor × momentum)
    package static func descendAhead(
        _ outer: UnsafeMutablePointer<Float>, momentum: UnsafePointer<Float>, gradient: UnsafePointer<Float>,
        rate: Float, factor: Float, count: Int
    ) {
        let (outer, momentum, gradient) = (Floats(outer), Floats(momentum), Floats(gradient))
        inPieces(count) {
            pccl_kernel_outer_descend_ahead(outer + $0, momentum + $0, gradient + $0, rate, factor, $0.count)
        }
    }

    /// local = mixing × local + (1 - mixing) × outer; with a mixing of 0 what the local ones were does not matter.
    package static func mix(_ outer: UnsafePointer<Float>, into local: Local, mixing: Float, count: Int) {
        let outer = Floats(outer)
        inPieces(count) { range in
            guard mixing != 0 else { return local.narrow(outer + range, range) }
            local.withTiles(range) { tile, part in
                // The tile is a copy, or the parameters themselves.
                pccl_kernel_outer_mix(UnsafeMutablePointer(mutating: tile), outer + part, mixing, part.count)
                local.narrow(tile, part)
            }
        }
    }

    /// The sum of the squares of a, or of a - b.
    package static func squares(of a: UnsafePointer<Float>, minus b: UnsafePointer<Float>? = nil, count: Int) -> Double
    {
        let (a, b) = (Floats(a), b.map { Floats($0) })
        let pieces = (count + pieceElements - 1) / pieceElements
        let sums = UnsafeMutableBufferPointer<Double>.allocate(capacity: pieces)
        defer { sums.deallocate() }
        sums.initialize(repeating: 0)
        let places = Doubles(base: sums)
        inPieces(count) { range in
            places.base[range.lowerBound / pieceElements] = pccl_kernel_outer_squares(
                a + range, b.map { $0 + range }, range.count)
        }
        return sums.reduce(0, +)
    }

    private static func inPieces(_ count: Int, _ body: @escaping @Sendable (Range<Int>) -> Void) {
        let pieces = (count + pieceElements - 1) / pieceElements
        Pieces.run(pieces, threads: pieces) { piece in
            let start = piece * pieceElements
            body(start..<min(start + pieceElements, count))
        }
    }

    /// Memory of which each thread has its own part.
    private struct Floats: @unchecked Sendable {
        private let base: UnsafeMutablePointer<Float>
        init(_ base: UnsafeMutablePointer<Float>) { self.base = base }
        init(_ base: UnsafePointer<Float>) { self.base = UnsafeMutablePointer(mutating: base) }
        static func + (floats: Floats, range: Range<Int>) -> UnsafeMutablePointer<Float> {
            floats.base + range.lowerBound
        }
    }
    private struct Doubles: @unchecked Sendable {
        let base: UnsafeMutableBufferPointer<Double>
    }
}

extension OuterArithmetic.Local {
    /// Parameters as float32: themselves, or tile by tile. The body gets the elements that a tile is of.
    fileprivate func withTiles(_ range: Range<Int>, _ body: (UnsafePointer<Float>, Range<Int>) -> Void) {
        if type == .float32, UInt(bitPattern: memory) % 4 == 0 {
            return body(UnsafePointer(memory.assumingMemoryBound(to: Float.self)) + range.lowerBound, range)
        }
        let tileElements = 4096
        withUnsafeTemporaryAllocation(of: Float.self, capacity: tileElements) { tile in
            guard let base = tile.baseAddress else { return }
            var start = range.lowerBound
            while start < range.upperBound {
                let part = start..<min(start + tileElements, range.upperBound)
                widen(part, into: base)
                body(base, part)
                start = part.upperBound
            }
        }
    }

    private func widen(_ range: Range<Int>, into values: UnsafeMutablePointer<Float>) {
        let elements = memory + range.lowerBound * type.byteCount
        switch type {
        case .float64: pccl_kernel_outer_widen(values, elements, range.count)
        case .float32: UnsafeMutableRawPointer(values).copyMemory(from: elements, byteCount: 4 * range.count)
        default: Reducer(type: type, operation: .sum, worldSize: 1).load(elements, into: values, count: range.count)
        }
    }

    fileprivate func narrow(_ values: UnsafePointer<Float>, _ range: Range<Int>) {
        let elements = memory + range.lowerBound * type.byteCount
        switch type {
        case .float64: pccl_kernel_outer_narrow(elements, values, range.count)
        case .float32:
            if UnsafeRawPointer(values) != UnsafeRawPointer(elements) {
                elements.copyMemory(from: values, byteCount: 4 * range.count)
            }
        default: Reducer(type: type, operation: .sum, worldSize: 1).finish(values, into: elements, count: range.count)
        }
    }
}
