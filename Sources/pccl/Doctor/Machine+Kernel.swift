import PCCLBase
import PCCLTransport

/// What the kernel does with connections, and with neighbours.
extension Machine {
    var kernelFindings: [Finding] {
        [
            buffer("net.ipv4.tcp_rmem", kernel.receiveBuffer), buffer("net.ipv4.tcp_wmem", kernel.sendBuffer),
            askedBuffers, congestion, idle, backlog, mtuProbing, neighbour,
        ].compactMap { $0 }
    }

    // MARK: - bandwidth × delay

    /// There and back, and where that comes from.
    var roundTrip: (seconds: Double, origin: String) {
        if let seconds = wishes.roundTripSeconds { return (seconds, "asked for") }
        let paths = calls.filter { $0.callee == .peer }.compactMap(\.answer?.path).filter { !$0.isWithinHost }
        let measured = paths.compactMap(\.roundTripSeconds).max()
        if let measured { return (measured, "measured") }
        return (Wishes.assumedRoundTripSeconds, "assumed")
    }

    private var isLongWay: Bool { roundTrip.seconds >= LinkConfiguration().longRoundTrip.seconds }

    /// What has to be on its way so that the line is never idle.
    private var bytesOnTheWay: Double { wishes.bitsPerSecond / 8 * roundTrip.seconds }

    /// Of a buffer, headers and the kernel's own book-keeping take about half: over 100 ms, 4 MiB of tcp_wmem carried 2.4 MB a
    /// round trip (docs/decisions/0009).
    private static let usedShare = 0.5
    /// A link over 50 ms or more goes from one connection to so many at once; further ones are tried one window after the other.
    private static let quicklyMade = 8
    /// With the settings that are proposed so many fill the line: a lost packet holds up a quarter of it only.
    private static let proposedCount = 4.0

    private func buffer(_ setting: String, _ buffer: Kernel.Buffer?) -> Finding? {
        guard let buffer else { return nil }
        let needed = bytesOnTheWay
        let window = Double(buffer.most) * Self.usedShare
        let count = max(1, Int((needed / window).rounded(.up)))
        let line = "\(Quantity.rate(wishes.bitsPerSecond)) over \(Quantity.time(roundTrip.seconds))"
        let most = LinkConfiguration().largestStripeCount
        let text =
            "\(buffer.most) at most: a connection has about \(Quantity.bytes(window)) on its way; \(line) "
            + (count == 1 ? "need no more" : "need \(Quantity.bytes(needed)), or \(count) connections a link")
            + (count > most ? ", of which there are \(most) at most" : "")
        guard count > Self.quicklyMade else { return .ok(.kernel, setting, text) }
        let proposed = Self.powerOfTwo(atLeast: needed / Self.usedShare / Self.proposedCount)
        return .change(
            .kernel, setting, text, ["sysctl -w \(setting)=\"\(buffer.least) \(buffer.first) \(proposed)\""],
            brings: "with the same at the other end \(Int(Self.proposedCount)) connections of a link fill the line")
    }

    private static func powerOfTwo(atLeast bytes: Double) -> Int {
        // Linux counts these in an int.
        var power = 1 << 20
        while Double(power) < bytes && power < 1 << 30 { power *= 2 }
        return power
    }

    private var askedBuffers: Finding? {
        guard let receive = kernel.largestAskedReceiveBuffer, let send = kernel.largestAskedSendBuffer else {
            return nil
        }
        return .ok(
            .kernel, "net.core.rmem_max",
            "\(receive), and wmem_max \(send): not used; the kernel sizes the buffers, within tcp_rmem and tcp_wmem")
    }

    // MARK: - how connections behave

    /// Whether a process of this user may choose it.
    private func mayUse(_ congestion: String) -> Bool {
        kernel.availableCongestions.contains(congestion)
            && (kernel.mayAdminister || kernel.allowedCongestions.contains(congestion))
    }

    private var congestionInUse: String? {
        variable("PCCL_CONGESTION").flatMap { mayUse($0) ? $0 : nil } ?? kernel.congestion
    }

