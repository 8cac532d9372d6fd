import PCCLBase
import PCCLWire

extension Link {
    /// What all probes carry. Not zeros: a tunnel that compresses would make them look faster than data is.
    private nonisolated(unsafe) static let probePayload: UnsafeRawPointer = {
        let count = WireLimits.probePayloadBytes
        let payload = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 64)
        var random = RandomSource(seed: 1)
        for i in stride(from: 0, to: count, by: 8) {
            payload.storeBytes(of: random.next(), toByteOffset: i, as: UInt64.self)
        }
        return UnsafeRawPointer(payload)
    }()

    /// Sends probes of so many bytes in all, as long as there is nothing else to send: the first segment of an operation
    /// ends them.
    package func probe(byteCount: Int) {
        probeBytesLeft = byteCount
        kick()
    }

    package func endProbe() { probeBytesLeft = 0 }

    /// An operation sends so many bytes, which tell what those of a probe would.
    func supersedeProbe(_ byteCount: Int) {
        probeBytesLeft = 0
        if let found = probed {
            let left = found.bytesLeft - byteCount
            probed = left > 0 ? (found.bytesPerSecond, left) : nil
        }
    }

    /// What the other end's kernel has taken in, over the stripes that there are.
    var deliveredBytes: UInt64 { stripeFigures.reduce(0) { $0 + $1.deliveredBytes } }

    /// Its rate is that of the network, and not of two processes.
    var isFar: Bool { (figure.latencyNanoseconds ?? 0) * 2 >= Link.shortRoundTripNanoseconds }

    func takeProbe(serial: UInt64, limit: Int) -> OutgoingSegment {
        let count = min(probeBytesLeft, limit, WireLimits.probePayloadBytes)
        probeBytesLeft -= count
        probeBytes += UInt64(count)
        return OutgoingSegment(
            header: FrameHeader(
                kind: .probe, epoch: .none, launch: LaunchNumber(0), tag: Tag(0), payloadBytes: UInt32(count),
                serial: serial),
            payload: Link.probePayload, owner: LaunchNumber(0), token: 0)
    }
}
