import Glibc
import PCCLBase
import PCCLCompute
import PCCLTransport

/// Training in which peers take many steps by themselves between two that they take together (Douillard and others, DiLoCo,
/// arXiv 2311.08105), and come and go meanwhile.
///
/// Every peer has the same outer parameters and the same momentum, in float32, bit for bit. Its model is trained by an inner
/// optimiser that this does not know. Every so many steps peers average how far they have come, take an outer step with
/// that, and go on from the new outer parameters.
///
///     let diloco = try DiLoCo(communicator, tensors, .init(syncEvery: 100))
///     try diloco.begin()
///     for _ in 0..<steps {
///         trainOneStep()
///         try diloco.step()
///     }
///     try diloco.end()
///
/// Membership is its business alone: no other membership call, and no other synchronisation of shared state, may be made on
/// this communicator between `begin` and `end`. A newcomer waits in `begin` until the others have come to the end of a
/// round, and gets their outer state before its first inner step. A peer that leaves, or dies, is missing in the next
/// average, which is that of those who are left. A peer that was cut off comes back as a newcomer.
///
/// Parameters may be in the memory of a CUDA device. The outer state of a fragment is where its tensors are, which are all in one
/// place, and all arithmetic is done there, with the same bits: peers with and without a device go together. What was put
/// on the device's default stream comes before what is done here; other streams are to be synchronised before.
///
/// Not to be called by two threads at once. `begin`, `step` and `end` block.
public final class DiLoCo {
    private let communicator: Communicator
    private let configuration: Configuration
    private let schedule: RoundSchedule
    private let fragments: [Fragment]
    /// What all members count alike, a part of what they share.
    private let progress: UnsafeMutableBufferPointer<UInt64>
    private enum Count: Int, CaseIterable {
        case outerSteps
        case boundaries
        /// Whether those who meet at a boundary launch the first fragment next.
        case launchFollows
    }

    private var stepNumber = 0
    private var isBegun = false
    /// Until the members' state is held: none that others go by.
    private var isNewcomer = true
    private var revision: UInt64 = 0
    /// Of the last thing that all members did together.
    private var worldSize = 0
    private var returnsInVain = 0
    private var rounds: [RoundInfo] = []

    /// A device that has failed, maybe in the middle of an outer step: what is held is of no use any more.
    private var deviceFailure: PCCLError?

    /// What this peer's next contribution counts, relative to that of others; by `step(weight:)`.
    private var weight: Float = 1

    /// The outer parameters are those that the tensors hold now, until `begin`. Throws `.invalidArgument` for tensors and
    /// configurations that cannot be, tensors of one fragment in different places among them; `.internalError` when there is
    /// no memory where they are (12 bytes for a parameter, 4 more with momentum and 4 with a staleness penalty; error
    /// feedback takes 8 of the host), and with the driver's own error, as of a device that does not run the kernels.
    public init(
        _ communicator: Communicator, _ tensors: [Tensor], _ configuration: Configuration
    ) throws(PCCLError) {
        try configuration.validate(tensorCount: tensors.count)
        var configuration = configuration
        if communicator.ensemble != nil {
            // The ensemble's other peers may find enough others in their groups, or be members still, and wait for this
            // one elsewhere.
            configuration.minimumPeers = 1
            configuration.returns = 0
        }
        try DiLoCo.validate(tensors)
        self.communicator = communicator
        self.configuration = configuration
        schedule = RoundSchedule(
            syncEvery: configuration.syncEvery, fragmentCount: configuration.fragmentCount,
            overlap: configuration.overlap)
        var fragments: [Fragment] = []
        for part in try Fragment.deal(tensors, into: configuration.fragmentCount) {
            fragments.append(
                try Fragment(
                    part, hasMomentum: configuration.optimizer.hasMomentum, hasBase: configuration.stalenessPenalty > 0)
            )
        }
        self.fragments = fragments
        progress = .allocate(capacity: Count.allCases.count)
        progress.initialize(repeating: 0)
    }

    deinit { progress.deallocate() }

