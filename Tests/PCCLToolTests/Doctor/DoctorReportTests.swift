import ArgumentParser
import StrictJSON
import Testing

@testable import pccl

@Suite("The report of a doctor")
struct DoctorReportTests {
    private let sick = DoctorReport(
        machine {
            $0.kernel.backlog = 128
            $0.kernel.mtuProbing = 0
            $0.gpu = .failed("no answer")
        })

    @Test("has a line for each finding, and below it what to type and what that brings")
    func lines() throws {
        let lines = sick.lines
        for finding in sick.findings {
            let index = try #require(lines.firstIndex { $0.contains(finding.subject) && $0.hasSuffix(finding.text) })
            #expect(lines[index].hasPrefix("  \(finding.weight.rawValue)"))
            guard let change = finding.change else { continue }
            let below = lines[(index + 1)...].prefix(change.commands.count + 1).map { $0.drop { $0 == " " } }
            #expect(below == change.commands.map { "> \($0)" } + ["brings: \(change.brings)"])
        }
    }

    @Test("counts at its end, and in JSON, what it has found")
    func counts() throws {
        #expect(sick.lines.last?.hasPrefix("doctor: 1 fault, 1 change, 1 note, ") == true)
        let json = try JSONValue(parsing: sick.json.written())
        #expect(json["counts"]?["fault"] == .integer(1))
        guard case .array(let findings)? = json["findings"] else {
            Issue.record("no findings: \(json.written())")
            return
        }
        #expect(findings.count == sick.findings.count)
        #expect(findings.contains { $0["commands"] == .array([.string("sysctl -w net.core.somaxconn=1024")]) })
    }

    @Test("says how to keep settings only where some are to be set")
    func persistence() {
        #expect(sick.lines.contains { $0.contains("/etc/sysctl.d/") })
        #expect(!DoctorReport(machine()).lines.contains { $0.contains("/etc/sysctl.d/") })
    }

    @Test(
        "what cannot be meant is refused",
        arguments: [
            ["--peers", "1"], ["--bandwidth", "3"], ["--rtt", "soon"], ["--rtt", "0s"], ["--timeout", "0s"],
            ["--master", "host"], ["--peer", "host:0"], ["--peer", ":48150"],
        ])
    func wrongOptions(options: [String]) {
        #expect(throws: (any Error).self) { try DoctorCommand.parse(options) }
    }

    @Test("masters, peers and wishes are taken from the options")
    func options() throws {
        let reader = try DoctorCommand.parse([
            "--master", "a:1", "--peer", "[::1]:2", "--peer", "c:3", "--rtt", "80ms", "--bandwidth", "10gbit",
            "--no-gpu",
        ]).reader()
        #expect(reader.masters == [HostAndPort(host: "a", port: 1)])
        #expect(reader.peers == [HostAndPort(host: "::1", port: 2), HostAndPort(host: "c", port: 3)])
        #expect(reader.wishes == .init(peers: 8, bitsPerSecond: 10e9, roundTripSeconds: 0.08))
        #expect(!reader.looksAtGPU)
    }
}
