import PCCLBase
import PCCLCompute
import PCCLSession
import PCCLTransport
import PCCLWire

/// What is known of this machine, and of those that it is to talk to. Read by `MachineReader`, judged by `findings`, which
/// is a function of it alone. Nil, unless a line says otherwise: the system does not tell.
struct Machine {
    var wishes = Wishes()
    var kernel = Kernel()
    var limits = Limits()
    var ports = Ports()
    var clock = Clock.untold
    /// Those whose names begin with PCCL, in any case of letters, and CUDA_VISIBLE_DEVICES.
    var variables: [String: String] = [:]
    var gpu = GPU.skipped
    var calls: [Call] = []

    /// All of it, in the order in which it is read.
    var findings: [Finding] {
        kernelFindings + limitFindings + portFindings + [clockFinding] + environmentFindings + gpuFindings
            + calls.flatMap(callFindings)
    }

    /// What the library would make of the variables.
    var environment: Environment { Environment(reading: { variable($0) }, onProblem: { _ in }) }

    /// An empty one counts as not set, as in the library.
    func variable(_ name: String) -> String? { variables[name].flatMap { $0.isEmpty ? nil : $0 } }
}

extension Machine {
    /// What the run is to be like.
    struct Wishes: Equatable {
        var peers = 8
        var bitsPerSecond = 1e9
        /// Nil: of the farthest peer that was called, else `assumedRoundTripSeconds`.
        var roundTripSeconds: Double?
        static let assumedRoundTripSeconds = 0.1
    }

    /// Settings, under the names that sysctl has for them.
    struct Kernel: Equatable {
        /// Bytes of one connection: at least, at first, at most.
        struct Buffer: Equatable {
            var least: Int
            var first: Int
            var most: Int
        }
        var receiveBuffer: Buffer?
        var sendBuffer: Buffer?
        var largestAskedReceiveBuffer: Int?
        var largestAskedSendBuffer: Int?
        var congestion: String?
        var availableCongestions: [String] = []
        var allowedCongestions: [String] = []
        var beginsSlowlyAfterIdle: Bool?
        var backlog: Int?
        var mtuProbing: Int?
        /// Nil where the kernel has no Yama.
        var ptraceScope: Int?
        /// Whether another process of this user could read this one's memory: it was tried.
        var neighbour = Neighbour.untried("it was not asked for")
        /// CAP_NET_ADMIN.
        var mayAdminister = false
    }

    enum Neighbour: Equatable {
        case readable
        /// With the kernel's reason.
        case refused(String)
        case untried(String)
    }

    struct Limits: Equatable {
        /// As of getrlimit; `.max` is no limit.
        struct Limit: Equatable {
            var soft: UInt64
            var hard: UInt64
        }
        var descriptors: Limit?
        var lockedBytes: Limit?
        var processes: Limit?
        /// Of threads, by control groups; nil is none.
        var threadsAllowed: Int?
        var threadsPresent: Int?
        var processors = 1
        /// Those that this process may run on.
        var processorsAllowed = 1
        /// By control groups, in processors; nil is none.
        var processorQuota: Double?
        var memoryBytes: Int?
        /// By control groups; nil is none.
        var memoryLimitBytes: Int?
        var memoryUsedBytes: Int?
    }

    struct Ports: Equatable {
        enum Port: Equatable {
            case free
            /// By whom: what the one said that listens there.
            case taken(Call.Outcome)
            case refused(String)
        }
        enum PeerPort: Equatable {
            case free(UInt16)
            /// None of those that a peer tries, the first for this reason: the system will choose one.
            case noneFree(String)
            /// Not even one that the system chooses.
            case refused(String)
        }
        var master = Port.free
        var peer = PeerPort.free(48150)
        /// From which the kernel takes those of outgoing connections.
        var outgoing: ClosedRange<UInt16>?
        /// Which it leaves out.
        var reserved: [ClosedRange<UInt16>] = []
        var addresses: [NetworkInterfaces.Address] = []
    }

    enum Clock: Equatable {
        case synchronised, unsynchronised, untold
    }

    enum GPU: Equatable {
        case skipped
        case surveyed(DeviceDriver.Survey, Surroundings)
        /// It did not come to an answer.
        case failed(String)

        /// What the kernel shows of NVIDIA.
        struct Surroundings: Equatable {
            /// Of its driver; nil: there is none.
            var kernelModule: String?
            var hasPeerMemoryModule = false
        }

        var isUsable: Bool {
            if case .surveyed(let survey, _) = self { survey.state == .ready } else { false }
        }
    }

    /// Who was called, and what came of it.
    struct Call: Equatable {
        enum Callee: String {
            case master, peer
            var role: Preamble.Role { self == .master ? .control : .stripe }
        }
        enum Outcome: Equatable {
            case answered
            /// The connection was not made.
            case unreachable(code: Int32)
            case connectTimedOut
            /// Connected, and no greeting came.
            case silent
            case closed
            case stranger(Preamble.Problem)
        }
        /// What the kernel knows of a connection.
        struct Path: Equatable {
            var connectSeconds: Double
            var roundTripSeconds: Double?
            var segmentBytes: Int?
            var mtu: Int?
            var isWithinHost: Bool
        }
        struct Attempt: Equatable {
            var address: SocketAddress
            var outcome: Outcome
            /// Nil where no connection was made.
            var path: Path?
        }

        var callee: Callee
        var name: String
        var port: UInt16
        /// Why the name stands for no address.
        var lookUpProblem: String?
        /// One for each address, up to the first that answers as it should.
        var attempts: [Attempt] = []

        var answer: Attempt? { attempts.last.flatMap { $0.outcome == .answered ? $0 : nil } }
    }
}
