import Testing

@testable import pccl

@Suite("What Linux writes about itself")
struct SystemTextTests {
    @Test("numbers of settings, with tabs or blanks between, and without one")
    func settings() {
        #expect(SystemText.buffer("4096\t131072\t6291456\n") == .init(least: 4096, first: 131_072, most: 6_291_456))
        #expect(SystemText.buffer("4096 131072") == nil)
        #expect(SystemText.integer("1\n") == 1)
        #expect(SystemText.integer("max\n") == nil)
        #expect(SystemText.range("32768\t60999\n") == 32768...60999)
        #expect(SystemText.range("9 8") == nil)
    }

    @Test("lists of ports and processors", arguments: [("", 0), ("\n", 0), ("0-7\n", 8), ("0,2-3,8\n", 4), ("5-1", 0)])
    func ranges(text: String, count: Int) {
        #expect(SystemText.ranges(text).reduce(0) { $0 + $1.count } == count)
    }

    @Test("limits of a process, with and without an end")
    func limits() {
        let table = """
            Limit                     Soft Limit           Hard Limit           Units
            Max processes             96365                unlimited            processes
            Max open files            1024                 1048576              files
            """
        #expect(SystemText.limit("Max open files", of: table) == .init(soft: 1024, hard: 1_048_576))
        #expect(SystemText.limit("Max processes", of: table) == .init(soft: 96_365, hard: .max))
        #expect(SystemText.limit("Max locked memory", of: table) == nil)
    }

    @Test("fields of a process' status, and bits of a mask")
    func status() {
        let status = "Name:\tpccl\nCapEff:\t0000000000001000\nCpus_allowed_list:\t0-1\n"
        #expect(SystemText.field("CapEff", of: status) == "0000000000001000")
        #expect(SystemText.field("Cap", of: status) == nil)
        #expect(SystemText.hasBit(12, inMask: "0000000000001000"))
        #expect(!SystemText.hasBit(11, inMask: "0000000000001000"))
        #expect(!SystemText.hasBit(0, inMask: "none"))
    }

    private static let mounts = """
        24 1 8:1 / / rw - ext4 /dev/root rw
        30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate
        """

    @Test("control groups around a process, the innermost first")
    func controlGroups() {
        #expect(
            SystemText.controlGroups(memberships: "0::/system.slice/run.service\n", mounts: Self.mounts)
                == ["/sys/fs/cgroup/system.slice/run.service", "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup"])
        #expect(SystemText.controlGroups(memberships: "0::/\n", mounts: Self.mounts) == ["/sys/fs/cgroup"])
    }

    @Test("a mount that shows a part of the tree begins at that part")
    func boundMount() {
        let mounts = "30 24 0:26 /docker/a /sys/fs/cgroup ro - cgroup2 cgroup rw"
        #expect(
            SystemText.controlGroups(memberships: "0::/docker/a/job\n", mounts: mounts)
                == ["/sys/fs/cgroup/job", "/sys/fs/cgroup"])
    }

    @Test("where only version 1 is there are none")
    func versionOne() {
        #expect(SystemText.controlGroups(memberships: "4:memory:/a\n", mounts: Self.mounts) == [])
        #expect(SystemText.controlGroups(memberships: "0::/a\n", mounts: "24 1 8:1 / / rw - ext4 /dev/root rw") == [])
    }

    @Test("shares of processors")
    func quota() {
        #expect(SystemText.quota("150000 100000\n") == 1.5)
        #expect(SystemText.quota("max 100000\n") == nil)
    }
}
