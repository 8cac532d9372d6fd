import PCCLBase
import PCCLSchedule

/// Runs the lists of all ranks on symbols instead of numbers.
///
/// A value is the list of ranks whose contributions it holds, in the order they were folded. A step runs as soon as what it
/// reads is there, whatever its place in the list: that is all that a schedule promises.
struct Interpreter {
    typealias Value = [Int]
    /// What was reduced before, by others.
    static let kept: Value = [-1]

    enum Problem: Error, Equatable {
        case toOneself(rank: Int, Step)
        case sentTwice(Channel)
        case neverRead(Channel)
        case stuck([Int])
        case foldedNothing(rank: Int, Step)
        case notWhole(rank: Int, chunk: Int)
        case writtenTwice(rank: Int, chunk: Int)
    }

    /// Between two ranks a chunk travels at most once in each phase: that is all that a frame names.
    struct Channel: Hashable {
        var from: Int
        var to: Int
        var chunk: Int
        var isResult: Bool
    }

    let worldSize: Int
    /// By rank, by chunk.
    private(set) var results: [[Value?]]
    /// By rank, by chunk: where what was held from the start came from.
    private(set) var origins: [[Int?]]
    private var inFlight: [Channel: Value] = [:]
    private var originInFlight: [Channel: Int] = [:]
    private var sent: Set<Channel> = []
    private var read: Set<Channel> = []
    private(set) var chunksSent: [Int]

    /// Throws what is wrong with the schedule. `chunkCount` is the world size if it is not given.
    /// Of `held`, by rank and chunk, ranks have the result from the start.
    init(
        _ worldSize: Int, chunkCount: Int? = nil, held: [[Bool]] = [], isWholeEverywhere: Bool = true,
        _ steps: (_ rank: Int) -> [Step]
    ) throws {
        self.worldSize = worldSize
        let chunkCount = chunkCount ?? worldSize
        results = Array(repeating: Array(repeating: nil, count: chunkCount), count: worldSize)
        origins = Array(repeating: Array(repeating: nil, count: chunkCount), count: worldSize)
        chunksSent = Array(repeating: 0, count: worldSize)
        for rank in held.indices {
            for chunk in held[rank].indices where held[rank][chunk] {
                results[rank][chunk] = Interpreter.kept
                origins[rank][chunk] = rank
            }
        }
        var waiting = (0..<worldSize).map(steps)
        var didRun = true
        while didRun {
            didRun = false
            for rank in 0..<worldSize {
                var still: [Step] = []
                for step in waiting[rank] {
                    if try run(step, at: rank) { didRun = true } else { still.append(step) }
                }
                waiting[rank] = still
            }
        }
        let stuck = waiting.indices.filter { !waiting[$0].isEmpty }
        guard stuck.isEmpty else { throw Problem.stuck(stuck) }
        if let unread = sent.subtracting(read).first { throw Problem.neverRead(unread) }
        for rank in 0..<worldSize where isWholeEverywhere {
            for chunk in 0..<chunkCount where results[rank][chunk] == nil {
                throw Problem.notWhole(rank: rank, chunk: chunk)
            }
        }
    }

    /// False if the step must wait.
    private mutating func run(_ step: Step, at rank: Int) throws -> Bool {
        switch step {
        case .sendInput(let chunk, let to):
            try send([rank], Channel(from: rank, to: to, chunk: chunk, isResult: false), step)
        case .fold(let chunk, let operands, let target):
            guard operands.count >= 2 else { throw Problem.foldedNothing(rank: rank, step) }
            let channels = operands.map { operand -> Channel? in
                switch operand {
                case .own: nil
                case .input(let from), .partial(let from):
                    Channel(from: from, to: rank, chunk: chunk, isResult: false)
                }
            }
            guard channels.allSatisfy({ $0.map { inFlight[$0] != nil } ?? true }) else { return false }
            let value = channels.flatMap { channel -> Value in
                guard let channel else { return [rank] }
                read.insert(channel)
                return inFlight.removeValue(forKey: channel) ?? []
            }
            switch target {
            case .partial(let to): try send(value, Channel(from: rank, to: to, chunk: chunk, isResult: false), step)
            case .result: try keep(value, rank, chunk)
            }
        case .receiveResult(let chunk, let from):
            let channel = Channel(from: from, to: rank, chunk: chunk, isResult: true)
            guard let value = inFlight.removeValue(forKey: channel) else { return false }
            read.insert(channel)
            origins[rank][chunk] = originInFlight[channel]
            try keep(value, rank, chunk)
        case .sendResult(let chunk, let to):
            guard let value = results[rank][chunk] else { return false }
            let channel = Channel(from: rank, to: to, chunk: chunk, isResult: true)
            originInFlight[channel] = origins[rank][chunk]
            try send(value, channel, step)
        }
        return true
    }

    private mutating func send(_ value: Value, _ channel: Channel, _ step: Step) throws {
        guard channel.from != channel.to, (0..<worldSize).contains(channel.to) else {
            throw Problem.toOneself(rank: channel.from, step)
        }
        guard sent.insert(channel).inserted else { throw Problem.sentTwice(channel) }
        inFlight[channel] = value
        chunksSent[channel.from] += 1
    }

    private mutating func keep(_ value: Value, _ rank: Int, _ chunk: Int) throws {
        guard results[rank][chunk] == nil else { throw Problem.writtenTwice(rank: rank, chunk: chunk) }
        results[rank][chunk] = value
    }
}
