import StrictJSON
import Testing

@testable import pccl

@Suite("pccl status")
struct StatusTableTests {
    static let report = """
        {"tool": "pccl-master", "version": "1.2.3", "run": "01234567", "now": 1000, "uptime_seconds": 7325,
         "rebuilding": false, "journal": {"bytes": 4096, "appends": 6, "failing": false},
         "groups": [{"group": 0, "epoch": 2, "phase": "flushing", "phase_waits_for": [1, 2], "flush_cause": "loss",
          "members": [
           {"peer": 1, "rank": 0, "address": "10.0.0.1:48150", "state": "attached", "since": 900, "heard": 999.5},
           {"peer": 2, "rank": 1, "address": "[fd00::1]:48150", "state": "away", "since": 997, "heard": 997}],
          "newcomers": [
           {"peer": 3, "rank": null, "address": null, "state": "newcomer", "since": 990, "heard": 999}],
          "calls_since": 998,
          "calls": [{"call": "update_topology", "called_by": [1], "waits_for": [2]},
           {"call": "are_peers_pending", "called_by": [1, 2], "waits_for": []}],
          "late_operations": [
           {"tag": "18446744073709551615", "since": 980, "called_by": [1], "waits_for": [2], "heard": 999}]}],
         "counts": {"admissions": 4, "departures": {"left": 1, "silent": 2, "straggler": 0}},
         "history": [{"at": 0, "group": 0, "text": "peer 4 is lost (silent): \\u001b[2Jnothing\\nwas heard"}]}
        """

    private func lines(_ text: String) throws -> [String] {
        StatusTable(address: "here:48149", report: try JSONValue(parsing: text)).lines
    }

    @Test("a table that says who is there, who is away, and who is waited for")
    func table() throws {
        let lines = try lines(Self.report)
        #expect(
            lines.prefix(11).joined(separator: "\n") == """
                pccl-master 1.2.3 at here:48149, up 2 h 2 min, run 01234567, journal 4.0 kB

                group 0, epoch 2: 2 members, 1 away, 1 waiting to be admitted
                  rank   peer  address          state           since    last heard
                     0      1  10.0.0.1:48150   attached        100 s       1 s ago
                     1      2  [fd00::1]:48150  away              3 s       3 s ago
                     -      3  ?                newcomer         10 s       1 s ago
                  flushing after loss: waits for peers 1, 2
                  update_topology: called by peer 1 2 s ago, waits for peer 2
                  operation with tag 18446744073709551615: called by peer 1 20 s ago, waits for peer 2

                """)
        #expect(lines[11] == "since it was started: 4 admitted, 1 left, 2 lost (silent 2)")
    }

    @Test("who is stuck: the master's words, alone or in the table, where they stand for what they say better")
    func stuck() throws {
        let stuck = #"""
            "stuck": [{"group": 0, "what": "silent", "text": "peer 2: the master has not heard it for 2.0 s"},
             {"group": 0, "what": "operation", "tag": "18446744073709551615", "text": "peer 1: tag \u001b7 has waited"},
             {"group": 1, "what": "operation", "tag": "18446744073709551615", "text": "of another group"}],
            "groups"
            """#
        let report = Self.report.replacing("\"groups\"", with: stuck)
        let shown = try lines(report)
        #expect(shown.contains("  peer 2: the master has not heard it for 2.0 s"))
        #expect(shown.contains("  peer 1: tag  7 has waited"))
        #expect(!shown.contains { $0.contains("called by peer 1 20 s ago") || $0.contains("of another group") })
        func alone(_ text: String) throws -> [String] {
            StatusTable(address: "", report: try JSONValue(parsing: text)).stuckLines
        }
        #expect(try alone(report).map { $0.prefix(8) } == ["group 0:", "group 0:", "group 1:"])
        #expect(try alone(Self.report) == ["nothing is stuck"])
    }

    @Test("of several masters each says whether it leads, and the others know nothing of the run")
    func lead() throws {
        let head = #"{"version": "1", "uptime_seconds": 5, "groups": [], "#
        #expect(
            try lines(head + #""run": "01", "lead": {"leads": true, "term": 12, "leader": null}}"#)[0]
                == "pccl-master 1 at here:48149, up 5 s, run 01, leads in term 12")
        #expect(
            try lines(head + #""run": null, "lead": {"leads": false, "term": null, "leader": "a:1"}}"#)
                == ["pccl-master 1 at here:48149, up 5 s, stands by while a:1 leads"])
        #expect(
            try lines(head + #""run": null, "lead": {"leads": false, "term": null, "leader": null}}"#)
                == ["pccl-master 1 at here:48149, up 5 s, stands by, and nobody leads"])
    }

    @Test("a peer cannot write to the terminal of whoever watches")
    func controlCharacters() throws {
        let last = try #require(try lines(Self.report).last)
        #expect(last.hasSuffix("group 0  peer 4 is lost (silent):  [2Jnothing was heard"))
    }

    @Test("what is missing, or absurd, is shown as such", arguments: ["{}", #"{"groups": [{"members": [{}]}]}"#, "[]"])
    func missing(text: String) throws { #expect(try lines(text).count >= 3) }

    @Test("numbers that no master says do no harm")
    func absurd() throws {
        _ = try lines(
            #"{"now": -1e308, "uptime_seconds": 1e308, "journal": {"bytes": 1e300}, "history": [{"at": 1e300}], "#
                + #""counts": {"departures": {"a": 1e300, "b": 1e300}}}"#)
    }
}

@Suite("Answers to pccl status")
struct StatusClientTests {
    private func outcome(_ answer: String) -> String {
        do throws(StatusClient.Problem) {
            return try StatusClient.body(of: Array(answer.utf8)) { StatusClient.Problem(description: $0) }
        } catch {
            return "! \(error)"
        }
    }

    @Test("an answer that went well is what follows its head")
    func body() { #expect(outcome("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}\n") == "{}\n") }

    @Test("whoever else answers is named")
    func strangers() {
        #expect(outcome("\u{7f}pccl-sw\u{1}") == "! peers connect there")
        #expect(outcome("") == "! it closes the connection and says nothing")
        #expect(outcome("SSH-2.0-x\r\n") == "! it does not speak HTTP")
        #expect(outcome("HTTP/1.1 404 Not Found\r\n\r\nno") == "! it says 404 Not Found")
        #expect(
            outcome("HTTP/1.1 503 Service Unavailable\r\n\r\nthe master is ending\n")
                == "! the master cannot say how it stands: the master is ending")
    }

    @Test("an address is taken as the master prints it", arguments: ["127.0.0.1:1", "http://127.0.0.1:1/", "[::1]:1"])
    func addresses(text: String) throws {
        #expect(try StatusSource.parse(["--master", text]).client(patience: .seconds(1)).address.port == 1)
    }

    @Test("a port alone, or none, is no address", arguments: ["48149", "here", "here:0", "https://here:1"])
    func noAddresses(text: String) { #expect(throws: (any Error).self) { try StatusSource.parse(["--master", text]) } }
}
