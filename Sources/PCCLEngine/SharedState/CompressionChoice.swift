import PCCLBase

/// Whether compressing what goes to one peer makes it arrive earlier, from what was measured in this call.
///
/// It does where the processor compresses faster than the link carries, and something comes of it. The link's rate is that of
/// what was sent as it is: the first megabytes always are. Contents differ, so each tensor is tried, and tried again now and
/// then.
struct CompressionChoice {
    /// Delivered before anything is known.
    private static let tellingBytes = 4 << 20
    /// Shorter than that it was the sockets' buffers that took it.
    private static let tellingNanoseconds: UInt64 = 100_000_000
    /// The processor has other things to do, too.
    private static let lead = 1.5
    /// What is not smaller than that is sent as it is: at the other end it has to be expanded.
    static let worthwhile = 0.9
    /// Chunks that are sent as they are after one that was not worth it.
    private static let pause = 15

    private var deliveredBytes = 0
    private var since: Instant?
    private var bytesPerSecond: Double?
    private var compressedBytesPerSecond: Double?
    private var left: [Int: Int] = [:]

    /// Something that was sent as it is has arrived.
    mutating func noteDelivered(_ bytes: Int, at now: Instant) {
        guard let since else {
            // What is under way by then began at an unknown time.
            self.since = now
            return
        }
        deliveredBytes += bytes
        let nanoseconds = (now - since).nanoseconds
        guard deliveredBytes >= CompressionChoice.tellingBytes, nanoseconds >= CompressionChoice.tellingNanoseconds
        else { return }
        bytesPerSecond = Double(deliveredBytes) / Double(nanoseconds) * 1e9
    }

    /// Chunks were worth compressing so fast, or not worth it.
    mutating func noteTried(_ entry: Int, bytes: Int, nanoseconds: UInt64, isWorthwhile: Bool) {
        let rate = Double(bytes) / Double(max(nanoseconds, 1)) * 1e9
        compressedBytesPerSecond = compressedBytesPerSecond.map { ($0 * 3 + rate) / 4 } ?? rate
        left[entry] = isWorthwhile ? 0 : CompressionChoice.pause
    }

    /// Whether the next chunk of this entry is to be compressed, if something comes of it.
    mutating func isToTry(_ entry: Int) -> Bool {
        guard let bytesPerSecond else { return false }
        if let speed = compressedBytesPerSecond, speed < bytesPerSecond * CompressionChoice.lead { return false }
        let pause = left[entry] ?? 0
        if pause > 0 { left[entry] = pause - 1 }
        return pause == 0
    }
}