    private static func validate(_ tensors: [Tensor]) throws(PCCLError) {
        guard !tensors.isEmpty else { throw PCCLError(.invalidArgument, "there are no parameters") }
        var names: Set<String> = []
        for tensor in tensors {
            guard names.insert(tensor.name).inserted else {
                throw PCCLError(.invalidArgument, "two tensors have the name \"\(tensor.name)\"")
            }
            guard tensor.count > 0, tensor.type.isFloat else {
                throw PCCLError(
                    .invalidArgument,
                    "\"\(tensor.name)\": \(tensor.count) × \(tensor.type); parameters are floats, one at least")
            }
            _ = try Span(UnsafeRawPointer(tensor.memory), count: tensor.count, tensor.type)
        }
    }

    // MARK: what is known

    /// How many rounds are done, since the beginning of the run: outer steps of all parameters.
    public var round: UInt64 { progress[Count.outerSteps.rawValue] / UInt64(fragments.count) }

    public var fragmentCount: Int { fragments.count }

    /// The number of parameters.
    public var parameterCount: Int { fragments.reduce(0) { $0 + $1.count } }

    /// Of which fragment a tensor is; nil if there is none of this name.
    public func fragment(of name: String) -> Int? {
        fragments.firstIndex { $0.tensors.contains { $0.name == name } }
    }

    /// A hash of the outer parameters, in 32 hexadecimal digits: the same at all peers that have done the same rounds, on the
    /// host or on a device. Throws `.internalError` with the driver's own error.
    public var parametersHash: String {
        get throws(PCCLError) {
            var hashes: [String] = []
            do throws(DeviceError) {
                for fragment in fragments { hashes.append(try fragment.parametersHash().description) }
            } catch {
                throw PCCLError(.internalError, "the hash of the outer parameters: \(error)")
            }
            guard hashes.count > 1 else { return hashes[0] }
            return Array(hashes.joined().utf8).withUnsafeBytes { ContentHash($0) }.description
        }
    }

    /// What all peers hold alike, to be saved, or to be loaded before `begin`: the memory is this object's, and is written
    /// in `begin`, `step` and `end`. Its revision counts synchronisations.
    public var sharedState: SharedState {
        let counts = SharedState.Entry("diloco/progress", progress)
        return SharedState(revision: revision, fragments.flatMap { $0.entries() } + [counts])
    }

    /// Reads a snapshot of `sharedState` and makes it the model's parameters. Not between `begin` and `end`. Throws what
    /// `SharedState.load` throws.
    public func load(from path: String) throws(PCCLError) {
        try requireNotBegun()
        var state = sharedState
        try state.load(from: path)
        try restore(revision: state.revision)
    }

    /// Takes over what was written to the memory of `sharedState`, and makes it the model's parameters. Throws
    /// `.invalidUsage` between `begin` and `end`.
    public func restore(revision: UInt64) throws(PCCLError) {
        try requireNotBegun()
        self.revision = revision
        do throws(Setback) { try adopt() } catch { throw error.reason }
    }

    private func requireNotBegun() throws(PCCLError) {
        guard !isBegun else { throw PCCLError(.invalidUsage, "parameters are in use: load them before `begin`") }
        try requireWhole()
    }

    private func requireWhole() throws(PCCLError) {
        guard let deviceFailure else { return }
        throw PCCLError(
            .invalidUsage, "it is of no use since a device has failed; make another one: \(deviceFailure.reason)")
    }

    /// Whether this memory is of an outer state that is on a device.
    package func isOnDevice(_ memory: UnsafeRawPointer) -> Bool {
        fragments.contains { $0.isOnDevice && $0.holds(memory) }
    }

    // MARK: the training loop

    /// Connects, unless that was done, for which it waits half a minute for a master; waits until there are enough peers, and
    /// gets what they hold. Its own parameters are everybody's if the run has none yet and nobody else's are chosen.
    ///
    /// Throws what `Communicator.connect` throws; `.tooFewPeers` when the patience is over; `.invalidUsage` when begun, and
    /// after an error of a device's; `.invalidArgument` when the others have other tensors or another configuration: this
    /// peer is no member then, and the others go on; `.internalError` with the error of a device's driver, as `step`.
    public func begin() throws(PCCLError) {
        guard !isBegun else { throw PCCLError(.invalidUsage, "begun already") }
        try requireWhole()
        isNewcomer = true
        stepNumber = 0
        do throws(Setback) {
            if !communicator.isConnected { try connect() }
            try settle()
            isBegun = true
            try launchIfDue()
        } catch {
            try comeBack(after: error)
            isBegun = true
        }
    }

