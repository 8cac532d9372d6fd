import PCCLBase
import PCCLTransport

/// Where others reach a master and peers of this machine.
extension Machine {
    static let masterPort: UInt16 = 48148

    var portFindings: [Finding] { [masterPortFinding, peerPortFinding, outgoingPorts, addresses].compactMap { $0 } }

    private var masterPortFinding: Finding {
        let (subject, port) = ("master's port", Self.masterPort)
        switch ports.master {
        case .free: return .ok(.ports, subject, "\(port) is free")
        case .taken(.answered):
            return .note(
                .ports, subject, "\(port): a pccl-master listens there already; another one needs another --port")
        case .taken:
            return .note(
                .ports, subject, "\(port) is taken; no pccl-master answers there over loopback",
                ["ss -ltnp 'sport = :\(port)'"],
                brings: "the name of who has it, as root; only the machine of the master needs that port")
        case .refused(let reason):
            return .note(.ports, subject, "\(port) cannot be had: \(reason)")
        }
    }

    private var peerPortFinding: Finding {
        let subject = "peers' ports"
        let base = environment.portBase
        switch ports.peer {
        case .free(base): return .ok(.ports, subject, "\(base) is free; further peers take the next ones")
        case .free(let port):
            return .ok(
                .ports, subject, "\(base) is taken; the next peer listens at \(port), for which firewalls must be open")
        case .noneFree(let reason):
            return .change(
                .ports, subject,
                "none is to be had from \(base) on (\(reason)); the system chooses one, which no firewall knows",
                ["export PCCL_PORT_BASE=\(base < 40_000 ? 48150 : 28150)"], brings: "ports that can be foreseen")
        case .refused(let reason):
            return .fault(
                .ports, subject, "no port can be listened at: \(reason)", ["ss -ltn"],
                brings: "what listens; who may not listen at all is in a sandbox that forbids it")
        }
    }

    /// How many ports from the base on the note is about: more peers are seldom on one machine.
    private static let portsInUse: UInt16 = 16

    private var outgoingPorts: Finding? {
        guard let outgoing = ports.outgoing else { return nil }
        let setting = "net.ipv4.ip_local_reserved_ports"
        let base = environment.portBase
        let ours = [Self.masterPort...Self.masterPort, base...max(base, base &+ (Self.portsInUse - 1))]
        let exposed = ours.filter { wanted in
            outgoing.overlaps(wanted)
                && !ports.reserved.contains { $0.lowerBound <= wanted.lowerBound && wanted.upperBound <= $0.upperBound }
        }
        guard !exposed.isEmpty else { return .ok(.ports, setting, "no outgoing connection takes our ports") }
        let texts = exposed.map(Self.text)
        let all = (ports.reserved.map(Self.text) + texts).joined(separator: ",")
        return .note(
            .ports, setting,
            "outgoing connections of any program take ports from \(Self.text(outgoing)), now and then one of "
                + "\(texts.joined(separator: ", "))",
            ["sysctl -w \(setting)=\"\(all)\""],
            brings: "a master that finds its port free whenever it is started again")
    }

    private static func text(_ range: ClosedRange<UInt16>) -> String {
        range.count == 1 ? "\(range.lowerBound)" : "\(range.lowerBound)-\(range.upperBound)"
    }

    // MARK: - addresses

    private static let virtual = ["docker", "br-", "veth", "virbr", "cni", "flannel", "cali", "lxc", "tun"]

    private var addresses: Finding {
        let subject = "addresses"
        if !environment.advertised.isEmpty {
            let told = environment.advertised.map { $0.port == 0 ? $0.hostDescription : $0.description }
            return .ok(.ports, subject, "others dial \(told.joined(separator: ", ")), as PCCL_ADVERTISE says")
        }
        let isChosen = environment.interfaces != nil
        guard !ports.addresses.isEmpty else {
            let text = "others dial the address from which the master sees a peer, and none besides: "
            guard isChosen, let choice = variable("PCCL_INTERFACE") else {
                return .note(.ports, subject, text + "no interface but loopback is up")
            }
            return .change(
                .ports, subject, text + "PCCL_INTERFACE=\(choice) takes no interface that is up", ["ip -brief address"],
                brings: "the names there are")
        }
        // As many as a peer tells.
        let told = isChosen ? ports.addresses[...] : ports.addresses.prefix(3)
        let list = told.map { "\(SocketAddress($0.host, port: 0).hostDescription) (\($0.interface))" }
            .joined(separator: ", ")
        let text =
            isChosen
            ? "others dial \(list), and at last the address that the master sees"
            : "others dial the address that the master sees, then \(list)"
        let useless = Self.virtual.filter { prefix in told.contains { $0.interface.hasPrefix(prefix) } }
        if !useless.isEmpty, !isChosen {
            return .note(
                .ports, subject, text + "; that of a virtual interface is seldom of use to them",
                ["export PCCL_INTERFACE='^\(useless.joined(separator: ","))'"], brings: "no time lost on such addresses"
            )
        }
        guard told.allSatisfy({ Self.isPrivate($0.host) }) else { return .ok(.ports, subject, text) }
        return .note(
            .ports, subject, text + "; all of them private, so of no use to peers elsewhere",
            ["export PCCL_ADVERTISE=PUBLIC-ADDRESS:\(environment.portBase)"],
            brings: "peers elsewhere can dial this one, if its NAT forwards that port; of no use within one network")
    }

    /// RFC 1918, RFC 6598 (a provider's NAT), RFC 4193, and loopback.
    static func isPrivate(_ host: SocketAddress.Host) -> Bool {
        switch host {
        case .v4(let bits):
            bits >> 24 == 10 || bits >> 24 == 127 || bits >> 20 == 0xac1 || bits >> 16 == 0xc0a8
                || bits >> 22 == 0x6440 >> 6
        case .v6(let high, let low): high >> 57 == 0xfc >> 1 || (high == 0 && low == 1)
        }
    }

    // MARK: - the clock

    var clockFinding: Finding {
        let subject = "system clock"
        switch clock {
        case .synchronised: return .ok(.clock, subject, "synchronised; the library measures time by another one")
        case .untold: return .ok(.clock, subject, "the system does not tell; the library does not need it")
        case .unsynchronised:
            return .note(
                .clock, subject, "not synchronised; the library does not need it, for it measures time by another one",
                ["timedatectl set-ntp true"], brings: "logs of several machines that can be laid side by side")
        }
    }
}
