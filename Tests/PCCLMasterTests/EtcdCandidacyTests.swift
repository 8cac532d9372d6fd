import PCCLBase
import PCCLMembership
import Testing

@testable import pccl_master

/// One candidate and an etcd that answers as the test lets it.
private struct Talk {
    static let location = EtcdLocation(parsing: "etcd://127.0.0.1:2379/run")!
    var etcd = ModelEtcd()
    var candidacy = EtcdCandidacy(Talk.location, name: "a:1", leaseSeconds: 5)
    var now = Instant(nanoseconds: 1_000_000_000)
    private(set) var asked: [(question: UInt64, request: EtcdRequest)] = []
    private(set) var said: [String] = []
    private(set) var state: [UInt8]?

    mutating func tell(_ event: EtcdCandidacy.Event) {
        var effects: [EtcdCandidacy.Effect] = []
        candidacy.handle(event, at: now, effects: &effects)
        for effect in effects {
            switch effect {
            case .ask(let question, let request, _): asked.append((question, request))
            case .leads(let term, let state):
                self.state = state
                said.append("leads in \(term)")
            case .follows(let leader): said.append("follows \(leader ?? "nobody")")
            case .appended: said.append("appended")
            case .retired: said.append("retired")
            case .wake, .log: break
            }
        }
    }

    /// Etcd does the oldest request, and answers.
    mutating func answer() {
        let (question, request) = asked.removeFirst()
        tell(.answered(question, etcd.answer(request, at: now)))
    }

    /// Etcd does it, and the answer is lost.
    mutating func answerIsLost() {
        let (question, request) = asked.removeFirst()
        _ = etcd.answer(request, at: now)
        tell(.answered(question, .failure(.unanswered("lost"))))
    }

    mutating func pass(_ interval: Interval) {
        now = now + interval
        tell(.tick)
    }

    /// Until nothing is asked any more.
    mutating func answerAll() { while !asked.isEmpty { answer() } }

    mutating func takeSaid() -> [String] {
        defer { said = [] }
        return said
    }

    static var leading: Talk {
        var talk = Talk()
        talk.tell(.tick)
        talk.answerAll()
        return talk
    }

    /// Another master takes over; the lease has ended.
    mutating func another(writes state: [UInt8]) {
        var other = Talk()
        other.candidacy = EtcdCandidacy(Talk.location, name: "b:2", leaseSeconds: 5)
        (other.etcd, other.now) = (etcd, now)
        other.tell(.tick)
        other.answerAll()
        other.tell(.append(state))
        other.answerAll()
        #expect(other.said.last == "appended")
        etcd = other.etcd
    }
}

@Suite("Who leads, by etcd")
struct EtcdCandidacyTests {
    @Test("it leads where nobody does, in the term of the key's revision, with the state that is there")
    func leads() {
        var talk = Talk()
        talk.etcd.corrupt("/run/state", StoredState([1, 2, 3], term: 1, number: 7).bytes)
        talk.tell(.tick)
        #expect(talk.asked.map(\.request) == [.get(key: "/run/leader")])
        talk.answer()
        #expect(talk.asked.map(\.request) == [.grantLease(seconds: 5)])
        talk.answerAll()
        #expect(talk.takeSaid() == ["follows nobody", "leads in 3"])
        #expect(talk.state == [1, 2, 3])
        #expect(talk.etcd.keys["/run/leader"]?.bytes == Array("a:1".utf8))
        #expect(talk.candidacy.mayAct(at: talk.now))
    }

    @Test("it follows who leads, tells its name once, and takes over when it has ended")
    func follows() {
        var talk = Talk.leading
        talk.candidacy = EtcdCandidacy(Talk.location, name: "b:2", leaseSeconds: 5)
        _ = talk.takeSaid()
        for _ in 0..<4 {
            talk.pass(.milliseconds(500))
            talk.answerAll()
        }
        #expect(talk.takeSaid() == ["follows a:1"])
        talk.pass(.seconds(5))
        talk.answerAll()
        #expect(talk.takeSaid() == ["follows nobody", "leads in 4"])
    }

    @Test("the answer to who leads is lost, and it finds out that it does")
    func lostAnswerToAcquire() {
        var talk = Talk()
        talk.tell(.tick)
        talk.answer()
        talk.answer()
        talk.answerIsLost()
        #expect(!talk.candidacy.mayAct(at: talk.now))
        talk.pass(.milliseconds(250))
        talk.answerAll()
        #expect(talk.said.last == "leads in 2")
    }

