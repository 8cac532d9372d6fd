import PCCLBase
import PCCLTransport

/// How far operations have come, for whoever asks what they wait for.
extension Engine {
    package func progress(of launches: [LaunchNumber]) -> [LaunchNumber: OperationProgress] {
        var progress: [LaunchNumber: OperationProgress] = [:]
        for launch in launches {
            let execution = executions[launch]
            let operation: (any EngineOperation)? = execution ?? runs[launch]
            guard let place = operation?.place else {
                progress[launch] = OperationProgress(members: [])
                continue
            }
            let members = place.members.enumerated().filter { $0.offset != place.rank }.map { rank, peer in
                var member =
                    execution?.progress(with: rank, peer) ?? OperationProgress.Member(peer: peer, silence: nil)
                member.silence = links[peer].map { loop.now - $0.lastReceived }
                return member
            }
            progress[launch] = OperationProgress(members: members)
        }
        return progress
    }
}

extension Execution {
    fileprivate func progress(with rank: Int, _ peer: PeerID) -> OperationProgress.Member {
        var member = OperationProgress.Member(peer: peer, silence: nil)
        for fold in folds.lazy.compactMap({ $0 }) {
            guard let operand = fold.operandIndex(fromRank: rank) else { continue }
            let stream = fold.streams[operand]
            member.receivedBytes += UInt64(stream.layout.byteCount(stream.claimed.reduce(0, +)))
            member.expectedBytes += UInt64(stream.totalBytes)
            if case .input = fold.operands[operand], member.receivedBytes < member.expectedBytes {
                member.owesInput = true
            }
        }
        for gather in gathers.lazy.compactMap({ $0 }) where gather.from == rank {
            member.receivedBytes += UInt64(gather.layout.byteCount(gather.claimed.reduce(0, +)))
            member.expectedBytes += UInt64(gather.layout.byteCount(gather.segments.elementCount))
        }
        member.unsentBytes = outgoing[rank].reduce(0) { $0 + UInt64($1.bytesLeft) }
        return member
    }
}