    /// To be called after each inner step. `weight` is what the next contribution of this peer counts: it is to be relative
    /// to that of others, near 1, as tokens seen divided by the tokens that peers usually see; all of them count the same if
    /// nobody says anything.
    ///
    /// Returns the outer steps that were done. Throws `.invalidUsage` when not begun, or when peers do not fit together;
    /// `.invalidArgument` when their configurations differ; `.tooFewPeers` when the patience is over; `.masterConnectionFailed`
    /// when this peer is out of the run, and could not come back.
    ///
    /// `.internalError` with the error of a device's driver. This object is of no further use then: later steps throw
    /// `.invalidUsage`, and `end` leaves the parameters alone. They are as they were if the device failed while it
    /// looked how far they have come; those of one fragment are undefined if it failed in their outer step, or while they
    /// were replaced. Another `DiLoCo` gets the others' in `begin`, as a newcomer.
    @discardableResult
    public func step(weight: Float = 1) throws(PCCLError) -> [RoundInfo] {
        guard isBegun else { throw PCCLError(.invalidUsage, "a step before `begin`") }
        try requireWhole()
        guard weight >= 0, weight.isFinite else { throw PCCLError(.invalidArgument, "a weight of \(weight)") }
        self.weight = weight
        rounds = []
        stepNumber += 1
        for fragment in fragments { fragment.steps += 1 }
        do throws(Setback) { try advance() } catch { try comeBack(after: error) }
        return rounds
    }

    /// Whether the next `step` reads or writes the tensors of a fragment.
    public func touchesNext(fragment: Int) -> Bool {
        let next = stepNumber + 1
        // At a boundary newcomers may bring what was to come later.
        if schedule.isBoundary(next) || fragments[fragment].flight.map({ $0.due <= next }) ?? false { return true }
        return schedule.launches(atStep: next).contains(fragment)
    }

    /// Takes in what is on its way. The model's parameters are the outer ones then: what was found since the last launch is
    /// dropped, so the best moment is the end of a round. The communicator stays connected: others wait for this peer until
    /// it is destroyed, or they end too. Throws `.internalError` with the error of a device's driver, as `step`; after such
    /// an error of `step` it lets go of what is on its way, and that is all.
    @discardableResult
    public func end() throws(PCCLError) -> [RoundInfo] {
        guard isBegun else { throw PCCLError(.invalidUsage, "not begun") }
        isBegun = false
        rounds = []
        guard deviceFailure == nil else {
            release()
            return rounds
        }
        do throws(Setback) { try drain() } catch { release() }
        if let deviceFailure { throw deviceFailure }
        do throws(Setback) { try adopt() } catch { throw error.reason }
        return rounds
    }

    private func advance() throws(Setback) {
        let launches = schedule.launches(atStep: stepNumber)
        let due = inLaunchOrder { $0.due <= stepNumber }
        for index in due { try receive(index) }
        // A fragment that is taken in and launched at once: what this peer has found is measured from the parameters that it
        // began with, which are replaced next.
        if schedule.overlap > 0 { for index in launches { try contribute(index) } }
        for index in due { try apply(index) }
        if schedule.overlap == 0 {
            for index in launches {
                try contribute(index)
                try launch(index)
                try receive(index)
                try apply(index)
            }
        }
        if schedule.isBoundary(stepNumber) { try meet() }
        if schedule.overlap > 0 { for index in launches { try launch(index) } }
    }

    // MARK: outer steps

    private func contribute(_ index: Int) throws(Setback) {
        let isNumber = try onDevice { () throws(DeviceError) in try fragments[index].contribute(weight: weight) }
        if !isNumber {
            Log.write(.warning, "the parameters of fragment \(index) are no numbers: this peer contributes nothing")
        }
    }

