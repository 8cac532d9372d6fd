import CShims
import Glibc
import PCCLBase
import PCCLSession
import PCCLTransport

/// Reads what `Machine` tells. Nothing here needs privileges, changes anything or waits longer than it is told to; what
/// could wait without an end runs in a process of its own.
struct MachineReader {
    var wishes: Machine.Wishes
    var looksAtGPU: Bool
    var masters: [HostAndPort]
    var peers: [HostAndPort]
    /// For each address that is called.
    var patience: Interval

    func read() -> Machine {
        var machine = Machine()
        machine.wishes = wishes
        machine.variables = Self.variables()
        machine.kernel = Self.kernel()
        machine.limits = Self.limits()
        machine.clock = Self.clock()
        machine.ports = ports(machine.environment)
        if looksAtGPU { machine.gpu = DoctorHelper.gpu() }
        let caller = Caller(patience: patience)
        machine.calls =
            masters.map { caller.call(.master, $0) } + peers.map { caller.call(.peer, $0) }
        return machine
    }

    private static func text(_ path: String) -> String? { try? textOfFile(path) }

    private static func variables() -> [String: String] {
        var found: [String: String] = [:]
        for entry in currentEnvironment() {
            guard let sign = entry.firstIndex(of: "=") else { continue }
            let name = String(entry[..<sign])
            // In any case of letters: pccl_timeout is a mistake that is to be seen.
            if name.uppercased().hasPrefix("PCCL") || name == "CUDA_VISIBLE_DEVICES" {
                found[name] = String(entry[entry.index(after: sign)...])
            }
        }
        return found
    }

    // MARK: - the kernel

    private static func setting(_ name: String) -> String? {
        text("/proc/sys/" + name.map { $0 == "." ? "/" : String($0) }.joined())
    }

    private static func number(_ name: String) -> Int? { setting(name).flatMap(SystemText.integer) }

    /// CAP_NET_ADMIN, by its number.
    private static let networkAdministration = 12

    private static func kernel() -> Machine.Kernel {
        let capabilities = text("/proc/self/status").flatMap { SystemText.field("CapEff", of: $0) } ?? ""
        return Machine.Kernel(
            receiveBuffer: setting("net.ipv4.tcp_rmem").flatMap(SystemText.buffer),
            sendBuffer: setting("net.ipv4.tcp_wmem").flatMap(SystemText.buffer),
            largestAskedReceiveBuffer: number("net.core.rmem_max"),
            largestAskedSendBuffer: number("net.core.wmem_max"),
            congestion: setting("net.ipv4.tcp_congestion_control").flatMap { SystemText.words($0).first },
            availableCongestions: SystemText.words(setting("net.ipv4.tcp_available_congestion_control") ?? ""),
            allowedCongestions: SystemText.words(setting("net.ipv4.tcp_allowed_congestion_control") ?? ""),
            beginsSlowlyAfterIdle: number("net.ipv4.tcp_slow_start_after_idle").map { $0 != 0 },
            backlog: number("net.core.somaxconn"),
            mtuProbing: number("net.ipv4.tcp_mtu_probing"),
            ptraceScope: number("kernel.yama.ptrace_scope"),
            neighbour: DoctorHelper.neighbour(),
            mayAdminister: SystemText.hasBit(networkAdministration, inMask: capabilities))
    }

    // MARK: - limits

    private static func limits() -> Machine.Limits {
        var limits = Machine.Limits()
        let table = text("/proc/self/limits") ?? ""
        limits.descriptors = SystemText.limit("Max open files", of: table)
        limits.lockedBytes = SystemText.limit("Max locked memory", of: table)
        limits.processes = SystemText.limit("Max processes", of: table)
        limits.processors = max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN)))
        let allowed = text("/proc/self/status").flatMap { SystemText.field("Cpus_allowed_list", of: $0) }
        let count = SystemText.ranges(allowed ?? "").reduce(0) { $0 + $1.count }
        limits.processorsAllowed = count > 0 ? min(count, limits.processors) : limits.processors
        limits.memoryBytes = sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE))
        addControlGroups(to: &limits)
        return limits
    }

    /// Each group around a process may have limits; the narrowest counts.
    private static func addControlGroups(to limits: inout Machine.Limits) {
        let folders = SystemText.controlGroups(
            memberships: text("/proc/self/cgroup") ?? "", mounts: text("/proc/self/mountinfo") ?? "")
        for folder in folders {
            func number(_ file: String) -> Int? { text("\(folder)/\(file)").flatMap(SystemText.integer) }
            if let quota = text("\(folder)/cpu.max").flatMap(SystemText.quota) {
                limits.processorQuota = min(limits.processorQuota ?? quota, quota)
            }
            if let most = number("memory.max"), most < limits.memoryLimitBytes ?? .max {
                limits.memoryLimitBytes = most
                limits.memoryUsedBytes = number("memory.current")
            }
            if let most = number("pids.max"), most < limits.threadsAllowed ?? .max {
                limits.threadsAllowed = most
                limits.threadsPresent = number("pids.current")
            }
        }
    }

    private static func clock() -> Machine.Clock {
        switch pccl_shim_clock_is_synchronised() {
        case 1: .synchronised
        case 0: .unsynchronised
        default: .untold
        }
    }

    // MARK: - ports

    /// As many as a peer tries.
    private static let triedPorts: UInt16 = 512

    private func ports(_ environment: Environment) -> Machine.Ports {
        Machine.Ports(
            master: masterPort(),
            peer: Self.peerPort(environment.portBase),
            outgoing: Self.setting("net.ipv4.ip_local_port_range").flatMap(SystemText.range),
            reserved: SystemText.ranges(Self.setting("net.ipv4.ip_local_reserved_ports") ?? ""),
            addresses: NetworkInterfaces.named(environment.interfaces))
    }

    private func masterPort() -> Machine.Ports.Port {
        let port = Machine.masterPort
        switch Self.listen(port) {
        case nil: return .free
        case .some(let error) where error.code == EADDRINUSE:
            let here = Caller(patience: .milliseconds(500)).attempt(.master, .loopback(port: port))
            return .taken(here.outcome)
        case .some(let error): return .refused(SystemError.text(error.code))
        }
    }

    /// As a peer looks for it.
    private static func peerPort(_ base: UInt16) -> Machine.Ports.PeerPort {
        var first: SystemError?
        for offset in 0..<triedPorts where base &+ offset >= base {
            guard let error = listen(base &+ offset) else { return .free(base &+ offset) }
            first = first ?? error
        }
        if let error = listen(0) { return .refused(SystemError.text(error.code)) }
        return .noneFree(SystemError.text(first?.code ?? EADDRINUSE))
    }

    /// Nil: it can be had. Nobody listens there for longer than this call.
    private static func listen(_ port: UInt16) -> SystemError? {
        do {
            _ = try Socket.listening(at: SocketAddress(.v6(high: 0, low: 0), port: port))
            return nil
        } catch {
            // A kernel without IPv6, as peers take it.
            guard error.code == EAFNOSUPPORT || error.code == EADDRNOTAVAIL else { return error }
        }
        do {
            _ = try Socket.listening(at: SocketAddress(.v4(0), port: port))
            return nil
        } catch { return error }
    }
}
