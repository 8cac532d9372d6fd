import Testing

@testable import pccl

@Suite("What a doctor says of limits")
struct LimitFindingsTests {
    private func descriptors(_ soft: UInt64, hard: UInt64, peers: Int = 8) -> Finding? {
        machine {
            $0.wishes.peers = peers
            $0.limits.descriptors = .init(soft: soft, hard: hard)
        }.finding("open files")
    }

    @Test("files are enough for 64 connections to each peer, or are to be more")
    func descriptors() {
        #expect(descriptors(512, hard: 512)?.weight == .ok)
        #expect(descriptors(511, hard: 4096)?.weight == .change)
        #expect(descriptors(1024, hard: 1 << 20, peers: 32)?.change?.commands == ["ulimit -n 2048"])
    }

    @Test("a shell cannot go beyond the hard limit, so a unit or root must")
    func hardLimit() {
        #expect(descriptors(1024, hard: 1024, peers: 32)?.change?.commands.first?.hasPrefix("LimitNOFILE=") == true)
        // Of what is allowed no more is asked for.
        #expect(descriptors(1024, hard: 2048, peers: 32)?.change?.commands == ["ulimit -n 2048"])
    }

    @Test("it is a fault when not even one connection to each peer fits")
    func tooFew() {
        #expect(descriptors(64, hard: 64, peers: 64)?.weight == .fault)
    }

    @Test("locked memory is of interest beside a GPU only")
    func locked() {
        #expect(machine().finding("locked memory")?.weight == .ok)
        let withGPU = machine { $0.gpu = .survey(.ready, names: ["A"]) }
        #expect(withGPU.finding("locked memory")?.weight == .note)
        let unlimited = machine {
            $0.gpu = .survey(.ready, names: ["A"])
            $0.limits.lockedBytes = .init(soft: .max, hard: .max)
        }
        #expect(unlimited.finding("locked memory")?.weight == .ok)
    }

    @Test("of the limits of user and control group the narrower is the one to widen")
    func threads() {
        let byGroup = machine {
            $0.limits.threadsAllowed = 100
            $0.limits.threadsPresent = 20
        }.finding("threads")
        #expect(byGroup?.weight == .change)
        #expect(byGroup?.text.hasPrefix("80 left by the control group") == true)
        #expect(byGroup?.change?.commands.first?.contains("--pids-limit") == true)

        let byUser = machine { $0.limits.processes = .init(soft: 64, hard: 64) }.finding("threads")
        #expect(byUser?.change?.commands == ["ulimit -u 4096"])

        let none = machine { $0.limits.processes = .init(soft: .max, hard: .max) }.finding("threads")
        #expect(none?.text == "no limit: enough")
    }

    @Test("a share of processors that is less than all is noted, with the pauses it brings")
    func quota() {
        let narrow = machine { $0.limits.processorQuota = 1.5 }.finding("processors")
        #expect(narrow?.weight == .note)
        #expect(narrow?.text.contains("1.50") == true)
        #expect(machine { $0.limits.processorQuota = 8 }.finding("processors")?.weight == .ok)
    }

    @Test("one processor is noted")
    func oneProcessor() {
        let finding = machine { $0.limits.processorsAllowed = 1 }.finding("processors")
        #expect(finding?.weight == .note)
        #expect(finding?.text.hasPrefix("1 of 8") == true)
    }

    @Test("memory that a control group leaves may be little")
    func memory() {
        let little = machine {
            $0.limits.memoryLimitBytes = 2 << 30
            $0.limits.memoryUsedBytes = 3 << 29
        }.finding("memory")
        #expect(little?.weight == .change)
        let enough = machine { $0.limits.memoryLimitBytes = 8 << 30 }.finding("memory")
        #expect(enough?.weight == .ok)
    }
}
