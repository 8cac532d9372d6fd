import CCUDA
import PCCLBase
import Synchronization

/// An operation that travels as codes, on buffers of one device: they are made and folded there, so that the host has codes
/// only, and all arithmetic is the device's.
///
///     device:  elements ─encode─▶ codes      codes ─add … encode, decode─▶ result     codes ─decode─▶ result
///                                   │          ▲                            │           ▲
///     host:                         └─▶ sent   └─ contributions of others    └─▶ sent   └─ results of others
///
/// Three workers, so that the three go on side by side. What is sent is left alone: where the result takes its place, it is
/// made in other memory and copied there when the operation has succeeded. Any thread may call it.
package final class DeviceCoding: Sendable {
    private let passage: DevicePassage
    private let coder: DeviceCoder
    private let segmentElements: Int
    /// Where the result goes.
    private let goal: (address: UInt, count: Int)
    /// Where it is made, if that is elsewhere.
    private let apart: DeviceMemoryBox?
    private let isOver = Atomic(false)

    package let send: UInt
    /// Where results are made.
    package var receive: UInt { apart?.address ?? goal.address }
    package let location: DeviceLocation

    /// Of segments of at most so many elements. Nil where it cannot be done, or not yet, or there is no memory.
    init?(
        _ descriptor: OperationDescriptor, segmentElements: Int, send: Range<UInt>, receive: Range<UInt>,
        at location: DeviceLocation
    ) {
        let alignment = UInt(descriptor.type.byteCount)
        guard send.lowerBound % alignment == 0, receive.lowerBound % alignment == 0,
            let coder = DeviceCoder(
                descriptor.codec, type: descriptor.type, operation: descriptor.operation, at: location),
            let passage = try? DevicePassage.of(location), passage.reserve(coder.scratchBytes(segmentElements))
        else { return nil }
        if send.overlaps(receive) {
            guard let memory = passage.takeSpare(receive.count) else { return nil }
            apart = memory
        } else {
            apart = nil
        }
        self.passage = passage
        self.coder = coder
        self.segmentElements = segmentElements
        self.send = send.lowerBound
        self.location = location
        goal = (receive.lowerBound, receive.count)
    }

    deinit { if let apart { passage.giveBack(spare: apart) } }

    /// Once for each attempt.
    package func begin() { isOver.store(false, ordering: .relaxed) }

    /// One segment of what is sent, and where its codes go, on the host.
    package func encode(
        _ elements: UInt, into codes: UnsafeMutableRawPointer, count: Int, then end: @escaping DeviceWorker.End
    ) {
        let codes = HostPlace(pointer: codes)
        submit(to: passage.outward, passage.outwardScratch, end) { [coder] (stream, scratch) throws(DeviceError) in
            try coder.encode(elements, into: codes.pointer, count: count, scratch: scratch, stream)
        }
    }

    package func decode(
        _ codes: UnsafeMutableRawPointer, into elements: UInt, count: Int, then end: @escaping DeviceWorker.End
    ) {
        let codes = HostPlace(pointer: codes)
        submit(to: passage.inward, passage.inwardScratch, end) { [coder] (stream, scratch) throws(DeviceError) in
            try coder.decode(codes.pointer, into: elements, count: count, scratch: scratch, stream)
        }
    }

    package func fold(_ fold: DeviceCoder.Fold, then end: @escaping DeviceWorker.End) {
        submit(to: passage.folding, passage.foldingScratch, end) { [coder] (stream, scratch) throws(DeviceError) in
            try coder.fold(fold, scratch: scratch, stream)
        }
    }

    private func submit(
        to worker: DeviceWorker, _ scratch: DeviceScratch, _ end: @escaping DeviceWorker.End,
        _ work: @escaping @Sendable (borrowing DeviceStream, UInt) throws(DeviceError) -> Void
    ) {
        let bytes = coder.scratchBytes(segmentElements)
        worker.submit(
            { [self] (stream) throws(DeviceError) in
                guard !isOver.load(ordering: .relaxed) else { return }
                try work(stream, try scratch.address(bytes))
            }, then: end)
    }

    /// After a success: blocks until the result is where it belongs.
    func bringBack() throws(DeviceError) {
        guard let apart else { return }
        try passage.inward.perform { [goal] (stream) throws(DeviceError) in
            try stream.copy(goal.address, from: apart.address, goal.count)
        }
    }

    /// Nothing is asked for any more. Blocks until what was is done.
    package func end() {
        isOver.store(true, ordering: .relaxed)
        for worker in [passage.outward, passage.folding, passage.inward] { worker.drain() }
    }

    private struct HostPlace: @unchecked Sendable { var pointer: UnsafeMutableRawPointer }
}
