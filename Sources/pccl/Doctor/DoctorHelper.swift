import ArgumentParser
import CShims
import Glibc
import PCCLBase
import PCCLCompute
import PCCLTransport

/// What must not hold up or end the tool, or is to be seen from another process, done by a process of its own: it writes
/// a word and a text on each line, and is killed when it takes too long.
enum DoctorHelper {
    /// Drivers of machines with many devices need some seconds to start.
    private static let gpuPatience = Interval.seconds(20)
    private static let readPatience = Interval.seconds(5)

    /// Whether another process of this user can read this one's memory. That it is a child makes it no more than a
    /// stranger: the kernel's exception is for a parent that reads its children.
    static func neighbour() -> Machine.Neighbour {
        let proof = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
        proof.initialize(to: .random(in: .min ... .max))
        defer { proof.deallocate() }
        let arguments = ["read", "\(getpid())", "\(UInt(bitPattern: proof))"]
        switch lines(of: arguments, within: readPatience) {
        case .failure(let reason): return .untried(reason.text)
        case .success(let lines):
            if let text = value("number", lines) {
                return UInt64(text) == proof.pointee ? .readable : .refused("it read something else")
            }
            return value("refused", lines).map { .refused($0) } ?? .untried("no answer")
        }
    }

    static func gpu() -> Machine.GPU {
        switch lines(of: ["gpu"], within: gpuPatience) {
        case .failure(let reason): return .failed(reason.text)
        case .success(let lines):
            guard let survey = survey(lines) else { return .failed("no answer") }
            return .surveyed(survey, surroundings())
        }
    }

    /// The resolver has time-outs of its own, and they are long.
    static func addresses(
        of name: String, port: UInt16, within patience: Interval
    ) -> Result<[SocketAddress], Failure> {
        if let numeric = SocketAddress(numeric: name.contains(":") ? "[\(name)]" : name) {
            return .success([SocketAddress(numeric.host, port: port)])
        }
        return lines(of: ["resolve", name], within: patience).flatMap { lines in
            if let problem = value("problem", lines) { return .failure(Failure(text: problem)) }
            let found = lines.filter { $0.word == "address" }.compactMap { SocketAddress(numeric: $0.text)?.host }
            return found.isEmpty
                ? .failure(Failure(text: "\(name) has no address"))
                : .success(found.map { SocketAddress($0, port: port) })
        }
    }

    // MARK: - what it writes

    struct Failure: Error, Equatable { var text: String }

    struct Line: Equatable {
        var word: String
        var text: String

        init(_ word: String, _ text: String) {
            self.word = word
            self.text = text
        }
        init(parsing line: String) {
            let space = line.firstIndex(of: " ") ?? line.endIndex
            self.init(String(line[..<space]), String(line[space...].dropFirst()))
        }
        var written: String { "\(word) \(text.split(whereSeparator: \.isNewline).joined(separator: " "))\n" }
    }

    static func value(_ word: String, _ lines: [Line]) -> String? { lines.first { $0.word == word }?.text }

    static func survey(_ lines: [Line]) -> DeviceDriver.Survey? {
        guard let state = value("state", lines).flatMap(DeviceDriver.Survey.State.init(rawValue:)) else { return nil }
        return DeviceDriver.Survey(
            state: state, obstacle: value("obstacle", lines),
            version: value("version", lines).flatMap { Int($0) } ?? 0,
            deviceNames: lines.filter { $0.word == "device" }.map(\.text))
    }

    private static func surroundings() -> Machine.GPU.Surroundings {
        let version = (try? textOfFile("/sys/module/nvidia/version")).map { SystemText.words($0).joined() }
        return Machine.GPU.Surroundings(
            kernelModule: version, hasPeerMemoryModule: access("/sys/module/nvidia_peermem", F_OK) == 0)
    }

    // MARK: - the process

    private static func lines(of arguments: [String], within patience: Interval) -> Result<[Line], Failure> {
        let process: PeerProcess
        do {
            process = try PeerProcess(arguments: ["doctor-helper"] + arguments, environment: currentEnvironment())
        } catch {
            return .failure(Failure(text: "\(error)"))
        }
        let deadline = EventLoop.now + patience
        var lines: [String] = []
        while !process.hasEnded() {
            lines += process.readReports()
            let left = deadline - EventLoop.now
            guard left.nanoseconds > 0 else {
                // It may stand still in the kernel, where no signal reaches it: it is not waited for.
                process.kill()
                return .failure(Failure(text: "no answer within \(Quantity.time(patience.seconds))"))
            }
            wait(for: process.openDescriptors, milliseconds: Int32(clamping: min(left.milliseconds, 100) + 1))
        }
        lines += process.readReports()
        switch process.end {
        case .exit(0): return .success(lines.map(Line.init(parsing:)))
        case .exit(let status): return .failure(Failure(text: "its process ended with status \(status)"))
        case .signal(let number): return .failure(Failure(text: "its process was ended by signal \(number)"))
        case nil: return .failure(Failure(text: "its process is gone"))
        }
    }

    private static func wait(for descriptors: [CInt], milliseconds: CInt) {
        var watched = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        _ = poll(&watched, nfds_t(watched.count), milliseconds)
    }
}

/// The helper's own side. Only `pccl doctor` starts it.
struct DoctorHelperCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor-helper", abstract: "One question of a doctor.", shouldDisplay: false)

    enum Question: String, ExpressibleByArgument { case gpu, read, resolve }

    @Argument var question: Question
    @Argument var details: [String] = []

    func run() throws {
        let lines =
            switch question {
            case .gpu: gpu()
            case .read: read()
            case .resolve: resolve()
            }
        writeAll(lines.map(\.written).joined(), to: STDOUT_FILENO)
    }

    private func gpu() -> [DoctorHelper.Line] {
        let survey = DeviceDriver.survey
        return [.init("state", survey.state.rawValue), .init("version", "\(survey.version)")]
            + (survey.obstacle.map { [.init("obstacle", $0)] } ?? [])
            + survey.deviceNames.map { .init("device", $0) }
    }

    private func read() -> [DoctorHelper.Line] {
        guard details.count == 2, let process = Int32(details[0]), let address = UInt64(details[1]) else { return [] }
        var number: UInt64 = 0
        let count = pccl_shim_read_process(process, address, &number, MemoryLayout<UInt64>.size)
        return count == MemoryLayout<UInt64>.size
            ? [.init("number", "\(number)")] : [.init("refused", SystemError.text(errno))]
    }

    private func resolve() -> [DoctorHelper.Line] {
        guard let name = details.first else { return [] }
        do {
            return try SocketAddress.resolve(host: name, port: 1).map { .init("address", $0.description) }
        } catch {
            return [.init("problem", "\(error)")]
        }
    }
}
