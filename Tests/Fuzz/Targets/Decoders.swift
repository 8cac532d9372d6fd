import Glibc
import PCCLBase
import PCCLMembership
import PCCLSession
import PCCLWire

func checkToMaster(_ bytes: [UInt8]) throws {
    try checkDecoder(bytes, \ToMaster.bytes) { bytes throws(WireError) in try ToMaster(bytes) }
}

func checkToPeer(_ bytes: [UInt8]) throws {
    try checkDecoder(bytes, \ToPeer.bytes) { bytes throws(WireError) in try ToPeer(bytes) }
}

func checkMasterState(_ bytes: [UInt8]) throws {
    try checkDecoder(bytes, \MasterState.bytes) { bytes throws(WireError) in try MasterState(bytes) }
}

/// The first byte says what the others are.
func checkFrames(_ bytes: [UInt8]) throws {
    guard let choice = bytes.first else { return }
    let bytes = Array(bytes.dropFirst())
    switch choice % 10 {
    case 0: try checkFrameHeader(bytes)
    case 1: try checkDecoder(bytes, \Entry.bytes) { bytes throws(WireError) in try Entry(bytes) }
    case 2: try checkDecoder(bytes, \LocalMemory.bytes) { bytes throws(WireError) in try LocalMemory(bytes) }
    case 3: try checkDecoder(bytes, \StateRequest.bytes) { bytes throws(WireError) in try StateRequest(bytes) }
    case 4:
        let count = Int(choice / 10) * 100
        try checkDecoder(bytes, { StateRequest.bytes(ofHashes: $0) }) { bytes throws(WireError) in
            try StateRequest.hashes(bytes, count: count)
        }
    case 5:
        try checkDecoder(bytes, \StripeHello.bytes) { bytes throws(WireError) in try StripeHello(bytes) }
        _ = bytes.first.flatMap { StripeAnswer(rawValue: $0) }
    case 6:
        try checkDecoder(bytes, \WindowInvitation.bytes) { bytes throws(WireError) in try WindowInvitation(bytes) }
    case 7: try checkDecoder(bytes, \WindowHandOver.bytes) { bytes throws(WireError) in try WindowHandOver(bytes) }
    case 8: try checkDecoder(bytes, \WindowRounds.bytes) { bytes throws(WireError) in try WindowRounds(bytes) }
    default: try checkPreamble(bytes)
    }
}

/// What is decoded is coded to bytes that are decoded to the same value, and takes no more memory than its bytes justify.
private func checkDecoder<T: Hashable>(
    _ bytes: [UInt8], _ encode: (T) -> [UInt8], _ decode: ([UInt8]) throws(WireError) -> T
) throws {
    let before = AllocatedBytes.now()
    let value: T
    do throws(WireError) {
        value = try decode(bytes)
    } catch {
        _ = error.description
        return
    }
    // A set of holders takes 64 bytes for each of its own, and arrays double.
    let taken = AllocatedBytes.now() - before
    try expect(taken < 65_536 + 256 * bytes.count, "\(bytes.count) bytes became \(taken) of memory")
    let again = encode(value)
    // A text that is no UTF-8 is read as something longer, of which the end may be cut off again.
    guard again.count < WireLimits.textBytes || !hasRepairs(again) else { return }
    let second: T
    do throws(WireError) {
        second = try decode(again)
    } catch {
        throw FuzzFinding("\(value) was coded as what cannot be read: \(error)")
    }
    try expect(second == value, "\(value) was coded as what is \(second)")
    try expect(encode(second) == again, "\(value) is coded in two ways")
}

/// Whether the character is there that stands for what was none.
private func hasRepairs(_ bytes: [UInt8]) -> Bool {
    let sign = Array("\u{fffd}".utf8)
    return bytes.indices.dropLast(sign.count - 1).contains { bytes[$0..<$0 + sign.count].elementsEqual(sign) }
}

