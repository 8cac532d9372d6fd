import Glibc

/// What is fed with bytes that nobody chose. An input is bad if it traps, or if `run` throws.
///
/// libFuzzer looks for bad inputs (`Tests/Fuzz/run.sh`), and `PCCLFuzzTests` runs the corpora and changed copies of them.
package enum FuzzTarget: String, CaseIterable, Sendable {
    case toMaster = "to-master"
    case toPeer = "to-peer"
    /// Frame headers, what follows them, and the first bytes of a connection.
    case frames
    case masterState = "master-state"
    case journal
    /// Codes of any bits are decoded, and floats of any bits coded.
    case codecs
    case hash
    /// Sequences of events.
    case master
    case peer

    package func run(_ bytes: [UInt8]) throws {
        switch self {
        case .toMaster: try checkToMaster(bytes)
        case .toPeer: try checkToPeer(bytes)
        case .frames: try checkFrames(bytes)
        case .masterState: try checkMasterState(bytes)
        case .journal: try checkJournal(bytes)
        case .codecs: try checkCodecs(bytes)
        case .hash: try checkHash(bytes)
        case .master: try MasterUnderFuzz.check(bytes)
        case .peer: try PeerUnderFuzz.check(bytes)
        }
    }

    /// Where a corpus begins: real encodings of every kind.
    package var seeds: [[UInt8]] {
        switch self {
        case .toMaster: Seeds.toMaster.map(\.bytes) + Seeds.broken
        case .toPeer: Seeds.toPeer.map(\.bytes) + Seeds.broken
        case .frames: Seeds.frames
        case .masterState: Seeds.states.map(\.bytes)
        case .journal: Seeds.journals
        case .codecs: Seeds.codecs
        case .hash: Seeds.hashes
        case .master: Seeds.masterEvents
        case .peer: Seeds.peerEvents
        }
    }
}

/// What is wrong with an input.
package struct FuzzFinding: Error, CustomStringConvertible {
    package let description: String
    init(_ description: String) { self.description = description }
}

func expect(_ isRight: Bool, _ text: @autoclosure () -> String) throws(FuzzFinding) {
    guard isRight else { throw FuzzFinding(text()) }
}

/// Takes choices off the front of an input. What is not there any more is 0.
struct FuzzInput {
    private var bytes: ArraySlice<UInt8>
    init(_ bytes: [UInt8]) { self.bytes = bytes[...] }

    var isEmpty: Bool { bytes.isEmpty }
    mutating func byte() -> UInt8 { bytes.popFirst() ?? 0 }
    mutating func below(_ bound: Int) -> Int { Int(byte()) % max(bound, 1) }
    mutating func flag() -> Bool { byte() & 1 == 1 }
    mutating func number16() -> Int { Int(byte()) | Int(byte()) << 8 }
    mutating func number64() -> UInt64 { (0..<8).reduce(0) { $0 | UInt64(byte()) << (8 * $1) } }
    mutating func take(_ count: Int) -> [UInt8] {
        defer { bytes = bytes.dropFirst(count) }
        return Array(bytes.prefix(count))
    }
    mutating func rest() -> [UInt8] { take(bytes.count) }
    mutating func element<T>(of list: [T]) -> T? { list.isEmpty ? nil : list[below(list.count)] }
}

/// With `PCCL_FUZZ_EVENTS` events and effects are told: how an input is understood, and becomes a transcript.
enum EventLog {
    private static let isOn = getenv("PCCL_FUZZ_EVENTS") != nil
    static func say(_ text: @autoclosure () -> String) {
        guard isOn else { return }
        print(text())
        // What comes after may trap.
        fflush(nil)
    }
}
