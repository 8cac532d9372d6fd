import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

@Suite("Transcripts: the topology is optimised")
struct OptimizingTests {
    static let names = ["A", "B", "C", "D"]

    /// Four members whose best ring is A, C, B, D: the edge C-D is ten times as slow as the next.
    private func uneven() -> Cluster {
        var c = Cluster(of: "A", "B", "C", "D")
        for from in Self.names {
            c.figures[from] = Self.names.filter { $0 != from }.map { to in
                switch from < to ? from + to : to + from {
                case "CD": (to, 10_000_000)
                case "AD", "BD": (to, 100_000_000)
                case "AB": (to, 300_000_000)
                default: (to, 1_000_000_000)
                }
            }
        }
        return c
    }

    private func arrangement(_ c: Cluster, _ name: String) -> Arrangement? {
        c.nodes[name]?.machine.view?.arrangement
    }

    private func shares(_ c: Cluster, _ name: String) -> [UInt16] { arrangement(c, name)?.shares ?? [] }

    @Test("once all members have called, ranks, shares and figures are new and the same at all of them")
    func everybody() {
        var c = uneven()
        let epoch = c.epoch("A")
        c.optimizeTopology("B", "D", "A")
        #expect(c.answers.isEmpty && c.questions.isEmpty)
        c.optimizeTopology("C")
        for name in Self.names {
            #expect(c.answers[name] == [.done])
            #expect(c.view(name) == c.view("A") && arrangement(c, name) == arrangement(c, "A"))
            #expect(c.epoch(name) == c.epoch("A"))
        }
        #expect(c.epoch("A") > epoch)
        #expect(c.view("A") == ["A", "C", "B", "D"])
        #expect(arrangement(c, "A")?.figures != nil)
        // C and D reduce little, for what they reduce passes the slow edge; theirs are the shares of their ranks.
        let ofRank = shares(c, "A")
        #expect(ofRank.count == 4 && ofRank[1] + ofRank[3] < 220 && ofRank[0] > 1800 && ofRank[2] > 1800)
        c.reduce("A", "B", "C", "D")
        #expect(c.outcomes["C"] == [.success(worldSize: 4)])
    }

    @Test("a second call with the same figures changes nothing, and the epoch stays")
    func again() {
        var c = uneven()
        c.optimizeTopology("A", "B", "C", "D")
        c.forgetAnswers()
        let (epoch, view) = (c.epoch("A"), c.view("A"))
        // In another order, as programs do.
        c.optimizeTopology("D", "C", "B", "A")
        #expect(c.answers["A"] == [.done] && c.answers["D"] == [.done])
        #expect(c.epoch("A") == epoch && c.view("A") == view)
        #expect(c.sentByMaster.allSatisfy { $0.message == .optimizeUnchanged })
    }

    @Test("nothing is known: all is as it was")
    func nothingKnown() {
        var c = Cluster(of: "A", "B", "C")
        let epoch = c.epoch("A")
        c.optimizeTopology("A", "B", "C")
        #expect(c.answers == ["A": [.done], "B": [.done], "C": [.done]])
        #expect(c.epoch("A") == epoch && arrangement(c, "A") == .plain)
    }

    @Test("alone, unconnected, with operations in flight, or in another call it is refused at once")
    func refusedAtOnce() {
        var c = Cluster(of: "A")
        c.optimizeTopology("A")
        #expect(c.answers["A"] == [.failed(.alone)])
        var d = Cluster(of: "A", "B")
        d.reduce("A")
        d.optimizeTopology("A")
        #expect(d.answers["A"] == [.failed(.operationsInFlight)])
        d.updateTopology("B")
        d.optimizeTopology("B")
        #expect(d.answers["B"] == [.failed(.callInProgress)])
        d.leave("A")
        d.optimizeTopology("A")
        #expect(d.answers["A"]?.last == .failed(.destroyed))
    }

    @Test("nothing can be launched while the call lasts")
    func launchMeanwhile() {
        var c = Cluster(of: "A", "B")
        c.optimizeTopology("A")
        c.reduce("A")
        guard case .misuse? = c.outcomes["A"]?.first else {
            Issue.record("A: \(c.outcomes)")
            return
        }
        c.optimizeTopology("B")
        #expect(c.answers["A"] == [.done])
    }

