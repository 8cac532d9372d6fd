import Testing

@testable import pccl

@Suite("A measurement across hosts")
struct JoinedRunTests {
    private let lab = LabNode { name in
        [
            "PCCL_LAB_NODE": "3", "PCCL_LAB_MASTER": "10.77.0.1:48148", "PCCL_LAB_INTERFACE": "wan0",
            "PCCL_LAB_ADDRESS": "10.77.0.4",
        ][name]
    }

    @Test("an address with a port is a name or numbers, and a port")
    func hostAndPort() {
        #expect(HostAndPort(parsing: "10.0.0.1:48148") == HostAndPort(host: "10.0.0.1", port: 48148))
        #expect(HostAndPort(parsing: "[fd00::1]:1") == HostAndPort(host: "fd00::1", port: 1))
        for text in ["10.0.0.1:48148", "[fd00::1]:1", "some.where:29500"] {
            #expect(HostAndPort(parsing: text)?.description == text)
        }
        for text in ["", "host", "host:", ":1", "host:65536", "a b:1"] { #expect(HostAndPort(parsing: text) == nil) }
    }

    @Test("an address is of this host if one can bind to it")
    func ownAddress() {
        #expect(HostAndPort(host: "127.0.0.1", port: 1).isOfThisHost)
        // For documentation: RFC 5737.
        #expect(!HostAndPort(host: "192.0.2.1", port: 1).isOfThisHost)
        #expect(!HostAndPort(host: "no name", port: 1).isOfThisHost)
    }

    @Test("a node of a laboratory knows its place; elsewhere there is none")
    func labNode() {
        #expect(lab?.number == 3 && lab?.firstAddress == "10.77.0.1" && lab?.interface == "wan0")
        #expect(LabNode { _ in nil } == nil)
    }

    @Test("in a laboratory gloo meets at node 0 over the laboratory's device, if it is told nothing else")
    func meetingInALab() throws {
        let usual = try #require(GlooMeeting(store: nil, interface: nil, in: lab))
        #expect(usual.store == HostAndPort(host: "10.77.0.1", port: 29500) && usual.interface == "wan0")
        let store = HostAndPort(host: "10.77.0.2", port: 7)
        let told = try #require(GlooMeeting(store: store, interface: "lo", in: lab))
        #expect(told.store == store && told.interface == "lo")
    }

    @Test("elsewhere it has to be told where, and takes the device that PyTorch chooses")
    func meetingElsewhere() throws {
        #expect(GlooMeeting(store: nil, interface: "lo", in: nil) == nil)
        let told = try #require(GlooMeeting(store: HostAndPort(host: "a", port: 7), interface: nil, in: nil))
        #expect(told.interface == nil)
    }

    @Test("only a measurement that has gloo in it has a meeting")
    func meetingOfOptions() throws {
        let options = ["--master", "127.0.0.1:1", "--vs"]
        let store = ["--gloo-store", "a:7", "--gloo-interface", "wan1"]
        let told = try #require(try BenchCommand.parse(options + ["gloo"] + store).parsed().glooMeeting)
        #expect(told.store == HostAndPort(host: "a", port: 7) && told.interface == "wan1")
        #expect(try BenchCommand.parse(options + ["one-stripe"]).parsed().glooMeeting == nil)
    }
}

@Suite("The turns of a measurement")
struct BenchRoundsTests {
    private let plan = BenchPlan(work: BenchWork(), peers: [2], sizes: [8, 64], rounds: 3)

    private func rounds(_ libraries: [BenchLibrary], taking turn: @escaping (BenchLibrary, Int) -> Void) -> BenchRounds
    {
        let contenders = libraries.map { library in
            BenchContender(library: library) {
                turn(library, $0.bytes)
                return BenchTurnResult(
                    nanoseconds: [library == .pccl ? 100 : 250], processorNanoseconds: 1, extraBytes: 0,
                    wrongElements: 0)
            }
        }
        var output = BenchOutput(isJSON: true, isVerbose: false)
        output.isSilent = true
        return BenchRounds(plan: plan, peers: 2, contenders: contenders, isComparison: true, output: output)
    }

    @Test("each round begins with another library, and rows compare with ours")
    func order() throws {
        var taken: [String] = []
        let rows = try rounds([.pccl, .gloo]) { taken.append("\($0) \($1)") }.rows()
        #expect(
            taken == [
                "pccl 8", "gloo 8", "gloo 8", "pccl 8", "pccl 8", "gloo 8", "pccl 64", "gloo 64", "gloo 64", "pccl 64",
                "pccl 64", "gloo 64",
            ])
        #expect(rows.map(\.library) == ["pccl", "gloo", "pccl", "gloo"])
        #expect(rows.map(\.bytes) == [8, 8, 64, 64])
        #expect(rows.map(\.timesOfPCCL) == [nil, 2.5, nil, 2.5])
    }

    @Test("ours alone is no comparison")
    func nobodyElse() {
        #expect(throws: BenchFailure.self) { try rounds([.pccl]) { _, _ in Issue.record("nothing to measure") }.rows() }
    }
}
