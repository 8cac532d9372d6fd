import Glibc
import PCCL

/// Measures as one peer of several, on as many machines, that were all started with the same options. Our library is
/// driven by this process; of every other one it starts a process, as all peers do. The peers take each turn together, and
/// merge what each has measured, with the library itself; rank 0 prints, or node 0 of a laboratory.
struct JoinedRun {
    let plan: BenchPlan
    let others: [BenchLibrary]
    let master: SocketAddress
    /// Nil if gloo is not among the others.
    let glooMeeting: GlooMeeting?
    let python: String
    let secondsPerStep: Int
    let output: BenchOutput

    private var peers: Int { plan.peers[0] }

    /// The outcome, and the output of the peer that prints; silent at the others.
    func run(introduce: (BenchOutput) -> Void) throws -> (BenchOutcome, BenchOutput) {
        let bytesBefore = ProcessMemory.residentBytes()
        DeadlineAlarm.install()
        let communicator = try Communicator(
            Communicator.Configuration(master: master, stripesPerLink: plan.work.stripes))
        defer { communicator.destroy() }
        let ours = PCCLUnderTest(communicator, plan.work)
        let agreement = try limited(to: secondsPerStep) { try join(ours) }

        var output = output
        // In a laboratory it is known beforehand which node's output is the one to look at.
        output.isSilent = (LabNode.current?.number ?? agreement.rank) != 0
        introduce(output)
        var outcome = BenchOutcome()
        outcome.note(BenchLibrary.pccl, peers: peers, BenchLibrary.ourText, output)
        let taker = TurnTaker(
            work: plan.work, peers: peers, rank: agreement.rank, peer: ours, bytesBefore: bytesBefore)
        var contenders = [
            BenchContender(library: .pccl) { turn in
                try limited(to: secondsPerStep + turn.secondsOfPauses) { try agreement.merge(taker.take(turn)) }
            }
        ]
        let supervisor = try others.isEmpty ? nil : BenchSupervisor(secondsPerStep: secondsPerStep)
        defer { supervisor?.close() }
        let worlds = try supervisor.map { try start(with: $0, agreement) } ?? []
        for world in worlds {
            try outcome.note(world, output)
            guard let supervisor, world.refusal == nil else { continue }
            let contender = BenchContender(library: world.library) { turn in
                let own = try supervisor.turn(world, turn)
                return try limited(to: secondsPerStep) { try agreement.merge(own) }
            }
            contenders.append(contender)
        }
        let rounds = BenchRounds(
            plan: plan, peers: peers, contenders: contenders, isComparison: !others.isEmpty, output: output)
        outcome.rows = try rounds.rows()
        supervisor?.end(worlds)
        return (outcome, output)
    }

    private func join(_ ours: PCCLUnderTest) throws -> PeerAgreement {
        output.progress("joining \(master) and waiting for \(peers) peers")
        try ours.gather(peers)
        let rank = try ours.communicator.attributes().rank
        let agreement = PeerAgreement(communicator: ours.communicator, peers: peers, rank: rank)
        // Peers that measure different things would wait for each other, or compare what cannot be compared.
        guard try agreement.isSame(options) else {
            throw BenchFailure("the peers of this run were started with different options; give all of them the same")
        }
        return agreement
    }

    /// What has to be the same at all peers.
    private var options: String {
        "\(plan.work) \(plan.sizes) \(plan.rounds) \(plan.calls ?? -1) \(plan.warmUps ?? -1) \(plan.pauseMilliseconds) "
            + "\(others) \(glooMeeting.map { "\($0.store)" } ?? "")"
    }

    /// The worlds of the other libraries, each with this peer's process only. One that a peer cannot start is refused by
    /// all.
    private func start(with supervisor: BenchSupervisor, _ agreement: PeerAgreement) throws -> [BenchWorld] {
        let worlds = others.map { library in
            let world = BenchWorld(
                library, peers: peers, ranks: agreement.rank..<agreement.rank + 1, work: plan.work)
            world.masterAddress = master
            if library == .gloo { world.glooMeeting = glooMeeting }
            return world
        }
        // What is on disk is gone before signals end this process at once, as they must: it waits in calls of ours.
        BenchSignals.install()
        for world in worlds { try supervisor.launch(world, python: python) }
        supervisor.removeFolder()
        try BenchSignals.uninstall()

        for world in worlds {
            // A library's processes wait for each other to come: none begins to before all can.
            try refuseTogether(world, supervisor, agreement)
            try chooseServer(of: world, supervisor, agreement)
            guard world.refusal == nil else { continue }
            try supervisor.connect(world)
            try refuseTogether(world, supervisor, agreement)
        }
        return worlds
    }

    /// Of those that have the address of gloo's store, as all on one machine do, one serves it.
    private func chooseServer(
        of world: BenchWorld, _ supervisor: BenchSupervisor, _ agreement: PeerAgreement
    ) throws {
        guard world.refusal == nil, let store = world.glooMeeting?.store else { return }
        let server = try limited(to: secondsPerStep) { try agreement.firstRank(where: store.isOfThisHost) }
        world.glooMeeting?.isServer = server == agreement.rank
        guard server == nil else { return }
        supervisor.refuse(world, "no peer has the address of its store, \(store); see --gloo-store")
    }

    private func refuseTogether(
        _ world: BenchWorld, _ supervisor: BenchSupervisor, _ agreement: PeerAgreement
    ) throws {
        // Some may still be within a step that others have failed in.
        let refusal = try limited(to: 2 * secondsPerStep) { try agreement.firstRefusal(world.refusal) }
        if let refusal { supervisor.refuse(world, refusal) }
    }

    /// For what waits in calls of our library. The supervisor has deadlines of its own, which say more.
    private func limited<Result>(to seconds: Int, _ body: () throws -> Result) throws -> Result {
        DeadlineAlarm.set(seconds)
        defer { DeadlineAlarm.cancel() }
        return try body()
    }
}

/// The end of a process that waits in a call for peers which do not come.
enum DeadlineAlarm {
    static func install() {
        signal(SIGALRM) { _ in
            let text: StaticString = "pccl bench: no progress for too long: were all peers started? See --timeout\n"
            _ = write(STDERR_FILENO, text.utf8Start, text.utf8CodeUnitCount)
            _exit(1)
        }
    }

    static func set(_ seconds: Int) { alarm(CUnsignedInt(seconds)) }
    static func cancel() { alarm(0) }
}
