import Glibc
import PCCL
import PCCLTestSupport
import PCCLTransport
import Testing

// The code between the marks is quoted in docs/swift-api.md, word for word; a test compares them.

// quote: life
func takePart(masterHost: String, masterPort: UInt16) throws {
    let master = try SocketAddress(host: masterHost, port: masterPort)
    let communicator = try Communicator(.init(master: master))
    defer { communicator.destroy() }

    try communicator.connect()
    var weights = [Float](repeating: 1, count: 1000)
    try train(&weights, with: communicator, steps: 10)
}
// unquote

// quote: join point
/// Steps of training in which everybody may come and go between any two.
func train(_ weights: inout [Float], with communicator: Communicator, steps: Int) throws {
    var hasJustJoined = true
    for _ in 0..<steps {
        // A newcomer comes out of `connect` where the members come out of `updateTopology`.
        if !hasJustJoined, try communicator.arePeersPending() { try communicator.updateTopology() }
        hasJustJoined = false
        // Here the weights are changed by this peer's own data.
        try average(&weights, with: communicator)
    }
}
// unquote

// quote: retry
/// Over as many peers as are there; alone, the values stay as they are.
func average(_ values: inout [Float], with communicator: Communicator) throws {
    while true {
        do {
            try values.withUnsafeMutableBufferPointer { buffer in
                _ = try communicator.allReduce(buffer, .average, tag: 0)
            }
            return
        } catch let error as PCCLError where error.code == .rankConnectionLost {
            continue  // The values are as they were before the call, and the view is new.
        } catch let error as PCCLError where error.code == .tooFewPeers {
            return
        }
    }
}
// unquote

// quote: resume
/// Over whoever is left at the end of each part; says how many were in all of it, at least.
func averageAnyway(_ values: inout [Float], with communicator: Communicator) throws -> Int {
    try values.withUnsafeMutableBufferPointer { buffer in
        let info = try communicator.allReduce(buffer, .average, tag: 0, onLoss: .resume)
        return info.parts.map(\.worldSize).min() ?? info.worldSize
    }
}
// unquote

// quote: many
/// Averages all layers, eight at a time; what a loss interrupts goes on.
func average(layers: [UnsafeMutableBufferPointer<Float>], with communicator: Communicator) throws -> ReduceInfo {
    let operands = layers.enumerated().map { ReduceOperand($1, .average, tag: UInt64($0)) }
    return try communicator.allReduceWithRetry(operands, maxInFlight: 8)
}
// unquote

// quote: codes
/// An eighth of the bytes; what coding loses in one round is added to the next.
func averageCoarsely(_ values: UnsafeMutableBufferPointer<Float>, with communicator: Communicator) throws {
    let operand = ReduceOperand(values, .average, tag: 7, codec: Codec(.int4), errorFeedback: true)
    try communicator.allReduce(operand)
}
// unquote

// quote: other collectives
/// How far each member is, by rank, whoever is there.
func standings(_ own: UInt64, with communicator: Communicator) throws -> [UInt64] {
    while true {
        var all = [UInt64](repeating: 0, count: try communicator.attributes().worldSize)
        do {
            try withUnsafePointer(to: own) { own in
                _ = try all.withUnsafeMutableBufferPointer {
                    try communicator.allGather(UnsafeBufferPointer(start: own, count: 1), into: $0, tag: 9)
                }
            }
            return all
        } catch let error as PCCLError where error.code == .rankConnectionLost {
            continue  // There are fewer members now than there is room for: again, with less.
        }
    }
}
// unquote

// quote: DiLoCo
/// Trains with whoever comes, until so many rounds are done; the model has the outer parameters then.
func trainTogether(
    _ weights: UnsafeMutableBufferPointer<Float>, rounds: UInt64, with communicator: Communicator,
    trainOneStep: () -> Void
) throws -> String {
    var configuration = DiLoCo.Configuration(.streaming(fragments: 1, overlap: 5), syncEvery: 50)
    configuration.codec = Codec(.e3m0)
    let diloco = try DiLoCo(communicator, [DiLoCo.Tensor("weights", weights)], configuration)
    try diloco.begin()
    while diloco.round < rounds {
        trainOneStep()
        for info in try diloco.step() { print("round \(info.round): \(info.worldSize) peers") }
    }
    try diloco.end()
    return try diloco.parametersHash
}
// unquote

