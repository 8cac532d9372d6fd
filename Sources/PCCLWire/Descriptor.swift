import PCCLBase

/// An operation's descriptor, as entries and reports of stuck operations carry it.
extension ByteWriter {
    package mutating func write(_ descriptor: OperationDescriptor) {
        let (collective, root) = descriptor.collective.code
        write(collective)
        write(root)
        write(descriptor.worldSize)
        write(descriptor.count)
        write(UInt8(descriptor.type.rawValue))
        write(UInt8(descriptor.operation.rawValue))
        write(descriptor.algorithm.rawValue)
        write(descriptor.codec.format.rawValue)
        write(UInt8(clamping: descriptor.codec.blockElements / 32))
        write(descriptor.codec.rounding.rawValue)
    }
}

extension ByteReader {
    package mutating func readDescriptor() throws(WireError) -> OperationDescriptor {
        let code = (try read(UInt8.self), try read(UInt16.self))
        guard let collective = Collective(code) else {
            throw .unknownValue(field: "collective", value: UInt64(code.0))
        }
        let worldSize: UInt16 = try read()
        let count: UInt64 = try read()
        let type = try read(UInt8.self)
        guard let type = DataType(rawValue: UInt32(type)) else {
            throw .unknownValue(field: "data type", value: UInt64(type))
        }
        let operation = try read(UInt8.self)
        guard let operation = ReduceOperation(rawValue: UInt32(operation)) else {
            throw .unknownValue(field: "operation", value: UInt64(operation))
        }
        let algorithm = try read(UInt8.self)
        guard let algorithm = Algorithm(rawValue: algorithm) else {
            throw .unknownValue(field: "algorithm", value: UInt64(algorithm))
        }
        return OperationDescriptor(
            collective, count: count, type: type, operation: operation, algorithm: algorithm, codec: try readCodec(),
            worldSize: worldSize)
    }

    private mutating func readCodec() throws(WireError) -> Codec {
        let format = try read(UInt8.self)
        guard let format = Codec.Format(rawValue: format) else {
            throw .unknownValue(field: "codec", value: UInt64(format))
        }
        let block = Int(try read(UInt8.self)) * 32
        guard Codec.blockSizes.contains(block) else {
            throw .unknownValue(field: "block of a codec", value: UInt64(block))
        }
        let rounding = try read(UInt8.self)
        guard let rounding = Codec.Rounding(rawValue: rounding) else {
            throw .unknownValue(field: "rounding", value: UInt64(rounding))
        }
        return Codec(format, blockElements: block, rounding: rounding)
    }
}

extension Collective {
    fileprivate var code: (UInt8, root: UInt16) {
        switch self {
        case .allReduce: (0, 0)
        case .allGather: (1, 0)
        case .reduceScatter: (2, 0)
        case .broadcast(let root): (3, root)
        case .barrier: (4, 0)
        }
    }

    fileprivate init?(_ code: (UInt8, root: UInt16)) {
        switch code {
        case (0, 0): self = .allReduce
        case (1, 0): self = .allGather
        case (2, 0): self = .reduceScatter
        case (3, let root): self = .broadcast(root: root)
        case (4, 0): self = .barrier
        default: return nil
        }
    }
}