    @Test("a member lost before it called: the others finish without it")
    func lossBeforeVote() {
        var c = uneven()
        c.optimizeTopology("A", "B", "D")
        c.kill("C")
        for name in ["A", "B", "D"] {
            #expect(c.answers[name] == [.done])
            #expect(c.view(name).sorted() == ["A", "B", "D"])
            #expect(shares(c, name).count == shares(c, "A").count)
        }
        c.reduce("A", "B", "D")
        #expect(c.outcomes["D"] == [.success(worldSize: 3)])
    }

    @Test("a member lost while the master computes: that answer is too late, the survivors' counts")
    func lossWhileSolving() {
        var c = uneven()
        c.isSolverHeld = true
        c.optimizeTopology("A", "B", "C", "D")
        #expect(c.questions.count == 1)
        c.kill("B")
        #expect(c.questions.count == 2 && c.questions[1].problem.members.count == 3)
        #expect(c.answers.isEmpty)
        c.releaseSolver()
        for name in ["A", "C", "D"] {
            #expect(c.answers[name] == [.done])
            #expect(c.view(name).sorted() == ["A", "C", "D"])
            #expect(arrangement(c, name) == arrangement(c, "A"))
        }
    }

    @Test("a member lost after the proposal: a flush, and the survivors' call goes on behind it")
    func lossWhileLinking() {
        var c = uneven()
        // The votes are in, and then D's answer to the proposal is what does not come.
        c.isSolverHeld = true
        c.optimizeTopology("A", "B", "C", "D")
        c.hold(from: "D", to: "master")
        c.releaseSolver()
        guard case .linking(let proposal) = c.phase else {
            Issue.record("\(c.phase)")
            return
        }
        #expect(proposal.newcomers.isEmpty && c.answers.isEmpty)
        c.kill("D")
        for name in ["A", "B", "C"] {
            #expect(c.answers[name] == [.done])
            #expect(c.view(name).sorted() == ["A", "B", "C"])
        }
    }

    @Test("the last survivor's call is a success")
    func lastSurvivor() {
        var c = Cluster(of: "A", "B")
        c.optimizeTopology("A")
        c.kill("B")
        #expect(c.answers["A"] == [.done])
        #expect(c.view("A") == ["A"])
    }

    @Test("a loss while a member still measures does not make it forget to vote")
    func lossWhileMeasuring() {
        var c = uneven()
        c.measuring = ["A"]
        c.optimizeTopology("A", "B", "C")
        c.kill("D")
        #expect(c.answers.isEmpty)
        c.finishMeasuring("A")
        #expect(c.answers["A"] == [.done] && c.answers["C"] == [.done])
        // A measurement that nobody waits for is no vote.
        c.forgetAnswers()
        c.finishMeasuring("A")
        #expect(c.sentToMaster.isEmpty)
    }

    @Test("one member at a join point: after a third of the dead time all are told")
    func otherMembershipCall() {
        var c = Cluster(of: "A", "B", "C")
        c.optimizeTopology("A", "B")
        c.updateTopology("C")
        #expect(c.answers.isEmpty)
        c.pass(Cluster.timeouts.stragglerPatience, .milliseconds(200))
        for name in ["A", "B", "C"] {
            guard case .failed(.refused)? = c.answers[name]?.first else {
                Issue.record("\(name): \(c.answers)")
                return
            }
        }
        c.forgetAnswers()
        c.optimizeTopology("A", "B", "C")
        #expect(c.answers["C"] == [.done])
    }

    @Test("one member in an operation: after a third of the dead time it is misuse, and the call is refused")
    func otherOperation() {
        var c = Cluster(of: "A", "B", "C")
        c.optimizeTopology("A", "B")
        c.reduce("C")
        c.pass(Cluster.timeouts.stragglerPatience, .milliseconds(400))
        guard case .misuse? = c.outcomes["C"]?.first, case .failed(.refused)? = c.answers["A"]?.first,
            case .failed(.refused)? = c.answers["B"]?.first
        else {
            Issue.record("\(c.outcomes) \(c.answers)")
            return
        }
        c.forgetAnswers()
        c.optimizeTopology("A", "B", "C")
        #expect(c.answers["C"] == [.done])
    }

    @Test("newcomers are not admitted; they wait for the next join point, which has equal chunks again")
    func newcomerWaits() {
        var c = uneven()
        c.connect("E")
        c.optimizeTopology("A", "B", "C", "D")
        #expect(c.answers["A"] == [.done] && c.answers["E"] == nil)
        let order = c.view("A")
        #expect(order.sorted() == Self.names && !shares(c, "A").isEmpty)
        c.arePeersPending("A", "B", "C", "D")
        #expect(c.answers["D"]?.last == .pending(true))
        c.updateTopology("A", "B", "C", "D")
        #expect(c.view("E") == order + ["E"])
        #expect(arrangement(c, "E") == .plain && arrangement(c, "B") == .plain)
    }

