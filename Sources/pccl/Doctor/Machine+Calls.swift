import Glibc
import PCCLBase
import PCCLTransport
import PCCLWire
import StrictJSON

/// Who was called, and which link there would be.
extension Machine {
    func callFindings(_ call: Call) -> [Finding] {
        let subject = "\(call.callee.rawValue) \(HostAndPort(host: call.name, port: call.port))"
        if let problem = call.lookUpProblem {
            return [
                .fault(
                    .reach, subject, problem, ["getent hosts \(call.name)"],
                    brings: "what the system makes of that name")
            ]
        }
        guard let answer = call.answer else { return [unanswered(call, subject)] }
        let failed = call.attempts.dropLast()
        let first = Finding(
            area: .reach, subject: subject, weight: failed.isEmpty ? .ok : .note,
            text: "answers at \(answer.address)\(path(answer))"
                + failed.map { "; not at \($0.address): \(Self.text($0.outcome, call.callee))" }.joined(),
            figures: figures(answer))
        guard call.callee == .peer, let path = answer.path else { return [first] }
        return [first, link(path, "link to \(HostAndPort(host: call.name, port: call.port))")]
    }

    // MARK: - what was measured

    private func path(_ attempt: Call.Attempt) -> String {
        guard let path = attempt.path else { return "" }
        let parts = [
            "connected in \(Quantity.time(path.connectSeconds))",
            path.roundTripSeconds.map { "round trip \(Quantity.time($0))" },
            path.segmentBytes.map { "\($0) bytes a segment" }, path.mtu.map { "path MTU \($0)" },
        ]
        return ": " + parts.compactMap { $0 }.joined(separator: ", ")
    }

    private func figures(_ attempt: Call.Attempt) -> [JSONValue.Member] {
        guard let path = attempt.path else { return [] }
        return [
            .init("address", .string(attempt.address.description)),
            .init("connect_seconds", .number(path.connectSeconds)),
            .init("round_trip_seconds", path.roundTripSeconds.map { .number($0) } ?? .null),
            .init("segment_bytes", path.segmentBytes.map { .integer($0) } ?? .null),
            .init("path_mtu_bytes", path.mtu.map { .integer($0) } ?? .null),
            .init("same_host", .bool(path.isWithinHost)),
        ]
    }

    // MARK: - which link

    private func devicePath(isWithinHost: Bool) -> String {
        guard gpu.isUsable else { return "" }
        guard isWithinHost, environment.deviceWindowBytes != 0 else {
            return "; buffers of a device go through pinned memory at either end"
        }
        return "; buffers of a device stay there, through windows, if both may use one device or each other's"
    }

    private func link(_ path: Call.Path, _ subject: String) -> Finding {
        let sharing = environment.links.sharing
        let device = devicePath(isWithinHost: path.isWithinHost && sharing != .never)
        guard path.isWithinHost else {
            if sharing == .always {
                return .fault(
                    .reach, subject, "none: it is another host, and PCCL_TRANSPORT=shm refuses those",
                    ["unset PCCL_TRANSPORT"], brings: "a link over TCP")
            }
            return Finding.ok(.reach, subject, "TCP to another host, \(connections(path))\(device)").with(kind("tcp"))
        }
        switch kernel.neighbour {
        case .readable where sharing != .never:
            return Finding.ok(
                .reach, subject, "this host: either reads the other's memory, if one user runs both\(device)"
            ).with(kind("memory"))
        case .refused where sharing == .always:
            return .fault(
                .reach, subject, "none: PCCL_TRANSPORT=shm, and memory cannot be read here", ["unset PCCL_TRANSPORT"],
                brings: "a link over TCP")
        case .refused, .readable, .untried:
            let reason =
                switch kernel.neighbour {
                case _ where sharing == .never: "as PCCL_TRANSPORT says"
                case .untried: "unless memory can be read, which was not tried"
                case .refused, .readable: "for memory cannot be read"
                }
            return Finding.ok(.reach, subject, "this host: TCP, \(reason)\(device)").with(kind("tcp"))
        }
    }

    private func kind(_ name: String) -> [JSONValue.Member] { [.init("link", .string(name))] }

    /// How `StripeGovernor` begins; docs/decisions/0009.
    private func connections(_ path: Call.Path) -> String {
        let configuration = LinkConfiguration()
        guard let roundTrip = path.roundTripSeconds else { return "of as many connections as the way is worth" }
        if roundTrip < configuration.longRoundTrip.seconds { return "one connection, for the way is short" }
        let next = roundTrip >= 0.05 ? 8 : 4
        return
            "one connection at first, then \(next), and up to \(configuration.largestStripeCount) while the rate rises"
    }

    // MARK: - who does not answer

    private func unanswered(_ call: Call, _ subject: String) -> Finding {
        let outcomes = call.attempts.map { "\($0.address): \(Self.text($0.outcome, call.callee))" }
        let (commands, brings) = call.attempts.last.map { advice($0, call) } ?? ([], "")
        return Finding.fault(.reach, subject, outcomes.joined(separator: "; "), commands, brings: brings)
            .with(call.attempts.last.map(figures) ?? [])
    }

    private static func text(_ outcome: Call.Outcome, _ callee: Call.Callee) -> String {
        switch outcome {
        case .answered: "answers"
        case .unreachable(let code): SystemError.text(code)
        case .connectTimedOut: "nothing comes back, not even a refusal"
        case .silent: "takes the connection, and says nothing"
        case .closed: "takes the connection, and closes it without a greeting"
        case .stranger(let problem): problem.description
        }
    }

    /// Of the last attempt; what is said to be typed at the other machine says so.
    private func advice(_ attempt: Call.Attempt, _ call: Call) -> ([String], String) {
        let (there, port) = ("on \(call.name): ", call.port)
        switch attempt.outcome {
        case .unreachable(ECONNREFUSED):
            guard call.callee == .peer else {
                return (
                    [there + "pccl-master --port \(port)"], "a master that answers; nobody listens at that port now"
                )
            }
            return (
                [there + "ss -ltn"],
                "the ports that are listened at: while a peer runs, the first that was free from 48150 (PCCL_PORT_BASE) on"
            )
        case .unreachable:
            return (["ip route get \(attempt.address.hostDescription)"], "the way that packets would take")
        case .connectTimedOut:
            return (
                [there + "ufw allow \(port)/tcp   (or in its cloud's firewall; or its NAT forwards the port)"],
                "connections that get through, if a firewall is the reason: a port that is merely closed refuses at once"
            )
        case .silent, .closed:
            return ([there + "ss -ltnp 'sport = :\(port)'"], "who listens: another program, or one that is stopped")
        case .stranger(.otherVersion):
            return (
                [there + "install the release that is installed here"], "master and peers that understand each other"
            )
        case .stranger:
            return (
                [there + "ss -ltnp 'sport = :\(port)'"],
                "who listens there; a master is at 48148 unless told otherwise, peers from 48150 on"
            )
        case .answered: return ([], "")
        }
    }
}
