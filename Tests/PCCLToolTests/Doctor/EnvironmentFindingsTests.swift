import Foundation
import Testing

@testable import pccl

@Suite("What a doctor says of the environment and the GPU")
struct EnvironmentFindingsTests {
    private func finding(_ name: String, _ value: String) -> Finding? {
        machine { $0.variables[name] = value }.findings.first { $0.subject == name && $0.area == .environment }
    }

    @Test("the variables it knows are those of docs/operations.md")
    func sameAsDocumented() throws {
        let page = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent("docs/operations.md")
        let text = try String(contentsOf: page, encoding: .utf8)
        let documented = text.matches(of: /\n\| `(PCCL_[A-Z_]+)` \|/).map { String($0.1) }
        #expect(!documented.isEmpty, "the page is written in a new way")
        #expect(Set(documented) == Set(KnownVariables.ofTheLibrary))
    }

    @Test("a value that the library takes is ok, and one that it does not is told in its own words")
    func values() {
        #expect(finding("PCCL_TIMEOUT", "20")?.weight == .ok)
        #expect(finding("PCCL_TIMEOUT", "soon")?.text.contains("is not a number of seconds") == true)
        #expect(finding("PCCL_LOG_LEVEL", "debug")?.weight == .ok)
        #expect(finding("PCCL_LOG_LEVEL", "loud")?.weight == .change)
        #expect(finding("PCCL_MASTER", "host")?.weight == .change)
        #expect(finding("PCCL_TRANSPORT", "")?.weight == .ok)
    }

    @Test("a mistake in one variable is not told of another")
    func oneEach() {
        let both = machine { $0.variables = ["PCCL_TIMEOUT": "soon", "PCCL_TRANSPORT": "tcp"] }
        #expect(both.finding("PCCL_TRANSPORT")?.weight == .ok)
    }

    @Test(
        "the name that comes nearest is named",
        arguments: [
            ("PCCL_TIMEOT", "PCCL_TIMEOUT"), ("PCCL_TRANPSORT", "PCCL_TRANSPORT"), ("PCCL_LOGLEVEL", "PCCL_LOG_LEVEL"),
            ("pccl_port_base", "PCCL_PORT_BASE"), ("PCCL_INTERFACES", "PCCL_INTERFACE"),
            ("PCCLTIMEOUT", "PCCL_TIMEOUT"), ("PCCL_CONGESTION_CONTROL", nil), ("PCCL_SOMETHING_ELSE", nil),
        ])
    func nearest(name: String, meant: String?) {
        #expect(KnownVariables.standing(of: name) == .unknown(nearest: meant))
    }

    @Test("a misspelt variable is to be replaced, its value as a shell wants it")
    func misspelt() {
        let finding = finding("PCCL_INTERFACES", "^docker,it's")
        #expect(finding?.weight == .change)
        #expect(finding?.change?.commands == ["unset PCCL_INTERFACES", #"export PCCL_INTERFACE='^docker,it'\''s'"#])
    }

    @Test("variables of the lab and of tests are nobody's mistake")
    func ofOthers() {
        #expect(finding("PCCL_LAB_NODE", "0")?.weight == .ok)
        #expect(finding("PCCL_LIBRARY", "/opt/libpccl.so")?.weight == .ok)
    }

    // MARK: - the GPU

    private func driver(_ gpu: Machine.GPU) -> Finding? { machine { $0.gpu = gpu }.finding("CUDA") }

    @Test("devices that can be used are counted by their names")
    func devices() {
        let finding = driver(.survey(.ready, names: ["H100", "H100", "T4"]))
        #expect(finding?.weight == .ok)
        #expect(finding?.text.hasPrefix("driver 12.4, 2 x H100, T4:") == true)
    }

    @Test("no driver is a machine without a GPU, unless the kernel has one")
    func noDriver() {
        let reason = "there is no CUDA driver: no such file"
        #expect(driver(.survey(.noDriver, reason))?.weight == .ok)
        let container = driver(.survey(.noDriver, reason, .init(kernelModule: "550.54")))
        #expect(container?.weight == .change)
        #expect(container?.change?.commands.first?.contains("--gpus all") == true)
    }

    @Test("a driver that cannot be used is a fault, one without devices is not")
    func unusable() {
        #expect(driver(.survey(.initialisationFailed, "cuInit: CUDA_ERROR_UNKNOWN (999)"))?.weight == .fault)
        #expect(driver(.survey(.tooOld, "too old"))?.weight == .fault)
        #expect(driver(.survey(.noDevice, "no device"))?.weight == .note)
        #expect(driver(.failed("no answer within 20 s"))?.weight == .fault)
        #expect(driver(.skipped)?.weight == .ok)
    }

    @Test("what the helper writes of a driver is read as it was")
    func helperLines() {
        let lines = ["state ready", "version 12040", "device NVIDIA H100 80GB"].map(DoctorHelper.Line.init(parsing:))
        #expect(
            DoctorHelper.survey(lines)
                == .init(state: .ready, obstacle: nil, version: 12_040, deviceNames: ["NVIDIA H100 80GB"]))
        #expect(DoctorHelper.survey([]) == nil)
        #expect(DoctorHelper.Line("obstacle", "two\nlines").written == "obstacle two lines\n")
    }
}
