import PCCLBase
import Testing

@testable import pccl_master

/// Three masters and an etcd on a virtual clock: requests and answers are late or lost, requests even arrive after they were
/// given up; masters are stopped, cut off and started anew; etcd goes away; clocks run at different speeds.
private struct FailoverSimulation {
    private struct Candidate {
        var candidacy: EtcdCandidacy
        /// Of its clock, in thousandths of the true one.
        var rate: UInt64
        var stoppedUntil = Instant(nanoseconds: 0)
        var cutOffUntil = Instant(nanoseconds: 0)
        var life = 0
        /// What its session believes.
        var term: Int64?
        /// The number that is being kept.
        var appending: UInt64?
        var wake: Instant?
        var waiting: [EtcdCandidacy.Event] = []
    }
    private enum Action {
        case arrive(candidate: Int, life: Int, UInt64, EtcdRequest, givenUpAt: Instant)
        case answer(candidate: Int, life: Int, UInt64, Result<EtcdAnswer, EtcdFailure>)
    }

    static let lease = 5
    static let step: UInt64 = 10
    private var random: SplitMix
    private var now = Instant(nanoseconds: 1 << 40)
    private var etcd = ModelEtcd()
    private var etcdDownUntil = Instant(nanoseconds: 0)
    private var candidates: [Candidate] = []
    /// By time.
    private var queue: [(at: Instant, action: Action)] = []
    private var answered: Set<[UInt64]> = []
    private var written: UInt64 = 0
    private var kept: UInt64 = 0
    private var latestTerm: Int64 = 0
    private var quietFrom: Instant
    private(set) var problems: [String] = []
    private(set) var terms = 0
    private(set) var appends = 0

    init(seed: UInt64) {
        random = SplitMix(state: seed)
        quietFrom = now + .seconds(90)
        for index in 0..<3 { candidates.append(fresh(index, life: 0)) }
    }

    private mutating func fresh(_ index: Int, life: Int) -> Candidate {
        let location = EtcdLocation(parsing: "etcd://127.0.0.1:2379/run")!
        return Candidate(
            candidacy: EtcdCandidacy(location, name: "\(index)", leaseSeconds: FailoverSimulation.lease),
            rate: 960 + random.below(80), life: life, wake: now)
    }

    mutating func run() {
        let end = quietFrom + .seconds(Double(FailoverSimulation.lease * 6))
        while now < end, problems.isEmpty {
            now = now + .milliseconds(FailoverSimulation.step)
            etcd.expireLeases(at: now)
            if now < quietFrom { breakSomething() }
            while let first = queue.first, first.at <= now {
                queue.removeFirst()
                perform(first.action)
            }
            for index in candidates.indices { live(index) }
        }
        if problems.isEmpty, !candidates.contains(where: { $0.term != nil }) {
            problems.append("nobody leads in the end")
        }
    }

    private mutating func breakSomething() {
        switch random.below(2000) {
        case 0..<4: candidates[anyone()].stoppedUntil = now + .milliseconds(random.below(12_000))
        case 4..<8: candidates[anyone()].cutOffUntil = now + .milliseconds(random.below(12_000))
        case 8..<10:
            let index = anyone()
            candidates[index] = fresh(index, life: candidates[index].life + 1)
        case 10: etcdDownUntil = now + .milliseconds(random.below(10_000))
        case 11: tell(anyone(), .giveUp(reason: "deaf", holdOff: .seconds(1)))
        default: break
        }
        if etcdDownUntil <= now, etcdDownUntil > now - FailoverSimulation.step { etcd.restart(at: now) }
    }

    /// Rather the one that leads.
    private mutating func anyone() -> Int {
        if random.below(2) == 0, let leader = candidates.firstIndex(where: { $0.term != nil }) { return leader }
        return Int(random.below(3))
    }

    private mutating func live(_ index: Int) {
        guard candidates[index].stoppedUntil <= now else { return }
        // Whatever it does first when it goes on, it must not do harm.
        if random.below(2) == 0 { act(index) }
        let waiting = candidates[index].waiting
        candidates[index].waiting = []
        for event in waiting { handle(index, event) }
        if let wake = candidates[index].wake, wake <= clock(index) {
            candidates[index].wake = nil
            handle(index, .tick)
        }
        act(index)
        if candidates[index].term != nil, candidates[index].appending == nil, random.below(20) == 0,
            candidates[index].candidacy.mayAct(at: clock(index))
        {
            written += 1
            candidates[index].appending = written
            handle(index, .append(bytes(written)))
        }
    }

