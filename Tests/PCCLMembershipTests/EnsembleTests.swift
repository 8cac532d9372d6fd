import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

/// Nodes A, B and C of two processes each: A0 is in group 0, A1 in group 1.
@Suite("Transcripts: ensembles")
struct EnsembleTests {
    private static let grace = Interval.seconds(60)

    private func connect(_ node: String, _ c: inout Cluster, id: UInt64, size: Int = 2) {
        for group in 0..<UInt32(2) {
            c.connect("\(node)\(group)", group: group, ensemble: Ensemble(id: id, size: size))
        }
    }

    private func grid(_ nodes: String...) -> Cluster {
        var c = Cluster(grace: Self.grace)
        for (index, node) in nodes.enumerated() {
            connect(node, &c, id: UInt64(index + 1))
            let members = nodes[..<index].flatMap { ["\($0)0", "\($0)1"] }
            for member in members { c.updateTopology(member) }
        }
        for node in nodes {
            #expect(c.view("\(node)0").count == nodes.count && c.view("\(node)1").count == nodes.count)
        }
        c.forgetAnswers()
        return c
    }

    private func reason(_ c: Cluster, _ name: String) -> String? {
        guard case .failed(.turnedAway(let reason))? = c.answers[name]?.last else { return nil }
        return reason
    }

    @Test("the first one is admitted once all of it is there, in all groups at once")
    func first() {
        var c = Cluster()
        c.connect("A0", ensemble: Ensemble(id: 7, size: 2))
        #expect(c.answers["A0"] == nil && c.view("A0").isEmpty)
        c.connect("A1", group: 1, ensemble: Ensemble(id: 7, size: 2))
        #expect(c.answers == ["A0": [.done], "A1": [.done]])
        #expect(c.view("A0") == ["A0"] && c.view("A1") == ["A1"])
    }

    @Test("groups that are empty do not wait for other groups, nor for an ensemble that is not whole")
    func sidebySide() {
        var c = Cluster()
        c.connect("A0", ensemble: Ensemble(id: 7, size: 2))
        c.connect("S", group: 5)
        #expect(c.view("S") == ["S"])
        c.connect("B0", group: 2, ensemble: Ensemble(id: 8, size: 1))
        #expect(c.view("B0") == ["B0"] && c.view("A0").isEmpty)
    }

