import CKernels
import PCCLBase

/// The element-wise arithmetic of outer optimisers, on parameters in float32: the same bits on every machine.
///
/// Pointers to float32 have its alignment.
package enum OuterArithmetic {
    /// Sums of squares are added up piece by piece, so that pieces may be worked out in any order.
    private static let pieceElements = 1 << 18

    /// out = local, of parameters of any type of float, which may lie anywhere.
    package static func load(
        _ local: UnsafeRawPointer, _ type: DataType, into out: UnsafeMutablePointer<Float>, count: Int
    ) {
        withTiles(of: type, local, count) { local, range in
            (out + range.lowerBound).update(from: local, count: range.count)
        }
    }

    /// out = weight × (outer - local), of parameters of any type of float, which may lie anywhere.
    package static func difference(
        of outer: UnsafePointer<Float>, and local: UnsafeRawPointer, _ type: DataType, times weight: Float,
        into out: UnsafeMutablePointer<Float>, count: Int
    ) {
        withTiles(of: type, local, count) { local, range in
            pccl_kernel_outer_difference(
                out + range.lowerBound, outer + range.lowerBound, local, weight, range.count)
        }
    }

    /// values = values / divisor
    package static func divide(_ values: UnsafeMutablePointer<Float>, by divisor: Float, count: Int) {
        pccl_kernel_outer_divide(values, divisor, count)
    }

    /// outer = outer - rate × gradient
    package static func descend(
        _ outer: UnsafeMutablePointer<Float>, along gradient: UnsafePointer<Float>, rate: Float, count: Int
    ) {
        pccl_kernel_outer_descend(outer, gradient, rate, count)
    }

    /// momentum = factor × momentum + gradient
    package static func accumulate(
        _ gradient: UnsafePointer<Float>, into momentum: UnsafeMutablePointer<Float>, factor: Float, count: Int
    ) {
        pccl_kernel_outer_accumulate(momentum, gradient, factor, count)
    }

    /// outer = outer - rate × (gradient + factor × momentum)
    package static func descendAhead(
        _ outer: UnsafeMutablePointer<Float>, momentum: UnsafePointer<Float>, gradient: UnsafePointer<Float>,
        rate: Float, factor: Float, count: Int
    ) {
        pccl_kernel_outer_descend_ahead(outer, momentum, gradient, rate, factor, count)
    }

    /// local = mixing × local + (1 - mixing) × outer, of parameters of any type of float, which may lie anywhere; with a
    /// mixing of 0 what the local ones were does not matter.
    package static func mix(
        _ outer: UnsafePointer<Float>, into local: UnsafeMutableRawPointer, _ type: DataType, mixing: Float, count: Int
    ) {
        guard mixing != 0 else { return narrow(outer, into: local, type, count) }
        withTiles(of: type, UnsafeRawPointer(local), count) { tile, range in
            // The tile is a copy, or the parameters themselves.
            pccl_kernel_outer_mix(
                UnsafeMutablePointer(mutating: tile), outer + range.lowerBound, mixing, range.count)
            narrow(tile, into: local + range.lowerBound * type.byteCount, type, range.count)
        }
    }

    /// The sum of the squares of a, or of a - b.
    package static func squares(of a: UnsafePointer<Float>, minus b: UnsafePointer<Float>? = nil, count: Int) -> Double
    {
        var sum = 0.0
        var start = 0
        while start < count {
            let length = min(pieceElements, count - start)
            sum += pccl_kernel_outer_squares(a + start, b.map { $0 + start }, length)
            start += length
        }
        return sum
    }

    // MARK: pieces and tiles

    private static let tileElements = 4096

    /// Parameters as float32: themselves, or tile by tile.
    private static func withTiles(
        of type: DataType, _ elements: UnsafeRawPointer, _ count: Int,
        _ body: (UnsafePointer<Float>, Range<Int>) -> Void
    ) {
        if type == .float32, UInt(bitPattern: elements) % 4 == 0 {
            return body(elements.assumingMemoryBound(to: Float.self), 0..<count)
        }
        withUnsafeTemporaryAllocation(of: Float.self, capacity: tileElements) { tile in
            guard let base = tile.baseAddress else { return }
            var start = 0
            while start < count {
                let part = start..<min(start + tileElements, count)
                widen(elements + start * type.byteCount, into: base, type, part.count)
                body(base, part)
                start = part.upperBound
            }
        }
    }

    private static func widen(
        _ elements: UnsafeRawPointer, into values: UnsafeMutablePointer<Float>, _ type: DataType, _ count: Int
    ) {
        switch type {
        case .float64:
            for i in 0..<count { values[i] = Float(elements.loadUnaligned(fromByteOffset: 8 * i, as: Double.self)) }
        case .float32: UnsafeMutableRawPointer(values).copyMemory(from: elements, byteCount: 4 * count)
        default: Reducer(type: type, operation: .sum, worldSize: 1).load(elements, into: values, count: count)
        }
    }

    private static func narrow(
        _ values: UnsafePointer<Float>, into elements: UnsafeMutableRawPointer, _ type: DataType, _ count: Int
    ) {
        switch type {
        case .float64:
            for i in 0..<count { elements.storeBytes(of: Double(values[i]), toByteOffset: 8 * i, as: Double.self) }
        case .float32:
            if UnsafeRawPointer(values) != UnsafeRawPointer(elements) {
                elements.copyMemory(from: values, byteCount: 4 * count)
            }
        default: Reducer(type: type, operation: .sum, worldSize: 1).finish(values, into: elements, count: count)
        }
    }
}