    @Test("a lease is counted from before it was asked for, and less than it is long")
    func clock() {
        var talk = Talk()
        talk.tell(.tick)
        talk.answer()
        talk.now = talk.now + .seconds(1)
        talk.answerAll()
        let asked = talk.now
        #expect(talk.candidacy.mayAct(at: asked + .milliseconds(3400)))
        #expect(!talk.candidacy.mayAct(at: asked + .milliseconds(3500)))
        talk.now = asked + .milliseconds(3500)
        talk.tell(.tick)
        #expect(talk.said.last == "follows nobody")
    }

    @Test("an answer that comes when the lease may have ended makes no leader")
    func lateAnswer() {
        var talk = Talk()
        talk.tell(.tick)
        talk.answer()
        talk.now = talk.now + .seconds(4)
        talk.answer()
        talk.now = talk.now + .milliseconds(900)
        talk.answerAll()
        #expect(!talk.said.contains { $0.hasPrefix("leads") })
        #expect(talk.etcd.keys["/run/leader"] == nil)
    }

    @Test("a lease that is kept alive lasts; one that etcd does not know ends the term at once")
    func keepsAlive() {
        var talk = Talk.leading
        for _ in 0..<20 {
            talk.pass(.milliseconds(1700))
            #expect(talk.asked.map(\.request) == [.keepAlive(lease: 100)])
            talk.answerAll()
        }
        #expect(talk.candidacy.mayAct(at: talk.now))
        _ = talk.etcd.answer(.revoke(lease: 100), at: talk.now)
        _ = talk.takeSaid()
        talk.pass(.milliseconds(1700))
        talk.answer()
        #expect(talk.takeSaid() == ["follows nobody"])
        #expect(!talk.candidacy.mayAct(at: talk.now))
    }

    @Test("a state is kept when etcd says so, and written over the one before")
    func appends() {
        var talk = Talk.leading
        _ = talk.takeSaid()
        for number in 1...3 as ClosedRange<UInt8> {
            talk.tell(.append([number]))
            #expect(talk.takeSaid() == [])
            talk.answerAll()
            #expect(talk.takeSaid() == ["appended"])
            #expect(talk.etcd.keys["/run/state"]?.bytes == StoredState([number], term: 2, number: UInt64(number)).bytes)
        }
    }

    @Test("an answer to an append is lost: it is asked again, and found to be done")
    func lostAnswerToAppend() {
        var talk = Talk.leading
        talk.tell(.append([1]))
        talk.answerIsLost()
        #expect(talk.said.last != "appended")
        talk.pass(.milliseconds(300))
        talk.answerAll()
        #expect(talk.said.last == "appended")
        talk.tell(.append([2]))
        talk.answerAll()
        #expect(talk.etcd.keys["/run/state"]?.bytes == StoredState([2], term: 2, number: 2).bytes)
    }

    @Test("a request of a term that has ended does nothing, however late it arrives")
    func lateAppend() {
        var talk = Talk.leading
        talk.tell(.append([1]))
        talk.now = talk.now + .seconds(6)
        talk.another(writes: [9])
        let state = talk.etcd.keys["/run/state"]
        talk.answer()
        #expect(talk.etcd.keys["/run/state"] == state)
        #expect(talk.said.last == "follows nobody")
    }

    @Test("who was stopped for longer than its lease may do nothing, even before it knows")
    func stopped() {
        var talk = Talk.leading
        talk.now = talk.now + .seconds(6)
        talk.another(writes: [9])
        #expect(!talk.candidacy.mayAct(at: talk.now))
        let state = talk.etcd.keys["/run/state"]
        talk.tell(.append([1]))
        talk.answerAll()
        #expect(talk.etcd.keys["/run/state"] == state)
        #expect(!talk.said.contains("appended"))
    }

    @Test("a state that somebody else has written ends the term")
    func foreignWrite() {
        var talk = Talk.leading
        talk.etcd.corrupt("/run/state", [0])
        talk.tell(.append([1]))
        talk.answer()
        #expect(talk.said.last == "follows nobody")
        #expect(talk.etcd.keys["/run/state"]?.bytes == [0])
    }

    @Test("an etcd that is full is asked again for as long as the lease is kept alive")
    func full() {
        var talk = Talk.leading
        talk.etcd.isFull = true
        talk.tell(.append([1]))
        for _ in 0..<40 {
            talk.answerAll()
            talk.pass(.milliseconds(300))
        }
        #expect(talk.candidacy.hasFailed)
        #expect(talk.candidacy.mayAct(at: talk.now))
        talk.etcd.isFull = false
        talk.answerAll()
        talk.pass(.milliseconds(300))
        talk.answerAll()
        #expect(talk.said.last == "appended")
        #expect(!talk.candidacy.hasFailed)
    }

