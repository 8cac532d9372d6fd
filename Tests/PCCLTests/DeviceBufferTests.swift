import Glibc
import PCCL
import PCCLTransport
import Testing

/// What the stand-in for a driver (Tests/FakeCUDA) is asked by tests.
struct StandIn {
    /// Where `make test-unit` has built it; other tests of this process run without a driver.
    static var path: String? { getenv("PCCL_LIBCUDA").map { String(cString: $0) } }
    static var isThere: Bool { path != nil }

    private let library: UnsafeMutableRawPointer

    init() throws {
        library = try #require(dlopen(StandIn.path, RTLD_NOW))
    }

    func function<T>(_ name: String, as type: T.Type) throws -> T {
        unsafeBitCast(try #require(dlsym(library, name)), to: type)
    }

    func calls(_ name: String) throws -> CInt {
        try function("fake_cuda_calls", as: (@convention(c) (UnsafePointer<CChar>) -> CInt).self)(name)
    }

    /// The next call of this function fails.
    func fail(_ name: String, code: CInt) throws {
        typealias Fail = @convention(c) (UnsafePointer<CChar>, CInt, CInt) -> Void
        try function("fake_cuda_fail", as: Fail.self)(name, 1, code)
    }

    func retain(_ device: CInt) throws -> UnsafeMutableRawPointer? {
        typealias Retain = @convention(c) (UnsafeMutablePointer<UnsafeMutableRawPointer?>, CInt) -> CInt
        var context: UnsafeMutableRawPointer?
        #expect(try function("cuDevicePrimaryCtxRetain", as: Retain.self)(&context, device) == 0)
        return context
    }

    func push(_ context: UnsafeMutableRawPointer?) throws {
        typealias Push = @convention(c) (UnsafeMutableRawPointer?) -> CInt
        #expect(try function("cuCtxPushCurrent_v2", as: Push.self)(context) == 0)
    }

    /// Nil: this thread has none.
    func pop() throws -> UnsafeMutableRawPointer? {
        typealias Pop = @convention(c) (UnsafeMutablePointer<UnsafeMutableRawPointer?>) -> CInt
        var context: UnsafeMutableRawPointer?
        _ = try function("cuCtxPopCurrent_v2", as: Pop.self)(&context)
        return context
    }

    /// The context that an address is of.
    func context(of address: UnsafeMutableRawPointer) throws -> UnsafeMutableRawPointer? {
        typealias Ask = @convention(c) (UnsafeMutablePointer<UnsafeMutableRawPointer?>, CInt, UInt64) -> CInt
        try push(retain(0))
        defer { _ = try? pop() }
        var context: UnsafeMutableRawPointer?
        let code = try function("cuPointerGetAttribute", as: Ask.self)(&context, 1, UInt64(UInt(bitPattern: address)))
        return code == 0 ? context : nil
    }
}

private func code<T: ~Copyable>(_ body: () throws -> T) -> PCCLError.Code? {
    do { _ = try body() } catch { return (error as? PCCLError)?.code }
    return nil
}

@Suite("Buffers of a device, where there is none")
struct DeviceBufferWithoutDriverTests {
    @Test("a buffer of no bytes is refused before a driver is asked for")
    func noBytes() {
        #expect(code { try DeviceBuffer(byteCount: 0) } == .invalidArgument)
        #expect(code { try DeviceBuffer(byteCount: -1) } == .invalidArgument)
    }

    @Test("without a driver the reason is told", .enabled(if: !StandIn.isThere && CUDAStatus.current.obstacle != nil))
    func noDriver() throws {
        do {
            _ = try DeviceBuffer(byteCount: 8)
            Issue.record("there is none")
        } catch {
            #expect(error.code == .invalidUsage)
            #expect(error.reason.contains(try #require(CUDAStatus.current.obstacle)))
        }
    }
}

@Suite(
    "Buffers of a device", .serialized, .timeLimit(.minutes(2)),
    .enabled(if: StandIn.isThere, "PCCL_LIBCUDA names no stand-in for a driver; make test-unit runs these with one"))
struct DeviceBufferTests {
    private let driver: StandIn

    init() throws {
        #expect(CUDAStatus.current.obstacle == nil)
        driver = try StandIn()
    }

