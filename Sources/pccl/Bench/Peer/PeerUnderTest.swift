import Glibc
import PCCL

/// A library as one peer drives it in a measurement.
protocol PeerUnderTest {
    /// Reduces all buffers at once, and waits.
    func reduce(_ buffers: [BenchBuffers]) throws

    /// Between the calls that do not count and those that do.
    func prepareToCount() throws

    /// How many elements of the target are not as they should be. In place, `calls` were made since it was filled.
    func wrongElements(in buffers: BenchBuffers, _ pattern: ReductionPattern, afterCalls calls: Int) -> Int
}

extension PeerUnderTest {
    func prepareToCount() throws {}

    func wrongElements(in buffers: BenchBuffers, _ pattern: ReductionPattern, afterCalls calls: Int) -> Int {
        pattern.wrongElements(in: UnsafeRawBufferPointer(buffers.target), afterCalls: buffers.isInPlace ? calls : 1)
    }
}

/// The user's memory of one operation; source and target are the same in place.
struct BenchBuffers {
    let source: UnsafeMutableRawBufferPointer
    let target: UnsafeMutableRawBufferPointer

    var isInPlace: Bool { source.baseAddress == target.baseAddress }

    /// Fresh pages, so that giving them back leaves the process as it was.
    init(bytes: Int, inPlace: Bool) throws(BenchFailure) {
        source = try BenchBuffers.map(bytes)
        target = inPlace ? source : try BenchBuffers.map(bytes)
    }

    func free() {
        munmap(source.baseAddress, source.count)
        if !isInPlace { munmap(target.baseAddress, target.count) }
    }

    private static func map(_ bytes: Int) throws(BenchFailure) -> UnsafeMutableRawBufferPointer {
        let address = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let address, address != MAP_FAILED else {
            throw BenchFailure("no memory for a buffer of \(ByteSize.label(bytes)): \(systemError())")
        }
        return UnsafeMutableRawBufferPointer(start: address, count: bytes)
    }
}

/// Takes the turns of one peer: fills, reduces, measures, compares.
struct TurnTaker {
    /// Few bytes, so that a small call has the peers begin together after each has filled its memory.
    private static let synchronisingBytes = 64
    /// What a target holds before a reduction; a result that was not written shows.
    private static let unwritten = UInt8(0xA5)

    let work: BenchWork
    let pattern: ReductionPattern
    let rank: Int
    let peer: any PeerUnderTest
    /// What the process had before it touched the library.
    let bytesBefore: Int

    init(work: BenchWork, peers: Int, rank: Int, peer: any PeerUnderTest, bytesBefore: Int) {
        self.work = work
        pattern = ReductionPattern(type: work.type, operation: work.operation, peers: peers, codec: work.codec)
        self.rank = rank
        self.peer = peer
        self.bytesBefore = bytesBefore
    }

    func take(_ turn: BenchTurn) throws -> BenchTurnResult {
        var buffers: [BenchBuffers] = []
        defer { for buffer in buffers { buffer.free() } }
        for _ in 0..<work.tags { buffers.append(try BenchBuffers(bytes: turn.bytes, inPlace: work.isInPlace)) }
        let little = [try BenchBuffers(bytes: Self.synchronisingBytes, inPlace: false)]
        defer { little[0].free() }
        pattern.fill(little[0].source, rank: rank)

        var result = BenchTurnResult(nanoseconds: [], processorNanoseconds: 0, extraBytes: 0, wrongElements: 0)
        for buffer in buffers { pattern.fill(buffer.source, rank: rank) }
        ProcessMemory.forgetPeak()
        try run(turn.warmUps, turn, buffers, little, timedIn: nil)
        try peer.prepareToCount()
        try run(turn.calls, turn, buffers, little, timedIn: &result)
        let userBytes = buffers.reduce(0) { $0 + $1.source.count * ($1.isInPlace ? 1 : 2) }
        result.extraBytes = max(0, ProcessMemory.peakBytes() - userBytes - bytesBefore)
        return result
    }

    /// So many calls, in batches between which memory is filled anew where that is needed. `result` is nil for calls that
    /// do not count.
    private func run(
        _ calls: Int, _ turn: BenchTurn, _ buffers: [BenchBuffers], _ little: [BenchBuffers],
        timedIn result: UnsafeMutablePointer<BenchTurnResult>?
    ) throws {
        var left = calls
        while left > 0 {
            let batch = work.isInPlace && turn.callsPerFill > 0 ? min(turn.callsPerFill, left) : left
            left -= batch
            for buffer in buffers {
                if buffer.isInPlace {
                    pattern.fill(buffer.source, rank: rank)
                } else {
                    _ = memset(buffer.target.baseAddress!, Int32(Self.unwritten), buffer.target.count)
                }
            }
            try peer.reduce(little)
            var times: [Double] = []
            times.reserveCapacity(batch)
            var processorBefore = processorNanoseconds()
            for _ in 0..<batch {
                if result != nil && turn.pauseMilliseconds > 0 {
                    // Small things happen in a pause, such as heartbeats. They are not the call's.
                    let pauseBefore = processorNanoseconds()
                    sleep(milliseconds: turn.pauseMilliseconds)
                    processorBefore += processorNanoseconds() - pauseBefore
                }
                let start = monotonicNanoseconds()
                try peer.reduce(buffers)
                times.append(Double(monotonicNanoseconds() - start))
            }
            let processor = Double(processorNanoseconds() - processorBefore)
            let wrong = buffers.reduce(0) { $0 + peer.wrongElements(in: $1, pattern, afterCalls: batch) }
            guard let result else { continue }
            result.pointee.nanoseconds += times
            result.pointee.processorNanoseconds += processor
            result.pointee.wrongElements += wrong
        }
    }
}

/// Of all threads of this process, in user and kernel.
func processorNanoseconds() -> UInt64 {
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    let seconds = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
    let microseconds = usage.ru_utime.tv_usec + usage.ru_stime.tv_usec
    return UInt64(seconds) * 1_000_000_000 + UInt64(microseconds) * 1000
}

/// What this process has in memory, as the kernel counts it.
enum ProcessMemory {
    static func residentBytes() -> Int { status("VmRSS:") }

    /// The most since `forgetPeak`; since the start of the process where the kernel does not let the peak be set back.
    static func peakBytes() -> Int { status("VmHWM:") }

    static func forgetPeak() {
        let file = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC)
        guard file >= 0 else { return }
        _ = write(file, "5", 1)
        close(file)
    }

    private static func status(_ key: String) -> Int {
        guard let text = try? textOfFile("/proc/self/status") else { return 0 }
        let line = text.split(separator: "\n").first { $0.hasPrefix(key) }
        return (line?.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Int($0) } ?? 0) * 1024
    }
}

func textOfFile(_ path: String) throws(BenchFailure) -> String {
    let file = open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { throw BenchFailure("cannot open \(path): \(systemError())") }
    defer { close(file) }
    var text: [UInt8] = []
    var block = [UInt8](repeating: 0, count: 1 << 14)
    while true {
        let count = read(file, &block, block.count)
        if count == 0 { return String(decoding: text, as: UTF8.self) }
        if count > 0 {
            text += block[..<count]
        } else if errno != EINTR {
            throw BenchFailure("cannot read \(path): \(systemError())")
        }
    }
}
