import PCCLBase
import PCCLMembership
import PCCLSession
import PCCLWire
import StrictJSON
import Testing

@testable import pccl_master

/// A machine that is told what peers would say, with a clock that the test moves.
struct ToldMaster {
    static let start = Instant(nanoseconds: 5_000_000_000)
    private(set) var machine = MasterMachine(
        run: RunID(high: 0x0123_4567_89ab_cdef, low: 1),
        timeouts: Timeouts(deadTime: .seconds(6), masterGrace: .seconds(30)), now: start)
    private(set) var now = start

    mutating func pass(_ interval: Interval) { now = now + interval }

    mutating func tell(_ event: MasterMachine.Event) {
        var effects: [MasterMachine.Effect] = []
        machine.handle(event, at: now, effects: &effects)
    }

    mutating func say(_ connection: UInt64, _ message: ToMaster) {
        tell(.received(MasterMachine.ConnectionID(connection), message))
    }

    mutating func arrive(_ connection: UInt64, group: UInt32 = 0) {
        tell(
            .connected(
                MasterMachine.ConnectionID(connection), from: .v4(0x0a00_0001),
                secret: PeerSecret(high: connection, low: 0)))
        say(
            connection,
            .hello(
                Hello(
                    group: GroupID(group), listenPort: UInt16(48150 + connection), addresses: [], stripes: 1,
                    ensemble: nil)))
    }

    func snapshot(journal: MasterJournal.Figures? = nil, lead: MasterStanding.Lead? = nil) -> StatusSnapshot {
        StatusSnapshot(
            of: machine, MasterStanding(figures: journal, lead: lead), deadTime: .seconds(6), started: ToldMaster.start,
            now: now,
            unixNow: 1_800_000_000 + (now - ToldMaster.start).seconds)
    }

    /// Peers 1 and 2 are members of group 0, and an operation of peer 1 waits for peer 2, whose connection has broken.
    /// Peer 3 waits to be admitted. Peer 4 was alone in group 3 and has gone.
    static var eventful: ToldMaster {
        var m = ToldMaster()
        m.arrive(1)
        m.pass(.seconds(1))
        m.arrive(2)
        m.say(1, .voteJoin)
        m.say(1, .linked(epoch: Epoch(2)))
        m.say(2, .linked(epoch: Epoch(2)))
        m.pass(.seconds(1))
        m.arrive(3)
        m.arrive(4, group: 3)
        m.pass(.milliseconds(500))
        m.tell(.closed(MasterMachine.ConnectionID(4), reason: "the connection was \"closed\""))
        m.say(1, .stalled(epoch: Epoch(2), tag: Tag(7), missing: [PeerID(2)], waitedMilliseconds: 400))
        m.tell(.closed(MasterMachine.ConnectionID(2), reason: "reset", mayReturn: true))
        m.say(1, .votePending)
        m.pass(.milliseconds(250))
        return m
    }
}

@Suite("What a master shows")
struct StatusSnapshotTests {
    @Test("metrics, in the format of Prometheus")
    func metrics() {
        let journal = MasterJournal.Figures(bytes: 4096, appends: 6, hasFailed: false)
        var snapshot = ToldMaster.eventful.snapshot(journal: journal)
        snapshot.version = "1.2.3"
        let samples = snapshot.metrics.split(separator: "\n").filter { !$0.hasPrefix("#") }.map(String.init)
        #expect(samples == StatusSnapshotTests.samples)
    }

    @Test("each family is announced once, before its samples, and counters end in _total")
    func families() {
        var kinds: [Substring: Substring] = [:]
        for line in ToldMaster.eventful.snapshot().metrics.split(separator: "\n") {
            let words = line.split(separator: " ")
            if line.hasPrefix("# TYPE ") {
                #expect(kinds.updateValue(words[3], forKey: words[2]) == nil, "\(line)")
                #expect((words[3] == "counter") == words[2].hasSuffix("_total"), "\(line)")
            } else if !line.hasPrefix("# HELP ") {
                #expect(kinds[line.prefix { $0 != "{" && $0 != " " }] != nil, "\(line)")
                #expect(words.last.flatMap { Double($0) } != nil, "\(line)")
            }
        }
    }

