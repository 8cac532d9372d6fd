import Glibc
import PCCL

/// One peer of a chaos run: meets, reduces, checks what came of it, and tells its parent.
///
///     connect ──▶ hand-over ──▶ ┌─▶ meeting (joined? hand-over) ──▶ operations, until each is done ─┐
///        ▲                      └───────────────────────────── next round ◀─────────────────────────┘
///        └── taken for lost, or without a master
///
/// All members take the same way, for they decide by what they hold alike: the work of a round (`ChaosWork`), the outcomes
/// of operations and the answers of joint calls. A newcomer comes out of `connect` where the members come out of
/// `updateTopology`, so both do the hand-over next; it tells the round.
final class ChaosPeer {
    struct Options {
        var slot: Int
        /// Which process of the run this is; no two have the same.
        var incarnation: UInt64
        var seed: UInt64
        var masters: [SocketAddress]
    }

    /// Why a membership ended before the peer was told to leave.
    struct Expulsion: Error { var reason: String }

    struct BrokenPromise: Error {
        var violation: ChaosReport.Violation
        var text: String
    }

    /// Operations of a round have small tags.
    private static let handOverTag: UInt64 = 1 << 32
    private static let millisecondsBetweenAttempts = 10
    /// Until the next look for others.
    private static let millisecondsAlone = 2

    private let options: Options
    private let shouldLeave: () -> Bool
    private var communicator: Communicator
    private var connections: UInt64 = 0

    /// Nil until the others' was taken over, or nobody had any.
    private var state: (lineage: UInt64, round: Int)?
    private var isAlone = false
    /// The members were told, while operations ran, that peers wait.
    private var isJoinDue = false
    /// Came out of `connect` behind this round's meeting.
    private var hasMet = false

    init(_ options: Options, shouldLeave: @escaping () -> Bool) throws {
        self.options = options
        self.shouldLeave = shouldLeave
        communicator = try Self.makeCommunicator(options)
    }

    private static func makeCommunicator(_ options: Options) throws -> Communicator {
        var configuration = Communicator.Configuration(master: options.masters[0])
        configuration.masters = options.masters
        return try Communicator(configuration)
    }

    /// Returns when the peer was told to leave, and has.
    func run() throws {
        while !shouldLeave() {
            do {
                guard try connect() else { break }
                hasMet = true
                try handOver()
                while !shouldLeave() { try doRound() }
            } catch let expulsion as Expulsion {
                tell(.expelled(reason: expulsion.reason, at: monotonicNanoseconds()))
                state = nil
                isAlone = false
                isJoinDue = false
                // Both ways back are promised to work: the same communicator, and a new one.
                if communicator.isConnected || connections.isMultiple(of: 2) {
                    communicator.destroy()
                    communicator = try Self.makeCommunicator(options)
                }
            }
        }
        enter(.leaving)
        communicator.destroy()
    }

    // MARK: - Telling

    private func tell(_ report: ChaosReport) { writeAll(report.line + "\n", to: STDOUT_FILENO) }

    private func enter(_ phase: ChaosReport.Phase) {
        tell(.entering(phase, round: state?.round ?? 0, at: monotonicNanoseconds()))
    }

    private func tell(
        _ job: Job, attempt: Int, _ outcome: ChaosReport.Outcome, resumptions: Int = 0, began: UInt64, ended: UInt64
    ) {
        let name = ChaosReport.OperationName(
            lineage: state?.lineage ?? 0, round: state?.round ?? 0, index: job.index, attempt: attempt)
        tell(
            .operation(
                .init(name: name, outcome: outcome, resumptions: resumptions, began: began, ended: ended)))
    }

    // MARK: - Membership

    /// False if it was told to leave before it was admitted.
    private func connect() throws -> Bool {
        while !shouldLeave() {
            connections += 1
            enter(.connecting)
            do throws(PCCLError) {
                try communicator.connect()
                return true
            } catch {
                guard error.code == .masterConnectionFailed else { throw unexpected("connect", error) }
                sleep(milliseconds: Self.millisecondsBetweenAttempts)
            }
        }
        return false
    }

    private func doRound() throws {
        let work = ChaosWork(seed: options.seed, round: state?.round ?? 0)
        if isAlone {
            enter(.alone)
            sleep(milliseconds: Self.millisecondsAlone)
            try updateTopology()
            // Whoever came is in the same round now, behind its meeting.
            if isAlone { return }
        } else if !hasMet {
            try meet(isJoinDue ? .updateTopology : work.meeting)
        }
        hasMet = false
        if !isAlone { try reduce(work) }
        state?.round += 1
    }

