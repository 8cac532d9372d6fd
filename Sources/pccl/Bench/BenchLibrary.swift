import Glibc
import PCCL

/// What can be measured. All but the pump reduce.
enum BenchLibrary: String, CaseIterable {
    case pccl
    case pcclOverTCP = "pccl-tcp"
    case oneStripe = "one-stripe"
    case uncoded = "plain"
    case gloo
    case mpiOverTCP = "mpi-tcp"
    case mpiShared = "mpi-shm"
    case pump

    /// What `--vs` calls them; `mpi` is both.
    static let choices: [(name: String, libraries: [BenchLibrary])] = [
        ("gloo", [.gloo]), ("mpi", [.mpiOverTCP, .mpiShared]), ("mpi-tcp", [.mpiOverTCP]), ("mpi-shm", [.mpiShared]),
        ("pump", [.pump]), ("tcp", [.pcclOverTCP]), ("one-stripe", [.oneStripe]), ("plain", [.uncoded]),
    ]

    /// Nil if a name is unknown.
    static func parse(_ text: String) -> [BenchLibrary]? {
        let chosen = text.split(separator: ",").map { name in choices.first { $0.name == name }?.libraries }
        guard !chosen.contains(nil), !chosen.isEmpty else { return nil }
        return chosen.compactMap { $0 }.joined().reduce(into: []) { if !$0.contains($1) { $0.append($1) } }
    }

    var isOurs: Bool {
        switch self {
        case .pccl, .pcclOverTCP, .oneStripe, .uncoded, .pump: true
        case .gloo, .mpiOverTCP, .mpiShared: false
        }
    }

    /// Whether it can be measured among peers on several hosts. `mpirun` starts all of its processes itself, and the pump
    /// knows loopback only.
    var spansHosts: Bool {
        switch self {
        case .pccl, .pcclOverTCP, .oneStripe, .uncoded, .gloo: true
        case .mpiOverTCP, .mpiShared, .pump: false
        }
    }

    /// Ours in their kinds are apart from each other, though they may have one master.
    var peerGroup: Int {
        switch self {
        case .pccl, .gloo, .mpiOverTCP, .mpiShared, .pump: 0
        case .pcclOverTCP: 1
        case .oneStripe: 2
        case .uncoded: 3
        }
    }

    /// The work as it does it. gloo reduces in place whatever is asked for: PyTorch offers nothing else.
    func adapted(_ work: BenchWork) -> BenchWork {
        var work = work
        if self == .gloo { work.isInPlace = true }
        if self == .oneStripe { work.stripes = 1 }
        if self == .uncoded || !isOurs || self == .pump { work.codec = .none }
        return work
    }

    /// Why this work is not for it, as far as that is known before it is started.
    func refusal(of work: BenchWork) -> String? {
        switch self {
        case .pccl, .pcclOverTCP, .oneStripe, .uncoded, .pump: return nil
        case .gloo: return work.operation == .average ? "gloo has no average" : nil
        case .mpiOverTCP, .mpiShared:
            if work.operation == .average { return "MPI has no average" }
            let isSmallFloat = work.type == .float16 || work.type == .bfloat16
            return isSmallFloat ? "MPI has no type \(work.type)" : nil
        }
    }

    /// What our own say of themselves.
    static let ourText = "swift-pccl \(Release.version)"

    var whatToInstall: String {
        switch self {
        case .pccl, .pcclOverTCP, .oneStripe, .uncoded, .pump: "nothing to install"
        case .gloo: "install PyTorch for some Python (pip install torch) and name that one with --python"
        case .mpiOverTCP, .mpiShared: "install Open MPI with its compiler (Debian: openmpi-bin and libopenmpi-dev)"
        }
    }

    /// Open MPI of versions 4 and 5. Without naming the loopback device, TCP would leave it out; without ob1, a fabric
    /// library might carry what is meant to go over TCP.
    func launcherArguments(peers: Int) -> [String] {
        let transport =
            self == .mpiOverTCP ? ["--mca", "btl", "tcp,self"] : ["--mca", "btl", "^tcp,uct,ofi,usnic,openib"]
        return [
            "-n", String(peers), "--oversubscribe", "--bind-to", "none", "--mca", "pml", "ob1", "--mca",
            "btl_tcp_if_include", "lo", "--mca", "oob_tcp_if_include", "lo",
        ] + transport + (geteuid() == 0 ? ["--allow-run-as-root"] : [])
    }
}

/// Programs and files that a measurement may need.
enum BenchTools {
    /// A file of the folder `bench`: beside the installed tool, else in a checkout around the tool or this folder.
    static func shippedFile(_ name: String) throws(BenchFailure) -> String {
        let installed = "../share/pccl/bench/\(name)"
        let inCheckout = "scripts/bench/\(name)"
        let folders = [ownFolder(), currentFolder()].compactMap { $0 }
        if let tool = folders.first, access("\(tool)/\(installed)", R_OK) == 0 { return "\(tool)/\(installed)" }
        for folder in folders {
            let names = folder.split(separator: "/")
            for depth in (0...names.count).reversed() {
                let candidate = names[..<depth].map { "/" + $0 }.joined() + "/" + inCheckout
                if access(candidate, R_OK) == 0 { return candidate }
            }
        }
        throw BenchFailure(
            "found no \(name): neither \(installed) seen from the tool, nor \(inCheckout) in a folder above "
                + folders.joined(separator: " or "))
    }

    static func isOnPath(_ program: String) -> Bool {
        if program.contains("/") { return access(program, X_OK) == 0 }
        let path = getenv("PATH").map { String(cString: $0) } ?? "/usr/local/bin:/usr/bin:/bin"
        return path.split(separator: ":").contains { access("\($0)/\(program)", X_OK) == 0 }
    }

    private static func ownFolder() -> String? {
        var path = [UInt8](repeating: 0, count: Int(PATH_MAX))
        let count = path.withUnsafeMutableBytes { bytes in
            readlink("/proc/self/exe", bytes.baseAddress!.assumingMemoryBound(to: CChar.self), bytes.count)
        }
        guard count > 0, let slash = path[..<count].lastIndex(of: UInt8(ascii: "/")) else { return nil }
        return String(decoding: path[..<slash], as: UTF8.self)
    }

    private static func currentFolder() -> String? {
        guard let path = getcwd(nil, 0) else { return nil }
        defer { free(path) }
        return String(cString: path)
    }
}
