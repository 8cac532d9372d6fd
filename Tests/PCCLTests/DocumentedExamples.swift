import PCCL
import Testing

/// The code of docs/swift-api.md, so that it compiles and does what the page says.
@Suite("Examples of the documentation", .timeLimit(.minutes(5)))
struct DocumentedExamples {
    @Test("the training loop trains, and ends with whoever is there")
    func trainingLoop() throws {
        let master = try Master(listen: SocketAddress(host: "127.0.0.1", port: 0))
        try master.run()
        defer { master.destroy() }
        let port = master.port
        try onThreads([Float(1), 2]) { _, value in
            let communicator = try Communicator(.init(master: SocketAddress(host: "127.0.0.1", port: port)))
            try communicator.connect()
            defer { communicator.destroy() }
            let memory = Buffer<Float>(1000) { _ in value }
            try train(communicator, memory.elements, steps: 20)
        }
    }

    private func train(
        _ communicator: Communicator, _ gradient: UnsafeMutableBufferPointer<Float>, steps: Int
    ) throws(PCCLError) {
        var step = 0
        while step < steps {
            do throws(PCCLError) {
                try communicator.allReduce(gradient, .average, tag: 0)
                step += 1
            } catch {
                switch error.code {
                case .rankConnectionLost: continue
                // The other one has finished: go on alone.
                case .tooFewPeers where step > 0: step += 1
                case .tooFewPeers: break
                default: throw error
                }
            }
            if try communicator.arePeersPending() { try communicator.updateTopology() }
        }
    }

    @Test("several tags at once, and the asynchronous forms")
    func asynchronous() async throws {
        let world = try LoopbackWorld(2)
        defer { world.destroy() }
        async let first = reduce(world.peers[0])
        async let second = reduce(world.peers[1])
        #expect(try await [first, second] == [2, 2])
    }

    private func reduce(_ communicator: Communicator) async throws -> Float {
        let layers = (0..<3).map { _ in Buffer<Float>(100) { _ in 1 } }
        let handles = try layers.enumerated().map {
            try communicator.allReduceAsync($1.elements, .sum, tag: UInt64($0))
        }
        for handle in handles { _ = try await handle.outcome() }
        return layers[2].elements[99]
    }
}
