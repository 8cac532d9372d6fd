import Glibc
import PCCLBase
import PCCLWire

/// What the mesh tells. All calls come on the loop's thread, at the end of a turn.
package protocol MeshDelegate: AnyObject {
    func meshLinked(_ link: Link)
    /// The link broke, or could not be made within the dial patience (it is tried further while it is wanted).
    func meshUnlinked(_ peer: PeerID, reason: String)
}

/// The links to all wanted peers: made, kept and made again.
///
/// Of two peers the one with the greater id dials. The other may be dialled before it has heard that it wants the link;
/// such a connection is kept for a while.
package final class Mesh {
    private let loop: EventLoop
    private var timeouts: Timeouts
    private let stripes: UInt16
    private let linkConfiguration: LinkConfiguration
    private let credentials: Credentials
    private weak var delegate: (any MeshDelegate)?
    private weak var linkDelegate: (any LinkDelegate)?
    private var listener: Listener?
    private var identity: (run: RunID, me: PeerID)?
    private var wanted: [Member] = []
    private var links: [PeerID: Link] = [:]
    /// Which attempt made the link: what further stripes of it must name.
    private var attempts: [PeerID: UInt32] = [:]
    private var extras: [Extra] = []
    /// Where a further stripe could not be dialled: when it may be tried again.
    private var nextExtra: [PeerID: Instant] = [:]
    private var wayOut = WayOut()
    private var dials: [PeerID: Dial] = [:]
    private var assemblies: [PeerID: Assembly] = [:]
    /// Ours, to peers that should have dialled us.
    private var offers: [PeerID: Offer] = [:]
    /// Theirs, until there are as many as the link has stripes.
    private var offered: [PeerID: Assembly] = [:]
    private var handshakes: [StripeHandshake] = []
    private var nextAttempt: UInt32 = 1
    private var timer: LoopTimer?
    private var isTicking = false

    /// Strangers that may be about to greet at the same time; the oldest goes first.
    private static let handshakeLimit = 512
    private static let tickPeriod = Interval.milliseconds(20)
    private static let firstBackoff = Interval.milliseconds(20)
    private static let longestBackoff = Interval.milliseconds(1000)

    private struct Assembly {
        var attempt: UInt32
        var stripes: [StripeHandshake]
    }

    /// A further stripe of a link that stands, dialled by either side.
    private struct Extra {
        var peer: PeerID
        var link: Link
        var number: UInt16
        var handshake: StripeHandshake
    }

    /// To a peer that has not dialled us for a while: it may not be able to.
    private struct Offer {
        var member: Member
        var addressIndex = 0
        var stripes: [StripeHandshake] = []
        /// When the present one is given up, or the next one made.
        var nextAt: Instant
    }

    private struct Dial {
        var member: Member
        var addressIndex = 0
        var attempt: UInt32 = 0
        var stripes: [StripeHandshake] = []
        var answered = 0
        var attemptDeadline: Instant
        var retryAt: Instant?
        var backoff = Mesh.firstBackoff
        var reportAt: Instant
        /// By address, of the last attempt at each.
        var errors: [Int: String] = [:]
        var lastError: String {
            errors.isEmpty ? "no answer" : errors.sorted { $0.key < $1.key }.map(\.value).joined(separator: "; ")
        }
    }

    /// `stripes`: of each link, or 0 for as many as the path is worth.
    package init(
        _ loop: EventLoop, stripes: UInt16, timeouts: Timeouts,
        linkConfiguration: LinkConfiguration = LinkConfiguration(), credentials: Credentials = .none,
        delegate: any MeshDelegate, linkDelegate: any LinkDelegate
    ) {
        self.linkConfiguration = linkConfiguration
        self.credentials = credentials
        self.loop = loop
        self.stripes = stripes
        self.timeouts = timeouts
        self.delegate = delegate
        self.linkDelegate = linkDelegate
    }

    /// Of links that this side makes: TLS has better ones.
    private var isSummed: Bool { linkConfiguration.isSummed && !credentials.asksForKeys }

    /// Opens the listener; returns its port.
    package func listen(on host: SocketAddress.Host, basePort: UInt16) throws(SystemError) -> UInt16 {
        let listener = try Listener(
            loop, host: host, bumpingFrom: basePort, count: 512,
            onAccept: { [weak self] socket, _ in self?.welcome(socket) })
        listener.start()
        self.listener = listener
        return listener.address.port
    }

    /// Why peers are not linked yet that are wanted and dialled from here, as far as is known.
    package var obstacles: [String] { Set(dials.values.filter { !$0.errors.isEmpty }.map(\.lastError)).sorted() }

    package func link(to peer: PeerID) -> Link? { links[peer] }

    /// Exactly these links are wanted from now on.
    package func want(run: RunID, me: PeerID, _ members: [Member], timeouts: Timeouts) {
        self.timeouts = timeouts
        identity = (run, me)
        wanted = members.filter { $0.id != me }
        let ids = Set(wanted.map(\.id))
        for (peer, link) in links where !ids.contains(peer) {
            link.close()
            links[peer] = nil
            attempts[peer] = nil
            wayOut.forget(peer)
            forgetExtras(of: peer)
        }
        for (peer, dial) in dials where !ids.contains(peer) {
            dial.stripes.forEach { $0.close() }
            dials[peer] = nil
        }
        for (peer, assembly) in assemblies where !ids.contains(peer) {
            assembly.stripes.forEach { $0.close() }
            assemblies[peer] = nil
        }
        for peer in Array(offers.keys) + Array(offered.keys) where !ids.contains(peer) { forgetOffers(peer) }
        for member in wanted where member.id > me && links[member.id] == nil && offers[member.id] == nil {
            offerLater(member)
        }
        for member in wanted where member.id < me && links[member.id] == nil && dials[member.id] == nil {
            dial(member)
        }
        for handshake in handshakes { if let hello = handshake.hello { settle(handshake, hello) } }
    }

    package func close() {
        listener?.close()
        listener = nil
        timer?.close()
        timer = nil
        links.values.forEach { $0.close() }
        dials.values.forEach { $0.stripes.forEach { $0.close() } }
        assemblies.values.forEach { $0.stripes.forEach { $0.close() } }
        for peer in Array(offers.keys) + Array(offered.keys) { forgetOffers(peer) }
        handshakes.forEach { $0.close() }
        extras.forEach { $0.handshake.close() }
        extras = []
        links = [:]
        wayOut = WayOut()
        dials = [:]
        assemblies = [:]
        handshakes = []
        wanted = []
    }

    // MARK: dialling

    private func dial(_ member: Member) {
        let now = loop.now
        dials[member.id] = Dial(
            member: member, attemptDeadline: now, retryAt: now, reportAt: now + timeouts.dialPatience)
        // Not at once: this may be called from inside a callback of the link that has just broken.
        loop.atEndOfTurn { [weak self] in self?.tick() }
    }

    private func attempt(_ peer: PeerID) {
        guard var dial = dials[peer], let identity, !dial.member.addresses.isEmpty else { return }
        let now = loop.now
        let address = dial.member.addresses[dial.addressIndex % dial.member.addresses.count]
        let count = max(stripes, dial.member.stripes, 1)
        dial.attempt = nextAttempt
        nextAttempt += 1
        dial.retryAt = nil
        dial.answered = 0
        // Some of them may swallow everything. The first is the likeliest, and others are no use if an ocean is too wide
        // for the time they get.
        let others = UInt64(max(1, dial.member.addresses.count - 1))
        let isFirst = dial.addressIndex % dial.member.addresses.count == 0
        let patience = timeouts.dialPatience / 2
        dial.attemptDeadline = now + (isFirst ? patience : max(patience / others, timeouts.dialPatience / 5))
        dial.stripes = []
        var failure: String?
        for stripe in 0..<count {
            do {
                let hello = StripeHello(
                    run: identity.run, from: identity.me, to: peer, attempt: dial.attempt, stripe: stripe,
                    stripeCount: count, isSummed: isSummed)
                let number = dial.attempt
                let handshake = StripeHandshake(
                    loop, try Socket.connecting(to: address), .dialler(hello), credentials, run: identity.run,
                    deadline: dial.attemptDeadline
                ) { [weak self] _, step in self?.advanceDial(peer, attempt: number, step) }
                dial.stripes.append(handshake)
            } catch {
                failure = "\(error)"
                break
            }
        }
        dials[peer] = dial
        if let failure { failAttempt(peer, "\(address): \(failure)") }
    }

    private func advanceDial(_ peer: PeerID, attempt: UInt32, _ step: StripeHandshake.Step) {
        guard var dial = dials[peer], dial.attempt == attempt, dial.retryAt == nil else { return }
        let address = dial.member.addresses[dial.addressIndex % dial.member.addresses.count]
        switch step {
        case .hello: break
        case .failed(let reason): failAttempt(peer, "\(address): \(reason)")
        case .answer(.accepted):
            dial.answered += 1
            dials[peer] = dial
            guard dial.answered == dial.stripes.count else { return }
            dials[peer] = nil
            establish(peer, dial.stripes, attempt: attempt, isMaker: true)
        case .answer(.otherRun): failAttempt(peer, "\(address): a peer of another run answered")
        case .answer(.notMe): failAttempt(peer, "\(address): another peer of this run answered")
        case .answer(.unknownPeer), .answer(.noSuchLink):
            failAttempt(peer, "\(address): it does not know this peer")
        }
    }

    private func failAttempt(_ peer: PeerID, _ reason: String) {
        guard var dial = dials[peer] else { return }
        dial.stripes.forEach { $0.close() }
        dial.stripes = []
        dial.errors[dial.addressIndex % dial.member.addresses.count] = reason
        dial.addressIndex += 1
        let hasMoreAddresses = dial.addressIndex % dial.member.addresses.count != 0
        dial.retryAt = loop.now + (hasMoreAddresses ? .milliseconds(0) : dial.backoff)
        if !hasMoreAddresses { dial.backoff = min(dial.backoff * 2, Mesh.longestBackoff) }
        dials[peer] = dial
        Log.write(.debug, "\(peer) cannot be reached yet: \(reason)")
        keepTicking()
    }

    // MARK: being dialled

    private func welcome(_ socket: consuming Socket) {
        if handshakes.count >= Mesh.handshakeLimit {
            let oldest = handshakes.firstIndex { $0.hello == nil } ?? 0
            handshakes.remove(at: oldest).close()
        }
        let handshake = StripeHandshake(
            loop, socket, .listener, credentials, run: identity?.run, deadline: loop.now + timeouts.dialPatience
        ) { [weak self] handshake, step in
            switch step {
            case .hello(let hello): self?.settle(handshake, hello)
            case .failed(let reason):
                Log.write(.debug, "a connection to the peer port was dropped: \(reason)")
                self?.forget(handshake)
            case .answer: break
            }
        }
        handshakes.append(handshake)
        keepTicking()
    }

    /// Decides about a stranger that has said who it is; leaves it waiting if it may become wanted yet.
    private func settle(_ handshake: StripeHandshake, _ hello: StripeHello) {
        guard let identity else { return }
        guard hello.run == identity.run else { return refuse(handshake, .otherRun) }
        guard hello.to == identity.me else { return refuse(handshake, .notMe) }
        if hello.stripeCount == 0 { return settleExtra(handshake, hello) }
        if hello.stripeCount == StripeHello.offer { return settleOffer(handshake, hello) }
        guard wanted.contains(where: { $0.id == hello.from }), hello.from > identity.me else { return }
        forget(handshake)
        guard let stripes = Mesh.gather(handshake, hello, until: Int(hello.stripeCount), in: &assemblies) else {
            return
        }
        stripes.forEach { $0.answer(.accepted) }
        establish(hello.from, stripes, attempt: hello.attempt, isMaker: false)
    }

    /// Puts a stripe to the others of its attempt; what is of an older one, or comes twice, is closed. All of them, in their
    /// order, once there are so many.
    private static func gather(
        _ handshake: StripeHandshake, _ hello: StripeHello, until count: Int, in assemblies: inout [PeerID: Assembly]
    ) -> [StripeHandshake]? {
        var assembly = assemblies[hello.from] ?? Assembly(attempt: hello.attempt, stripes: [])
        if hello.attempt > assembly.attempt {
            assembly.stripes.forEach { $0.close() }
            assembly = Assembly(attempt: hello.attempt, stripes: [])
        }
        guard hello.attempt == assembly.attempt,
            !assembly.stripes.contains(where: { $0.hello?.stripe == hello.stripe })
        else {
            handshake.close()
            return nil
        }
        assembly.stripes.append(handshake)
        let isComplete = assembly.stripes.count == count
        assemblies[hello.from] = isComplete ? nil : assembly
        return isComplete ? assembly.stripes.sorted { ($0.hello?.stripe ?? 0) < ($1.hello?.stripe ?? 0) } : nil
    }

    // MARK: dialling in reverse

    /// A peer that can be dialled is, within a round trip. After this part of the dial patience it seems that it cannot.
    private var offerPeriod: Interval { timeouts.dialPatience / 5 }

    private func offerLater(_ member: Member) {
        offers[member.id] = Offer(member: member, nextAt: loop.now + offerPeriod)
        loop.atEndOfTurn { [weak self] in self?.tick() }
    }

    private func forgetOffers(_ peer: PeerID) {
        offers.removeValue(forKey: peer)?.stripes.forEach { $0.close() }
        offered.removeValue(forKey: peer)?.stripes.forEach { $0.close() }
    }

    private func offer(_ peer: PeerID) {
        guard var offer = offers[peer], let identity, !offer.member.addresses.isEmpty else { return }
        offer.stripes.forEach { $0.close() }
        offer.stripes = []
        offer.nextAt = loop.now + timeouts.dialPatience / 2
        let address = offer.member.addresses[offer.addressIndex % offer.member.addresses.count]
        offer.addressIndex += 1
        let number = nextAttempt
        nextAttempt += 1
        for stripe in 0..<max(stripes, offer.member.stripes, 1) {
            let hello = StripeHello(
                run: identity.run, from: identity.me, to: peer, attempt: number, stripe: stripe,
                stripeCount: StripeHello.offer, isSummed: isSummed)
            // What cannot be made is made at the next address.
            guard let socket = try? Socket.connecting(to: address) else { break }
            offer.stripes.append(
                StripeHandshake(
                    loop, socket, .offerer(hello), credentials, run: identity.run, deadline: offer.nextAt
                ) { [weak self] handshake, step in self?.advanceOffer(peer, handshake, step) })
        }
        offers[peer] = offer
    }

    private func advanceOffer(_ peer: PeerID, _ handshake: StripeHandshake, _ step: StripeHandshake.Step) {
        guard let index = offers[peer]?.stripes.firstIndex(where: { $0 === handshake }) else { return }
        offers[peer]?.stripes.remove(at: index)
        switch step {
        case .hello(let hello):
            // From here on it is one that they have dialled.
            guard hello.from == peer, hello.to == identity?.me, hello.run == identity?.run, hello.stripeCount > 0,
                hello.stripeCount != StripeHello.offer
            else { return handshake.close() }
            settle(handshake, hello)
        case .answer: handshake.close()
        case .failed(let reason):
            Log.write(.debug, "\(peer) has not dialled, and cannot be dialled either: \(reason)")
            guard var offer = offers[peer] else { return }
            offer.stripes.forEach { $0.close() }
            offer.stripes = []
            let isRoundOver = offer.addressIndex % offer.member.addresses.count == 0
            offer.nextAt = loop.now + (isRoundOver ? offerPeriod : .milliseconds(0))
            offers[peer] = offer
        }
    }

    /// Somebody whom we cannot reach, it seems, has reached us.
    private func settleOffer(_ handshake: StripeHandshake, _ hello: StripeHello) {
        guard let identity, hello.from < identity.me, wanted.contains(where: { $0.id == hello.from }) else { return }
        forget(handshake)
        // What has connected may yet be greeted.
        guard let dial = dials[hello.from], dial.retryAt != nil || dial.stripes.allSatisfy(\.isConnecting) else {
            return handshake.close()
        }
        let count = Int(max(stripes, dial.member.stripes, 1))
        guard let all = Mesh.gather(handshake, hello, until: count, in: &offered) else { return }
        takeUp(all, hello.from)
    }

    private func takeUp(_ handshakes: [StripeHandshake], _ peer: PeerID) {
        guard var dial = dials[peer], let identity else { return }
        dial.stripes.forEach { $0.close() }
        dial.attempt = nextAttempt
        nextAttempt += 1
        dial.retryAt = nil
        dial.answered = 0
        dial.attemptDeadline = loop.now + timeouts.dialPatience / 2
        dial.stripes = handshakes
        dials[peer] = dial
        for (stripe, handshake) in handshakes.enumerated() {
            let hello = StripeHello(
                run: identity.run, from: identity.me, to: peer, attempt: dial.attempt, stripe: UInt16(stripe),
                stripeCount: UInt16(handshakes.count), isSummed: isSummed)
            handshake.takeUp(hello) { [weak self, number = dial.attempt] _, step in
                self?.advanceDial(peer, attempt: number, step)
            }
        }
        keepTicking()
    }

    private func settleExtra(_ handshake: StripeHandshake, _ hello: StripeHello) {
        forget(handshake)
        guard let link = links[hello.from], attempts[hello.from] == hello.attempt, link.mayGrow,
            link.isSummed == hello.isSummed
        else {
            handshake.answer(.noSuchLink)
            return handshake.close()
        }
        handshake.answer(.accepted)
        if let channel = handshake.release() { link.add(number: hello.stripe, channel) }
    }

    /// The link would do better with one more stripe.
    private func dialExtra(_ link: Link) {
        guard links[link.peer] === link, link.mayGrow, nextExtra[link.peer].map({ $0 <= loop.now }) ?? true,
            let identity, let attempt = attempts[link.peer],
            let member = wanted.first(where: { $0.id == link.peer }), !member.addresses.isEmpty,
            let address = link.remoteHost.flatMap({ host in member.addresses.first { $0.host == host } })
                ?? member.addresses.first
        else { return }
        let number = link.beginStripe()
        let hello = StripeHello(
            run: identity.run, from: identity.me, to: link.peer, attempt: attempt, stripe: number, stripeCount: 0,
            isSummed: link.isSummed)
        do {
            let handshake = StripeHandshake(
                loop, try Socket.connecting(to: address), .dialler(hello), credentials, run: identity.run,
                deadline: loop.now + timeouts.dialPatience
            ) { [weak self] handshake, step in self?.advanceExtra(handshake, step) }
            extras.append(Extra(peer: link.peer, link: link, number: number, handshake: handshake))
            keepTicking()
        } catch {
            link.endStripe()
            nextExtra[link.peer] = loop.now + Mesh.longestBackoff
            Log.write(.debug, "\(link.peer): no further connection to \(address): \(error)")
        }
    }

    private func advanceExtra(_ handshake: StripeHandshake, _ step: StripeHandshake.Step) {
        guard let index = extras.firstIndex(where: { $0.handshake === handshake }) else { return }
        let extra = extras.remove(at: index)
        extra.link.endStripe()
        switch step {
        case .answer(.accepted):
            guard links[extra.peer] === extra.link, let channel = handshake.release() else {
                return handshake.close()
            }
            extra.link.add(number: extra.number, channel)
        case .answer, .hello, .failed:
            handshake.close()
            nextExtra[extra.peer] = loop.now + Mesh.longestBackoff
            Log.write(.debug, "\(extra.peer): a further connection was not made: \(step)")
        }
    }

    private func forgetExtras(of peer: PeerID) {
        nextExtra[peer] = nil
        for extra in extras where extra.peer == peer { extra.handshake.close() }
        extras.removeAll { $0.peer == peer }
    }

    private func refuse(_ handshake: StripeHandshake, _ answer: StripeAnswer) {
        forget(handshake)
        handshake.answer(answer)
        handshake.close()
    }

    private func forget(_ handshake: StripeHandshake) { handshakes.removeAll { $0 === handshake } }

    // MARK: links

    private func establish(_ peer: PeerID, _ stripes: [StripeHandshake], attempt: UInt32, isMaker: Bool) {
        forgetExtras(of: peer)
        forgetOffers(peer)
        if let old = links.removeValue(forKey: peer) {
            // The other side knew before us that it broke.
            let me = identity?.me
            old.close()
            delegate?.meshUnlinked(peer, reason: "the other side made it anew")
            // That news may have ended this peer's membership, and with it the wish for the link.
            guard identity?.me == me, wanted.contains(where: { $0.id == peer }) else {
                for stripe in stripes { stripe.close() }
                return
            }
        }
        guard let linkDelegate else { return }
        let channels = stripes.compactMap { $0.release() }
        var configuration = linkConfiguration
        let wishes = max(self.stripes, wanted.first { $0.id == peer }?.stripes ?? 0)
        configuration.growsByItself = wishes == 0
        configuration.isSummed = isMaker ? isSummed : stripes.first?.hello?.isSummed ?? false
        let link = Link(
            loop, peer: peer, channels: channels, isMaker: isMaker, timeouts: timeouts,
            configuration: configuration, delegate: linkDelegate)
        attempts[peer] = attempt
        link.onBroken = { [weak self] link, reason in self?.dropBroken(link, reason) }
        link.onWantsStripe = { [weak self] link in self?.dialExtra(link) }
        link.onMeasured = { [weak self] link, report in self?.wayOut.take(report, of: link.peer) }
        wayOut.forget(peer)
        links[peer] = link
        loop.atEndOfTurn { [weak self] in
            guard let self, links[peer] === link else { return }
            delegate?.meshLinked(link)
            link.start()
        }
    }

    private func dropBroken(_ link: Link, _ reason: String) {
        guard links[link.peer] === link else { return }
        links[link.peer] = nil
        attempts[link.peer] = nil
        wayOut.forget(link.peer)
        forgetExtras(of: link.peer)
        if let identity, link.peer < identity.me, let member = wanted.first(where: { $0.id == link.peer }) {
            dial(member)
        }
        if let identity, link.peer > identity.me, let member = wanted.first(where: { $0.id == link.peer }) {
            offerLater(member)
        }
        delegate?.meshUnlinked(link.peer, reason: reason)
    }

    // MARK: time

    private func keepTicking() {
        guard !isTicking, listener != nil else { return }
        isTicking = true
        let timer =
            self.timer
            ?? LoopTimer(loop) { [weak self] in
                self?.isTicking = false
                self?.tick()
            }
        self.timer = timer
        timer.fire(at: loop.now + Mesh.tickPeriod)
    }

    private func tick() {
        let now = loop.now
        for handshake in handshakes where handshake.deadline <= now {
            if handshake.hello != nil {
                refuse(handshake, .unknownPeer)
            } else {
                forget(handshake)
                handshake.close()
            }
        }
        for peer in dials.keys.sorted() {
            guard let dial = dials[peer] else { continue }
            if dial.reportAt <= now {
                dials[peer]?.reportAt = now + timeouts.dialPatience
                delegate?.meshUnlinked(peer, reason: dial.lastError)
            }
            if let retryAt = dial.retryAt {
                if retryAt <= now { attempt(peer) }
            } else if dial.attemptDeadline <= now {
                let address = dial.member.addresses[dial.addressIndex % dial.member.addresses.count]
                failAttempt(peer, "\(address): no answer")
            }
        }
        for peer in offers.keys.sorted() {
            if let nextAt = offers[peer]?.nextAt, nextAt <= now { offer(peer) }
        }
        for (peer, assembly) in offered where assembly.stripes.contains(where: { $0.deadline <= now }) {
            assembly.stripes.forEach { $0.close() }
            offered[peer] = nil
        }
        for extra in extras where extra.handshake.deadline <= now {
            extra.handshake.close()
            extra.link.endStripe()
            nextExtra[extra.peer] = now + Mesh.longestBackoff
            extras.removeAll { $0.handshake === extra.handshake }
        }
        if !handshakes.isEmpty || !dials.isEmpty || !extras.isEmpty || !offers.isEmpty || !offered.isEmpty {
            keepTicking()
        }
    }
}
