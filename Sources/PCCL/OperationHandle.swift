import PCCLBase
import PCCLCompute
import PCCLMembership
import PCCLRecorder
import PCCLSession
import PCCLTransport

/// A collective in flight. Its tag is free again once the outcome was taken by `wait`.
public final class OperationHandle: Sendable {
    public let tag: UInt64
    /// Of elements: of the buffer that all blocks fit into, where the collective has a block for each member.
    public let count: Int
    private let completion: PeerSession.OperationCompletion
    /// Where buffers are memory of a device.
    private let device: DeviceBuffers?
    private weak let owner: Communicator?

    init(
        tag: UInt64, count: Int, _ completion: PeerSession.OperationCompletion, device: DeviceBuffers?,
        owner: Communicator
    ) {
        self.device = device
        self.tag = tag
        self.count = count
        self.completion = completion
        self.owner = owner
    }

    /// Blocks until the outcome is known. Several threads may wait; all get the same outcome, also later.
    ///
    /// Throws `.rankConnectionLost` after the loss of a member, unless all members launched it with a policy to resume and
    /// two of them are left: the input is whole, the attributes are new, the call may be repeated. `.invalidArgument` when
    /// members called with different counts, types, operations or codecs; the reason names both. `.invalidUsage` when
    /// members wait for each other in different calls; the reason says who. `.masterConnectionFailed` when nobody can say any
    /// more whether the others succeeded, or this peer was declared lost. `.internalError` when no memory was left for it:
    /// this peer has left the run, its input is whole, and it may connect again. `.internalError` also when the result cannot be
    /// copied to a device: other members have it, and what is in the device's memory is undefined.
    public func wait() throws(PCCLError) -> ReduceInfo { try result().info() }

    /// The same for code that may not block its thread, but for the time that a copy to a device takes.
    public func outcome() async throws(PCCLError) -> ReduceInfo { try result(await completion.outcome()).info() }

    /// Takes the outcome when it is there, for nobody, and calls back on the thread that knows of it.
    func whenDone(_ body: @escaping @Sendable () -> Void) {
        completion.whenSet { outcome in
            _ = self.result(outcome, bringsBack: false)
            self.device?.forgetResult()
            body()
        }
    }

    /// Once the outcome is known: the result is in place when this returns, and the buffers are not used any more.
    func conclude() {
        guard let device, let outcome = completion.current, case .success = outcome.outcome else { return }
        // Whoever waits is told.
        try? device.bringBack()
    }

    /// Whether `wait` would return at once.
    public var isDone: Bool { completion.current != nil }

    struct Result {
        var error: PCCLError?
        var worldSize = 0
        var parts: [ResultPart] = []
        var sentBytes: UInt64
        var receivedBytes: UInt64
        var resumptions: Int

        func info() throws(PCCLError) -> ReduceInfo {
            if let error { throw error }
            return ReduceInfo(
                worldSize: worldSize, sentBytes: sentBytes, receivedBytes: receivedBytes, parts: parts,
                resumptions: resumptions)
        }
    }

    func result() -> Result {
        let recorder = owner?.session.recorder
        recorder?.record(.waitBegan, tag: Tag(tag))
        let outcome = completion.wait()
        recorder?.record(.waitEnded, tag: Tag(tag))
        return result(outcome)
    }

    private func result(_ outcome: PeerSession.OperationResult, bringsBack: Bool = true) -> Result {
        owner?.forget(self)
        var result = Result(
            sentBytes: outcome.traffic.sentBytes, receivedBytes: outcome.traffic.receivedBytes,
            resumptions: outcome.resumptions)
        switch outcome.outcome {
        case .success(let worldSize, let parts):
            (result.worldSize, result.parts) = (worldSize, parts)
            if bringsBack, let device {
                do { try device.bringBack() } catch { result.error = PCCLError(.internalError, error.description) }
            }
        case .memberLost:
            result.error = PCCLError(
                .rankConnectionLost, "a member was lost during the operation with tag \(tag)" + waited(outcome))
        case .mismatch(let text): result.error = PCCLError(.invalidArgument, "the members' calls differ: \(text)")
        case .misuse(let text): result.error = PCCLError(.invalidUsage, text + waited(outcome))
        case .tooFewPeers: result.error = PCCLError(.tooFewPeers, "this peer is the only member of its group")
        case .notConnected: result.error = PCCLError(.invalidUsage, "not connected")
        case .tagInUse: result.error = PCCLError(.invalidArgument, "tag \(tag) is in flight")
        case .masterLost(let text):
            result.error = PCCLError(.masterConnectionFailed, text + waited(outcome))
        case .outOfMemory(let text): result.error = PCCLError(.internalError, text)
        case .destroyed: result.error = PCCLError(.invalidUsage, "the communicator was destroyed")
        }
        return result
    }

    private func waited(_ outcome: PeerSession.OperationResult) -> String {
        outcome.waitedFor.map { ". Before that: \($0)" } ?? ""
    }
}
