import PCCLBase
import PCCLMembership
import PCCLTransport

/// Works out topologies on a thread of its own, which is there from the first question on, so that a master with many
/// members goes on answering heartbeats. A question that members wait for ends a search that nobody waits for.
final class TopologyWorker: @unchecked Sendable {
    private let searches = Guarded(0)
    // The owner's thread only.
    private var thread: EventLoop?

    /// `answer` is called on the worker's thread, or on this one if there are no more threads.
    func solve(
        _ problem: TopologyProblem, seed: UInt64, _ answer: @escaping @Sendable (TopologySolution) -> Void
    ) {
        cancelSearch()
        run { answer(problem.solved(effort: .quick, seed: seed)) }
    }

    /// Nothing is answered if it was cancelled, or if there is no thread to do it on.
    func improve(_ problem: TopologyProblem, seed: UInt64, _ answer: @escaping @Sendable ([PeerID]) -> Void) {
        let mine = cancelSearch()
        guard thread != nil else { return }
        run { [searches] in
            let isCancelled = { searches.withLock { $0 != mine } }
            let order = problem.improvedOrder(seed: seed, isCancelled: isCancelled)
            if !isCancelled() { answer(order) }
        }
    }

    /// Ends the thread, soon.
    func stop() {
        cancelSearch()
        thread?.stop()
        thread = nil
    }

    @discardableResult
    private func cancelSearch() -> Int {
        searches.withLock { count in
            count += 1
            return count
        }
    }

    private func run(_ job: @escaping @Sendable () -> Void) {
        if thread == nil {
            do {
                thread = try EventLoop(name: "pccl-topology")
            } catch {
                Log.write(.warning, "topologies are worked out on the master's own thread: \(error)")
            }
        }
        guard let thread, thread.submit(job) else { return job() }
    }
}
