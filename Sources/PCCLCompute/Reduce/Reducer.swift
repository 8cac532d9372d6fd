import CKernels
import PCCLBase

/// Folds contributions to the elements of a buffer, one element type and operation for its life.
///
/// Contributions are elements; partial results are accumulators, which may be wider (`accumulatorBytes`). For one
/// element the calls are, in this order:
///
///     one contribution     load, finish
///     two                  whole; or start, finish
///     more                 start (or load, more), more …, end (or more, finish)
///
/// Sums that others have begun are joined by `merge`.
///
/// The order of contributions is the caller's: sums of floats depend on it. What `end`, `whole` and `finish` write is
/// the same bits on every machine, given the same contributions in the same order.
///
/// Pointers may have any alignment. A destination may be exactly one of the sources when both have elements of the same
/// size; buffers must not overlap in part. Counts are in elements.
///
/// The calling thread must have the default floating-point environment: round to nearest, subnormals kept.
package struct Reducer: Sendable {
    package let elementBytes: Int
    package let accumulatorBytes: Int
    package let operation: ReduceOperation

    private let worldSize: UInt32
    // Constant memory of the kernels, never freed and never written.
    private nonisolated(unsafe) let loops: UnsafePointer<pccl_kernel_reduction>

    /// `worldSize`: how many contributions there are to each element, by which an average divides. Integer averages
    /// of 8- and 16-bit types are exact up to 65536 contributions.
    package init(type: DataType, operation: ReduceOperation, worldSize: Int) {
        precondition(worldSize >= 1, "a reduction has at least one contribution")
        guard let loops = pccl_kernel_reduction_for(type.rawValue, operation.rawValue) else {
            preconditionFailure("no kernel for \(type) \(operation)")
        }
        self.init(loops: loops, operation, worldSize: worldSize)
    }

    /// The loops of one level, so that tests can ask each level for the same bits; nil where this machine lacks it.
    package init?(type: DataType, operation: ReduceOperation, worldSize: Int, level: pccl_kernel_level) {
        precondition(worldSize >= 1, "a reduction has at least one contribution")
        guard let loops = pccl_kernel_reduction_at(level, type.rawValue, operation.rawValue) else { return nil }
        self.init(loops: loops, operation, worldSize: worldSize)
    }

    private init(loops: UnsafePointer<pccl_kernel_reduction>, _ operation: ReduceOperation, worldSize: Int) {
        self.loops = loops
        self.operation = operation
        self.worldSize = UInt32(worldSize)
        elementBytes = loops.pointee.element_bytes
        accumulatorBytes = loops.pointee.accumulator_bytes
    }

    /// accumulator = first
    package func load(_ first: UnsafeRawPointer, into accumulator: UnsafeMutableRawPointer, count: Int) {
        loops.pointee.load(accumulator, first, count)
    }

    /// accumulator = first ∘ second
    package func start(
        _ first: UnsafeRawPointer, _ second: UnsafeRawPointer, into accumulator: UnsafeMutableRawPointer, count: Int
    ) {
        loops.pointee.start(accumulator, first, second, count)
    }

    /// accumulator = accumulator ∘ next
    package func more(_ next: UnsafeRawPointer, into accumulator: UnsafeMutableRawPointer, count: Int) {
        loops.pointee.more(accumulator, next, count)
    }

    /// accumulator = accumulator ∘ other, which is an accumulator too
    package func merge(_ other: UnsafeRawPointer, into accumulator: UnsafeMutableRawPointer, count: Int) {
        loops.pointee.merge(accumulator, other, count)
    }

    /// out = finished(accumulator ∘ last)
    package func end(
        _ accumulator: UnsafeRawPointer, _ last: UnsafeRawPointer, into out: UnsafeMutableRawPointer, count: Int
    ) {
        loops.pointee.end(out, accumulator, last, count, worldSize)
    }

    /// out = finished(first ∘ second)
    package func whole(
        _ first: UnsafeRawPointer, _ second: UnsafeRawPointer, into out: UnsafeMutableRawPointer, count: Int
    ) {
        loops.pointee.whole(out, first, second, count, worldSize)
    }

    /// out = finished(accumulator)
    package func finish(_ accumulator: UnsafeRawPointer, into out: UnsafeMutableRawPointer, count: Int) {
        loops.pointee.finish(out, accumulator, count, worldSize)
    }
}
