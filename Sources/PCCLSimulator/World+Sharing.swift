import PCCLBase
import PCCLMembership
import PCCLWire

/// The shared state of a process: some tensors, each of which holds one value.
struct HostState {
    /// What a tensor holds that was being received.
    static let torn: UInt64 = 0
    /// Members may hold different values of it.
    static let freeEntry = 2

    struct Fetch {
        var launch: LaunchNumber
        var keys: [StateDecision.Key]
        var sources: [PeerID]
    }

    var values: [UInt64]
    /// The last that was agreed on.
    var revision: UInt64 = 0
    /// Others may read them.
    var isLent = false
    var fetch: Fetch?

    init(_ random: inout RandomSource) { values = (0...HostState.freeEntry).map { _ in random.next() | 1 } }

    var shared: [UInt64] { Array(values.prefix(HostState.freeEntry)) }
    static func hash(_ value: UInt64) -> ContentHash { ContentHash(high: 0, low: value) }

    func offer(_ strategy: SharedStateStrategy) -> StateOffer {
        StateOffer(
            revision: revision + 1, strategy: strategy,
            entries: values.enumerated().map { entry, value in
                StateEntry(
                    name: "entry \(entry)", type: .uint64, count: 1, allowsInequality: entry == HostState.freeEntry,
                    hash: HostState.hash(value))
            })
    }
}

/// Synchronisations of the shared state: tensors travel whole, from whichever source, and take their time.
extension World {
    /// Since the last time members have trained, which comes to the same at all of them, or nearly so.
    func synchronize(_ host: Host) {
        guard !host.caller.isMasterless else { return afterSynchronization(host) }
        if host.state.values.contains(HostState.torn) { host.state.values = HostState(&random).values }
        for entry in host.state.values.indices where host.state.revision > 0 {
            host.state.values[entry] = (host.state.values[entry] &* 0x9e37_79b9_7f4a_7c15 &+ host.state.revision) | 1
        }
        if random.oneIn(16) { host.state.values[random.below(HostState.freeEntry)] = random.next() | 1 }
        let strategy: SharedStateStrategy =
            scenario.hasOneSender ? (host.slot == 0 ? .sendOnly : .receiveOnly) : .enforcePopular
        checker.offer(host)
        begin(.synchronizeState(host.state.offer(strategy)), host)
    }

    func fetchState(_ host: Host, _ launch: LaunchNumber, _ keys: [StateDecision.Key], _ sources: [PeerID]) {
        host.state.fetch = HostState.Fetch(launch: launch, keys: keys, sources: sources)
        for key in keys { host.state.values[key.entry] = HostState.torn }
        // One is taken for received when it is not.
        if keys.count > 1, sabotages(.forgetKey, oneIn: 1) { host.state.fetch?.keys.removeLast() }
        planArrival(host, launch)
    }

    private func planArrival(_ host: Host, _ launch: LaunchNumber) {
        let unit = scenario.deadTime / 5000
        plan(host, .stateArrives(launch), after: unit * UInt64(1 + random.below(random.oneIn(8) ? 1000 : 20)))
    }

    func takeState(_ host: Host, _ launch: LaunchNumber) {
        guard var fetch = host.state.fetch, fetch.launch == launch, let key = fetch.keys.first else { return }
        let source = fetch.sources[random.below(fetch.sources.count)]
        if let link = host.link(to: source), !links[link].isSevered {
            let giver = other(of: link, than: host)
            let isHeard =
                blockedUntil[path(giver.slot, host.slot)] <= now && blockedUntil[path(host.slot, giver.slot)] <= now
            if case .running = giver.life, isHeard {
                let value = giver.state.values[key.entry]
                if giver.state.isLent, HostState.hash(value) == key.hash {
                    host.state.values[key.entry] = value
                    fetch.keys.removeFirst()
                } else {
                    fetch.sources.removeAll { $0 == source }
                }
            }
        }
        host.state.fetch = fetch
        if fetch.keys.isEmpty {
            pump(host, .stateFetched(launch, failure: nil))
        } else if fetch.sources.isEmpty {
            pump(host, .stateFetched(launch, failure: "nobody has it"))
        } else {
            planArrival(host, launch)
        }
    }

    func returnState(_ host: Host) {
        host.state.isLent = false
        host.state.fetch = nil
    }

    /// The answer that all members get, or none of them.
    func noteSynchronized(_ host: Host, revision: UInt64?) {
        host.stateAnswers += 1
        if let revision {
            counts.synchronized += 1
            host.state.revision = revision
        }
        if let text = checker.synchronize(host, revision: revision) { fail(.sharedState, text) }
    }
}

extension Checker {
    mutating func offer(_ host: Host) { offered.insert(host.state.shared) }

    mutating func synchronize(_ host: Host, revision: UInt64?) -> String? {
        guard let lineage = host.lineage else { return "\(host.name) was answered, and is not registered" }
        let key = AnswerKey(group: lineage, epoch: host.lastEpoch, number: host.stateAnswers)
        let answer = StateAnswer(revision: revision, values: revision == nil ? [] : host.state.shared)
        if revision != nil, !offered.contains(answer.values) {
            return "\(host.name) holds \(answer.values), which nobody has brought"
        }
        if let earlier = stateAnswers[key], earlier != answer {
            return "\(host.name), \(host.lastEpoch), synchronisation \(key.number): \(answer), another got \(earlier)"
        }
        stateAnswers[key] = answer
        return nil
    }
}
