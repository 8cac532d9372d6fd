import ArgumentParser
import Glibc
import PCCL

/// Measures all-reduce between processes of this machine: one line a size, medians, beside gloo where it is installed.
struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measures all-reduce (float32, sum) between processes of this machine over loopback.",
        discussion: """
            Bus bandwidth is 2 (P-1)/P times the size, divided by the time: what each peer's connection carries in each \
            direction. Every result is checked.
            """)

    @Option(help: "How many peers, each a process of its own.")
    var peers = 2

    @Option(help: "Sizes in bytes, separated by commas; K, M and G stand for 2^10, 2^20 and 2^30.")
    var sizes = "4K,64K,1M,4M,64M"

    @Option(help: "Connections per link; 0 lets the library choose.")
    var stripes = 0

    @Flag(help: "Reduce in place.")
    var inPlace = false

    @Option(help: "Also measure: gloo (needs a Python with torch, see --python).")
    var vs: String?

    @Option(help: "The Python that has torch.")
    var python = "python3"

    func validate() throws {
        guard (2...64).contains(peers) else { throw ValidationError("--peers goes from 2 to 64") }
        guard parsedSizes != nil else { throw ValidationError("--sizes \(sizes) cannot be read") }
        guard vs == nil || vs == "gloo" else { throw ValidationError("--vs knows gloo only") }
    }

    func run() throws {
        // The peers leave a master that has ended: nothing of interest, and it would run across the table.
        setenv("PCCL_LOG_LEVEL", "ERROR", 0)
        let master = try Master(listen: SocketAddress(host: "127.0.0.1", port: 0))
        try master.run()
        defer { master.destroy() }
        writeAll("     peers      bytes   median ms      p95 ms   bus GB/s\n", to: STDOUT_FILENO)
        let arguments = [
            "bench-peer", "--port", String(master.port), "--peers", String(peers), "--sizes",
            (parsedSizes ?? []).map(String.init).joined(separator: ","), "--stripes", String(stripes),
        ]
        try follow(
            try (0..<peers).map { index in
                try PeerProcess(
                    arguments: arguments + (inPlace ? ["--in-place"] : []) + (index == 0 ? ["--reports"] : []),
                    environment: currentEnvironment())
            })
        if vs == "gloo" { try runGloo() }
    }

    private func follow(_ processes: [PeerProcess]) throws {
        defer { processes.forEach { $0.killAndCollect() } }
        while !processes.allSatisfy({ $0.hasEnded() }) {
            var waits = processes.flatMap(\.openDescriptors).map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            _ = poll(&waits, nfds_t(waits.count), 100)
            for process in processes { for line in process.readReports() { writeAll(line + "\n", to: STDOUT_FILENO) } }
            if let failed = processes.first(where: { $0.end != nil && $0.end != .exit(0) }) {
                throw DemoFailure("a peer failed: \(failed.diagnostics.joined(separator: "\n"))")
            }
        }
    }

    private var parsedSizes: [Int]? {
        let units: [Character: Int] = ["K": 1 << 10, "M": 1 << 20, "G": 1 << 30]
        let parsed = sizes.split(separator: ",").map { text -> Int? in
            guard let last = text.last else { return nil }
            let unit = units[Character(last.uppercased())]
            guard let number = Int(unit == nil ? text : text.dropLast()), number > 0 else { return nil }
            return number * (unit ?? 1)
        }
        return parsed.isEmpty || parsed.contains(nil) ? nil : parsed.compactMap { $0 }
    }

    private func runGloo() throws {
        let sizes = (parsedSizes ?? []).map(String.init).joined(separator: ",")
        var pid: pid_t = 0
        let result = withCStrings([python, "-c", BenchCommand.glooProgram, String(peers), sizes]) { arguments in
            withCStrings(currentEnvironment()) { posix_spawnp(&pid, python, nil, nil, arguments, $0) }
        }
        guard result == 0 else { throw DemoFailure("cannot start \(python): \(systemError(result))") }
        var status: CInt = 0
        while waitpid(pid, &status, 0) < 0 && errno == EINTR {}
        guard status == 0 else { throw DemoFailure("gloo could not be measured: does \(python) have torch?") }
    }

    /// Prints the same columns for torch.distributed's gloo.
    private static let glooProgram = """
        import os, sys, time, tempfile, multiprocessing as mp
        import torch, torch.distributed as dist
        def run(rank, peers, store, sizes):
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
            torch.set_num_threads(1)
            dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=peers)
            for size in sizes:
                x = torch.ones(max(size // 4, 1))
                times = []
                for i in range((400 if size <= 1 << 16 else 60 if size <= 1 << 22 else 12) + 2):
                    x.fill_(1)
                    start = time.monotonic()
                    dist.all_reduce(x)
                    if i > 1: times.append(time.monotonic() - start)
                assert float(x[-1]) == peers
                times.sort()
                median = times[len(times) // 2]
                if rank == 0:
                    print(f"gloo {peers:5d} {size:10d} {median * 1e3:11.3f} {times[len(times) * 95 // 100] * 1e3:11.3f}"
                          f" {2 * (peers - 1) / peers * size / median / 1e9:10.3f}", flush=True)
        if __name__ == "__main__":
            mp.set_start_method("fork")
            store = tempfile.mktemp()
            everyone = [mp.Process(target=run, args=(r, int(sys.argv[1]), store, [int(s) for s in sys.argv[2].split(",")]))
                        for r in range(int(sys.argv[1]))]
            for p in everyone: p.start()
            for p in everyone: p.join()
            sys.exit(any(p.exitcode for p in everyone))
        """
}