    private func launch(_ index: Int) throws(Setback) {
        fragments[index].flight = Fragment.Flight(handle: nil, due: stepNumber + schedule.overlap)
        try start(index)
    }

    /// Without a handle this peer is alone with it.
    private func start(_ index: Int) throws(Setback) {
        let operand = fragments[index].operand(tag: configuration.firstTag + 1 + UInt64(index), configuration)
        fragments[index].flight?.handle = nil
        do throws(PCCLError) {
            fragments[index].flight?.handle = try communicator.allReduceAsync(operand, onLoss: .resumeWhole)
        } catch {
            guard error.code == .tooFewPeers else { throw setback(error) }
        }
    }

    /// In the order of their launch, which is that of all peers.
    private func inLaunchOrder(where isWanted: (Fragment.Flight) -> Bool) -> [Int] {
        fragments.indices.filter { fragments[$0].flight.map(isWanted) ?? false }
            .sorted { (fragments[$0].flight?.due ?? 0, $0) < (fragments[$1].flight?.due ?? 0, $1) }
    }

    /// Everything that is on its way, now.
    private func drain() throws(Setback) {
        for index in inLaunchOrder(where: { _ in true }) {
            try receive(index)
            try apply(index)
        }
    }

    private func receive(_ index: Int) throws(Setback) {
        let began = EventLoop.now
        var info = ReduceInfo(worldSize: 1, sentBytes: 0, receivedBytes: 0)
        while let handle = fragments[index].flight?.handle {
            do throws(PCCLError) {
                let made = try handle.wait()
                info.worldSize = made.worldSize
                info.sentBytes += made.sentBytes
                info.receivedBytes += made.receivedBytes
                break
            } catch {
                guard error.code == .rankConnectionLost || error.code == .tooFewPeers else { throw setback(error) }
                try start(index)
            }
        }
        let isAlone = fragments[index].flight?.handle == nil
        fragments[index].flight = nil
        try onDevice { () throws(DeviceError) in
            if isAlone { try fragments[index].averageAlone() }
            try fragments[index].noteMove()
        }
        worldSize = info.worldSize
        rounds.append(
            RoundInfo(
                round: 0, fragment: index, worldSize: info.worldSize, sentBytes: info.sentBytes,
                receivedBytes: info.receivedBytes, secondsWaited: (EventLoop.now - began).seconds))
    }

    private func apply(_ index: Int) throws(Setback) {
        try onDevice { () throws(DeviceError) in
            try fragments[index].step(configuration.optimizer, stalenessPenalty: configuration.stalenessPenalty)
            try fragments[index].merge(mixing: configuration.mixing)
        }
        returnsInVain = 0
        progress[Count.outerSteps.rawValue] += 1
        if let place = rounds.lastIndex(where: { $0.fragment == index }) { rounds[place].round = round }
    }

    /// The model's parameters are the outer ones.
    private func adopt() throws(Setback) {
        for fragment in fragments {
            try onDevice { () throws(DeviceError) in try fragment.merge(mixing: 0) }
            fragment.steps = 0
        }
    }

    /// What a device does, if there is one, and what becomes of this object if it does not.
    private func onDevice<T>(_ work: () throws(DeviceError) -> T) throws(Setback) -> T {
        do { return try work() } catch {
            let failure = PCCLError(.internalError, "an outer step: \(error)")
            deviceFailure = failure
            throw .failed(failure)
        }
    }

    // MARK: meeting

    /// What ends the present step.
    private enum Setback: Error {
        /// This peer is no member any more.
        case departed(PCCLError)
        case failed(PCCLError)

        var reason: PCCLError {
            switch self {
            case .departed(let reason), .failed(let reason): reason
            }
        }
    }

    private func setback(_ error: PCCLError) -> Setback {
        let isMismatch = error.code == .invalidArgument
        return communicator.isConnected || isMismatch ? .failed(error) : .departed(error)
    }

