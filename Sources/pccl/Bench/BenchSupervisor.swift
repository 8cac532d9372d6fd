import Glibc
import PCCL
import Synchronization

/// The parent's side of a measurement: starts processes, hears them, and ends them. Everything it waits for has a deadline,
/// and every wait ends when a process fails or somebody presses Ctrl-C.
///
/// Processes end with their connection to it, so none outlives it, however it ends. A launcher such as mpirun ends with
/// the processes that it launched.
final class BenchSupervisor {
    /// For sockets, and what libraries keep on disk; removed at the end.
    let folder: String
    private let secondsPerStep: Int
    private var worlds: [BenchWorld] = []
    private var mpiProgram: Result<String, BenchFailure>?

    init(secondsPerStep: Int) throws(BenchFailure) {
        self.secondsPerStep = secondsPerStep
        guard let folder = makeTemporaryFolder("pccl-bench") else {
            throw BenchFailure("cannot make a temporary folder: \(systemError())")
        }
        self.folder = folder
    }

    // MARK: - Worlds

    /// Starts a world's processes, as far as they are started here. They know then whether they have what they need, and
    /// wait. If one has not, the world gets a refusal, and none of its processes is left.
    func launch(_ world: BenchWorld, python: String) throws {
        if let refusal = world.library.refusal(of: world.work) {
            world.refusal = refusal
            return
        }
        worlds.append(world)
        try refusing(world) {
            try world.listen(at: folder)
            try startProcesses(of: world, python)
            let text = "the \(world.ranks.count) processes of \(world.library.rawValue) to start"
            try wait(for: text, seconds: secondsPerStep) { world.hasAll }
            if let refusal = world.members.compactMap({ $0?.refusal }).first { refuse(world, refusal) }
        }
    }

    /// Has the launched processes of a world find each other, and those of other hosts. Else it gets a refusal, as above.
    func connect(_ world: BenchWorld) throws {
        try refusing(world) {
            begin(world)
            let answers = try replies(of: world, to: "find each other")
            if let refusal = answers.first(where: { $0.word == "cannot" }) {
                refuse(world, refusal["text"] ?? "it did not say why")
            } else {
                world.text = answers[0]["text"] ?? ""
            }
        }
    }

    /// The world will not be measured.
    func refuse(_ world: BenchWorld, _ reason: String) {
        world.refusal = reason
        end([world])
    }

    private func refusing(_ world: BenchWorld, unless start: () throws -> Void) throws {
        do {
            try start()
        } catch let error where !(error is BenchInterruption) {
            refuse(world, world.library.isOurs ? "\(error)" : "\(error) (\(world.library.whatToInstall))")
        }
    }

    /// One turn: all of the world's peers at once. What those measured that were started here.
    func turn(_ world: BenchWorld, _ turn: BenchTurn) throws -> BenchTurnResult {
        for member in world.members { member?.say(turn.line) }
        let text = "reduce \(ByteSize.label(turn.bytes)) \(turn.warmUps + turn.calls) times"
        let results = try replies(of: world, to: text, after: turn.secondsOfPauses).map { try BenchTurnResult(of: $0) }
        return BenchTurnResult(merging: results)
    }

    /// Lets the processes leave in peace for a while, then kills what is left.
    func end(_ ended: [BenchWorld]) {
        for world in ended {
            world.isEnding = true
            for member in world.members { member?.say(ControlLine("end")) }
        }
        let patience = monotonicNanoseconds() + 5_000_000_000
        while ended.contains(where: { !$0.processes.allSatisfy { $0.hasEnded() } }), monotonicNanoseconds() < patience {
            guard (try? pump(milliseconds: 50)) != nil else { break }
        }
        kill(ended)
        worlds.removeAll { world in ended.contains { $0 === world } }
    }

    /// Ends everything at once. Safe to call twice.
    func close() {
        kill(worlds)
        worlds = []
        removeFolder()
    }

