import Glibc
import PCCLRecorder
import Testing

@testable import PCCLSession

@Suite("What the environment says of the flight recorder")
struct RecorderConfigurationTests {
    private func read(_ variables: [String: String]) -> (RecorderConfiguration, problems: [String]) {
        var problems: [String] = []
        let environment = Environment(reading: { variables[$0] }, onProblem: { problems.append($0) })
        return (environment.recorder, problems)
    }

    @Test("without a word it records and writes nothing; sizes, a folder and a signal are taken as they are given")
    func values() {
        let (usual, none) = read([:])
        #expect(usual.bytes == 4 << 20 && usual.directory == nil && usual.signal == nil && none.isEmpty)
        let (set, problems) = read(
            ["PCCL_RECORDER": "64", "PCCL_RECORDER_DIR": "/var/tmp", "PCCL_RECORDER_SIGNAL": "sigusr2"])
        #expect(set.bytes == 64 << 10 && set.directory == "/var/tmp" && set.signal?.number == SIGUSR2)
        #expect(problems.isEmpty && read(["PCCL_RECORDER": "0"]).0.bytes == 0)
    }

    @Test(
        "what is no value is said, and what is usual is taken",
        arguments: [
            ("PCCL_RECORDER", "8193"), ("PCCL_RECORDER", "-1"), ("PCCL_RECORDER", "4M"),
            ("PCCL_RECORDER_SIGNAL", "TERM"),
        ])
    func problems(variable: String, value: String) {
        let (configuration, problems) = read([variable: value])
        #expect(problems.count == 1 && problems[0].hasPrefix("\(variable)=\(value)"))
        #expect(configuration.bytes == Recorder.usualBytes && configuration.signal == nil)
    }
}
