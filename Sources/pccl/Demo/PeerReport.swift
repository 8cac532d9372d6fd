/// One line that a peer of the demo writes to its parent: `key=value` pairs with one blank between them.
enum PeerReport: Equatable {
    enum Moment: String {
        /// Admitted; nothing is known of the group's state yet.
        case connected
        /// A hand-over of the state is complete; in a run of rounds, a newcomer's first one is done.
        case state
        /// A training step, or a round, is done.
        case step
        /// At the step where the newcomer is waited for.
        case waiting
        /// All steps or rounds are done.
        case finished
    }

    case progress(Moment, Progress)
    case failure(String)

    /// Where a peer stands. `step`, `worldSize`, `losses` and `joins` are the same on all members at the same moment.
    /// In a run of rounds `step` is their number; what a newcomer did not see it does not count.
    struct Progress: Equatable {
        var step = 0
        var worldSize = 0
        var losses = 0
        var joins = 0
        /// Calls of this peer that failed because another was lost, and were made again.
        var retries = 0
        var loss = 0.0
        var accuracy = 0.0
        var sentBytes: UInt64 = 0
        var receivedBytes: UInt64 = 0
        var allReduceNanoseconds: UInt64 = 0
        var weights: UInt64 = 0
    }

    var line: String {
        switch self {
        case .progress(let moment, let progress):
            "moment=\(moment.rawValue) step=\(progress.step) world=\(progress.worldSize) losses=\(progress.losses)"
                + " joins=\(progress.joins) retries=\(progress.retries) loss=\(progress.loss)"
                + " accuracy=\(progress.accuracy) sent=\(progress.sentBytes) received=\(progress.receivedBytes)"
                + " nanoseconds=\(progress.allReduceNanoseconds) weights=\(String(progress.weights, radix: 16))"
        case .failure(let reason):
            "failure=\(reason)"
        }
    }

    /// Nothing but what `line` writes is understood.
    init?(line: String) {
        let failureKey = "failure="
        if line.hasPrefix(failureKey) {
            self = .failure(String(line.dropFirst(failureKey.count)))
            return
        }
        var values: [Substring: String] = [:]
        for pair in line.split(separator: " ") {
            guard let equals = pair.firstIndex(of: "=") else { return nil }
            values[pair[..<equals]] = String(pair[pair.index(after: equals)...])
        }
        guard let moment = values["moment"].flatMap(Moment.init(rawValue:)),
            let step = values["step"].flatMap({ Int($0) }),
            let worldSize = values["world"].flatMap({ Int($0) }),
            let losses = values["losses"].flatMap({ Int($0) }),
            let joins = values["joins"].flatMap({ Int($0) }),
            let retries = values["retries"].flatMap({ Int($0) }),
            let loss = values["loss"].flatMap({ Double($0) }),
            let accuracy = values["accuracy"].flatMap({ Double($0) }),
            let sentBytes = values["sent"].flatMap({ UInt64($0) }),
            let receivedBytes = values["received"].flatMap({ UInt64($0) }),
            let nanoseconds = values["nanoseconds"].flatMap({ UInt64($0) }),
            let weights = values["weights"].flatMap({ UInt64($0, radix: 16) })
        else { return nil }
        self = .progress(
            moment,
            Progress(
                step: step, worldSize: worldSize, losses: losses, joins: joins, retries: retries, loss: loss,
                accuracy: accuracy, sentBytes: sentBytes, receivedBytes: receivedBytes,
                allReduceNanoseconds: nanoseconds, weights: weights))
    }
}
