import CCUDA
import CKernels
import PCCLBase

/// What `OuterArithmetic` does, done by a device for an outer state that is in its memory, with the same bits
/// (Sources/CCUDA/kernels/outer.cu). Every function blocks until it is done; those that read or write parameters wait before
/// for what was put on the default stream.
package final class DeviceOuterArithmetic: Sendable {
    private let location: DeviceLocation
    private let queue: DeviceQueue
    private let module: DeviceModule
    /// For the lanes of sums, of `largestCount` floats at most.
    private let lanes: OuterMemory

    /// Of these a device looks at all at once whether they are numbers: the order in which they are added does not matter then.
    private static let checkedElements = 1 << 13
    private static let laneCount = 8

    /// Loads the kernels, unless that was done.
    package init(at location: DeviceLocation, largestCount: Int) throws(DeviceError) {
        self.location = location
        queue = try DeviceQueue.of(location)
        module = try DeviceModule(pccl_cuda_outer, at: location)
        let bytes =
            DeviceOuterArithmetic.sums(of: largestCount, in: DeviceOuterArithmetic.checkedElements)
            * MemoryLayout<Double>.stride
        lanes = OuterMemory(try DeviceMemory(byteCount: max(bytes, 1), at: location))
    }

    package var device: Int { location.device }

    /// Zeros.
    func memory(_ count: Int) throws(DeviceError) -> OuterMemory {
        let bytes = max(count, 1) * MemoryLayout<Float>.stride
        let memory = OuterMemory(try DeviceMemory(byteCount: bytes, at: location))
        try fill(memory.floats, with: 0, count: count)
        return memory
    }

    // MARK: - parameters

    func load(_ parts: [OuterPart], into out: UnsafeMutablePointer<Float>) throws(DeviceError) {
        try ofParameters(parts, "outer_load_") { part in [word(out + part.offset), word(part.local.memory)] }
    }

    func difference(
        of outer: UnsafePointer<Float>, and parts: [OuterPart], times weight: Float,
        into out: UnsafeMutablePointer<Float>
    ) throws(DeviceError) {
        try ofParameters(parts, "outer_difference_") { part in
            [word(out + part.offset), word(outer + part.offset), word(part.local.memory), word(weight)]
        }
    }

    func mix(_ outer: UnsafePointer<Float>, into parts: [OuterPart], mixing: Float) throws(DeviceError) {
        try ofParameters(parts, mixing == 0 ? "outer_replace_" : "outer_mix_") { part in
            [word(part.local.memory), word(outer + part.offset)] + (mixing == 0 ? [] : [word(mixing)])
        }
    }

    private func ofParameters(
        _ parts: [OuterPart], _ kernel: String, _ arguments: (OuterPart) -> [UInt64]
    ) throws(DeviceError) {
        var launches: [DeviceQueue.Launch] = []
        for part in parts {
            let name = kernel + (part.local.type == .bfloat16 ? "bf16" : "f\(8 * part.local.type.byteCount)")
            launches.append(try launch(name, arguments(part), part.count))
        }
        try location.waitForDefaultStream()
        try queue.run(launches)
    }

    // MARK: - the outer state

    func fill(_ out: UnsafeMutablePointer<Float>, with value: Float, count: Int) throws(DeviceError) {
        try run("outer_fill", [word(out), word(value)], count)
    }

    func copy(_ from: UnsafePointer<Float>, into to: UnsafeMutablePointer<Float>, count: Int) throws(DeviceError) {
        try queue.copy(to, from: from, count * MemoryLayout<Float>.stride)
    }

    func value(at place: UnsafePointer<Float>) throws(DeviceError) -> Float {
        var value: Float = 0
        try queue.read(&value, from: place, MemoryLayout<Float>.stride)
        return value
    }

    func divide(_ values: UnsafeMutablePointer<Float>, by divisor: Float, count: Int) throws(DeviceError) {
        try run("outer_divide", [word(values), word(divisor)], count)
    }

    func descend(
        _ outer: UnsafeMutablePointer<Float>, along gradient: UnsafePointer<Float>, rate: Float, count: Int
    ) throws(DeviceError) {
        try run("outer_descend", [word(outer), word(gradient), word(rate)], count)
    }

    func accumulate(
        _ gradient: UnsafePointer<Float>, into momentum: UnsafeMutablePointer<Float>, factor: Float, count: Int
    ) throws(DeviceError) {
        try run("outer_accumulate", [word(momentum), word(gradient), word(factor)], count)
    }

    func descendAhead(
        _ outer: UnsafeMutablePointer<Float>, momentum: UnsafePointer<Float>, gradient: UnsafePointer<Float>,
        rate: Float, factor: Float, count: Int
    ) throws(DeviceError) {
        try run(
            "outer_descend_ahead", [word(outer), word(momentum), word(gradient), word(rate), word(factor)], count)
    }

    private func run(_ kernel: String, _ arguments: [UInt64], _ count: Int) throws(DeviceError) {
        try queue.run([launch(kernel, arguments, count)])
    }

    private func launch(_ kernel: String, _ arguments: [UInt64], _ count: Int) throws(DeviceError) -> DeviceQueue.Launch
    {
        DeviceQueue.Launch(
            function: try module.function(kernel), arguments: arguments + [UInt64(count)], threads: count)
    }

    private func word(_ address: UnsafeRawPointer) -> UInt64 { UInt64(UInt(bitPattern: address)) }
    private func word(_ value: Float) -> UInt64 { UInt64(value.bitPattern) }

    // MARK: - sums

    /// In the order of the host: a piece is what one of its threads adds up.
    func squares(
        of a: UnsafePointer<Float>, minus b: UnsafePointer<Float>?, count: Int
    ) throws(DeviceError) -> Double {
        let lanes = try sums(of: a, minus: b, count: count, piece: OuterArithmetic.pieceElements)
        return lanes.withUnsafeBufferPointer { lanes in
            stride(from: 0, to: lanes.count, by: DeviceOuterArithmetic.laneCount).reduce(0) { sum, first in
                sum + pccl_kernel_outer_squares_of_lanes(lanes.baseAddress.unsafelyUnwrapped + first)
            }
        }
    }

    func areFinite(_ values: UnsafePointer<Float>, count: Int) throws(DeviceError) -> Bool {
        try sums(of: values, minus: nil, count: count, piece: DeviceOuterArithmetic.checkedElements)
            .allSatisfy(\.isFinite)
    }

    private func sums(
        of a: UnsafePointer<Float>, minus b: UnsafePointer<Float>?, count: Int, piece: Int
    ) throws(DeviceError) -> [Double] {
        var sums = [Double](repeating: 0, count: DeviceOuterArithmetic.sums(of: count, in: piece))
        let function = try module.function(b == nil ? "outer_squares" : "outer_squares_between")
        let arguments = [word(lanes.floats), word(a)] + (b.map { [word($0)] } ?? []) + [UInt64(count), UInt64(piece)]
        try queue.run([DeviceQueue.Launch(function: function, arguments: arguments, threads: sums.count)])
        let bytes = sums.count * MemoryLayout<Double>.stride
        let outcome = sums.withUnsafeMutableBytes { sums in
            Result { () throws(DeviceError) in
                guard let to = sums.baseAddress else { return }
                try queue.read(to, from: lanes.floats, bytes)
            }
        }
        try outcome.get()
        return sums
    }

    private static func sums(of count: Int, in piece: Int) -> Int { (count + piece - 1) / piece * laneCount }
}