    private func meet(_ meeting: ChaosWork.Meeting) throws {
        switch meeting {
        case .none: break
        case .askFirst: if try arePeersPending() { try updateTopology() }
        case .updateTopology: try updateTopology()
        case .optimizeTopology:
            enter(.optimizing)
            do throws(PCCLError) {
                try communicator.optimizeTopology()
            } catch {
                // Alone, by a loss that no operation has told of yet.
                if communicator.isConnected, try attributes().worldSize == 1 { return }
                throw meetingFailed("optimizeTopology", error)
            }
        }
    }

    private func arePeersPending() throws -> Bool {
        enter(.asking)
        do throws(PCCLError) { return try communicator.arePeersPending() } catch {
            throw meetingFailed("arePeersPending", error)
        }
    }

    private func updateTopology() throws {
        enter(.updating)
        do throws(PCCLError) { try communicator.updateTopology() } catch {
            throw meetingFailed("updateTopology", error)
        }
        isJoinDue = false
        try handOver()
    }

    private func attributes() throws -> Communicator.Attributes {
        do throws(PCCLError) { return try communicator.attributes() } catch {
            throw Expulsion(reason: error.description)
        }
    }

    /// Nothing but the end of the membership, or of the master, may make a joint call fail.
    private func meetingFailed(_ call: String, _ error: PCCLError) -> any Error {
        let isMasterLost = error.reason.hasPrefix("the master is lost") || error.reason.hasPrefix("turned away")
        return isMasterLost || !communicator.isConnected
            ? Expulsion(reason: "\(call): \(error)") : unexpected(call, error)
    }

    private func unexpected(_ call: String, _ error: PCCLError) -> BrokenPromise {
        BrokenPromise(violation: .unexpected, text: "\(call): \(error)")
    }

    /// Gives newcomers the state, by a maximum over what each member holds: those who hold one hold the same, the others
    /// contribute zeros. If nobody holds any, a lineage begins, with a name that somebody made up.
    private func handOver() throws {
        enter(.handover)
        let held: [UInt64] = state.map { [UInt64($0.round) + 1, $0.lineage] } ?? [0, 0]
        let contribution = held + [options.incarnation << 24 | connections]
        var words = contribution
        while true {
            do throws(PCCLError) {
                try words.withUnsafeMutableBufferPointer { buffer throws(PCCLError) in
                    _ = try communicator.allReduce(buffer, .maximum, tag: Self.handOverTag)
                }
                break
            } catch {
                guard words == contribution else {
                    throw BrokenPromise(
                        violation: .input, text: "hand-over: \(contribution) became \(words) by \(error)")
                }
                switch error.code {
                case .rankConnectionLost: continue
                case .tooFewPeers:
                    isAlone = true
                    if state == nil { state = (lineage: contribution[2], round: 0) }
                    return
                case _: throw operationFailed("hand-over", error)
                }
            }
        }
        isAlone = false
        guard words[0] > 0 else {
            state = (lineage: words[2], round: 0)
            return
        }
        if state != nil, Array(words[..<2]) != held {
            throw BrokenPromise(
                violation: .disagreement,
                text: "this member is in round \(held[0]) of lineage \(held[1]), another in \(words[0]) of \(words[1])")
        }
        state = (lineage: words[1], round: Int(words[0]) - 1)
    }

    // MARK: - Operations

    private struct Job {
        let index: Int
        let operation: ChaosWork.Operation
        let buffers: ChaosBuffers

        var operand: ReduceOperand {
            ReduceOperand(
                send: UnsafeRawPointer(buffers.send.baseAddress!), receive: buffers.receive.baseAddress!,
                count: operation.count, type: operation.type, operation: operation.operation, tag: operation.tag,
                codec: operation.codec)
        }
    }

    private func reduce(_ work: ChaosWork) throws {
        let jobs = work.operations.enumerated().map { index, operation in
            let job = Job(index: index, operation: operation, buffers: ChaosBuffers(operation))
            contribution(to: job).fill(job.buffers.send)
            return job
        }
        switch work.style {
        case .blocking: for job in jobs where !isAlone { try finish([job], asking: false) }
        case .concurrent(let asking): try finish(jobs, asking: asking)
        case .retried(let maxInFlight, let onLoss): try finish(jobs, maxInFlight: maxInFlight, onLoss: onLoss)
        }
    }

