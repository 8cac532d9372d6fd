import CShims
import Glibc
import PCCLBase
import PCCLTransport
import PCCLWire

/// Calls a master or a peer as the library does, up to the first bytes that either side says: who that is, and which version
/// it speaks. It hangs up before it introduces itself, so the other side takes it for a stranger and forgets it.
struct Caller {
    /// For the look-up, and for each address.
    var patience: Interval

    func call(_ callee: Machine.Call.Callee, _ name: HostAndPort) -> Machine.Call {
        var call = Machine.Call(callee: callee, name: name.host, port: name.port)
        switch DoctorHelper.addresses(of: name.host, port: name.port, within: patience) {
        case .failure(let failure): call.lookUpProblem = failure.text
        case .success(let addresses):
            for address in addresses {
                let attempt = attempt(callee, address)
                call.attempts.append(attempt)
                if attempt.outcome == .answered { break }
            }
        }
        return call
    }

    func attempt(_ callee: Machine.Call.Callee, _ address: SocketAddress) -> Machine.Call.Attempt {
        let start = EventLoop.now
        let deadline = start + patience
        do throws(SystemError) {
            let socket = try Socket.connecting(to: address)
            guard wait(socket.descriptor, for: POLLOUT, until: deadline) else {
                return Machine.Call.Attempt(address: address, outcome: .connectTimedOut)
            }
            // Asked once: the kernel forgets it then.
            let code = socket.connectError
            guard code == 0 else { return Machine.Call.Attempt(address: address, outcome: .unreachable(code: code)) }
            let connectSeconds = (EventLoop.now - start).seconds
            let outcome = greet(socket.descriptor, callee.role, until: deadline)
            let path = path(socket, connectSeconds)
            return Machine.Call.Attempt(address: address, outcome: outcome, path: path)
        } catch {
            return Machine.Call.Attempt(address: address, outcome: .unreachable(code: error.code))
        }
    }

    /// Both sides say theirs at once.
    private func greet(_ descriptor: CInt, _ role: Preamble.Role, until deadline: Instant) -> Machine.Call.Outcome {
        let ours = Preamble(role: role).bytes
        guard send(descriptor, ours, ours.count, CInt(MSG_NOSIGNAL)) == ours.count else { return .closed }
        var theirs: [UInt8] = []
        while true {
            do throws(Preamble.Problem) {
                if try Preamble.check(theirs, expecting: role) { return .answered }
            } catch {
                // A master that waits for another to end is a master.
                return error == .standby && role == .control ? .answered : .stranger(error)
            }
            guard wait(descriptor, for: POLLIN, until: deadline) else { return .silent }
            var block = [UInt8](repeating: 0, count: Preamble.byteCount)
            let count = recv(descriptor, &block, block.count - theirs.count, 0)
            if count == 0 { return .closed }
            if count > 0 { theirs += block[..<count] } else if errno != EINTR && errno != EAGAIN { return .closed }
        }
    }

    private func wait(_ descriptor: CInt, for event: Int32, until deadline: Instant) -> Bool {
        while true {
            let left = deadline - EventLoop.now
            var watched = pollfd(fd: descriptor, events: Int16(event), revents: 0)
            // Rounded up, so that the last millisecond is slept through.
            let count = poll(&watched, 1, CInt(clamping: left.milliseconds + (left.nanoseconds > 0 ? 1 : 0)))
            if count > 0 { return true }
            if count == 0 || errno != EINTR { return false }
        }
    }

    private func path(_ socket: borrowing Socket, _ connectSeconds: Double) -> Machine.Call.Path {
        var figures = pccl_shim_tcp_figures()
        let isKnown = pccl_shim_tcp_figures(socket.descriptor, &figures) == 0
        let least = isKnown ? figures.least_round_trip_microseconds : 0
        let (here, there) = (socket.localAddress?.host, socket.remoteAddress?.host)
        let isV6 = if case .v6 = there { true } else { false }
        return Machine.Call.Path(
            connectSeconds: connectSeconds, roundTripSeconds: least > 0 ? Double(least) / 1e6 : nil,
            segmentBytes: option(socket.descriptor, CInt(IPPROTO_TCP), TCP_MAXSEG),
            mtu: isV6
                ? option(socket.descriptor, CInt(IPPROTO_IPV6), IPV6_MTU)
                : option(socket.descriptor, CInt(IPPROTO_IP), IP_MTU),
            isWithinHost: here != nil && here == there)
    }

    private func option(_ descriptor: CInt, _ level: CInt, _ name: CInt) -> Int? {
        var value: CInt = 0
        var length = socklen_t(MemoryLayout<CInt>.size)
        return getsockopt(descriptor, level, name, &value, &length) == 0 ? Int(value) : nil
    }
}
