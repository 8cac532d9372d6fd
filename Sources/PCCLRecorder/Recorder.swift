import Glibc
import PCCLBase
import Synchronization

/// The last events of one peer: a ring that any thread writes to without a lock.
///
/// A writer takes the next number, and with it a slot. It marks the slot as being written, writes it, and then gives it its
/// time: a reader takes no slot without one, nor one whose time has changed while it looked. If a thread is interrupted in the
/// midst of a slot for as long as it takes all others to go once around the ring, that slot may hold parts of two events; the
/// rest of the ring is right.
package final class Recorder: @unchecked Sendable {
    /// Of memory, at most; so that a peer with many communicators stays small.
    package static let largestBytes = 8 << 20
    /// 131,072 events: at 40 events an operation, the last 3,000 operations of three members.
    package static let usualBytes = 4 << 20

    private let words: UnsafeMutablePointer<Atomic<UInt64>>
    private let mappedBytes: Int
    /// A power of two.
    package let capacity: Int
    private let next = Atomic<UInt64>(0)

    /// Room for the greatest power of two of events that fits into so many bytes; nil for less than one, or without memory.
    package init?(bytes: Int) {
        let fitting = min(bytes, Recorder.largestBytes) / TraceEvent.byteCount
        guard fitting > 0 else { return nil }
        let capacity = 1 << (Int.bitWidth - 1 - fitting.leadingZeroBitCount)
        // Pages that are never written to take no memory.
        let memory = mmap(
            nil, capacity * TraceEvent.byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let memory, memory != MAP_FAILED else { return nil }
        self.capacity = capacity
        mappedBytes = capacity * TraceEvent.byteCount
        words = memory.bindMemory(to: Atomic<UInt64>.self, capacity: capacity * TraceEvent.words)
    }

    deinit { munmap(words, mappedBytes) }

    package static var now: UInt64 { time(CLOCK_MONOTONIC) }
    static var wall: UInt64 { time(CLOCK_REALTIME) }

    private static func time(_ clock: clockid_t) -> UInt64 {
        var t = timespec()
        clock_gettime(clock, &t)
        return UInt64(t.tv_sec) &* 1_000_000_000 &+ UInt64(t.tv_nsec)
    }

    package func record(
        _ kind: TraceEvent.Kind, peer: PeerID? = nil, launch: LaunchNumber = LaunchNumber(0), tag: Tag = Tag(0),
        value: UInt64 = 0
    ) {
        // Looked at first: so a slot is being written for a few nanoseconds only.
        let time = Recorder.now
        let index = Int(truncatingIfNeeded: next.wrappingAdd(1, ordering: .relaxed).oldValue) & (capacity - 1)
        let slot = words + index * TraceEvent.words
        slot[0].store(0, ordering: .relaxed)
        // A reader that sees one of the words below does not see the time of the event before.
        atomicMemoryFence(ordering: .releasing)
        slot[1].store(TraceEvent.word(kind, peer, launch), ordering: .relaxed)
        slot[2].store(tag.value, ordering: .relaxed)
        slot[3].store(value, ordering: .relaxed)
        slot[0].store(time, ordering: .releasing)
    }

    /// How many events there were, those included that have been overwritten.
    package var count: UInt64 { next.load(ordering: .relaxed) }

    /// The events that are there, oldest first, but for those that are being written.
    package func events() -> [TraceEvent] {
        let end = next.load(ordering: .acquiring)
        let start = end > UInt64(capacity) ? end - UInt64(capacity) : 0
        var events: [TraceEvent] = []
        events.reserveCapacity(Int(end - start))
        for number in start..<end {
            let slot = words + (Int(truncatingIfNeeded: number) & (capacity - 1)) * TraceEvent.words
            let time = slot[0].load(ordering: .acquiring)
            let (w1, w2, w3) = (
                slot[1].load(ordering: .relaxed), slot[2].load(ordering: .relaxed), slot[3].load(ordering: .relaxed)
            )
            atomicMemoryFence(ordering: .acquiring)
            guard time != 0, slot[0].load(ordering: .relaxed) == time, let event = TraceEvent(time, w1, w2, w3)
            else { continue }
            events.append(event)
        }
        // Threads look at the clock before they take their numbers.
        events.sort { $0.nanoseconds < $1.nanoseconds }
        return events
    }
}
