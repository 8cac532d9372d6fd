import PCCLBase
import PCCLCompute

@testable import pccl

/// A machine that lacks nothing: Linux as it comes, with bbr.
func machine(_ change: (inout Machine) -> Void = { _ in }) -> Machine {
    var machine = Machine()
    machine.kernel = Machine.Kernel(
        receiveBuffer: .init(least: 4096, first: 131_072, most: 6_291_456),
        sendBuffer: .init(least: 4096, first: 16_384, most: 4_194_304), largestAskedReceiveBuffer: 212_992,
        largestAskedSendBuffer: 212_992, congestion: "bbr", availableCongestions: ["reno", "cubic", "bbr"],
        allowedCongestions: ["reno", "bbr"], beginsSlowlyAfterIdle: true, backlog: 4096, mtuProbing: 1,
        ptraceScope: 0, neighbour: .readable)
    machine.limits = Machine.Limits(
        descriptors: .init(soft: 1024, hard: 1_048_576), lockedBytes: .init(soft: 8 << 20, hard: 8 << 20),
        processes: .init(soft: 96_365, hard: 96_365), processors: 8, processorsAllowed: 8, memoryBytes: 32 << 30)
    machine.clock = .synchronised
    machine.ports.addresses = [.init(interface: "eth0", host: .v4(0xc000_0202))]
    change(&machine)
    return machine
}

extension Machine {
    func finding(_ subject: String) -> Finding? { findings.first { $0.subject == subject } }
}

extension Machine.GPU {
    static func survey(
        _ state: DeviceDriver.Survey.State, _ obstacle: String? = nil, names: [String] = [],
        _ surroundings: Surroundings = Surroundings()
    ) -> Machine.GPU {
        .surveyed(.init(state: state, obstacle: obstacle, version: 12_040, deviceNames: names), surroundings)
    }
}