private func checkFrameHeader(_ bytes: [UInt8]) throws {
    guard bytes.count >= FrameHeader.byteCount else { return }
    // At an odd address, with nothing behind it.
    let size = FrameHeader.byteCount
    let memory = UnsafeMutableRawPointer.allocate(byteCount: size + 1, alignment: 16)
    defer { memory.deallocate() }
    bytes.withUnsafeBytes { (memory + 1).copyMemory(from: $0.baseAddress!, byteCount: size) }
    guard let header = try? FrameHeader(memory + 1) else { return }
    let stored = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 8)
    defer { stored.deallocate() }
    header.store(to: stored)
    try expect(memcmp(stored, memory + 1, size) == 0, "\(header) is stored in another way")
    _ = header.kind.isNumbered
}

private func checkPreamble(_ bytes: [UInt8]) throws {
    for role in [Preamble.Role.control, .stripe] {
        let isWhole: Bool
        do throws(Preamble.Problem) {
            isWhole = try Preamble.check(bytes, expecting: role)
        } catch {
            _ = error.description
            continue
        }
        try expect(isWhole == (bytes.count >= Preamble.byteCount), "a preamble of \(bytes.count) bytes")
    }
}

/// A journal is opened, written to, and opened again. The first byte says whether the others are the file, or records of
/// it that have the right checksums: nobody would find these by chance.
func checkJournal(_ input: [UInt8]) throws {
    var bytes = Array(input.dropFirst())
    if let choice = input.first, choice % 4 > 0 {
        let ends = [bytes.count / Int(choice % 4), bytes.count]
        bytes = Journal.file([bytes[..<ends[0]], bytes[ends[0]..<ends[1]]].filter { !$0.isEmpty })
    }
    let path = "/dev/shm/pccl-fuzz-\(getpid()).journal"
    let descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    defer { unlink(path) }
    try expect(descriptor >= 0, "no file \(path) can be made")
    bytes.withUnsafeBytes { _ = pwrite(descriptor, $0.baseAddress, $0.count, 0) }
    close(descriptor)

    guard let state = try appended(path, bytes) else { return }
    guard let again = try? MasterJournal(at: path) else {
        throw FuzzFinding("a journal that was written to cannot be read")
    }
    try expect(again.restored == state, "another state came back")
}

/// Nil if the journal is refused. It is closed when this returns.
private func appended(_ path: String, _ bytes: [UInt8]) throws -> MasterState? {
    guard let journal = try? MasterJournal(at: path) else {
        var status = stat()
        stat(path, &status)
        try expect(status.st_size == bytes.count, "a journal that was refused was changed")
        return nil
    }
    let state = journal.restored ?? Seeds.states[0]
    journal.append(state)
    return state
}

/// The format of the file, written a second time.
enum Journal {
    static func file(_ records: [ArraySlice<UInt8>]) -> [UInt8] {
        var w = ByteWriter()
        for byte in [0x7f] + Array("pcclmj".utf8) + [2] { w.write(byte) }
        for record in records {
            w.write(UInt32(record.count))
            w.write(checksum(record))
            for byte in record { w.write(byte) }
        }
        return w.bytes
    }

    /// CRC-32C, bit by bit.
    private static func checksum(_ bytes: ArraySlice<UInt8>) -> UInt32 {
        ~bytes.reduce(UInt32.max) { sum, byte in
            (0..<8).reduce(sum ^ UInt32(byte)) { value, _ in value >> 1 ^ (value & 1 == 1 ? 0x82F6_3B78 : 0) }
        }
    }
}

/// Of the heap, in a build with the address sanitizer; 0 elsewhere.
enum AllocatedBytes {
    private typealias Function = @convention(c) () -> Int
    private static let function: Function? = dlsym(nil, "__sanitizer_get_current_allocated_bytes")
        .map { unsafeBitCast($0, to: Function.self) }
    static func now() -> Int { function?() ?? 0 }
}
