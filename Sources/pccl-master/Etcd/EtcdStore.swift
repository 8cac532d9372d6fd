import Glibc
import PCCLBase
import PCCLMembership
import PCCLSession
import PCCLTransport
import PCCLWire

/// The world around one `EtcdCandidacy`: the connections to etcd, the timer and the clock.
///
/// What a master must not forget lies in etcd, and of all masters that are given the same place one leads.
final class EtcdStore: MasterStore, @unchecked Sendable {
    private let addresses: [SocketAddress]
    private let location: EtcdLocation
    private let leaseSeconds: Int
    private let retired = Completion<Void>()
    private let loopToRetireOn = Guarded<EventLoop?>(nil)

    // The loop's thread only, from `begin` on.
    private var loop: EventLoop?
    private var timer: LoopTimer?
    private var candidacy: EtcdCandidacy
    private var events: [EtcdCandidacy.Event] = []
    private var isPumping = false
    private var onChange: ((MasterLead) -> Void)?
    private var onKept: (() -> Void)?
    private var exchanges: [UInt64: (exchange: EtcdExchange, patience: LoopTimer)] = [:]
    /// The one that answered last is asked first.
    private var chosenAddress = 0
    private var appends: UInt64 = 0

    /// Looking up names blocks.
    init(at location: EtcdLocation, deadTime: Interval) throws(SystemError) {
        self.location = location
        var addresses: [SocketAddress] = []
        var problem: SystemError?
        for endpoint in location.endpoints {
            do throws(SystemError) {
                for address in try SocketAddress.resolve(host: endpoint.host, port: endpoint.port)
                where !addresses.contains(address) {
                    addresses.append(address)
                }
            } catch {
                problem = error
                Log.write(.warning, "etcd: \(error)")
            }
        }
        if addresses.isEmpty, let problem { throw problem }
        self.addresses = addresses
        leaseSeconds = EtcdStore.leaseSeconds(deadTime: deadTime)
        candidacy = EtcdCandidacy(location, leaseSeconds: leaseSeconds)
    }

    /// Etcd counts in whole seconds. A leader that falls silent is followed by another about when its peers notice it.
    static func leaseSeconds(deadTime: Interval) -> Int { Int((deadTime.milliseconds + 999) / 1000) }

    // MARK: MasterStore

    let isShared = true
    var figures: MasterJournal.Figures {
        MasterJournal.Figures(bytes: candidacy.stateBytes, appends: appends, hasFailed: candidacy.hasFailed)
    }
    var mayAct: Bool { candidacy.mayAct(at: EtcdStore.now) }

    func begin(on loop: EventLoop, at address: SocketAddress, _ onChange: @escaping (MasterLead) -> Void) {
        candidacy.name = address.isUnspecified ? "\(EtcdStore.hostName):\(address.port)" : "\(address)"
        self.loop = loop
        self.onChange = onChange
        loopToRetireOn.withLock { $0 = loop }
        timer = LoopTimer(loop) { [weak self] in self?.pump(.tick) }
        pump(.tick)
    }

    func append(_ state: MasterState, then onKept: @escaping () -> Void) {
        self.onKept = onKept
        pump(.append(state.bytes))
    }

    func giveUp(_ reason: String, holdOff: Interval) { pump(.giveUp(reason: reason, holdOff: holdOff)) }

    func end() {
        onChange = nil
        onKept = nil
        for entry in exchanges.values {
            entry.exchange.close()
            entry.patience.close()
        }
        exchanges = [:]
        timer?.close()
        timer = nil
        loop = nil
        loopToRetireOn.withLock { $0 = nil }
        retired.set(())
    }

    /// From another thread, before the master ends: leads no longer, so that another may at once. Returns when etcd knows,
    /// or does not answer.
    func retire() {
        let isAsked = loopToRetireOn.withLock { $0 }?.submit { [self] in pump(.retire) } ?? false
        if isAsked { retired.wait() }
    }