    @Test("nobody is pending before all of a node waits; then all groups are told so, whoever asks last")
    func pending() {
        var c = grid("A", "B")
        c.connect("C0", ensemble: Ensemble(id: 3, size: 2))
        c.arePeersPending("A0", "B0", "A1")
        #expect(c.answers.isEmpty, "B1 has not asked")
        c.arePeersPending("B1")
        for name in ["A0", "A1", "B0", "B1"] { #expect(c.answers[name] == [.pending(false)]) }
        c.forgetAnswers()
        c.arePeersPending("A0", "B0")
        // Between the questions of the two groups the node becomes whole.
        c.connect("C1", group: 1, ensemble: Ensemble(id: 3, size: 2))
        c.arePeersPending("A1", "B1")
        for name in ["A0", "A1", "B0", "B1"] { #expect(c.answers[name] == [.pending(true)]) }
    }

    @Test("a node is admitted in all groups or in none: where one group cannot link it, no group has it")
    func unreachable() {
        var c = grid("A", "B")
        c.separate("A1", "C1")
        connect("C", &c, id: 3)
        c.updateTopology("A0", "B0")
        #expect(c.answers.isEmpty, "the members of group 1 have not voted")
        c.updateTopology("A1", "B1")
        // Group 0 has linked, and waits for group 1, which cannot.
        #expect(c.view("C0").isEmpty)
        c.pass(Cluster.timeouts.dialPatience, Cluster.timeouts.dialPatience)
        for name in ["A0", "A1", "B0", "B1"] { #expect(c.answers[name] == [.done] && c.view(name).count == 2) }
        #expect(reason(c, "C1")?.contains("no connection between you") == true)
        #expect(c.answers["C0"] == nil, "it may be made whole again")
        // The same process tries again, under the same name.
        c.reunite("A1", "C1")
        c.forgetAnswers()
        c.connect("C1", group: 1, ensemble: Ensemble(id: 3, size: 2))
        c.updateTopology("A0", "B0", "A1", "B1")
        for name in ["A0", "A1", "B0", "B1", "C0", "C1"] {
            #expect(c.answers[name] == [.done] && c.view(name).count == 3)
        }
    }

    @Test("a loss while a node is linked: both groups begin anew, and admit it with those who are left")
    func lossWhileLinking() {
        var c = grid("A", "B")
        c.separate("A1", "C1")
        connect("C", &c, id: 3)
        c.updateTopology("A0", "B0", "A1", "B1")
        #expect(c.view("C0").isEmpty)
        c.kill("A0")
        #expect(reason(c, "A1")?.contains("of the same ensemble, is gone") == true)
        c.pass(Cluster.timeouts.dialPatience, Cluster.timeouts.dialPatience)
        for (name, view) in [
            ("B0", ["B0", "C0"]), ("C0", ["B0", "C0"]), ("B1", ["B1", "C1"]), ("C1", ["B1", "C1"]),
        ] {
            #expect(c.answers[name] == [.done] && c.view(name) == view, "\(name)")
        }
    }

    @Test("with one process all of its node is lost; operations of its groups end as at any loss")
    func loss() {
        var c = grid("A", "B", "C")
        c.reduce("A0", "B0", "C0")
        c.forgetAnswers()
        c.reduce("A1", "C1")
        c.kill("B0")
        #expect(c.outcomes == ["A1": [.memberLost], "C1": [.memberLost]])
        for name in ["A0", "C0", "A1", "C1"] { #expect(c.view(name).count == 2) }
        #expect(c.view("B1").isEmpty)
    }

    @Test("whoever leaves leaves alone, and its group goes on to join points with those who are left")
    func leaving() {
        var c = grid("A", "B")
        c.leave("B0")
        #expect(c.view("A0") == ["A0"] && c.view("A1") == ["A1", "B1"])
        c.updateTopology("A0", "A1")
        #expect(c.answers.isEmpty)
        c.updateTopology("B1")
        for name in ["A0", "A1", "B1"] { #expect(c.answers[name] == [.done]) }
        // Nobody of group 1 waits for a group that has nobody.
        c.leave("A0")
        c.forgetAnswers()
        c.updateTopology("A1", "B1")
        #expect(c.answers["A1"] == [.done] && c.answers["B1"] == [.done])
        connect("D", &c, id: 4)
        c.updateTopology("A1", "B1")
        #expect(c.view("D0") == ["D0"] && c.view("D1") == ["A1", "B1", "D1"])
    }

    @Test("two nodes whose other processes have left admit a third at a join point of both")
    func tiedByNewcomer() {
        var c = grid("A", "B")
        c.leave("A1")
        c.leave("B0")
        connect("C", &c, id: 3)
        c.updateTopology("A0")
        #expect(c.answers.isEmpty, "B1 has not voted")
        c.updateTopology("B1")
        #expect(c.view("C0") == ["A0", "C0"] && c.view("C1") == ["B1", "C1"])
    }

    @Test("who does not go with the others is turned away, and told why")
    func misfits() {
        var c = grid("A")
        c.connect("S", group: 1)
        #expect(reason(c, "S") == "the members of group 1 came in ensembles")
        c.connect("P", group: 4)
        c.connect("E0", group: 0, ensemble: Ensemble(id: 9, size: 2))
        c.connect("E4", group: 4, ensemble: Ensemble(id: 9, size: 2))
        #expect(reason(c, "E0") == "group 4 has members that came in no ensemble" && reason(c, "E4") == reason(c, "E0"))
        c.connect("F0", group: 0, ensemble: Ensemble(id: 10, size: 1))
        #expect(reason(c, "F0") == "its groups are group 0; those who are there have members in group 1, too")
        c.connect("G0", group: 0, ensemble: Ensemble(id: 11, size: 2))
        c.connect("G1", group: 1, ensemble: Ensemble(id: 11, size: 3))
        #expect(reason(c, "G1") == "ensemble 11 is said to have 3 members, and peer 8 says 2")
        c.connect("H1", group: 1, ensemble: Ensemble(id: 1, size: 2))
        #expect(reason(c, "H1") == "ensemble 1 has all of its 2 members")
        c.updateTopology("A0", "A1")
        #expect(c.answers["A0"] == [.done] && c.view("A0") == ["A0"], "a node that is not whole holds nobody up")
    }

    @Test("a master that ends when one group has heard an answer gives the other the same one")
    func restart() {
        var c = grid("A", "B")
        for name in ["A1", "B1"] { c.hold(from: "master", to: name) }
        c.arePeersPending("A0", "B0", "A1", "B1")
        #expect(c.answers["A0"] == [.pending(false)] && c.answers["A1"] == nil)
        for name in ["A1", "B1"] { c.lose(from: "master", to: name) }
        c.killMaster()
        c.restartMaster(keepingJournal: true)
        c.pass(.seconds(3))
        for name in ["A0", "B0", "A1", "B1"] { #expect(c.answers[name] == [.pending(false)]) }
        connect("C", &c, id: 3)
        c.updateTopology("A0", "B0", "A1", "B1")
        #expect(c.view("C0") == ["A0", "B0", "C0"] && c.view("C1") == ["A1", "B1", "C1"])
    }

    @Test("a master that ends while it admits a node has admitted it everywhere or nowhere", arguments: [true, false])
    func restartWhileAdmitting(keepingJournal: Bool) {
        var c = grid("A", "B")
        connect("C", &c, id: 3)
        c.updateTopology("A0", "B0", "A1")
        for name in ["A1", "B1", "C1"] { c.hold(from: name, to: "master") }
        c.updateTopology("B1")
        c.killMaster()
        c.releaseEverything()
        c.restartMaster(keepingJournal: keepingJournal)
        c.pass(.seconds(3), .seconds(10))
        for (group, other) in [("0", "1"), ("1", "0")] {
            #expect(c.view("A\(group)").count == c.view("A\(other)").count)
            #expect(c.view("C\(group)").isEmpty == c.view("C\(other)").isEmpty)
        }
        #expect(c.master.brokenInvariant() == nil)
    }
}
