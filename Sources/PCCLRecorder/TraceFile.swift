import Glibc
import PCCLBase
import PCCLWire

/// A dump of one peer's recorder.
///
/// ```
///  "pccl-trc" · version u16 · header · count u32 · count × 32 bytes of events · sum u64
/// ```
/// All numbers are little-endian. The sum is over all bytes before it.
package struct TraceFile: Hashable, Sendable {
    /// The clocks of the machine at one moment.
    package struct Clocks: Hashable, Sendable {
        package var monotonicNanoseconds: UInt64
        /// Since 1970.
        package var wallNanoseconds: UInt64
        package init(monotonicNanoseconds: UInt64, wallNanoseconds: UInt64) {
            self.monotonicNanoseconds = monotonicNanoseconds
            self.wallNanoseconds = wallNanoseconds
        }
    }

    /// 0: it has not been registered.
    package var peer: PeerID
    package var group: GroupID
    /// Enough of the run's name to tell it from others; all of it would let a stranger pass for a peer.
    package var run: UInt32
    package var process: UInt32
    /// Names the running kernel: peers of which it is the same have one monotonic clock. Empty: not known.
    package var boot: String
    package var host: String
    package var release: String
    package var reason: String
    package var clocks: Clocks
    /// Events that were overwritten before this was written.
    package var lost: UInt64
    /// In the order of their times.
    package var events: [TraceEvent]

    package init(
        peer: PeerID, group: GroupID = GroupID(0), run: UInt32 = 0, process: UInt32 = 0, boot: String = "",
        host: String = "", release: String = "", reason: String = "", clocks: Clocks, lost: UInt64 = 0,
        events: [TraceEvent]
    ) {
        self.peer = peer
        self.group = group
        self.run = run
        self.process = process
        self.boot = boot
        self.host = host
        self.release = release
        self.reason = reason
        self.clocks = clocks
        self.lost = lost
        self.events = events
    }

    package static let magic = Array("pccl-trc".utf8)
    package static let version: UInt16 = 1
    package static let largestEventCount = Recorder.largestBytes / TraceEvent.byteCount
    /// Of a file: the events, and what is before and behind them.
    package static let largestBytes = Recorder.largestBytes + 8192
}

/// Why a file cannot be read as a dump.
package enum TraceFileError: Error, Equatable, CustomStringConvertible {
    case foreign
    case otherVersion(UInt16)
    case damaged(String)
    case unreadable(String)

    package var description: String {
        switch self {
        case .foreign: "it is no dump of a flight recorder"
        case .otherVersion(let version):
            "it is of format \(version), and this release reads format \(TraceFile.version)"
        case .damaged(let text): "it is damaged: \(text)"
        case .unreadable(let text): text
        }
    }
}

// MARK: - bytes

extension TraceFile {
    package var bytes: [UInt8] {
        var w = ByteWriter()
        w.write(TraceFile.version)
        w.write(peer.value)
        w.write(group.value)
        w.write(run)
        w.write(process)
        w.write(boot)
        w.write(host)
        w.write(release)
        w.write(reason)
        w.write(clocks.monotonicNanoseconds)
        w.write(clocks.wallNanoseconds)
        w.write(lost)
        w.write(UInt32(events.count))
        var bytes = TraceFile.magic + w.bytes
        bytes.reserveCapacity(bytes.count + events.count * TraceEvent.byteCount + 8)
        for event in events {
            let words = (
                event.nanoseconds.littleEndian, TraceEvent.word(event.kind, event.peer, event.launch).littleEndian,
                event.tag.value.littleEndian, event.value.littleEndian
            )
            withUnsafeBytes(of: words) { bytes.append(contentsOf: $0) }
        }
        let sum = TraceFile.sum(bytes[...])
        withUnsafeBytes(of: sum.littleEndian) { bytes.append(contentsOf: $0) }
        return bytes
    }