    private mutating func act(_ index: Int) {
        guard let term = candidates[index].term, candidates[index].candidacy.mayAct(at: clock(index)) else { return }
        if term < latestTerm { problems.append("\(index) acts in term \(term) after one acted in \(latestTerm)") }
        latestTerm = max(latestTerm, term)
    }

    private func clock(_ index: Int) -> Instant {
        Instant(nanoseconds: now.nanoseconds / 1000 * candidates[index].rate)
    }

    private mutating func tell(_ index: Int, _ event: EtcdCandidacy.Event) { candidates[index].waiting.append(event) }

    private mutating func handle(_ index: Int, _ event: EtcdCandidacy.Event) {
        var effects: [EtcdCandidacy.Effect] = []
        candidates[index].candidacy.handle(event, at: clock(index), effects: &effects)
        for effect in effects {
            switch effect {
            case .ask(let question, let request, let patience): send(index, question, request, patience)
            case .leads(let term, let state):
                terms += 1
                candidates[index].term = term
                candidates[index].appending = nil
                let found = state.map(number) ?? 0
                if found < kept { problems.append("\(index) begins with state \(found), and \(kept) was kept") }
                // What was not said to be kept may be.
                kept = max(kept, found)
            case .follows: candidates[index].term = nil
            case .appended:
                appends += 1
                kept = max(kept, candidates[index].appending ?? 0)
                candidates[index].appending = nil
            case .wake(let instant): candidates[index].wake = instant
            case .retired, .log: break
            }
        }
    }

    private mutating func send(_ index: Int, _ question: UInt64, _ request: EtcdRequest, _ patience: Interval) {
        let givenUpAt = now + patience
        let life = candidates[index].life
        schedule(givenUpAt, .answer(candidate: index, life: life, question, .failure(.unanswered("late"))))
        if candidates[index].cutOffUntil > now || isLost() { return }
        schedule(now + delay(), .arrive(candidate: index, life: life, question, request, givenUpAt: givenUpAt))
    }

    /// Now and then longer than anybody waits.
    private mutating func delay() -> Interval {
        .milliseconds(random.below(50) == 0 && now < quietFrom ? random.below(9_000) : 1 + random.below(40))
    }

    private mutating func isLost() -> Bool { random.below(30) == 0 && now < quietFrom }

    private mutating func perform(_ action: Action) {
        switch action {
        case .arrive(let index, let life, let question, let request, let givenUpAt):
            guard etcdDownUntil <= now else { return }
            let answer = etcd.answer(request, at: now)
            let arrival = now + delay()
            guard !isLost(), arrival < givenUpAt, candidates[index].cutOffUntil <= now else { return }
            schedule(arrival, .answer(candidate: index, life: life, question, answer))
        case .answer(let index, let life, let question, let result):
            guard candidates[index].life == life else { return }
            if answered.insert([UInt64(index), UInt64(life), question]).inserted {
                tell(index, .answered(question, result))
            }
        }
    }

    private mutating func schedule(_ at: Instant, _ action: Action) {
        let place = queue.lastIndex { $0.at <= at }.map { $0 + 1 } ?? 0
        queue.insert((at, action), at: place)
    }

    private func bytes(_ number: UInt64) -> [UInt8] { (0..<8).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) } }
    private func number(_ bytes: [UInt8]) -> UInt64 { bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) } }
}

/// Sebastiano Vigna's.
private struct SplitMix {
    var state: UInt64
    mutating func below(_ limit: UInt64) -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return (z ^ z >> 31) % limit
    }
}

private func - (instant: Instant, milliseconds: UInt64) -> Instant {
    Instant(nanoseconds: instant.nanoseconds - milliseconds * 1_000_000)
}

@Suite("Several masters, simulated")
struct EtcdSimulationTests {
    @Test("whatever is late, lost, stopped or cut off: terms follow each other, and nothing that was kept is lost")
    func oneLeads() {
        let fresh = UInt64.random(in: 1 << 20...1 << 40)
        var (terms, appends) = (0, 0)
        for seed in Array(1...12) + [596_755_829_754] + (0..<4).map({ fresh + $0 }) {
            var simulation = FailoverSimulation(seed: seed)
            simulation.run()
            #expect(simulation.problems == [], "seed \(seed)")
            terms += simulation.terms
            appends += simulation.appends
        }
        // Otherwise nothing was tried.
        #expect(terms > 100)
        #expect(appends > 1000)
    }
}