    @Test("a label and a help text may hold anything")
    func escaping() {
        var m = MetricsText()
        m.family("pccl_x", .gauge, "a \\ b\n\"c\"")
        m.sample(0.5, ["name": "a\\b\"c\nd", "other": ""])
        m.count(1 << 60)
        #expect(
            m.text == """
                # HELP pccl_x a \\\\ b\\n"c"
                # TYPE pccl_x gauge
                pccl_x{name="a\\\\b\\"c\\nd",other=""} 0.5
                pccl_x 1.152921504606847e+18

                """)
    }

    @Test("JSON that says who is there, who is away, who waits and for whom")
    func json() throws {
        let json = try JSONValue(parsing: ToldMaster.eventful.snapshot().json.written())
        #expect(json["run"] == .string("01234567"), "the rest of the name is a secret")
        #expect(json["uptime_seconds"] == .number(2.75) && json["now"] == .number(1_800_000_002.75))
        #expect(json["journal"] == .null)
        guard case .array(let groups)? = json["groups"], groups.count == 1 else {
            Issue.record("\(json.written())")
            return
        }
        #expect(groups[0].written() == StatusSnapshotTests.group)
        guard case .array(let history)? = json["history"] else {
            Issue.record("\(json.written())")
            return
        }
        #expect(history.map { $0["text"] } == StatusSnapshotTests.history.map { .string($0) })
    }

    @Test("a flush says who has not reported, and in which epoch it will end")
    func flush() {
        var m = ToldMaster.eventful
        m.say(1, .brokenLink(epoch: Epoch(2), peer: PeerID(2), gaveUp: false))
        let snapshot = m.snapshot()
        #expect(snapshot.groups[0].members.map(\.id) == [PeerID(1)], "both of its connections have broken")
        #expect(snapshot.groups[0].phase.name == .flushing && snapshot.groups[0].phase.awaited == [PeerID(1)])
        #expect(snapshot.groups[0].phase.nextEpoch == Epoch(3) && snapshot.groups[0].phase.flushCause == .loss)
        #expect(snapshot.tally.departures == [.disconnected: 2])
    }

    @Test("a run of a thousand peers is shown in less than what a client takes")
    func manyPeers() {
        var m = ToldMaster()
        for number in 1...UInt64(WireLimits.members) { m.arrive(number) }
        #expect(m.machine.peers.count == WireLimits.members)
        var pages = StatusPages(m.snapshot())
        let sizes = StatusPages.Page.allCases.map { pages.response($0).body.count }
        #expect(sizes.max() ?? 0 < 1 << 20, "\(sizes)")
    }

    @Test("who serves is healthy; what somebody should know is said beside it")
    func health() {
        var pages = StatusPages(ToldMaster.eventful.snapshot())
        #expect(pages.response(.health) == .text(.ok, "ok"))
        let failing = MasterJournal.Figures(bytes: 0, appends: 0, hasFailed: true)
        pages = StatusPages(ToldMaster.eventful.snapshot(journal: failing))
        #expect(pages.response(.health) == .text(.ok, "ok\nthe journal cannot be written"))
    }

    @Test("of several masters each says whether it leads; who does not shows nothing of the run")
    func lead() {
        let leading = ToldMaster.eventful.snapshot(lead: .leads(term: 12))
        #expect(leading.json["lead"]?["leads"] == .bool(true) && leading.json["lead"]?["term"] == .number(12))
        #expect(
            leading.metrics.contains("\npccl_master_leads 1\n") && leading.metrics.contains("\npccl_master_term 12\n"))
        let standby = StatusSnapshot(
            of: nil, MasterStanding(figures: nil, lead: .follows(leader: "a:1")), deadTime: .seconds(6),
            started: ToldMaster.start, now: ToldMaster.start, unixNow: 1_800_000_000)
        #expect(standby.json["run"] == .null && standby.json["groups"] == .array([]))
        #expect(standby.json["lead"]?["leads"] == .bool(false) && standby.json["lead"]?["leader"] == .string("a:1"))
        #expect(standby.metrics.contains("\npccl_master_leads 0\n") && !standby.metrics.contains("pccl_master_term"))
        var pages = StatusPages(standby)
        #expect(pages.response(.health) == .text(.ok, "ok\nit stands by while a:1 leads"))
        #expect(ToldMaster.eventful.snapshot().json["lead"] == .null)
    }

    @Test("the page asks nobody but the master, and has no way to write markup")
    func page() {
        #expect(!LivePage.html.contains("://"))
        for way in ["innerHTML = ", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            #expect(!LivePage.html.contains(way), "\(way)")
        }
    }
}