    @Test("a newcomer that comes while the answer is awaited, or goes, changes nothing")
    func newcomerMeanwhile() {
        var c = uneven()
        c.isSolverHeld = true
        c.optimizeTopology("A", "B", "C", "D")
        c.connect("E")
        c.kill("E")
        c.connect("F")
        c.releaseSolver()
        #expect(c.answers["D"] == [.done] && c.answers["F"] == nil)
        #expect(c.view("A").sorted() == Self.names)
    }

    @Test("after a loss the others keep their order, and their shares in proportion; after a repair, all")
    func sharesLater() {
        var c = uneven()
        c.optimizeTopology("A", "B", "C", "D")
        let before = zip(c.view("A"), shares(c, "A")).map { ($0, $1) }
        let epoch = c.epoch("A")
        c.withholdResult("A")
        c.reduce("A", "B", "C", "D")
        c.breakLink("A", "B")
        c.pass(.milliseconds(300))
        #expect(c.epoch("A") > epoch)
        #expect(c.view("A") == before.map(\.0) && shares(c, "C") == before.map(\.1))
        c.finishResult("A")
        c.kill("A")
        let left = before.filter { $0.0 != "A" }
        #expect(c.view("B") == left.map(\.0) && shares(c, "B") == left.map(\.1))
        c.kill("C")
        #expect(shares(c, "B") == [])
    }

    @Test("the master dies while members wait: the call fails, and collectives go on")
    func masterDies() {
        var c = uneven()
        c.optimizeTopology("A", "B")
        c.killMaster()
        guard case .failed(.masterLost)? = c.answers["A"]?.first else {
            Issue.record("\(c.answers)")
            return
        }
        c.reduce("A", "B", "C", "D")
        #expect(c.outcomes["A"] == [.success(worldSize: 4)])
    }

    @Test("the master dies when a member has agreed: others may be in the new view, so that member leaves")
    func masterDiesWhileLinking() {
        var c = uneven()
        c.isSolverHeld = true
        c.optimizeTopology("A", "B", "C", "D")
        c.hold(from: "D", to: "master")
        c.releaseSolver()
        c.killMaster()
        guard case .failed(.masterLost)? = c.answers["A"]?.first else {
            Issue.record("\(c.answers)")
            return
        }
        #expect(c.view("A") == [])
    }

    @Test("strays: an answer nobody waits for, a vote of one who is no member, a vote given twice")
    func strays() {
        var c = uneven()
        c.forge(.optimizeUnchanged, to: "A")
        #expect(c.answers.isEmpty && c.view("A") == Self.names)
        c.connect("E")
        c.forge(.voteOptimize(figures: []), from: "E")
        c.optimizeTopology("A")
        c.forge(.voteOptimize(figures: [LinkFigure(peer: PeerID(77), bytesPerSecond: .max)]), from: "A")
        c.optimizeTopology("B", "C", "D")
        #expect(c.answers["A"] == [.done] && c.answers["D"] == [.done] && c.answers["E"] == nil)
    }

    @Test("in a large group the search goes on afterwards, and what it finds counts at the next call")
    func large() {
        let names = (0..<14).map { "P" + String(10 + $0) }
        var c = Cluster()
        for name in names { c.connect(name) }
        c.updateTopology(names[0])
        c.forgetAnswers()
        var random = RandomSource(seed: 3)
        for name in names {
            c.figures[name] = names.filter { $0 != name }.map { ($0, UInt64(1 + random.below(1000)) * 1_000_000) }
        }
        for name in names { c.optimizeTopology(name) }
        #expect(names.allSatisfy { c.answers[$0] == [.done] })
        #expect(c.improvements.count == 1)
        guard let problem = c.improvements.first else { return }
        let ring = RingOrder(problem.matrix)
        let better = problem.improvedOrder(seed: 1) { false }
        #expect(
            ring.quality(of: better.compactMap { problem.members.firstIndex(of: $0) })
                >= ring.quality(of: Array(0..<14)))
        #expect(problem.improvedOrder(seed: 1) { true } == problem.members)
        c.improved(better)
        c.isSolverHeld = true
        for name in names { c.optimizeTopology(name) }
        #expect(c.questions.first?.problem.suggestion == better)
        c.releaseSolver()
        #expect(names.allSatisfy { c.answers[$0] == [.done, .done] })
    }
}