    private var congestion: Finding? {
        guard let system = kernel.congestion else { return nil }
        let setting = "net.ipv4.tcp_congestion_control"
        if let named = variable("PCCL_CONGESTION"), !mayUse(named) {
            let isThere = kernel.availableCongestions.contains(named)
            let allowed = (kernel.allowedCongestions + [named]).joined(separator: " ")
            return .change(
                .kernel, "PCCL_CONGESTION",
                "\(named) "
                    + (isThere ? "is not among those that any user may choose" : "is not to be had from this kernel")
                    + "; the system's, \(system), is used",
                [
                    isThere
                        ? "sysctl -w net.ipv4.tcp_allowed_congestion_control=\"\(allowed)\"" : "modprobe tcp_\(named)"
                ],
                brings: "connections between peers would use \(named), as was asked for")
        }
        let (used, origin) = variable("PCCL_CONGESTION").map { ($0, "PCCL_CONGESTION") } ?? (system, "the system's")
        if used == "bbr" {
            return .ok(.kernel, setting, "bbr, \(origin): keeps what it knows of a path through pauses")
        }
        guard isLongWay else { return .ok(.kernel, setting, "\(used), \(origin): good enough over such a short way") }
        let commands =
            switch (kernel.availableCongestions.contains("bbr"), mayUse("bbr")) {
            case (true, true): ["export PCCL_CONGESTION=bbr"]
            case (true, false): ["sysctl -w \(setting)=bbr"]
            case (false, _): ["modprobe tcp_bbr", "sysctl -w \(setting)=bbr"]
            }
        return .change(
            .kernel, setting, "\(used), \(origin): takes a lost packet for a full line, and forgets the path in pauses",
            commands,
            brings: "64 MiB over 100 ms after ten idle seconds were seen to take 1.3 s with bbr, 2.1 s with cubic")
    }

    private var idle: Finding? {
        guard let beginsSlowly = kernel.beginsSlowlyAfterIdle else { return nil }
        let setting = "net.ipv4.tcp_slow_start_after_idle"
        guard beginsSlowly else { return .ok(.kernel, setting, "0: connections go on after a pause as fast as before") }
        if congestionInUse == "bbr" { return .ok(.kernel, setting, "1: of no effect on bbr") }
        guard isLongWay else { return .ok(.kernel, setting, "1: of little effect over such a short way") }
        return .change(
            .kernel, setting, "1: after each pause between two synchronisations connections begin slowly again",
            ["sysctl -w \(setting)=0"], brings: "no slow begin with cubic (with bbr there is none in any case)")
    }

    private var backlog: Finding? {
        // What `Socket.listening` asks for.
        let asked = 1024
        guard let backlog = kernel.backlog else { return nil }
        let setting = "net.core.somaxconn"
        if backlog >= asked {
            return .ok(.kernel, setting, "\(backlog): listeners get the \(asked) waiting connections that they ask for")
        }
        return .change(
            .kernel, setting, "\(backlog): no more connections can wait to be taken, and \(asked) are asked for",
            ["sysctl -w \(setting)=\(asked)"],
            brings: "when many peers connect at once none has to try again, a second or more later")
    }

    private var mtuProbing: Finding? {
        guard let probing = kernel.mtuProbing else { return nil }
        let setting = "net.ipv4.tcp_mtu_probing"
        if probing > 0 {
            return .ok(.kernel, setting, "\(probing): connections get over a path that swallows large packets")
        }
        return .note(
            .kernel, setting, "0: where a path swallows large packets and does not say so, connections stand still",
            ["sysctl -w \(setting)=1"], brings: "such connections find a smaller size; it happens with tunnels and VPNs"
        )
    }

    // MARK: - the memory of a neighbour

    private var neighbour: Finding? {
        let subject = "process_vm_readv"
        let scope = kernel.ptraceScope.map { "kernel.yama.ptrace_scope is \($0)" } ?? "the kernel has no Yama"
        let sharing = environment.links.sharing
        switch kernel.neighbour {
        case _ where sharing == .never:
            return .note(.kernel, subject, "not used, since PCCL_TRANSPORT=tcp: peers of this host send over TCP")
        case .readable:
            return .ok(
                .kernel, subject, "tried: peers of this host, if one user's, read each other's memory (\(scope))")
        case .untried(let reason):
            return .note(
                .kernel, subject, "could not be tried: \(reason); \(scope), and peers of one host want 0, or none")
        case .refused(let reason):
            let text = "tried: one process may not read another's memory (\(reason); \(scope)); peers of this host "
            if sharing == .always {
                return .fault(
                    .kernel, subject, text + "are refused, since PCCL_TRANSPORT=shm", neighbourCommands,
                    brings: "links between peers of this host; or else: unset PCCL_TRANSPORT")
            }
            return .change(
                .kernel, subject, text + "send over TCP", neighbourCommands,
                brings: "64 MiB between two peers of one machine were seen to take 19 ms instead of 33 ms")
        }
    }

    private var neighbourCommands: [String] {
        switch kernel.ptraceScope ?? 0 {
        case 0: ["docker run --cap-add SYS_PTRACE ...   (a container's profile forbids it, or a security module)"]
        case 1, 2: ["sysctl -w kernel.yama.ptrace_scope=0"]
        default: ["sysctl kernel.yama.ptrace_scope=0 before anything sets 3, which only a restart undoes"]
        }
    }
}
