import PCCLBase

/// What is to happen, by time; what is due at the same time happens in the order it was planned in.
struct EventQueue<Payload> {
    private struct Entry {
        var time: UInt64
        var order: UInt64
        var slot: Int
        func isBefore(_ other: Entry) -> Bool { (time, order) < (other.time, other.order) }
    }

    private var heap: [Entry] = []
    private var payloads: [Payload?] = []
    private var free: [Int] = []
    private var nextOrder: UInt64 = 0

    mutating func push(_ payload: Payload, at instant: Instant) {
        let slot: Int
        if let reused = free.popLast() {
            slot = reused
            payloads[slot] = payload
        } else {
            slot = payloads.count
            payloads.append(payload)
        }
        heap.append(Entry(time: instant.nanoseconds, order: nextOrder, slot: slot))
        nextOrder += 1
        var child = heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard heap[child].isBefore(heap[parent]) else { break }
            heap.swapAt(child, parent)
            child = parent
        }
    }

    mutating func pop() -> (at: Instant, payload: Payload)? {
        guard let first = heap.first else { return nil }
        let last = heap.removeLast()
        if !heap.isEmpty {
            heap[0] = last
            var parent = 0
            while true {
                var least = parent
                for child in [2 * parent + 1, 2 * parent + 2] where child < heap.count {
                    if heap[child].isBefore(heap[least]) { least = child }
                }
                if least == parent { break }
                heap.swapAt(parent, least)
                parent = least
            }
        }
        guard let payload = payloads[first.slot] else { return nil }
        payloads[first.slot] = nil
        free.append(first.slot)
        return (Instant(nanoseconds: first.time), payload)
    }
}

extension Interval {
    static func + (a: Interval, b: Interval) -> Interval { Interval(nanoseconds: a.nanoseconds + b.nanoseconds) }
}
