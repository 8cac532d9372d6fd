import PCCLBase
import PCCLCompute
import PCCLRecorder

/// The sizes of the data path, with their reasons.
package struct EngineConfiguration: Sendable {
    /// Told of entries, of the first and last pieces of each phase, and of who is prepared.
    package var recorder: Recorder?

    /// What travels in one frame, in bytes of the buffer. Large enough that a system call and a frame cost little beside
    /// it (64 KiB pieces lost half of the throughput when measured), small enough that a piece is still in a core's
    /// second-level cache when it is added.
    package var segmentBytes = 256 << 10

    /// The same where values travel as codes, in bytes of these, which are several times as many in the buffer: an eighth of
    /// a chunk, within this range. Of float32 as 8 bits over loopback 128 KiB took 15 to 25 % longer.
    package var codedSegmentBytes = 256 << 10...512 << 10

    /// What one operation may send to a peer that has not called yet.
    package var eagerBytesPerOperation = 256 << 10

    /// The same over a long way, where waiting for the peer's entry costs a one-way delay, and peers that end one operation
    /// together begin the next up to as much apart: 150 ms of 500 Mbit/s. The rest of the link's allowance is left to
    /// others.
    package var eagerBytesPerOperationFarAway = 9 << 20

    /// Of that, what all members together may send to one that is late, which has to hold it.
    package var eagerBytesOfAllFarAway = 32 << 20

    /// What all operations together may send to such a peer; also what a receiver must be ready to hold.
    package var eagerBytesPerLink = 12 << 20

    /// Staging for contributions that wait to be folded, for one operation: divided among the ranks that send.
    package var stagingBytesPerOperation = 16 << 20

    /// Small frames that may wait for their epoch or their call, per peer, beside the eager bytes.
    package var heldFramesPerLink = 65_536

    /// Kept from one operation to the next: staging, and originals of in-place buffers.
    package var keptStagingBytes = 64 << 20
    package var keptOriginalsBytes = 256 << 20

    /// Of a buffer on a device that goes through the host: after so much a thread waits for the device, and tells the loop, which
    /// costs some ten microseconds, as long as PCIe takes for a quarter to a half of it. Buffers of less than two are copied
    /// before and after.
    package var devicePieceBytes = 1 << 20

    package var state = StateConfiguration()
    package var windows = WindowConfiguration()

    /// Where all that comes from.
    package var memory = StagingMemory.system

    package init() {}

    /// What one operation of so many members may send to one of them that has not called.
    func eagerBytes(isFarAway: Bool, worldSize: Int) -> Int {
        guard isFarAway else { return eagerBytesPerOperation }
        let share = eagerBytesOfAllFarAway / max(worldSize - 1, 1)
        return max(min(eagerBytesPerOperationFarAway, share), eagerBytesPerOperation)
    }

    /// Whole blocks of any size.
    func elementsPerCodedSegment(_ layout: BlockLayout, ofChunk elements: Int) -> Int {
        let largest = Codec.blockSizes.last ?? layout.blockElements
        let bytes = layout.byteCount(elements) / 8
        let segmentBytes = min(max(bytes, codedSegmentBytes.lowerBound), codedSegmentBytes.upperBound)
        return max(segmentBytes / layout.byteCount(largest), 1) * largest
    }

    /// How much of a chunk that we reduce a sender may send before we have granted more; so many such streams come in.
    func windowBytes(streams: Int, segmentWireBytes: Int) -> Int {
        let share = stagingBytesPerOperation / max(streams, 1)
        return max(share / segmentWireBytes, 2) * segmentWireBytes
    }
}

/// How shared state is fetched and given.
package struct StateConfiguration: Sendable {
    package enum Compression: Sendable {
        case never
        case whereItPays
        case always
    }
    package var compression = Compression.whereItPays
    /// Of one source, asked for and not here yet: what its link carries in this time, ...
    package var windowSeconds = 0.25
    /// ... within these bounds; the second one before its rate is known.
    package var smallestWindowBytes = 2 << 20
    package var firstWindowBytes = 8 << 20
    package var largestWindowBytes = 64 << 20
    /// Of all sources, as much staging as may be in use.
    package var stagingBytes = 256 << 20
    /// Small tensors are a request each.
    package var requestsPerSource = 256
    package var period = Interval.milliseconds(100)
    /// A source that gives nothing for that long is busy, or its link stands still.
    package var patience = Interval.seconds(3)
    /// At the end an idle source is asked for what another has owed for longer than that.
    package var lastPatience = Interval.milliseconds(500)

    package init() {}
}