    /// A boundary: whoever waits is let in, and all hold the same afterwards.
    ///
    /// Whether there is anything to do is decided by what all members know alike: an answer that they get together, and the
    /// outcome of the last outer step.
    private func meet() throws(Setback) {
        progress[Count.boundaries.rawValue] += 1
        let boundaries = progress[Count.boundaries.rawValue]
        let isCheckDue = configuration.checkEvery > 0 && boundaries % UInt64(configuration.checkEvery) == 0
        let isLonely = worldSize < configuration.minimumPeers
        let arePending = try jointly { () throws(PCCLError) in try communicator.arePeersPending() } ?? false
        // Also without an answer: another member may have got one before the master was lost.
        guard arePending || isLonely || isCheckDue else { return }
        try drain()
        progress[Count.launchFollows.rawValue] = schedule.overlap > 0 ? 1 : 0
        if arePending { _ = try jointly { () throws(PCCLError) in try communicator.updateTopology() } }
        try settle()
    }

    /// For those who have met, old members and new ones: until they are enough, and hold the same.
    private func settle() throws(Setback) {
        let began = EventLoop.now
        while true {
            let standings = try compareStandings()
            worldSize = standings.count
            if worldSize >= configuration.minimumPeers {
                if try synchronize(standings) { return }
                continue
            }
            guard let arePending = try jointly({ () throws(PCCLError) in try communicator.arePeersPending() }) else {
                // The grace is over, and without a master nobody comes.
                throw .failed(
                    PCCLError(
                        .masterConnectionFailed,
                        "\(worldSize) of \(configuration.minimumPeers) peers, and no master to bring more"))
            }
            if arePending {
                _ = try jointly { () throws(PCCLError) in try communicator.updateTopology() }
                continue
            }
            if configuration.patienceSeconds > 0, (EventLoop.now - began).seconds > configuration.patienceSeconds {
                throw .failed(
                    PCCLError(
                        .tooFewPeers,
                        "\(worldSize) of \(configuration.minimumPeers) peers after \(configuration.patienceSeconds) s"))
            }
            usleep(20_000)
        }
    }

    /// How far a peer has come.
    private struct Standing {
        var isMember: Bool
        var outerSteps: UInt64
        var revision: UInt64
        static let words = 3
    }

    /// Those of all members, in the order of ranks: so many as all of them see.
    private func compareStandings() throws(Setback) -> [Standing] {
        // The same with another number of fragments, so that such a peer is heard and sent away.
        let tag = configuration.firstTag
        while true {
            let own: [UInt64] = [isNewcomer ? 0 : 1, progress[Count.outerSteps.rawValue], revision]
            do throws(PCCLError) {
                let worldSize = try communicator.requireView().worldSize
                guard worldSize > 1 else { return [DiLoCo.standing(own[...])] }
                var all = [UInt64](repeating: 0, count: worldSize * Standing.words)
                let outcome = own.withUnsafeBufferPointer { own in
                    all.withUnsafeMutableBufferPointer { all in
                        Result { () throws(PCCLError) in try communicator.allGather(own, into: all, tag: tag) }
                    }
                }
                _ = try outcome.get()
                return stride(from: 0, to: all.count, by: Standing.words).map {
                    DiLoCo.standing(all[$0..<$0 + Standing.words])
                }
            } catch {
                guard error.code == .rankConnectionLost || error.code == .tooFewPeers else { throw setback(error) }
            }
        }
    }

    private static func standing(_ words: ArraySlice<UInt64>) -> Standing {
        let words = Array(words)
        return Standing(isMember: words[0] != 0, outerSteps: words[1], revision: words[2])
    }

