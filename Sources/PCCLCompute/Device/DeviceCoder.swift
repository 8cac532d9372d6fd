import CCUDA
import PCCLBase
import Synchronization

/// Codes, folds and decodes by a device, with the bits of `Coder`: sums and averages of float32, rounded to the nearest code.
/// Codes are memory of the host, elements of the device.
package struct DeviceCoder: Sendable {
    private let encode: DeviceFunction
    private let decode: DeviceFunction
    private let add: DeviceFunction
    private let joining: DeviceReducer
    private let finishing: DeviceReducer
    private let layout: BlockLayout
    private let blockElements: Int

    /// By context; nil while they are being loaded, and where they cannot be.
    private static let loaded = Mutex<[UInt: DeviceModule?]>([:])

    /// Whether a device can do it.
    package static func canCode(_ codec: Codec, type: DataType, operation: ReduceOperation) -> Bool {
        codec.canCode(type) && type == .float32 && codec.rounding == .nearest
            && (operation == .sum || operation == .average)
    }

    /// Nil where that is not so, and as long as the kernels are not loaded in that context: the first who asks has them
    /// loaded by somebody else, since a device's driver compiles them then, which may take seconds.
    init?(_ codec: Codec, type: DataType, operation: ReduceOperation, at location: DeviceLocation) {
        guard DeviceCoder.canCode(codec, type: type, operation: operation), let name = codec.format.kernelName,
            let module = DeviceCoder.module(at: location),
            let joining = DeviceReducer(type: type, operation: .sum, worldSize: 1, at: location),
            let finishing = DeviceReducer(type: type, operation: operation, worldSize: 1, at: location),
            let encode = try? module.function("encode_" + name), let decode = try? module.function("decode_" + name),
            let add = try? module.function("add_" + name)
        else { return nil }
        (self.encode, self.decode, self.add) = (encode, decode, add)
        (self.joining, self.finishing) = (joining, finishing)
        layout = codec.layout(of: type)
        blockElements = codec.blockElements
    }

    private static func module(at location: DeviceLocation) -> DeviceModule? {
        guard let context = try? location.contextNumber(), let passage = try? DevicePassage.of(location) else {
            return nil
        }
        let (known, isFirst) = loaded.withLock { loaded -> (DeviceModule?, Bool) in
            if let known = loaded[context] { return (known, false) }
            loaded[context] = .some(nil)
            return (nil, true)
        }
        guard isFirst else { return known }
        passage.folding.submit { (_) throws(DeviceError) in
            try DeviceReducer.load(at: location)
            let module = try DeviceModule(pccl_cuda_codec, at: location)
            loaded.withLock { $0[context] = module }
        } then: { _ in
            // An old device does not run them; the host codes then.
        }
        return nil
    }

    // MARK: what a stream is asked for

    private static let warpThreads = 32
    /// For the addresses of what is reduced.
    private static let tableBytes = 256

    /// Of a worker's scratch, for segments of so many elements.
    func scratchBytes(_ count: Int) -> Int {
        DeviceCoder.tableBytes + aligned(count * MemoryLayout<Float>.stride) + aligned(layout.byteCount(count))
    }
    private func aligned(_ bytes: Int) -> Int { (bytes + 255) / 256 * 256 }

    private func launch(
        _ function: DeviceFunction, _ first: UInt, _ second: UInt, _ count: Int, _ stream: borrowing DeviceStream
    ) throws(DeviceError) {
        let blocks = (count + blockElements - 1) / blockElements
        try stream.run(
            DeviceQueue.Launch(
                function: function, arguments: [UInt64(first), UInt64(second), UInt64(count), UInt64(blockElements)],
                threads: blocks * DeviceCoder.warpThreads))
    }

    /// Elements become codes.
    func encode(
        _ elements: UInt, into codes: UnsafeMutableRawPointer, count: Int, scratch: UInt,
        _ stream: borrowing DeviceStream
    ) throws(DeviceError) {
        try launch(encode, scratch, elements, count, stream)
        try stream.read(codes, from: scratch, layout.byteCount(count))
    }

    /// Codes become elements.
    func decode(
        _ codes: UnsafeRawPointer, into elements: UInt, count: Int, scratch: UInt, _ stream: borrowing DeviceStream
    ) throws(DeviceError) {
        try stream.write(scratch, from: codes, layout.byteCount(count))
        try launch(decode, elements, scratch, count, stream)
    }

    /// The contributions of all operands to one segment, in their order.
    package struct Fold: @unchecked Sendable {
        package enum Operand {
            /// This member's own, not coded.
            case own(UInt)
            case codes(UnsafeRawPointer)
        }
        package var operands: [Operand]
        package var count: Int
        /// By which an average divides. Nil: it is a sum that goes on to somebody else, and is not finished.
        package var worldSize: Int?
        /// Where sums or results go as codes.
        package var codes: UnsafeMutableRawPointer?
        /// Where results go as elements; those that the codes stand for, if there are any.
        package var elements: UInt?

        package init(
            operands: [Operand], count: Int, worldSize: Int?, codes: UnsafeMutableRawPointer?, elements: UInt?
        ) {
            self.operands = operands
            self.count = count
            self.worldSize = worldSize
            self.codes = codes
            self.elements = elements
        }
    }

    /// Blocks until it is done.
    func fold(_ fold: Fold, scratch: UInt, _ stream: borrowing DeviceStream) throws(DeviceError) {
        let (table, sums) = (scratch, scratch + UInt(DeviceCoder.tableBytes))
        let coded = sums + UInt(aligned(fold.count * MemoryLayout<Float>.stride))
        let codeBytes = layout.byteCount(fold.count)
        let own = fold.operands.compactMap { if case .own(let own) = $0 { own } else { nil } }.first
        let addresses = UnsafeMutablePointer<UInt64>.allocate(capacity: 2)
        defer { addresses.deallocate() }
        addresses[0] = UInt64(sums)
        addresses[1] = UInt64(own ?? 0)
        let pointers = UnsafeRawPointer(addresses)
        func reduce(_ reducer: DeviceReducer, _ inputs: Int, into out: UInt) throws(DeviceError) {
            try stream.launch(reducer, table: table, inputCount: inputs, into: out, count: fold.count)
        }
        func enqueue() throws(DeviceError) {
            try stream.write(table, from: pointers, 2 * MemoryLayout<UInt64>.stride)
            for (index, operand) in fold.operands.enumerated() {
                switch operand {
                case .own(let own) where index == 0:
                    try stream.copy(sums, from: own, fold.count * MemoryLayout<Float>.stride)
                case .own: try reduce(joining, 2, into: sums)
                case .codes(let codes):
                    try stream.write(coded, from: codes, codeBytes)
                    try launch(index == 0 ? decode : add, sums, coded, fold.count, stream)
                }
            }
            if let worldSize = fold.worldSize {
                let out = fold.codes == nil ? fold.elements ?? sums : sums
                try reduce(finishing.dividing(by: worldSize), 1, into: out)
            }
            guard let codes = fold.codes else { return }
            try launch(encode, coded, sums, fold.count, stream)
            try stream.read(codes, from: coded, codeBytes)
            if let elements = fold.elements { try launch(decode, elements, coded, fold.count, stream) }
        }
        do throws(DeviceError) {
            try enqueue()
        } catch {
            // The addresses are read until then.
            try? stream.finish()
            throw error
        }
        try stream.finish()
    }
}

extension Codec.Format {
    /// As CODECS of Sources/CKernels/blocks.h has them, of float32.
    fileprivate var kernelName: String? {
        switch self {
        case .none, .minMax32, .zeroPoint32: nil
        case .minMax8: "min_max_8_f32"
        case .minMax16: "min_max_16_f32"
        case .zeroPoint8: "zero_point_8_f32"
        case .zeroPoint16: "zero_point_16_f32"
        case .int4: "int4_float"
        case .int4PowerScale: "int4_power"
        case .e3m0: "e3m0_float"
        case .e3m0PowerScale: "e3m0_power"
        case .e4m3: "e4m3_float"
        case .e4m3PowerScale: "e4m3_power"
        case .float16: "cast_f16"
        case .bfloat16: "cast_bf16"
        }
    }
}
