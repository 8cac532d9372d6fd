import PCCLBase
import PCCLMembership
import PCCLWire

/// The links between processes: dialled by the greater id, kept, and made again when they break.
extension World {
    func other(of link: Int, than host: Host) -> Host {
        hosts[links[link].dialler == host.index ? links[link].listener : links[link].dialler]
    }

    private func peerID(of link: Int, otherThan host: Host) -> PeerID {
        links[link].dialler == host.index ? links[link].listenerID : links[link].diallerID
    }

    func transmit(_ host: Host, _ link: Int, _ header: FrameHeader, entry: Entry? = nil, values: [UInt64] = []) {
        let read = withUnsafeTemporaryAllocation(byteCount: FrameHeader.byteCount, alignment: 8) { buffer in
            buffer.baseAddress.flatMap { base in
                header.store(to: base)
                return try? FrameHeader(UnsafeRawPointer(base))
            }
        }
        guard read == header else { return fail(.wire, "the header \(header) became \(String(describing: read))") }
        var readEntry: Entry?
        if let entry {
            readEntry = try? Entry(entry.bytes)
            guard readEntry == entry else { return fail(.wire, "the entry \(entry) cannot be read") }
        }
        let isToListener = links[link].dialler == host.index
        let to = isToListener ? links[link].listener : links[link].dialler
        // Entries keep their order: pairing rests on it.
        let stripe =
            (isToListener ? 0 : scenario.stripes) + (header.kind == .enter ? 0 : random.below(scenario.stripes))
        let at = max(arrival(from: host.slot, to: hosts[to].slot), links[link].last[stripe])
        links[link].last[stripe] = at
        queue.push(.toHost(to, .frame(link: link, Frame(header: header, entry: readEntry, values: values))), at: at)
    }

    /// This end is closed; the other learns of it.
    func tellBroken(_ link: Int, from host: Host, _ reason: String) {
        let other = other(of: link, than: host)
        var at = arrival(from: host.slot, to: other.slot)
        // The answer goes before it, over the same connection.
        if links[link].dialler == other.index { at = max(at, links[link].answeredAt) }
        queue.push(.toHost(other.index, .linkBroken(link: link, reason)), at: at)
    }

    /// If nothing can come from the other end for a while, looks again after the dead time.
    func watchSilence(_ link: Int, at host: Host) {
        guard isSilent(link, at: host) else { return }
        let jitter = Interval(nanoseconds: random.next() % scenario.timeouts.heartbeatPeriod.nanoseconds)
        plan(host, .silence(link: link), after: scenario.timeouts.deadTime + jitter)
    }

    private func isSilent(_ link: Int, at host: Host) -> Bool {
        let other = other(of: link, than: host)
        switch other.life {
        case .hung(let until) where until > now: return true
        case .dead(silent: true): return true
        case .running, .hung, .exited, .dead: return blockedUntil[path(other.slot, host.slot)] > now
        }
    }

    func want(_ host: Host, _ registration: Registration, _ members: [Member]) {
        if let identity = host.identity, identity != registration {
            planeForget(host)
            host.lastEpoch = .none
        }
        host.identity = registration
        host.wanted = members.filter { $0.id != registration.peer }
        func isWanted(_ peer: PeerID) -> Bool { host.wanted.contains { $0.id == peer } }
        for end in host.links where !isWanted(end.peer) { tellBroken(end.link, from: host, "not wanted any more") }
        host.links.removeAll { !isWanted($0.peer) }
        for dial in host.dials where !isWanted(dial.member.id) {
            if let link = dial.link { tellBroken(link, from: host, "not wanted any more") }
        }
        host.dials.removeAll { !isWanted($0.member.id) }
        for member in host.wanted where member.id < registration.peer && host.link(to: member.id) == nil {
            startDial(host, member)
        }
        let held = host.held
        host.held = []
        for dial in held { settle(host, dial) }
    }

    // MARK: dialling

    private func startDial(_ host: Host, _ member: Member) {
        guard !host.dials.contains(where: { $0.member.id == member.id }) else { return }
        host.caller.nextCall += 1
        let number = Int(host.caller.nextCall)
        host.dials.append(Host.Dial(member: member, number: number, backoff: scenario.deadTime / 250))
        plan(host, .unreachable(member.id, dial: number), after: scenario.timeouts.dialPatience)
        attempt(host, member.id)
    }

    private func attempt(_ host: Host, _ peer: PeerID) {
        guard let d = host.dials.firstIndex(where: { $0.member.id == peer }), let identity = host.identity else {
            return
        }
        host.caller.nextCall += 1
        let attempt = Int(host.caller.nextCall)
        host.dials[d].attempt = attempt
        host.dials[d].link = nil
        host.dials[d].isWaiting = false
        plan(host, .dialDeadline(peer, attempt: attempt), after: scenario.timeouts.dialPatience / 2)
        guard case .v4(let bits) = host.dials[d].member.addresses[0].host else { return }
        let slot = Int(bits & 0xff)
        guard !isFirewalled(slot, host.slot), let target = hostAtSlot[slot] else { return }
        queue.push(
            .toHost(target, .dialArrives(from: host.index, peer: identity.peer, to: peer, attempt: attempt)),
            at: arrival(from: host.slot, to: slot))
    }