// quote: handles
/// Reduces while something else is computed.
func overlap(
    _ gradients: UnsafeMutableBufferPointer<Float>, with communicator: Communicator, compute: () -> Void
) throws -> ReduceInfo {
    let handle = try communicator.allReduceAsync(gradients, .sum, tag: 1)
    compute()  // `gradients` is lent: neither read nor written here.
    return try handle.wait()
}
// unquote

// quote: async
/// In asynchronous code nothing blocks: the task is suspended.
func meetAndSum(_ values: UnsafeMutableBufferPointer<Double>, with communicator: Communicator) async throws -> Int {
    try await communicator.connect()
    while try communicator.attributes().worldSize < 2 {
        if try await communicator.arePeersPending() { try await communicator.updateTopology() }
    }
    return try await communicator.allReduceAsync(values, .sum, tag: 0).outcome().worldSize
}
// unquote

// quote: master
func serveUntilInterrupted(_ master: Master) throws {
    try master.run()
    print("listening at \(master.address)")
    try master.awaitTermination()  // Until somebody calls `interrupt`.
}
// unquote

// quote: device
/// What everybody has, added up by way of a device's memory, for a program that has no CUDA of its own.
func sumOnDevice(_ own: [Float], device: Int, with communicator: Communicator) throws -> [Float] {
    let buffer = try DeviceBuffer(byteCount: own.count * MemoryLayout<Float>.stride, device: device)
    try own.withUnsafeBytes { try buffer.copyIn(from: $0) }
    try communicator.allReduce(
        ReduceOperand(
            send: buffer.pointer, receive: buffer.pointer, count: own.count, type: .float32, operation: .sum, tag: 11))
    var sums = own
    try sums.withUnsafeMutableBytes { try buffer.copyOut(into: $0) }
    return sums
}
// unquote

// quote: shared state
/// Everybody ends with what most members hold; whoever has just joined gets it from all of them at once.
func share(
    _ weights: UnsafeMutableBufferPointer<Float>, step: UInt64, with communicator: Communicator
) throws -> UInt64 {
    var state = SharedState(revision: step, [SharedState.Entry("weights", weights)])
    let moved = try communicator.synchronize(&state)
    if moved.receivedBytes > 0 { print("caught up with step \(state.revision)") }
    return state.revision
}
// unquote

// quote: snapshots
/// The newest snapshot in the folder, if there is one; then a new one after each round, of which three are kept.
func trainWithSnapshots(_ state: inout SharedState, in folder: String, rounds: Int) throws {
    if (try? state.load(from: folder)) == nil { print("no snapshot: the run begins with what it has") }
    for _ in 0..<rounds {
        // Here the tensors are changed.
        state.revision += 1
        try state.save(to: folder, keep: 3)  // Returns soon: what is changed from now on is not in the file.
    }
    try state.save(to: folder, keep: 3).wait()
}
// unquote

@Suite("The examples of the documents", .serialized, .timeLimit(.minutes(2)))
struct DocumentedExamples {
    @Test("life, join point and retry: three peers train, coming and going when they like")
    func training() throws {
        let master = try Master(listen: .loopback(port: 0))
        let serving = InThread { try serveUntilInterrupted(master) }
        while master.port == 0 {}
        _ = try together(3) { _ in try takePart(masterHost: "127.0.0.1", masterPort: master.port) }
        try master.interrupt()
        try serving.result()
    }

    @Test("layers and handles")
    func layers() throws {
        let world = try LoopbackWorld(2)
        defer { world.destroy() }
        try onThreads(world.peers) { index, peer in
            let buffers = (0..<20).map { _ in Buffer<Float>(500) { _ in Float(1 + 2 * index) } }
            let averaged = try average(layers: buffers.map(\.elements), with: peer)
            #expect(averaged.worldSize == 2)
            #expect(buffers.allSatisfy { $0.elements.allSatisfy { $0 == 2 } })
            let summed = try overlap(buffers[0].elements, with: peer, compute: {})
            #expect(summed.worldSize == 2)
            #expect(buffers[0].elements[0] == 4)
        }
    }

    @Test("the average of members that stay together, repeated after one has gone")
    func averages() throws {
        let world = try LoopbackWorld(3)
        defer { world.destroy() }
        try onThreads(world.peers) { index, peer in
            var values = [Float](repeating: Float(index), count: 100)
            try average(&values, with: peer)
            #expect(values.allSatisfy { $0 == 1 })
            if index == 2 { return peer.destroy() }
            values = [Float](repeating: Float(2 + 4 * index), count: 100)
            try average(&values, with: peer)
            #expect(values.allSatisfy { $0 == 4 })
            values = [Float](repeating: Float(index), count: 100)
            let worldSize = try averageAnyway(&values, with: peer)
            #expect(worldSize == 2 && values.allSatisfy { $0 == 0.5 })
        }
        var alone: [Float] = [7]
        world.peers[0].destroy()
        try average(&alone, with: world.peers[1])
        #expect(alone == [7])
    }

