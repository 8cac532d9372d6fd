import PCCL
import Testing

@testable import pccl

@Suite("What a measurement is told to do")
struct BenchWorkTests {
    @Test("lines between parent and peer are read as they were written")
    func controlLines() throws {
        var line = ControlLine("hello")
        line["rank"] = "3"
        line["port"] = "4711"
        #expect(line.written == "hello port=4711 rank=3")
        #expect(ControlLine(parsing: line.written) == line)
        let said = ControlLine("failed", text: "all = lost,\nsays rank=3")
        #expect(said.written == "failed text=all = lost, says rank=3")
        #expect(ControlLine(parsing: said.written) == said)
        #expect(ControlLine(parsing: "end") == ControlLine("end"))
    }

    @Test(
        "a malformed line is an error that shows it",
        arguments: ["done", "done wrong", "done wrong=", "done wrong=-1", "done wrong=x"])
    func malformedLines(line: String) {
        #expect(throws: BenchFailure.self) { try ControlLine(parsing: line).number("wrong") }
    }

    @Test("work, turns and results pass over a line", arguments: DataType.allCases)
    func roundTrips(type: DataType) throws {
        for (_, operation) in BenchWork.operations {
            var work = BenchWork()
            (work.type, work.operation, work.isInPlace, work.tags, work.stripes) = (type, operation, true, 3, 2)
            work.optimizes = true
            var line = ControlLine("begin")
            work.addTo(&line)
            #expect(try BenchWork(of: ControlLine(parsing: line.written)) == work)
        }
        let turn = BenchTurn(bytes: 4096, warmUps: 1, calls: 2, callsPerFill: 3, pauseMilliseconds: 4)
        #expect(try BenchTurn(of: ControlLine(parsing: turn.line.written)) == turn)
        let result = BenchTurnResult(nanoseconds: [1, 20], processorNanoseconds: 3, extraBytes: 4, wrongElements: 5)
        #expect(try BenchTurnResult(of: ControlLine(parsing: result.line.written)) == result)
    }

    @Test("a pause is of whole milliseconds, none too short, and all of a turn's give it more time")
    func pauses() throws {
        let plan = try BenchCommand.parse(["--pause", "0.2501", "--iterations", "3"]).parsed().plan
        let turn = plan.turn(bytes: 64, peers: 2)
        #expect(turn.pauseMilliseconds == 251)
        #expect(turn.secondsOfPauses == 1)
        #expect(
            BenchTurn(bytes: 64, warmUps: 9, calls: 5, callsPerFill: 0, pauseMilliseconds: 250).secondsOfPauses == 2)
    }

    @Test("a size is made of whole elements, one at least")
    func wholeElements() {
        var work = BenchWork()
        work.type = .float64
        #expect(work.wholeElements(1) == 8)
        #expect(work.wholeElements(23) == 16)
    }

    @Test("--vs names libraries once, and mpi is both of its ways")
    func libraries() {
        #expect(BenchLibrary.parse("gloo,mpi,pump") == [.gloo, .mpiOverTCP, .mpiShared, .pump])
        #expect(BenchLibrary.parse("mpi-shm,mpi,tcp") == [.mpiShared, .mpiOverTCP, .pcclOverTCP])
        #expect(BenchLibrary.parse("one-stripe") == [.oneStripe])
        #expect(BenchLibrary.parse("nccl") == nil)
        #expect(BenchLibrary.parse("") == nil)
    }

    @Test("of ours with one stripe each link has one, and gloo reduces in place, whatever the others do")
    func adaptedWork() {
        var work = BenchWork()
        work.stripes = 4
        #expect(BenchLibrary.oneStripe.adapted(work).stripes == 1)
        #expect(BenchLibrary.gloo.adapted(work).isInPlace)
        #expect(BenchLibrary.pccl.adapted(work) == work)
        work.codec = Codec(.int4)
        #expect(BenchLibrary.allCases.filter { $0.adapted(work).codec != .none } == [.pccl, .pcclOverTCP, .oneStripe])
    }

    @Test("the work is read as it was said", arguments: ["none", "int4/128+stochastic", "min-max8"])
    func saidWork(codec: String) throws {
        var work = BenchWork()
        work.codec = try #require(Codec(codec))
        work.tags = 3
        var line = ControlLine("begin")
        work.addTo(&line)
        #expect(try BenchWork(of: line) == work)
    }

    @Test("ours of all kinds are in groups of their own, as they may have one master")
    func groups() {
        let ours = BenchLibrary.allCases.filter { $0.isOurs && $0 != .pump }
        #expect(ours.count == 4 && Set(ours.map(\.peerGroup)).count == 4)
        #expect(BenchLibrary.pccl.peerGroup == 0)
    }

    @Test("what a library has no word for is refused before it is started")
    func refusals() {
        var work = BenchWork()
        for library in BenchLibrary.allCases { #expect(library.refusal(of: work) == nil) }
        work.operation = .average
        #expect(BenchLibrary.allCases.filter { $0.refusal(of: work) != nil } == [.gloo, .mpiOverTCP, .mpiShared])
        (work.operation, work.type) = (.sum, .bfloat16)
        #expect(BenchLibrary.allCases.filter { $0.refusal(of: work) != nil } == [.mpiOverTCP, .mpiShared])
    }

    @Test(
        "options that make no sense are refused",
        arguments: [
            ["--peers", "1"], ["--peers", "2,x"], ["--peers", "65"], ["--sizes", "4Q"],
            ["--sizes", "4K", "--min", "8"],
            ["--min", "1M", "--max", "4K"], ["--factor", "1"], ["--type", "float8"], ["--op", "xor"], ["--vs", "nccl"],
            ["--plot", "a.pdf"], ["--tags", "0"], ["--rounds", "0"], ["--iterations", "0"], ["--master", "localhost"],
            ["--codec", "int5"], ["--codec", "int4", "--type", "int32"], ["--codec", "bfloat16", "--type", "float16"],
            ["--pause", "-1"], ["--pause", "nan"], ["--pause", "3601"],
            ["--master", "127.0.0.1:1", "--vs", "pump"], ["--master", "127.0.0.1:1", "--vs", "one-stripe,mpi"],
            // Outside of a laboratory nobody knows where to meet.
            ["--master", "127.0.0.1:1", "--vs", "gloo"],
            ["--vs", "gloo", "--gloo-store", "127.0.0.1:1"], ["--vs", "gloo", "--gloo-interface", "lo"],
            ["--master", "127.0.0.1:1", "--vs", "tcp", "--gloo-store", "127.0.0.1:1"],
            ["--master", "127.0.0.1:1", "--vs", "gloo", "--gloo-store", "127.0.0.1"],
            ["--master", "127.0.0.1:1", "--peers", "2,4"],
        ])
    func refusedOptions(arguments: [String]) {
        #expect(throws: (any Error).self) { try BenchCommand.parse(arguments) }
    }

    @Test(
        "options that make sense are taken",
        arguments: [
            [], ["--peers", "2,4"], ["--min", "8", "--max", "1G", "--factor", "8"],
            ["--type", "bfloat16", "--op", "avg"], ["--codec", "min-max8/64", "--type", "bfloat16", "--vs", "plain"],
            ["--master", "127.0.0.1:1", "--vs", "gloo,one-stripe,tcp", "--gloo-store", "a.b:29500"],
            ["--vs", "gloo,mpi,pump,tcp", "--plot", "a.png"], ["--master", "[::1]:48148", "--peers", "3"],
        ])
    func acceptedOptions(arguments: [String]) throws {
        _ = try BenchCommand.parse(arguments)
    }
}