    @Test("what was copied in comes out, whole and in part, at either end")
    func copies() throws {
        let buffer = try DeviceBuffer(byteCount: 10_000)
        #expect(buffer.byteCount == 10_000 && buffer.device == 0)
        var bytes = (0..<10_000).map { UInt8(truncatingIfNeeded: $0 % 251) }
        try bytes.withUnsafeBytes { try buffer.copyIn(from: $0) }
        let patch: [UInt8] = [1, 2, 3]
        for offset in [0, 5000, 9997] {
            try patch.withUnsafeBytes { try buffer.copyIn(from: $0, at: offset) }
            bytes.replaceSubrange(offset..<offset + 3, with: patch)
        }
        var out = [UInt8](repeating: 0, count: 10_000)
        try out.withUnsafeMutableBytes { try buffer.copyOut(into: $0) }
        #expect(out == bytes)
        var end = [UInt8](repeating: 0, count: 7)
        try end.withUnsafeMutableBytes { try buffer.copyOut(into: $0, at: 9993) }
        #expect(end == Array(bytes.suffix(7)))
        // Nothing, at the very end.
        try buffer.copyIn(from: UnsafeRawBufferPointer(start: nil, count: 0), at: 10_000)
    }

    @Test(
        "what does not fit is refused",
        arguments: [(-1, 1), (0, 9), (8, 1), (9, 0), (7, 2), (Int.max, 2), (Int.min, 2)])
    func bounds(offset: Int, count: Int) throws {
        let buffer = try DeviceBuffer(byteCount: 8)
        let before = try driver.calls("cuMemcpyHtoDAsync_v2")
        var bytes = [UInt8](repeating: 0, count: count)
        #expect(code { try bytes.withUnsafeBytes { try buffer.copyIn(from: $0, at: offset) } } == .invalidArgument)
        #expect(
            code { try bytes.withUnsafeMutableBytes { try buffer.copyOut(into: $0, at: offset) } } == .invalidArgument)
        #expect(try driver.calls("cuMemcpyHtoDAsync_v2") == before)
    }

    @Test("it is freed when it ends, and the thread has the context that it had")
    func life() throws {
        let (made, freed) = (try driver.calls("cuMemAlloc_v2"), try driver.calls("cuMemFree_v2"))
        let own = try driver.retain(0)
        try driver.push(own)
        do {
            let buffer = try DeviceBuffer(byteCount: 100, device: 1)
            #expect(try driver.context(of: buffer.pointer) == driver.retain(1))
            try [UInt8](repeating: 1, count: 100).withUnsafeBytes { try buffer.copyIn(from: $0) }
            #expect(try driver.calls("cuMemFree_v2") == freed)
        }
        #expect(try driver.calls("cuMemAlloc_v2") == made + 1)
        #expect(try driver.calls("cuMemFree_v2") == freed + 1)
        #expect(try driver.pop() == own)
        #expect(try driver.pop() == nil)
    }

    @Test("each device has its own, and one that is not there is refused")
    func devices() throws {
        #expect(CUDAStatus.current.deviceCount == 2, "FAKE_CUDA_DEVICES=2 is meant")
        for device in 0..<2 {
            let buffer = try DeviceBuffer(byteCount: 8, device: device)
            #expect(buffer.device == device)
            #expect(try driver.context(of: buffer.pointer) == driver.retain(CInt(device)))
        }
        for device in [-1, 2, .max] {
            #expect(code { try DeviceBuffer(byteCount: 8, device: device) } == .invalidArgument)
        }
    }

