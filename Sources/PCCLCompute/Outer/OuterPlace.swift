import PCCLBase

/// Parameters of a model, and which elements of the outer state they are.
package struct OuterPart: Sendable {
    package var local: OuterArithmetic.Local
    package var offset: Int
    package var count: Int
    package init(_ local: OuterArithmetic.Local, offset: Int, count: Int) {
        self.local = local
        self.offset = offset
        self.count = count
    }
}

/// Where an outer state is, and with it the parameters that it is of, and who does its arithmetic: the same bits, whoever it
/// is. Only a device can fail.
package enum OuterPlace: Sendable {
    case host
    case device(DeviceOuterArithmetic)

    /// Zeros. Nil if the host has no memory.
    package func memory(_ count: Int) throws(DeviceError) -> OuterMemory? {
        switch self {
        case .host: OuterMemory(onHost: count)
        case .device(let device): try device.memory(count)
        }
    }

    /// out = local
    package func load(_ parts: [OuterPart], into out: UnsafeMutablePointer<Float>) throws(DeviceError) {
        switch self {
        case .host: for part in parts { OuterArithmetic.load(part.local, into: out + part.offset, count: part.count) }
        case .device(let device): try device.load(parts, into: out)
        }
    }

    /// out = weight × (outer - local)
    package func difference(
        of outer: UnsafePointer<Float>, and parts: [OuterPart], times weight: Float,
        into out: UnsafeMutablePointer<Float>
    ) throws(DeviceError) {
        switch self {
        case .host:
            for part in parts {
                OuterArithmetic.difference(
                    of: outer + part.offset, and: part.local, times: weight, into: out + part.offset,
                    count: part.count)
            }
        case .device(let device): try device.difference(of: outer, and: parts, times: weight, into: out)
        }
    }

    /// local = mixing × local + (1 - mixing) × outer; with a mixing of 0 what the local ones were does not matter.
    package func mix(_ outer: UnsafePointer<Float>, into parts: [OuterPart], mixing: Float) throws(DeviceError) {
        switch self {
        case .host:
            for part in parts {
                OuterArithmetic.mix(outer + part.offset, into: part.local, mixing: mixing, count: part.count)
            }
        case .device(let device): try device.mix(outer, into: parts, mixing: mixing)
        }
    }

    package func fill(_ out: UnsafeMutablePointer<Float>, with value: Float, count: Int) throws(DeviceError) {
        switch self {
        case .host: out.update(repeating: value, count: count)
        case .device(let device): try device.fill(out, with: value, count: count)
        }
    }

    package func copy(
        _ from: UnsafePointer<Float>, into to: UnsafeMutablePointer<Float>, count: Int
    ) throws(DeviceError) {
        switch self {
        case .host: to.update(from: from, count: count)
        case .device(let device): try device.copy(from, into: to, count: count)
        }
    }

    package func value(at place: UnsafePointer<Float>) throws(DeviceError) -> Float {
        switch self {
        case .host: place.pointee
        case .device(let device): try device.value(at: place)
        }
    }

    /// values = values / divisor
    package func divide(_ values: UnsafeMutablePointer<Float>, by divisor: Float, count: Int) throws(DeviceError) {
        switch self {
        case .host: OuterArithmetic.divide(values, by: divisor, count: count)
        case .device(let device): try device.divide(values, by: divisor, count: count)
        }
    }

    /// outer = outer - rate × gradient
    package func descend(
        _ outer: UnsafeMutablePointer<Float>, along gradient: UnsafePointer<Float>, rate: Float, count: Int
    ) throws(DeviceError) {
        switch self {
        case .host: OuterArithmetic.descend(outer, along: gradient, rate: rate, count: count)
        case .device(let device): try device.descend(outer, along: gradient, rate: rate, count: count)
        }
    }

    /// momentum = factor × momentum + gradient
    package func accumulate(
        _ gradient: UnsafePointer<Float>, into momentum: UnsafeMutablePointer<Float>, factor: Float, count: Int
    ) throws(DeviceError) {
        switch self {
        case .host: OuterArithmetic.accumulate(gradient, into: momentum, factor: factor, count: count)
        case .device(let device): try device.accumulate(gradient, into: momentum, factor: factor, count: count)
        }
    }

    /// outer = outer - rate × (gradient + factor × momentum)
    package func descendAhead(
        _ outer: UnsafeMutablePointer<Float>, momentum: UnsafePointer<Float>, gradient: UnsafePointer<Float>,
        rate: Float, factor: Float, count: Int
    ) throws(DeviceError) {
        switch self {
        case .host:
            OuterArithmetic.descendAhead(
                outer, momentum: momentum, gradient: gradient, rate: rate, factor: factor, count: count)
        case .device(let device):
            try device.descendAhead(
                outer, momentum: momentum, gradient: gradient, rate: rate, factor: factor, count: count)
        }
    }

    /// The sum of the squares of a, or of a - b.
    package func squares(
        of a: UnsafePointer<Float>, minus b: UnsafePointer<Float>? = nil, count: Int
    ) throws(DeviceError) -> Double {
        switch self {
        case .host: OuterArithmetic.squares(of: a, minus: b, count: count)
        case .device(let device): try device.squares(of: a, minus: b, count: count)
        }
    }

    /// Whether all are numbers, and none of them infinite.
    package func areFinite(_ values: UnsafePointer<Float>, count: Int) throws(DeviceError) -> Bool {
        switch self {
        case .host: OuterArithmetic.squares(of: values, count: count).isFinite
        case .device(let device): try device.areFinite(values, count: count)
        }
    }
}