    private func isPending(_ attempt: Int, of host: Host) -> Bool {
        guard !host.isOver else { return false }
        return host.dials.contains { $0.attempt == attempt && !$0.isWaiting }
    }

    /// A dial has reached the process that now lives there.
    func takeDial(_ host: Host, _ dial: Host.HeldDial) {
        guard isPending(dial.attempt, of: hosts[dial.from]) else { return }
        settle(host, dial)
        if host.held.contains(where: { $0.attempt == dial.attempt }) {
            plan(host, .heldDialExpires(from: dial.from, attempt: dial.attempt), after: scenario.timeouts.dialPatience)
        }
    }

    @discardableResult
    func answer(_ dial: Host.HeldDial, from host: Host, link: Int?) -> Instant {
        let dialler = hosts[dial.from]
        let at = arrival(from: host.slot, to: dialler.slot)
        queue.push(.toHost(dialler.index, .dialAnswered(dial.to, attempt: dial.attempt, link: link)), at: at)
        return at
    }

    private func settle(_ host: Host, _ dial: Host.HeldDial) {
        guard isPending(dial.attempt, of: hosts[dial.from]) else { return }
        guard let identity = host.identity else { return host.held.append(dial) }
        // The greeting of a stripe names the run, and peers of two runs may have the same numbers.
        guard dial.to == identity.peer, hosts[dial.from].identity?.run == identity.run else {
            answer(dial, from: host, link: nil)
            return
        }
        guard host.wanted.contains(where: { $0.id == dial.peer }), dial.peer > identity.peer else {
            return host.held.append(dial)
        }
        let link = links.count
        links.append(
            LinkPath(
                dialler: dial.from, listener: host.index, diallerID: dial.peer, listenerID: dial.to,
                last: Array(repeating: now, count: 2 * scenario.stripes)))
        let dialler = hosts[dial.from]
        if let d = dialler.dials.firstIndex(where: { $0.attempt == dial.attempt }) { dialler.dials[d].link = link }
        // The answer is the first thing on each stripe.
        let answeredAt = answer(dial, from: host, link: link)
        links[link].answeredAt = answeredAt
        for stripe in 0..<scenario.stripes { links[link].last[scenario.stripes + stripe] = answeredAt }
        establish(host, link)
    }

    private func establish(_ host: Host, _ link: Int) {
        let peer = peerID(of: link, otherThan: host)
        if let old = host.link(to: peer) {
            host.links.removeAll { $0.peer == peer }
            tellBroken(old, from: host, "made anew")
            pump(host, .linkDown(peer, "the other side made it anew"))
        }
        host.links.append(Host.LinkEnd(peer: peer, link: link))
        note { "\(host.name): link \(link) to \(peer) is up" }
        planeLinkUp(host, peer)
        pump(host, .linkUp(peer))
        watchSilence(link, at: host)
    }

    func dialAnswered(_ host: Host, _ peer: PeerID, _ attempt: Int, _ link: Int?) {
        guard let d = host.dials.firstIndex(where: { $0.member.id == peer && $0.attempt == attempt }),
            !host.dials[d].isWaiting
        else {
            if let link { tellBroken(link, from: host, "answered too late") }
            return
        }
        // What was reset before its answer came never stood here.
        guard let link, !links[link].isSevered else {
            host.dials[d].link = nil
            return failAttempt(host, peer, attempt)
        }
        host.dials.remove(at: d)
        establish(host, link)
    }

    func failAttempt(_ host: Host, _ peer: PeerID, _ attempt: Int) {
        guard let d = host.dials.firstIndex(where: { $0.member.id == peer && $0.attempt == attempt }),
            !host.dials[d].isWaiting
        else { return }
        if let link = host.dials[d].link { tellBroken(link, from: host, "answered too late") }
        host.dials[d].isWaiting = true
        plan(host, .dialRetry(peer, attempt: attempt), after: host.dials[d].backoff)
        host.dials[d].backoff = min(host.dials[d].backoff * 2, scenario.deadTime / 5)
    }

    func retry(_ host: Host, _ peer: PeerID, _ attempt: Int) {
        guard host.dials.contains(where: { $0.member.id == peer && $0.attempt == attempt && $0.isWaiting }) else {
            return
        }
        self.attempt(host, peer)
    }

    func reportUnreachable(_ host: Host, _ peer: PeerID, dial: Int) {
        guard host.dials.contains(where: { $0.member.id == peer && $0.number == dial }) else { return }
        plan(host, .unreachable(peer, dial: dial), after: scenario.timeouts.dialPatience)
        pump(host, .linkDown(peer, "no answer"))
    }

    /// This process has noticed that a link of its own is broken.
    func loseLink(_ host: Host, _ link: Int, _ reason: String) {
        guard let position = host.links.firstIndex(where: { $0.link == link }) else { return }
        let peer = host.links.remove(at: position).peer
        note { "\(host.name): link \(link) to \(peer) broke: \(reason)" }
        if let identity = host.identity, peer < identity.peer,
            let member = host.wanted.first(where: { $0.id == peer })
        {
            startDial(host, member)
        }
        pump(host, .linkDown(peer, reason))
    }

    func noticeSilence(_ host: Host, _ link: Int) {
        guard host.links.contains(where: { $0.link == link }), isSilent(link, at: host) else { return }
        tellBroken(link, from: host, "nothing was heard")
        loseLink(host, link, "nothing was heard")
    }
}