    @Test("what the driver refuses is an error that names call, device and code, and leaves nothing behind")
    func errors() throws {
        let freed = try driver.calls("cuMemFree_v2")
        try driver.fail("cuMemAlloc_v2", code: 2)
        do {
            _ = try DeviceBuffer(byteCount: 8)
            Issue.record("it was made")
        } catch {
            #expect(error.code == .internalError)
            #expect(error.reason == "cuMemAlloc on CUDA device 0: CUDA_ERROR_OUT_OF_MEMORY (2)")
        }
        #expect(try driver.calls("cuMemFree_v2") == freed)
        let buffer = try DeviceBuffer(byteCount: 8)
        var bytes: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]
        for call in ["cuCtxPushCurrent_v2", "cuStreamSynchronize", "cuMemcpyHtoDAsync_v2"] {
            try driver.fail(call, code: 1)
            #expect(code { try bytes.withUnsafeBytes { try buffer.copyIn(from: $0) } } == .internalError)
        }
        try bytes.withUnsafeBytes { try buffer.copyIn(from: $0) }
        try driver.fail("cuMemcpyDtoHAsync_v2", code: 1)
        #expect(code { try bytes.withUnsafeMutableBytes { try buffer.copyOut(into: $0) } } == .internalError)
        try bytes.withUnsafeMutableBytes { try buffer.copyOut(into: $0) }
        #expect(bytes == [1, 2, 3, 4, 5, 6, 7, 8])
        #expect(try driver.pop() == nil)
    }

    @Test("peers reduce buffers of devices, and the document's example does")
    func reduction() throws {
        let world = try LoopbackWorld(3)
        defer { world.destroy() }
        try onThreads(world.peers) { index, peer in
            let own = [Float](repeating: Float(index + 1), count: 70_000)
            let sums = try sumOnDevice(own, device: index % 2, with: peer)
            #expect(sums.count == own.count && sums.allSatisfy { $0 == 6 })
        }
    }

    @Test("a device's buffer is shared with a peer that has none")
    func sharing() throws {
        let world = try LoopbackWorld(2)
        defer { world.destroy() }
        let (count, bytes) = (600_000, 2_400_000)
        try onThreads(world.peers) { index, peer in
            let host = Buffer<Float>(count) { Float($0 + index) }
            let device = try DeviceBuffer(byteCount: bytes)
            try device.copyIn(from: UnsafeRawBufferPointer(host.elements))
            let memory = index == 0 ? device.pointer : UnsafeMutableRawPointer(host.elements.baseAddress!)
            let tensor = UnsafeMutableBufferPointer(start: memory.assumingMemoryBound(to: Float.self), count: count)
            var state = SharedState(revision: 1, [SharedState.Entry("weights", tensor)])
            try peer.synchronize(&state, index == 0 ? .receiveOnly : .sendOnly)
            if index == 0 { try device.copyOut(into: UnsafeMutableRawBufferPointer(host.elements)) }
            #expect(host.elements[0] == 1 && host.elements[count - 1] == Float(count))
        }
    }

    @Test("fragments of a DiLoCo are on different devices, and hold what a peer without any does")
    func outerSteps() throws {
        let world = try LoopbackWorld(2)
        defer { world.destroy() }
        let ends = Guarded<[Int: [[Float]]]>([:])
        try onThreads(world.peers) { index, peer in
            let (count, bytes) = (3001, 3001 * MemoryLayout<Float>.stride)
            let host = (0..<2).map { tensor in Buffer<Float>(count) { Float(($0 + tensor) % 17) / 8 } }
            let first = try DeviceBuffer(byteCount: bytes, device: 0)
            let second = try DeviceBuffer(byteCount: bytes, device: 1)
            func write() throws {
                try first.copyIn(from: UnsafeRawBufferPointer(host[0].elements))
                try second.copyIn(from: UnsafeRawBufferPointer(host[1].elements))
            }
            func read() throws {
                guard index == 0 else { return }
                try first.copyOut(into: UnsafeMutableRawBufferPointer(host[0].elements))
                try second.copyOut(into: UnsafeMutableRawBufferPointer(host[1].elements))
            }
            try write()
            let places =
                index == 0
                ? [first.pointer, second.pointer]
                : host.map { UnsafeMutableRawPointer($0.elements.baseAddress!) }
            let tensors = places.enumerated().map {
                DiLoCo.Tensor("layer\($0)", $1, count: count, type: .float32)
            }
            if index == 0 {
                #expect(code { try DiLoCo(peer, tensors, .init(syncEvery: 2)) } == .invalidArgument)
            }
            let diloco = try DiLoCo(peer, tensors, .init(.streaming(fragments: 2, overlap: 1), syncEvery: 4))
            try diloco.begin()
            for step in 1...8 {
                try read()
                for tensor in host { for i in 0..<count { tensor.elements[i] += Float((i * step + index) % 5) / 64 } }
                try write()
                try diloco.step()
            }
            try diloco.end()
            try read()
            ends.withLock { $0[index] = host.map { Array($0.elements) } }
            var entry = try #require(diloco.sharedState.entries.first { $0.name == "outer/layer1" })
            var copy = [Float](repeating: 0, count: count)
            try copy.withUnsafeMutableBytes { try entry.copyOut(into: $0) }
            #expect(copy == Array(host[1].elements))
            entry.count -= 1
            #expect(code { try copy.withUnsafeBytes { try entry.copyIn(from: $0) } } == .invalidArgument)
        }
        let found = ends.withLock { $0 }
        #expect(found[0] == found[1] && found[0] != nil)
        #expect(found[0]?[0] != (0..<3001).map { Float($0 % 17) / 8 })
    }
}