    /// Launches all, and those that fail again, until each is reduced or this peer is alone.
    private func finish(_ jobs: [Job], asking: Bool) throws {
        var unfinished = jobs
        var attempt = 0
        while !unfinished.isEmpty && !isAlone {
            unfinished = try lost(of: unfinished, attempt: attempt, asking: asking && attempt == 0)
            attempt += 1
        }
    }

    /// Makes one attempt at each; gives those that a loss undid.
    private func lost(of jobs: [Job], attempt: Int, asking: Bool) throws -> [Job] {
        var lost: [Job] = []
        var failure: (any Error)?
        var launched: [(job: Job, began: UInt64, handle: OperationHandle)] = []

        // Throws nothing by itself: while others are in flight, their buffers must stay.
        func judge(_ job: Job, _ error: PCCLError, began: UInt64, ended: UInt64) {
            do { try checkInput(job, after: error) } catch { return failure = error }
            switch error.code {
            case .rankConnectionLost:
                lost.append(job)
                tell(job, attempt: attempt, .memberLost, began: began, ended: ended)
            case .tooFewPeers:
                isAlone = true
                tell(job, attempt: attempt, .alone, began: began, ended: ended)
            case _: failure = operationFailed("operation \(job.index) of \(describe(job))", error)
            }
        }

        enter(.reducing)
        for job in jobs {
            let began = monotonicNanoseconds()
            do throws(PCCLError) {
                let handle = try communicator.allReduceAsync(job.operand, onLoss: job.operation.onLoss)
                launched.append((job, began, handle))
            } catch {
                judge(job, error, began: began, ended: monotonicNanoseconds())
            }
        }
        if asking, launched.count == jobs.count {
            do { isJoinDue = try arePeersPending() } catch { failure = error }
        }
        // Every handle is awaited, whatever became of the others: the communicator writes to the buffers until then.
        for (job, began, handle) in launched {
            let info: ReduceInfo
            do throws(PCCLError) { info = try handle.wait() } catch {
                judge(job, error, began: began, ended: monotonicNanoseconds())
                continue
            }
            let ended = monotonicNanoseconds()
            do {
                tell(
                    job, attempt: attempt, try check(job, info), resumptions: info.resumptions, began: began,
                    ended: ended)
            } catch { failure = error }
        }
        if let failure { throw failure }
        return lost
    }

    /// Leaves the retry to the library. Who was in which result it does not say; the results do.
    private func finish(_ jobs: [Job], maxInFlight: Int, onLoss: LossPolicy?) throws {
        enter(.reducing)
        let began = monotonicNanoseconds()
        let info: ReduceInfo
        do throws(PCCLError) {
            info = try communicator.allReduceWithRetry(
                jobs.map(\.operand), maxInFlight: maxInFlight, onLoss: onLoss)
        } catch {
            // What was reduced before may be so in place.
            for job in jobs where !isReducedInPlace(job, onLoss) { try checkInput(job, after: error) }
            guard error.code == .tooFewPeers else {
                throw operationFailed("allReduceWithRetry of \(jobs.count)", error)
            }
            isAlone = true
            return
        }
        let ended = monotonicNanoseconds()
        for (index, job) in jobs.enumerated() {
            let outcome = try check(job, mayHaveParts: info.resumptions > 0 && mayHaveParts(job, onLoss))
            tell(
                job, attempt: 0, outcome, resumptions: index == 0 ? info.resumptions : 0, began: began, ended: ended)
        }
    }

    private func operationFailed(_ call: String, _ error: PCCLError) -> any Error {
        error.code == .masterConnectionFailed
            ? Expulsion(reason: "\(call): \(error)") : unexpected(call, error)
    }

    // MARK: - Checks

    private func contribution(to job: Job) -> RepeatedBlock {
        job.operation.pattern.contribution(of: options.slot, count: job.operation.count)
    }

    private func checkInput(_ job: Job, after error: PCCLError) throws {
        guard let place = contribution(to: job).firstDifference(in: UnsafeRawBufferPointer(job.buffers.send)) else {
            return
        }
        throw BrokenPromise(
            violation: .input, text: "\(describe(job)): the input has changed at byte \(place), after \(error)")
    }