    @Test("the mean of coarse averages is right, until what was lost is forgotten")
    func coarseAverages() throws {
        let world = try LoopbackWorld(2)
        defer { world.destroy() }
        let means = Guarded<[[Float]]>([])
        try onThreads(world.peers) { index, peer in
            let buffer = Buffer<Float>(1000) { _ in 0 }
            var sums = [Float](repeating: 0, count: 1000)
            for _ in 0..<50 {
                for i in 0..<1000 { buffer.elements[i] = Float(i % 97 + index) }
                try averageCoarsely(buffer.elements, with: peer)
                for i in 0..<1000 { sums[i] += buffer.elements[i] }
            }
            means.withLock { $0.append(sums.map { $0 / 50 }) }
            #expect(peer.freeErrorFeedback(tag: 7))
            #expect(!peer.freeErrorFeedback(tag: 7))
        }
        let both = means.withLock { $0 }
        #expect(both[0] == both[1])
        // One of them would be off by up to 7.
        for i in 0..<1000 { #expect(abs(both[0][i] - (Float(i % 97) + 0.5)) < 0.5) }
    }

    @Test("tasks")
    func tasks() async throws {
        let master = try Master(listen: .loopback(port: 0))
        try master.run()
        let peers = try (0..<2).map { _ in try Communicator(.init(master: .loopback(port: master.port))) }
        let buffers = (0..<2).map { _ in Buffer<Double>(10) { _ in 1.5 } }
        async let first = meetAndSum(buffers[0].elements, with: peers[0])
        async let second = meetAndSum(buffers[1].elements, with: peers[1])
        let worldSizes = try await [first, second]
        #expect(worldSizes == [2, 2])
        #expect(buffers[0].elements[9] == 3)
        for peer in peers { peer.destroy() }
        master.destroy()
    }

    @Test("shared state")
    func sharedState() throws {
        let world = try LoopbackWorld(2)
        defer { world.destroy() }
        let weights = (0..<2).map { index in Buffer<Float>(1000) { _ in Float(index) } }
        try onThreads([0, 1]) { [peers = world.peers] (_, index: Int) in
            let step = try share(weights[index].elements, step: 12, with: peers[index])
            #expect(step == 12)
        }
        #expect(weights[0].isAll(weights[1].elements[0]) && weights[1].isAll(weights[0].elements[0]))
    }

    @Test("other collectives, and DiLoCo")
    func collectivesAndDiLoCo() throws {
        let world = try LoopbackWorld(2)
        defer { world.destroy() }
        let hashes = Guarded<Set<String>>([])
        try onThreads(world.peers) { index, peer in
            let rank = try peer.attributes().rank
            #expect(try standings(UInt64(10 + rank), with: peer) == [10, 11])
            let weights = Buffer<Float>(300) { Float($0) }
            let hash = try trainTogether(weights.elements, rounds: 2, with: peer) { weights.elements[index] += 0.25 }
            hashes.withLock { _ = $0.insert(hash) }
            #expect(weights.elements[0] > 0 && weights.elements[1] > 1 && weights.elements[2] == 2)
        }
        #expect(hashes.withLock { $0.count } == 1)
    }

    @Test("snapshots")
    func snapshots() throws {
        let folder = "/tmp/pccl-example-\(getpid())"
        #expect(mkdir(folder, 0o700) == 0)
        let values = Buffer<Float>(10) { Float($0) }
        try goOn(values, in: folder, rounds: 4)
        values.elements[3] = 99
        try goOn(values, in: folder, rounds: 0)
        #expect(values.elements[3] == 3)
        for revision in 2...4 { unlink("\(folder)/snapshot-0000000000000000000\(revision).safetensors") }
        #expect(rmdir(folder) == 0, "three are kept")
    }

    private func goOn(_ values: Buffer<Float>, in folder: String, rounds: Int) throws {
        var state = SharedState([.init("values", values.elements)])
        try trainWithSnapshots(&state, in: folder, rounds: rounds)
        #expect(state.revision == 4)
    }
}