    // MARK: - on the loop's thread

    /// Runs on while the machine sleeps: a lease does.
    private static var now: Instant {
        var t = timespec()
        clock_gettime(CLOCK_BOOTTIME, &t)
        return Instant(nanoseconds: UInt64(t.tv_sec) * 1_000_000_000 + UInt64(t.tv_nsec))
    }

    private static var hostName: String {
        var name = [CChar](repeating: 0, count: 256)
        gethostname(&name, name.count - 1)
        return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    private func pump(_ event: EtcdCandidacy.Event) {
        events.append(event)
        guard !isPumping else { return }
        isPumping = true
        defer { isPumping = false }
        var effects: [EtcdCandidacy.Effect] = []
        while !events.isEmpty {
            candidacy.handle(events.removeFirst(), at: EtcdStore.now, effects: &effects)
            let due = effects
            effects.removeAll(keepingCapacity: true)
            for effect in due { perform(effect) }
        }
    }

    private func perform(_ effect: EtcdCandidacy.Effect) {
        switch effect {
        case .ask(let question, let request, let patience): ask(question, request, patience)
        case .leads(let term, let bytes): lead(term, bytes)
        case .follows(let leader):
            onKept = nil
            onChange?(.follows(leader: leader))
        case .appended:
            appends += 1
            let onKept = self.onKept
            self.onKept = nil
            onKept?()
        case .retired: retired.set(())
        case .wake(let instant):
            guard let loop else { return }
            timer?.fire(at: loop.now + (instant - EtcdStore.now))
        case .log(let line): Log.write(Log.Level(line.level), line.text)
        }
    }

    private func lead(_ term: Int64, _ bytes: [UInt8]?) {
        do throws(WireError) {
            let state: MasterState? = if let bytes { try MasterState(bytes) } else { nil }
            onChange?(.leads(term: term, state))
        } catch {
            Log.write(
                .error, "\(location.stateKey) holds what this release cannot read (\(error)); it is left as it is")
            pump(.giveUp(reason: "the state cannot be read", holdOff: .seconds(Double(leaseSeconds))))
        }
    }

    private func ask(_ question: UInt64, _ request: EtcdRequest, _ patience: Interval) {
        guard let loop else { return }
        let timer = LoopTimer(loop) { [weak self] in self?.losePatience(question) }
        do throws(SystemError) {
            let exchange = try EtcdExchange(loop, to: addresses[chosenAddress], request) { [weak self] result in
                self?.take(result, question)
            }
            exchanges[question] = (exchange, timer)
            timer.fire(at: loop.now + patience)
            exchange.start()
        } catch {
            timer.close()
            tryAnotherAddress()
            pump(.answered(question, .failure(.unanswered("\(error)"))))
        }
    }

    private func take(_ result: Result<EtcdAnswer, EtcdFailure>, _ question: UInt64) {
        guard let entry = exchanges.removeValue(forKey: question) else { return }
        entry.patience.close()
        let result = result.mapError { failure in named(failure) }
        if case .failure(.unanswered) = result { tryAnotherAddress() }
        pump(.answered(question, result))
    }

    private func losePatience(_ question: UInt64) {
        guard let entry = exchanges.removeValue(forKey: question) else { return }
        entry.exchange.close()
        entry.patience.close()
        // It is this timer that calls.
        loop?.atEndOfTurn { withExtendedLifetime(entry.patience) {} }
        let failure = named(.unanswered("no answer came in time"))
        tryAnotherAddress()
        pump(.answered(question, .failure(failure)))
    }

    private func named(_ failure: EtcdFailure) -> EtcdFailure {
        guard case .unanswered(let reason) = failure else { return failure }
        return .unanswered("\(addresses[chosenAddress]): \(reason)")
    }

    private func tryAnotherAddress() { chosenAddress = (chosenAddress + 1) % addresses.count }
}
