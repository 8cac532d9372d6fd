import PCCL

/// Our own library.
final class PCCLUnderTest: PeerUnderTest {
    let communicator: Communicator
    private let work: BenchWork

    init(_ communicator: Communicator, _ work: BenchWork) {
        self.communicator = communicator
        self.work = work
    }

    func reduce(_ buffers: [BenchBuffers]) throws {
        if buffers.count == 1 {
            try communicator.allReduce(operand(buffers[0], tag: 0))
            return
        }
        let handles = try buffers.indices.map { try communicator.allReduceAsync(operand(buffers[$0], tag: $0)) }
        for handle in handles { _ = try handle.wait() }
    }

    func prepareToCount() throws { if work.optimizes { try communicator.optimizeTopology() } }

    /// Returns once so many peers are members.
    func gather(_ peers: Int) throws {
        try communicator.connect()
        while true {
            let size = try communicator.attributes().worldSize
            if size == peers { return }
            guard size < peers else {
                throw BenchFailure("this run has \(size) members, not \(peers): is the master used by others?")
            }
            if try communicator.arePeersPending() { try communicator.updateTopology() } else { sleep(milliseconds: 5) }
        }
    }

    private func operand(_ buffers: BenchBuffers, tag: Int) -> ReduceOperand {
        ReduceOperand(
            send: UnsafeRawPointer(buffers.source.baseAddress!), receive: buffers.target.baseAddress!,
            count: buffers.source.count / work.type.byteCount, type: work.type, operation: work.operation,
            tag: UInt64(tag), codec: work.codec)
    }
}