    /// Once all processes are connected, nothing in it is needed by those that meet over TCP. It has no folders inside.
    func removeFolder() {
        guard let listing = opendir(folder) else { return }
        while let entry = readdir(listing) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            unlink(folder + "/" + name)
        }
        closedir(listing)
        rmdir(folder)
    }

    private func kill(_ killed: [BenchWorld]) {
        for world in killed {
            world.isEnding = true
            // The processes end with these connections, also those that a launcher has started.
            world.members = world.members.map { _ in nil }
            for process in world.processes where world.isLaunched { process.terminate() }
        }
        let patience = monotonicNanoseconds() + 2_000_000_000
        let launched = killed.filter(\.isLaunched).flatMap(\.processes)
        while !launched.allSatisfy({ $0.hasEnded() }), monotonicNanoseconds() < patience {
            for process in launched { _ = process.readReports() }
            sleep(milliseconds: 10)
        }
        for process in killed.flatMap(\.processes) { process.killAndCollect() }
    }

    // MARK: - Processes

    private func startProcesses(of world: BenchWorld, _ python: String) throws {
        let environment = currentEnvironment()
        switch world.library {
        case .pccl, .oneStripe, .uncoded, .pump: try startOurs(world, environment)
        case .pcclOverTCP:
            try startOurs(world, environment.filter { !$0.hasPrefix("PCCL_TRANSPORT=") } + ["PCCL_TRANSPORT=tcp"])
        case .gloo:
            let program = try BenchTools.shippedFile("gloo_peer.py")
            // Without a meeting all are here, on loopback.
            let interface = world.glooMeeting == nil ? "lo" : world.glooMeeting?.interface
            let device = interface.map { ["GLOO_SOCKET_IFNAME=\($0)"] } ?? []
            let inherited = environment.filter { device.isEmpty || !$0.hasPrefix("GLOO_SOCKET_IFNAME=") }
            for rank in world.ranks {
                world.processes.append(
                    try PeerProcess(
                        program: python, arguments: [program, world.socketPath, String(rank)],
                        environment: inherited + device + ["OMP_NUM_THREADS=1"]))
            }
        case .mpiOverTCP, .mpiShared:
            let program = try compiledMPIProgram()
            world.isLaunched = true
            world.processes.append(
                try PeerProcess(
                    program: "mpirun",
                    arguments: world.library.launcherArguments(peers: world.peers) + [program, world.socketPath],
                    environment: environment))
        }
    }

    private func startOurs(_ world: BenchWorld, _ environment: [String]) throws {
        if world.library != .pump && world.masterAddress == nil {
            let master = try Master(listen: .loopback(port: 0))
            try master.run()
            world.master = master
            world.masterAddress = .loopback(port: master.port)
        }
        for rank in world.ranks {
            let arguments = ["bench-peer", "--socket", world.socketPath, "--rank", String(rank)]
            world.processes.append(
                try PeerProcess(
                    arguments: arguments + (world.library == .pump ? ["--pump"] : []), environment: environment))
        }
    }

    private func begin(_ world: BenchWorld) {
        var line = ControlLine("begin")
        world.work.addTo(&line)
        line["peers"] = String(world.peers)
        line["folder"] = folder
        if let master = world.masterAddress {
            line["master"] = "\(master)"
            line["group"] = String(world.library.peerGroup)
        }
        if let meeting = world.glooMeeting {
            line["storehost"] = meeting.store.host
            line["storeport"] = String(meeting.store.port)
            line["serves"] = meeting.isServer ? "1" : "0"
        }
        if world.library == .pump {
            line["ports"] = world.members.compactMap { $0?.port.map(String.init) }.joined(separator: ",")
        }
        for member in world.members { member?.say(line) }
    }

    /// Compiled once a run.
    private func compiledMPIProgram() throws -> String {
        if let mpiProgram { return try mpiProgram.get() }
        mpiProgram = Result {
            () throws(BenchFailure) -> String in
            for program in ["mpicc", "mpirun"] where !BenchTools.isOnPath(program) {
                throw BenchFailure("there is no \(program)")
            }
            let program = folder + "/mpi_peer"
            let source = try BenchTools.shippedFile("mpi_peer.c")
            try run("mpicc", ["-O2", "-o", program, source, "-lpthread", "-lm"], failure: "mpicc failed")
            return program
        }
        return try compiledMPIProgram()
    }

    /// Runs a program to its end.
    private func run(_ program: String, _ arguments: [String], failure: String) throws(BenchFailure) {
        let process: PeerProcess
        do {
            process = try PeerProcess(program: program, arguments: arguments, environment: currentEnvironment())
        } catch {
            throw BenchFailure(error.description)
        }
        let deadline = monotonicNanoseconds() + UInt64(secondsPerStep) * 1_000_000_000
        while !process.hasEnded() && monotonicNanoseconds() < deadline {
            var waits = process.openDescriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            _ = poll(&waits, nfds_t(waits.count), 20)
            _ = process.readReports()
        }
        process.killAndCollect()
        guard process.end == .exit(0) else {
            throw BenchFailure("\(failure): \(process.diagnostics.joined(separator: " | "))")
        }
    }

    // MARK: - Waiting

    /// One line of each member that was started here, in the order of ranks.
    private func replies(of world: BenchWorld, to what: String, after pauses: Int = 0) throws -> [ControlLine] {
        try wait(for: "\(world.library.rawValue), \(world.peers) peers, to \(what)", seconds: secondsPerStep + pauses) {
            world.ranks.allSatisfy { world.members[$0]?.lines.isEmpty == false }
        }
        return world.members.compactMap { $0?.lines.removeFirst() }
    }

    private func wait(for what: String, seconds: Int, until isDone: () -> Bool) throws {
        let deadline = monotonicNanoseconds() + UInt64(seconds) * 1_000_000_000
        while !isDone() {
            try pump(milliseconds: 100)
            guard monotonicNanoseconds() < deadline else {
                throw BenchFailure("waited \(seconds) s for \(what); see --timeout")
            }
        }
    }

    /// Hears whoever has something to say. Throws when a process has failed.
    private func pump(milliseconds: CInt) throws {
        let descriptors = worlds.flatMap { $0.descriptors + $0.processes.flatMap(\.openDescriptors) }
        var waits = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        _ = poll(&waits, nfds_t(waits.count), milliseconds)
        if BenchSignals.received != 0 { throw BenchInterruption() }
        for world in worlds {
            try world.hear()
            try world.check()
        }
    }
}

/// Somebody pressed Ctrl-C, or asked for the end in another way.
struct BenchInterruption: Error {}

enum BenchSignals {
    /// The signal that asked for the end, or 0.
    static var received: CInt { benchSignal.load(ordering: .relaxed) }

    /// From here on Ctrl-C and the like only leave a note, so that children are ended before their parent.
    static func install() {
        benchSignal.store(0, ordering: .relaxed)
        for number in [SIGINT, SIGTERM, SIGHUP] { signal(number) { benchSignal.store($0, ordering: .relaxed) } }
        signal(SIGPIPE, SIG_IGN)
    }

    /// From here on Ctrl-C and the like end this process at once. Throws if one has come before.
    static func uninstall() throws(BenchInterruption) {
        for number in [SIGINT, SIGTERM, SIGHUP] { signal(number, SIG_DFL) }
        if received != 0 { throw BenchInterruption() }
    }
}

private let benchSignal = Atomic<CInt>(0)