    package init(_ bytes: [UInt8]) throws(TraceFileError) {
        let head = TraceFile.magic.count
        guard bytes.count >= head + 2, bytes.starts(with: TraceFile.magic) else { throw .foreign }
        let version = UInt16(bytes[head]) | UInt16(bytes[head + 1]) << 8
        guard version == TraceFile.version else { throw .otherVersion(version) }
        guard bytes.count >= head + 10 else { throw .damaged("it ends after \(bytes.count) bytes") }
        do throws(WireError) {
            var r = ByteReader(bytes[(head + 2)...])
            peer = PeerID(try r.read())
            group = GroupID(try r.read())
            run = try r.read()
            process = try r.read()
            boot = try r.readText()
            host = try r.readText()
            release = try r.readText()
            reason = try r.readText()
            clocks = Clocks(monotonicNanoseconds: try r.read(), wallNanoseconds: try r.read())
            lost = try r.read()
            // The sum is found wanting below, but not before memory was taken for what a number claims.
            let left = r.remaining
            events = try r.readList("events", limit: min(TraceFile.largestEventCount, left / TraceEvent.byteCount)) {
                (r) throws(WireError) in
                let words: (UInt64, UInt64, UInt64, UInt64) = (try r.read(), try r.read(), try r.read(), try r.read())
                guard let event = TraceEvent(words.0, words.1, words.2, words.3) else {
                    throw .unknownKind(UInt8(truncatingIfNeeded: words.1))
                }
                return event
            }
            let sum: UInt64 = try r.read()
            try r.finish()
            guard sum == TraceFile.sum(bytes.dropLast(8)) else {
                throw .unknownValue(field: "sum over all bytes", value: sum)
            }
        } catch {
            throw .damaged(error.description)
        }
        guard zip(events, events.dropFirst()).allSatisfy({ $0.nanoseconds <= $1.nanoseconds }) else {
            throw .damaged("its events are not in the order of their times")
        }
    }

    /// FNV-1a over words of eight bytes, the last of them filled with zeros: it finds damage, not forgery.
    static func sum(_ bytes: ArraySlice<UInt8>) -> UInt64 {
        bytes.withUnsafeBytes { bytes in
            var sum: UInt64 = 0xcbf2_9ce4_8422_2325
            func fold(_ word: UInt64) {
                sum = (sum ^ word) &* 0x100_0000_01b3
                sum ^= sum >> 32
            }
            var offset = 0
            while offset + 8 <= bytes.count {
                fold(UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)))
                offset += 8
            }
            var last: UInt64 = 0
            for index in offset..<bytes.count { last |= UInt64(bytes[index]) << (8 * UInt64(index - offset)) }
            fold(last)
            fold(UInt64(bytes.count))
            return sum
        }
    }
}

// MARK: - files

extension TraceFile {
    /// What is the same for all dumps of this process.
    package static let here: (boot: String, host: String, process: UInt32) = {
        let boot = (try? contents(of: "/proc/sys/kernel/random/boot_id", limit: 64)).map {
            String(decoding: $0.prefix { $0 > 32 }, as: UTF8.self)
        }
        var name = [CChar](repeating: 0, count: 65)
        gethostname(&name, name.count - 1)
        let host = String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return (boot ?? "", host, UInt32(getpid()))
    }()

    /// All that a recorder holds now.
    package init(of recorder: Recorder, peer: PeerID, group: GroupID, run: UInt32, release: String, reason: String) {
        let here = TraceFile.here
        let events = recorder.events()
        self.init(
            peer: peer, group: group, run: run, process: here.process, boot: here.boot, host: here.host,
            release: release, reason: reason,
            clocks: Clocks(monotonicNanoseconds: Recorder.now, wallNanoseconds: Recorder.wall),
            lost: recorder.count - min(recorder.count, UInt64(events.count)), events: events)
    }

    /// Under its name there is all of it or nothing: it is written beside, and renamed.
    package func write(to path: String) throws(TraceFileError) {
        let beside = "\(path).\(getpid()).part"
        let file = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard file >= 0 else { throw TraceFile.problem(beside) }
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(file, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                let problem = TraceFile.problem(beside)
                close(file)
                unlink(beside)
                throw problem
            }
            rest = rest.dropFirst(count)
        }
        close(file)
        guard rename(beside, path) == 0 else {
            let problem = TraceFile.problem(path)
            unlink(beside)
            throw problem
        }
    }

    package init(path: String) throws(TraceFileError) {
        try self.init(TraceFile.contents(of: path, limit: TraceFile.largestBytes))
    }

    private static func contents(of path: String, limit: Int) throws(TraceFileError) -> [UInt8] {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw problem(path) }
        defer { close(file) }
        var bytes: [UInt8] = []
        var block = [UInt8](repeating: 0, count: 64 << 10)
        while bytes.count <= limit {
            let count = read(file, &block, block.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw problem(path) }
            if count == 0 { return bytes }
            bytes += block[..<count]
        }
        throw .damaged("it has more than \(limit) bytes")
    }

    private static func problem(_ path: String) -> TraceFileError {
        .unreadable("\(path): \(String(cString: strerror(errno)))")
    }
}
