import PCCLBase
import PCCLCompute
import PCCLWire

/// Frames, encoded one behind the other.
struct FrameBatch {
    /// Each header, and each payload, is followed by its checksum.
    let isSummed: Bool
    private(set) var bytes: [UInt8] = []
    /// How many of them are numbered.
    private(set) var count = 0

    init(isSummed: Bool) { self.isSummed = isSummed }

    mutating func append(_ header: FrameHeader, _ payload: [UInt8]) {
        withUnsafeTemporaryAllocation(byteCount: FrameHeader.byteCount, alignment: 8) { buffer in
            guard let base = buffer.baseAddress else { return }
            header.store(to: base)
            bytes.append(contentsOf: buffer)
            appendSum(UnsafeRawBufferPointer(buffer))
        }
        if !payload.isEmpty {
            bytes += payload
            payload.withUnsafeBytes { appendSum($0) }
        }
        if header.kind.isNumbered { count += 1 }
    }

    private mutating func appendSum(_ part: UnsafeRawBufferPointer) {
        guard isSummed else { return }
        withUnsafeBytes(of: CRC32C(part).value.littleEndian) { bytes.append(contentsOf: $0) }
    }

    mutating func append(_ encoded: [UInt8], count: Int) {
        bytes += encoded
        self.count += count
    }
}

/// Numbered frames that a stripe was given, kept until the peer has them.
struct RetainedFrames {
    enum Content {
        case batch([UInt8], inOrder: Bool)
        case segment(OutgoingSegment)
        /// A segment whose memory was wanted back: nobody needs it, but its number must not be missing for ever.
        case released(UInt64)
    }
    var content: Content
    var count: Int
    var takenAt: Instant
}

/// The retained frames of a stripe, in the order in which they were written.
struct FrameQueue {
    private var frames: [RetainedFrames] = []
    private var head = 0
    /// Of the frames that were removed.
    private var removedCount: UInt64 = 0

    var isEmpty: Bool { head == frames.count }
    var all: [RetainedFrames] { Array(frames[head...]) }

    mutating func append(_ new: RetainedFrames) { frames.append(new) }

    /// Those that are wholly among the first `count` numbered frames of the stripe.
    mutating func remove(upTo count: UInt64) -> [RetainedFrames] {
        var removed: [RetainedFrames] = []
        while head < frames.count, removedCount + UInt64(frames[head].count) <= count {
            removedCount += UInt64(frames[head].count)
            removed.append(frames[head])
            head += 1
        }
        if head == frames.count {
            frames.removeAll(keepingCapacity: true)
            head = 0
        } else if head > 1024, head * 2 > frames.count {
            frames.removeFirst(head)
            head = 0
        }
        return removed
    }

    mutating func release(_ owner: LaunchNumber) {
        for i in head..<frames.count {
            if case .segment(let segment) = frames[i].content, segment.owner == owner {
                frames[i].content = .released(segment.header.serial)
            }
        }
    }
}

/// Where the payload of an arriving frame goes.
enum ArrivalPlace {
    case lent(UnsafeMutableRawPointer, owner: LaunchNumber, token: Int)
    case own(UnsafeMutableRawPointer)
    case nowhere

    func free() { if case .own(let memory) = self { memory.deallocate() } }
}

/// Which numbered frames have begun to arrive: of one that comes again only the first counts.
struct SerialWindow {
    enum Claim {
        case fresh
        case again
        /// No honest sender is that far ahead.
        case outside
    }

    /// With 256 KiB a frame, as much as a link of 100 Gbit/s carries in 20 s while one frame is missing.
    static let width: UInt64 = 1 << 20

    /// All below it have come.
    private var low: UInt64 = 1
    private var beyond: Set<UInt64> = []

    mutating func claim(_ serial: UInt64) -> Claim {
        guard serial >= low else { return serial == 0 ? .outside : .again }
        guard serial - low < SerialWindow.width else { return .outside }
        if serial > low { return beyond.insert(serial).inserted ? .fresh : .again }
        low += 1
        while !beyond.isEmpty, beyond.remove(low) != nil { low += 1 }
        return .fresh
    }
}