    private func isReducedInPlace(_ job: Job, _ onLoss: LossPolicy?) -> Bool {
        job.operation.isInPlace
            && (contributors(to: job, worldSize: nil) != nil
                || mayHaveParts(job, onLoss) && isMadeInParts(job))
    }

    /// What the library's retry chooses by itself is part of its contract.
    private func mayHaveParts(_ job: Job, _ onLoss: LossPolicy?) -> Bool {
        switch job.operation.operation {
        case .sum, .product: onLoss == .resume
        case .average, .maximum, .minimum: onLoss == nil || onLoss == .resume
        }
    }

    private func isMadeInParts(_ job: Job) -> Bool {
        job.operation.pattern.isMadeInParts(UnsafeRawBufferPointer(job.buffers.receive), member: options.slot)
    }

    private func contributors(to job: Job, worldSize: Int?) -> Slots? {
        job.operation.pattern.contributors(
            in: UnsafeRawBufferPointer(job.buffers.receive), worldSize: worldSize, member: options.slot)
    }

    /// The library has said who is in which elements.
    private func check(_ job: Job, _ info: ReduceInfo) throws -> ChaosReport.Outcome {
        guard !info.parts.isEmpty else { return try check(job, worldSize: info.worldSize) }
        let (unit, result) = (job.operation.type.byteCount, UnsafeRawBufferPointer(job.buffers.receive))
        var slots = Slots()
        for part in info.parts {
            let range = part.elements.lowerBound * unit..<part.elements.upperBound * unit
            let made = job.operation.pattern.beginning(at: part.elements.lowerBound).contributors(
                in: UnsafeRawBufferPointer(rebasing: result[range]), worldSize: part.worldSize, member: options.slot)
            guard let made else { throw wrong(job, "\(part)") }
            slots.formUnion(made)
        }
        guard info.parts.reduce(0, { $0 + $1.elements.count }) == job.operation.count, job.operation.onLoss == .resume
        else { throw wrong(job, "\(info.parts)") }
        return try success(job, slots)
    }

    private func check(
        _ job: Job, worldSize: Int? = nil, mayHaveParts: Bool = false
    ) throws -> ChaosReport.Outcome {
        if let slots = contributors(to: job, worldSize: worldSize) { return try success(job, slots) }
        if mayHaveParts, isMadeInParts(job) { return try success(job, Slots()) }
        throw wrong(job, worldSize.map { "of \($0) members" } ?? "of any members")
    }

    private func wrong(_ job: Job, _ of: String) -> BrokenPromise {
        let begin = Array(UnsafeRawBufferPointer(job.buffers.receive).prefix(64))
        return BrokenPromise(violation: .wrong, text: "\(describe(job)): no result \(of): begins \(begin)")
    }

    private func success(_ job: Job, _ slots: Slots) throws -> ChaosReport.Outcome {
        let result = UnsafeRawBufferPointer(job.buffers.receive)
        if !job.operation.isInPlace,
            let place = contribution(to: job).firstDifference(in: UnsafeRawBufferPointer(job.buffers.send))
        {
            throw BrokenPromise(
                violation: .input, text: "\(describe(job)): the input has changed at byte \(place), by a success")
        }
        return .success(slots, digest: digest(of: result))
    }

    private func describe(_ job: Job) -> String {
        let operation = job.operation
        return "\(operation.operation) of \(operation.count) \(operation.type)"
            + "\(operation.isInPlace ? " in place" : "")"
    }
}

/// The memory of one operation, lent to the communicator while it runs.
final class ChaosBuffers {
    let send: UnsafeMutableRawBufferPointer
    let receive: UnsafeMutableRawBufferPointer
    private let memory: [UnsafeMutableRawBufferPointer]

    private static let alignment = 64

    init(_ operation: ChaosWork.Operation) {
        let wholes = (0..<(operation.isInPlace ? 1 : 2)).map { _ in
            UnsafeMutableRawBufferPointer.allocate(
                byteCount: operation.byteCount + operation.misalignment, alignment: Self.alignment)
        }
        let parts = wholes.map { UnsafeMutableRawBufferPointer(rebasing: $0[operation.misalignment...]) }
        memory = wholes
        send = parts[0]
        receive = parts[parts.count - 1]
    }

    deinit { for whole in memory { whole.deallocate() } }
}
