import Glibc
import PCCL
import PCCLBase
import PCCLTransport
import PCCLWire
import StrictJSON
import Testing

@testable import pccl

@Suite("What a doctor says of those it calls")
struct CallFindingsTests {
    private func call(
        _ outcome: Machine.Call.Outcome, _ callee: Machine.Call.Callee = .peer, roundTrip: Double? = nil,
        isWithinHost: Bool = false
    ) -> Machine.Call {
        var call = Machine.Call(callee: callee, name: "other.example", port: 48150)
        let path = Machine.Call.Path(
            connectSeconds: 0.1, roundTripSeconds: roundTrip, segmentBytes: 1448, mtu: 1500, isWithinHost: isWithinHost)
        call.attempts = [.init(address: .loopback(port: 48150), outcome: outcome, path: path)]
        return call
    }

    private func reach(_ call: Machine.Call, _ change: (inout Machine) -> Void = { _ in }) -> [Finding] {
        machine {
            $0.calls = [call]
            change(&$0)
        }.findings.filter { $0.area == .reach }
    }

    private func link(_ call: Machine.Call, _ change: (inout Machine) -> Void = { _ in }) -> Finding? {
        reach(call, change).first { $0.subject.hasPrefix("link to") }
    }

    @Test("who does not answer is a fault, with something to type", arguments: [Machine.Call.Callee.master, .peer])
    func unanswered(callee: Machine.Call.Callee) {
        let outcomes: [Machine.Call.Outcome] = [
            .unreachable(code: ECONNREFUSED), .unreachable(code: EHOSTUNREACH), .connectTimedOut, .silent, .closed,
            .stranger(.notPCCL(beginsWith: "HTTP/1.1 400 Bad")), .stranger(.otherVersion(9)), .stranger(.otherRole(2)),
        ]
        for outcome in outcomes {
            let findings = reach(call(outcome, callee))
            #expect(findings.map(\.weight) == [.fault])
            #expect(findings[0].change?.commands.isEmpty == false)
        }
    }

    @Test("a name without an address is a fault")
    func noAddress() {
        var call = Machine.Call(callee: .master, name: "nowhere.invalid", port: 48148)
        call.lookUpProblem = "looking up the name nowhere.invalid"
        #expect(reach(call).first?.change?.commands == ["getent hosts nowhere.invalid"])
    }

    @Test("an address that failed before another one answered is noted")
    func secondAddress() {
        var second = call(.answered, .master)
        second.attempts.insert(.init(address: .loopback(port: 1), outcome: .connectTimedOut), at: 0)
        #expect(reach(second).map(\.weight) == [.note])
    }

    @Test("a master has no link; a peer has")
    func links() {
        #expect(reach(call(.answered, .master)).count == 1)
        #expect(reach(call(.answered)).count == 2)
    }

    @Test("figures of the connection are there for programs")
    func figures() {
        let figures = JSONValue.object(reach(call(.answered, roundTrip: 0.08))[0].figures)
        #expect(figures["round_trip_seconds"] == .number(0.08))
        #expect(figures["path_mtu_bytes"] == .integer(1500))
    }

    @Test(
        "how many connections a link takes follows from the way",
        arguments: [(0.001, "one connection, "), (0.01, "then 4,"), (0.1, "then 8,")])
    func connections(roundTrip: Double, text: String) {
        #expect(link(call(.answered, roundTrip: roundTrip))?.text.contains(text) == true)
    }

    @Test("within the host memory is read where it may be, and bytes go over TCP where not")
    func withinHost() {
        let near = call(.answered, isWithinHost: true)
        #expect(link(near)?.figures == [.init("link", .string("memory"))])
        #expect(link(near) { $0.variables["PCCL_TRANSPORT"] = "tcp" }?.figures == [.init("link", .string("tcp"))])
        #expect(link(near) { $0.kernel.neighbour = .refused("no") }?.figures == [.init("link", .string("tcp"))])
        let refused = link(near) {
            $0.kernel.neighbour = .refused("no")
            $0.variables["PCCL_TRANSPORT"] = "shm"
        }
        #expect(refused?.weight == .fault)
    }

    @Test("shm refuses another host")
    func otherHost() {
        #expect(link(call(.answered)) { $0.variables["PCCL_TRANSPORT"] = "shm" }?.weight == .fault)
    }

    @Test("beside a GPU it says which way its buffers go")
    func device() {
        let neighbour = call(.answered, isWithinHost: true)
        let finding = link(neighbour) { $0.gpu = .survey(.ready, names: ["A"]) }
        #expect(finding?.text.contains("through windows") == true)
        for (name, value) in [("PCCL_DEVICE_WINDOW", "0"), ("PCCL_TRANSPORT", "tcp")] {
            let finding = link(neighbour) {
                $0.gpu = .survey(.ready, names: ["A"])
                $0.variables[name] = value
            }
            #expect(finding?.text.contains("pinned memory") == true)
        }
    }
}

@Suite("A doctor's call over loopback")
struct CallerTests {
    private let caller = Caller(patience: .seconds(30))
    private let hasty = Caller(patience: .milliseconds(20))

    @Test("a master answers, with the kernel's figures of the connection")
    func master() throws {
        let master = try Master(listen: .loopback(port: 0))
        try master.run()
        defer { master.destroy() }
        let attempt = caller.attempt(.master, .loopback(port: master.port))
        #expect(attempt.outcome == .answered)
        let path = try #require(attempt.path)
        #expect(path.isWithinHost)
        #expect(path.mtu ?? 0 > 0 && path.segmentBytes ?? 0 > 0)
        // It says who it is, and is not what was looked for.
        #expect(caller.attempt(.peer, .loopback(port: master.port)).outcome == .stranger(.otherRole(1)))
    }

    @Test("a port at which nobody listens refuses")
    func refused() throws {
        let port = try #require(try Socket.listening(at: .loopback(port: 0)).localAddress?.port)
        #expect(caller.attempt(.master, .loopback(port: port)).outcome == .unreachable(code: ECONNREFUSED))
    }

    @Test("who takes the connection and says nothing is not waited for")
    func silent() throws {
        let listener = try Socket.listening(at: .loopback(port: 0))
        let port = try #require(listener.localAddress?.port)
        #expect(hasty.attempt(.master, .loopback(port: port)).outcome == .silent)
        withExtendedLifetime(listener) {}
    }
}