    @Test("a state larger than etcd takes at once comes back whole, and its parts go with it")
    func parts() {
        var talk = Talk.leading
        let large = (0..<(5 << 19) + 77).map { UInt8(truncatingIfNeeded: $0 &* 2_654_435_761 >> 8) }
        func parts() -> Int { talk.etcd.keys.keys.count { $0.hasPrefix("/run/part/") } }
        talk.tell(.append(large))
        // An answer lost in the middle of it does no harm.
        talk.answer()
        talk.answerIsLost()
        talk.pass(.milliseconds(300))
        talk.answerAll()
        #expect(talk.said.last == "appended")
        #expect(parts() == 3)
        for value in talk.etcd.keys.values { #expect(value.bytes.count <= StoredState.partBytes + 100) }

        talk.candidacy = EtcdCandidacy(Talk.location, name: "b:2", leaseSeconds: 5)
        talk.pass(.seconds(6))
        talk.answerAll()
        #expect(talk.said.last?.hasPrefix("leads") == true)
        #expect(talk.state == large)

        talk.tell(.append(large.reversed()))
        talk.answerAll()
        #expect(parts() == 3)
        talk.tell(.append([1]))
        talk.answerAll()
        #expect(parts() == 0)
    }

    @Test("a state that cannot be read is left as it is, and makes no leader", arguments: [0, 1, 2])
    func unreadable(_ kind: Int) {
        var talk = Talk()
        let bytes: [UInt8] =
            switch kind {
            case 0: Array("years of work".utf8)
            case 1: StoredState([1, 2, 3], term: 1, number: 1).bytes.dropLast()
            // Its part is nowhere.
            default: StoredState([UInt8](repeating: 0, count: StoredState.partBytes + 1), term: 1, number: 1).bytes
            }
        talk.etcd.corrupt("/run/state", bytes)
        talk.tell(.tick)
        talk.answerAll()
        #expect(!talk.said.contains { $0.hasPrefix("leads") })
        #expect(talk.etcd.keys["/run/state"]?.bytes == bytes)
        #expect(talk.etcd.keys["/run/leader"] == nil)
        // It is not tried again in the same breath.
        talk.pass(.milliseconds(500))
        talk.answerAll()
        #expect(talk.asked.isEmpty)
    }

    @Test("who gives up hands the lead over at once, and keeps away from it for a while")
    func givesUp() {
        var talk = Talk.leading
        talk.tell(.giveUp(reason: "deaf", holdOff: .seconds(15)))
        #expect(!talk.candidacy.mayAct(at: talk.now))
        talk.answerAll()
        #expect(talk.etcd.keys["/run/leader"] == nil)
        _ = talk.takeSaid()
        for _ in 0..<25 {
            talk.pass(.milliseconds(500))
            talk.answerAll()
        }
        #expect(talk.takeSaid() == [])
        for _ in 0..<10 {
            talk.pass(.milliseconds(500))
            talk.answerAll()
        }
        #expect(talk.said.contains { $0.hasPrefix("leads") })
    }

    @Test("a lease that could not be given back is, once etcd answers again")
    func revokesLater() {
        var talk = Talk.leading
        talk.pass(.milliseconds(4500))
        // Etcd was restarted meanwhile, and counts anew.
        talk.etcd.restart(at: talk.now)
        while !talk.asked.isEmpty {
            let question = talk.asked[0].question
            talk.answerWasNone(question)
        }
        #expect(talk.etcd.keys["/run/leader"] != nil)
        talk.pass(.milliseconds(500))
        talk.answerAll()
        talk.pass(.milliseconds(500))
        talk.answerAll()
        #expect(talk.said.last?.hasPrefix("leads") == true)
    }

    @Test("who ends says so, and waits for the answer")
    func retires() {
        var talk = Talk.leading
        talk.tell(.retire)
        #expect(talk.said.last == "follows nobody")
        talk.answerAll()
        #expect(talk.said.last == "retired")
        #expect(talk.etcd.keys["/run/leader"] == nil)
        talk.pass(.seconds(60))
        #expect(talk.asked.isEmpty)
    }
}

extension Talk {
    /// The request never got there.
    fileprivate mutating func answerWasNone(_ question: UInt64) {
        asked.removeAll { $0.question == question }
        tell(.answered(question, .failure(.unanswered("refused"))))
    }
}
