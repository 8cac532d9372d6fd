import CCUDA
import PCCLBase
import Synchronization

/// Buffers of an operation of which one at least is memory of a device.
///
/// An operation between peers that share a device's memory works on them where they lie (`useDevice`). Any other works on
/// memory of the host that stands for them (`useHost`).
///
/// Small ones are copied as a whole: what is sent before the operation begins, what is received when it has succeeded, so that
/// the device's memory is as it was until then. Buffers that overlap, as those of an operation in place do, stand in the same
/// relation there. Of large ones the operation asks for the pieces of what it sends (`fetch`), and gives back pieces of the
/// result as they become final (`giveBack`), while others are on the network; after a failure `settle` undoes what the
/// latter have overwritten.
package final class DeviceBuffers: Sendable {
    private struct Buffer: @unchecked Sendable {
        var pointer: UnsafeMutableRawPointer
        var count: Int
        /// Nil: it is memory of the host.
        var location: DeviceLocation?
        var address: UInt { UInt(bitPattern: pointer) }
        var range: Range<UInt> { address..<address + UInt(count) }
    }
    private let send: Buffer
    private let receive: Buffer

    /// How the host's memory stands for the device's.
    package enum Staging: Sendable {
        case whole
        /// `apart`: what is received does not take the place of what is sent, although it may on the device.
        case pieces(apart: Bool)
    }

    /// What stands for them on the host.
    package struct Staged: @unchecked Sendable {
        package fileprivate(set) var send: UnsafeRawPointer
        package fileprivate(set) var receive: UnsafeMutableRawPointer
        /// The input is there only as far as it was fetched.
        package var isInPieces: Bool { pieces != nil }
        fileprivate var pieces: Pieces?
        fileprivate var memory: [PinnedMemory] = []
    }

    /// What is copied of them while the operation goes on.
    fileprivate final class Pieces: Sendable {
        struct Return {
            /// Of the result as it is final now, on the device already or on the way there: in bytes, in no order.
            var parts: [Range<Int>] = []
            /// All that was ever put there.
            var overwritten: [Range<Int>] = []
            /// Of those on the way.
            var failure: DeviceError?
        }
        let returned = Mutex(Return())
        struct Fetches {
            /// Asked for, and not there.
            var underWay = 0
            var failure: DeviceError?
        }
        let fetched = Mutex(Fetches())
        /// What was sent is not where the result goes to, on the host.
        let isApart: Bool
        /// Nothing is copied any more of what was asked for.
        let isOver = Atomic(false)

        init(isApart: Bool) { self.isApart = isApart }
    }
    private struct State {
        var staged: Staged?
        /// The result is there, and not on the device.
        var usesHost = false
        var coding: DeviceCoding?
        var usesCoding = false
    }
    private let state = Mutex(State())
    /// Once it is known how the way back went.
    private let outcome = Mutex<Result<Void, DeviceError>?>(nil)

    /// Nil if both are memory of the host. `stream`: what writes the input is on it, or was there before; nil is the default
    /// stream. Blocks until that is done, and what is on the default stream where the result goes to.
    package init?(
        send: UnsafeRawPointer, sendCount: Int, receive: UnsafeMutableRawPointer, receiveCount: Int,
        stream: OpaquePointer? = nil
    ) throws(DeviceError) {
        let source = sendCount > 0 ? try DeviceLocation(of: send) : nil
        let goal = receiveCount > 0 ? try DeviceLocation(of: UnsafeRawPointer(receive)) : nil
        guard source != nil || goal != nil else { return nil }
        self.send = Buffer(
            pointer: UnsafeMutableRawPointer(mutating: send), count: sendCount, location: source)
        self.receive = Buffer(pointer: receive, count: receiveCount, location: goal)
        if let source { try DeviceBuffers.wait(for: stream, at: source) }
        // What is there may be in use.
        if let goal, source.map({ !goal.isSameContext(as: $0) }) ?? true {
            try DeviceBuffers.wait(for: source == nil ? stream : nil, at: goal)
        }
    }

    private static func wait(for stream: OpaquePointer?, at source: DeviceLocation) throws(DeviceError) {
        try source.inContext { () throws(DeviceError) in
            if let stream {
                var capture: CInt = 0
                try DeviceDriver.check(
                    pccl_cuda_stream_is_capturing(stream, &capture), "cuStreamIsCapturing", device: source.device)
                // An operation that may have to be repeated cannot be recorded.
                try DeviceDriver.check(
                    capture == 0 ? CInt(pccl_cuda_success) : CInt(pccl_cuda_stream_capture_unsupported),
                    "a stream that is captured",
                    device: source.device)
                try DeviceDriver.check(
                    pccl_cuda_stream_synchronize(stream), "cuStreamSynchronize", device: source.device)
            }
            // What is done next is done on streams that do not wait for it.
            try DeviceDriver.check(pccl_cuda_stream_synchronize(nil), "cuStreamSynchronize", device: source.device)
        }
    }

    /// Where both are, if that is one device.
    package var location: DeviceLocation? {
        guard let first = send.location, let second = receive.location, first.isSameContext(as: second) else {
            return nil
        }
        return first
    }

    // MARK: on the host

    /// From now on the operation works on the device.
    package func useDevice() {
        state.withLock {
            $0.usesHost = false
            $0.usesCoding = false
        }
    }

    /// From now on the operation works on this. Blocks, unless `stage` was called before, until the input is there, or there is
    /// room for its pieces.
    package func useHost(_ staging: Staging) throws(DeviceError) -> Staged {
        let staged = try stage(staging)
        state.withLock {
            $0.usesHost = true
            $0.usesCoding = false
        }
        return staged
    }

    /// Does what `useHost` would wait for, in case that is where the operation goes. Once; who comes later gets the same.
    @discardableResult
    package func stage(_ staging: Staging) throws(DeviceError) -> Staged {
        let result: Result<Staged, DeviceError> = state.withLock { state in
            if let staged = state.staged { return .success(staged) }
            let result = Result { () throws(DeviceError) in
                switch staging {
                case .whole: try makeStaged()
                case .pieces(let apart): try makeRoom(apart: apart)
                }
            }
            if case .success(let staged) = result { state.staged = staged }
            return result
        }
        return try result.get()
    }

    /// Without what is sent.
    private func makeMemory(apart: Bool) throws(DeviceError) -> Staged {
        var staged = Staged(send: UnsafeRawPointer(send.pointer), receive: receive.pointer)
        if !apart, let source = send.location, receive.location != nil, send.range.overlaps(receive.range) {
            let start = min(send.range.lowerBound, receive.range.lowerBound)
            let end = max(send.range.upperBound, receive.range.upperBound)
            let whole = try PinnedMemory(count: Int(end - start), near: source)
            staged.memory.append(whole)
            staged.send = UnsafeRawPointer(whole.start + Int(send.range.lowerBound - start))
            staged.receive = whole.start + Int(receive.range.lowerBound - start)
        } else {
            if let source = send.location {
                let memory = try PinnedMemory(count: send.count, near: source)
                staged.memory.append(memory)
                staged.send = UnsafeRawPointer(memory.start)
            }
            if let goal = receive.location {
                let memory = try PinnedMemory(count: receive.count, near: goal)
                staged.memory.append(memory)
                staged.receive = memory.start
            }
        }
        return staged
    }

    private func makeStaged() throws(DeviceError) -> Staged {
        let staged = try makeMemory(apart: false)
        guard let source = send.location else { return staged }
        do throws(DeviceError) {
            // On a stream of its own: it waits for nothing that the caller has put on its streams since.
            try DeviceQueue.of(source).read(
                UnsafeMutableRawPointer(mutating: staged.send), from: send.pointer, send.count)
        } catch {
            staged.abandon()
            throw error
        }
        return staged
    }

    /// After a success: the result is in the caller's memory when this returns. Once, whoever asks; others wait for it and
    /// are told the same.
    package func bringBack() throws(DeviceError) {
        let (staged, coding) = state.withLock { ($0.usesHost ? $0.staged : nil, $0.usesCoding ? $0.coding : nil) }
        guard let goal = receive.location, staged != nil || coding != nil else { return }
        let outcome: Result<Void, DeviceError> = outcome.withLock { known in
            if let known { return known }
            let outcome = Result { () throws(DeviceError) in
                if let coding { return try coding.bringBack() }
                guard let staged else { return }
                if let pieces = staged.pieces {
                    try bringRest(staged, pieces, to: goal)
                } else {
                    try DeviceQueue.of(goal).write(receive.pointer, from: staged.receive, receive.count)
                }
            }
            if case .failure = outcome { staged?.abandon() }
            known = outcome
            return outcome
        }
        try outcome.get()
    }

    // MARK: coded

    /// If the device can code the operation, takes what it needs for that, of segments of at most so many elements.
    package func prepareCoding(_ descriptor: OperationDescriptor, segmentElements: Int) -> Bool {
        guard let location else { return false }
        return state.withLock { state in
            if state.coding != nil { return true }
            state.coding = DeviceCoding(
                descriptor, segmentElements: segmentElements, send: send.range, receive: receive.range, at: location)
            return state.coding != nil
        }
    }

    /// From now on the device codes the operation; nil if that was not prepared.
    package func useCoding() -> DeviceCoding? {
        state.withLock { state in
            guard let coding = state.coding else { return nil }
            state.usesCoding = true
            state.usesHost = false
            coding.begin()
            return coding
        }
    }

    // MARK: in pieces

    private func makeRoom(apart: Bool) throws(DeviceError) -> Staged {
        // Their threads are there before an operation depends on them.
        for location in [send.location, receive.location] { if let location { _ = try DevicePassage.of(location) } }
        var staged = try makeMemory(apart: apart)
        staged.pieces = Pieces(isApart: apart)
        return staged
    }

    package var sendsFromDevice: Bool { send.location != nil }
    package var receivesOnDevice: Bool { receive.location != nil }

    private var inPieces: (staged: Staged, pieces: Pieces)? {
        guard let staged = state.withLock({ $0.staged }), let pieces = staged.pieces else { return nil }
        return (staged, pieces)
    }

    /// Has these parts of what is sent, in bytes from its start, copied to the host. `end` is called on another thread.
    package func fetch(_ parts: [Range<Int>], then end: @escaping DeviceWorker.End) {
        guard let source = send.location, let (staged, pieces) = inPieces else { return end(.success(())) }
        do throws(DeviceError) {
            let passage = try DevicePassage.of(source)
            pieces.fetched.withLock { $0.underWay += 1 }
            passage.outward.submit(fetching(parts, staged, pieces)) { result in
                pieces.fetched.withLock { fetched in
                    fetched.underWay -= 1
                    if case .failure(let error) = result { fetched.failure = fetched.failure ?? error }
                }
                end(result)
            }
        } catch {
            pieces.fetched.withLock { $0.failure = $0.failure ?? error }
            end(.failure(error))
        }
    }

    /// Blocks until all is there that was asked for.
    package func awaitFetched() throws(DeviceError) {
        guard let (_, pieces) = inPieces else { return }
        drain(send.location) { $0.outward }
        if let failure = pieces.fetched.withLock({ $0.failure }) { throw failure }
    }

    private func fetching(_ parts: [Range<Int>], _ staged: Staged, _ pieces: Pieces) -> DeviceWorker.Work {
        { [send] (stream) throws(DeviceError) in
            guard !pieces.isOver.load(ordering: .relaxed) else { return }
            try staged.holding(stream) { (stream) throws(DeviceError) in
                let to = UnsafeMutableRawPointer(mutating: staged.send)
                for part in parts {
                    try stream.read(to + part.lowerBound, from: send.address + UInt(part.lowerBound), part.count)
                }
            }
        }
    }

    /// These parts of what is received, in bytes from its start, are final on the host: has them copied to the device. What
    /// becomes of it `bringBack` says.
    package func giveBack(_ parts: [Range<Int>]) {
        guard let goal = receive.location, let (staged, pieces) = inPieces else { return }
        pieces.returned.withLock {
            $0.parts += parts
            $0.overwritten += parts
        }
        do throws(DeviceError) {
            try DevicePassage.of(goal).inward.submit(returning(parts, staged, pieces)) { result in
                if case .failure(let error) = result { pieces.returned.withLock { $0.failure = $0.failure ?? error } }
            }
        } catch {
            pieces.returned.withLock { $0.failure = $0.failure ?? error }
        }
    }

    private func returning(_ parts: [Range<Int>], _ staged: Staged, _ pieces: Pieces) -> DeviceWorker.Work {
        { [receive] (stream) throws(DeviceError) in
            guard !pieces.isOver.load(ordering: .relaxed) else { return }
            try staged.holding(stream) { (stream) throws(DeviceError) in
                for part in parts {
                    try stream.write(
                        receive.address + UInt(part.lowerBound), from: staged.receive + part.lowerBound, part.count)
                }
            }
        }
    }

    /// These parts of the result are on the device already, since they are what was sent from there.
    package func noteInPlace(_ parts: [Range<Int>]) { inPieces?.pieces.returned.withLock { $0.parts += parts } }

    /// Whether what is sent from the one place is received at the other.
    package func isInPlace(sendOffset: Int, receiveOffset: Int) -> Bool {
        send.pointer + sendOffset == receive.pointer + receiveOffset
    }

    private func bringRest(_ staged: Staged, _ pieces: Pieces, to goal: DeviceLocation) throws(DeviceError) {
        let rest = pieces.returned.withLock { Range.gaps(in: 0..<receive.count, without: $0.parts) }
        // Behind all that is on the way.
        try DevicePassage.of(goal).inward.perform(returning(rest, staged, pieces))
        if let failure = pieces.returned.withLock({ $0.failure }) { throw failure }
    }

    /// The operation goes on from what it has on the host: what was given back is not final any more. Blocks until nothing is
    /// on the way.
    package func beginAgain() {
        guard let (_, pieces) = inPieces else { return }
        drain(receive.location) { $0.inward }
        pieces.returned.withLock { $0.parts = [] }
    }

    /// The caller's memory is the caller's again, but for `bringBack`, when this returns, and what was sent whole unless the
    /// operation succeeded. Throws if it is not. What did not succeed may be begun anew.
    package func settle(succeeded: Bool) throws(DeviceError) {
        guard let (staged, pieces) = inPieces else { return }
        if succeeded {
            // What nobody has waited for.
            if pieces.fetched.withLock({ $0.underWay > 0 }) { drain(send.location) { $0.outward } }
            return
        }
        pieces.isOver.store(true, ordering: .relaxed)
        drain(send.location) { $0.outward }
        drain(receive.location) { $0.inward }
        state.withLock { $0.staged = nil }
        guard pieces.isApart, let goal = receive.location, send.location != nil else { return }
        let lost = pieces.returned.withLock { $0.overwritten }
            .map { receive.address + UInt($0.lowerBound)..<receive.address + UInt($0.upperBound) }
            .map { $0.clamped(to: send.range) }
            .filter { !$0.isEmpty }
        guard !lost.isEmpty else { return }
        try DevicePassage.of(goal).inward.perform { [send] (stream) throws(DeviceError) in
            try staged.holding(stream) { (stream) throws(DeviceError) in
                for part in lost {
                    let from = staged.send + Int(part.lowerBound - send.address)
                    try stream.write(part.lowerBound, from: from, part.count)
                }
            }
        }
    }

    /// Nobody wants the result. Blocks until nothing is on the way to the device.
    package func forgetResult() {
        guard let (_, pieces) = inPieces else { return }
        pieces.isOver.store(true, ordering: .relaxed)
        drain(receive.location) { $0.inward }
    }

    private func drain(_ location: DeviceLocation?, _ worker: (DevicePassage) -> DeviceWorker) {
        guard let location, let passage = try? DevicePassage.of(location) else { return }
        worker(passage).drain()
    }
}

extension DeviceBuffers.Staged {
    /// After an error copies may be under way still, and come from or to memory that somebody else has by then.
    fileprivate func abandon() { for memory in memory { memory.abandon() } }

    /// Has a stream copy from or to it, and waits.
    fileprivate func holding(
        _ stream: borrowing DeviceStream, _ body: (borrowing DeviceStream) throws(DeviceError) -> Void
    ) throws(DeviceError) {
        do throws(DeviceError) {
            try body(stream)
            try stream.finish()
        } catch {
            abandon()
            throw error
        }
    }
}

extension Range<Int> {
    /// What of the whole is in none of the parts.
    fileprivate static func gaps(in whole: Range<Int>, without parts: [Range<Int>]) -> [Range<Int>] {
        var gaps: [Range<Int>] = []
        var start = whole.lowerBound
        for part in parts.sorted(by: { $0.lowerBound < $1.lowerBound }) {
            if part.lowerBound > start { gaps.append(start..<part.lowerBound) }
            start = Swift.max(start, part.upperBound)
        }
        if start < whole.upperBound { gaps.append(start..<whole.upperBound) }
        return gaps
    }
}