    /// All hold what the members do; where there are none, what the one does that has come furthest. False if all are gone
    /// that had it.
    private func synchronize(_ standings: [Standing]) throws(Setback) -> Bool {
        let last = standings.filter(\.isMember).map(\.revision).max()
        let furthest = standings.map(\.outerSteps).max() ?? 0
        var state = sharedState
        // Whoever has something else has not what the others have, and is told so, and by whom.
        let nothing = UnsafeMutableBufferPointer(rebasing: progress.prefix(0))
        state.entries.append(SharedState.Entry("diloco/" + agreement, nothing))
        var strategy = SharedStateStrategy.enforcePopular
        if let last {
            // Of newcomers nobody asks what they hold.
            state.revision = isNewcomer ? last : last + 1
        } else {
            state.revision = (standings.map(\.revision).max() ?? 0) + 1
            // A snapshot may be of the middle of a run: nobody is about to launch anything now.
            progress[Count.launchFollows.rawValue] = 0
            if standings.contains(where: { $0.outerSteps != furthest }) {
                strategy = progress[Count.outerSteps.rawValue] == furthest ? .sendOnly : .receiveOnly
            }
        }
        let info: SynchronizationInfo
        do throws(PCCLError) {
            info = try communicator.synchronize(&state, strategy)
        } catch {
            switch error.code {
            case .noSharedStateAvailable: return false
            case .invalidUsage: throw .failed(PCCLError(.invalidArgument, error.reason))
            case .masterConnectionFailed where communicator.isConnected && !isNewcomer:
                Log.write(.info, "what peers hold is not compared in this round: \(error.reason)")
                return true
            default: throw setback(error)
            }
        }
        revision = state.revision
        if info.receivedBytes > 0 {
            if !isNewcomer {
                Log.write(.warning, "this peer held other outer parameters than most: it has got theirs")
            }
            try adopt()
        }
        isNewcomer = false
        return true
    }

    /// What peers must have alike for their outer steps to be the same.
    private var agreement: String {
        let c = configuration
        let mode =
            switch c.mode {
            case .synchronous: "synchronous"
            case .delayed(let penalty): "delayed, staleness penalty \(penalty)"
            case .streaming: "streaming in fragments of \(fragments.map(\.count))"
            }
        let rule =
            switch c.optimizer.rule {
            case .descent: "descent"
            case .momentum(let factor): "momentum \(factor)"
            case .nesterov(let factor): "nesterov \(factor)"
            }
        let limit = c.optimizer.momentumLimit > 0 ? " up to \(c.optimizer.momentumLimit)" : ""
        let text =
            "\(mode), \(rule)\(limit) at \(c.optimizer.learningRate), codec \(c.codec), \(c.minimumPeers) peers at least, "
            + "checks every \(c.checkEvery) rounds"
        return String(text.prefix(900))
    }

    /// After meeting others outside of a boundary: they launch the first fragment, and so does this peer.
    private func launchIfDue() throws(Setback) {
        guard progress[Count.launchFollows.rawValue] == 1, schedule.overlap > 0 else { return }
        try contribute(0)
        try launch(0)
    }

    /// Nil while the master is away: members go on without it, and meet newcomers another time.
    private func jointly<T>(_ call: () throws(PCCLError) -> T) throws(Setback) -> T? {
        do throws(PCCLError) { return try call() } catch {
            guard communicator.isConnected else { throw setback(error) }
            Log.write(.info, "no peer can join at this moment: \(error.reason)")
            return nil
        }
    }

    // MARK: coming back

    /// Operations that were in flight have ended; nobody has use for their outcome.
    private func release() {
        for fragment in fragments {
            _ = fragment.flight?.handle?.result()
            fragment.flight = nil
        }
    }

    /// As a newcomer, which keeps what it has found if the others have not gone on.
    private func comeBack(after setback: Setback) throws(PCCLError) {
        var setback = setback
        while true {
            guard case .departed(let reason) = setback else {
                if case .failed(let error) = setback { throw error }
                return
            }
            release()
            returnsInVain += 1
            guard returnsInVain <= configuration.returns else { throw reason }
            Log.write(.warning, "this peer is out of the run, and comes back: \(reason.reason)")
            isNewcomer = true
            stepNumber = 0
            do throws(Setback) {
                try connect()
                try settle()
                try launchIfDue()
                return
            } catch { setback = error }
        }
    }

    /// The master may be about to start, or to start again: it is waited for, half a minute in all.
    private func connect() throws(Setback) {
        var pause: UInt32 = 50_000
        for attempt in 1... {
            do throws(PCCLError) { return try communicator.connect() } catch {
                guard error.code == .masterConnectionFailed, attempt < 12 else { throw .failed(error) }
                if attempt == 1 { Log.write(.info, "tried again for half a minute: \(error.reason)") }
            }
            usleep(pause)
            pause = min(2 * pause, 5_000_000)
        }
    }
}
