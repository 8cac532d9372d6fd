import PCCLSession
import PCCLTransport

/// What is set by PCCL variables, and what was meant to be.
extension Machine {
    var environmentFindings: [Finding] {
        let found = variables.keys.filter { $0.uppercased().hasPrefix("PCCL") }.sorted().map(finding)
        return found.isEmpty ? [.ok(.environment, "PCCL_*", "none is set: all defaults")] : found
    }

    private func finding(_ name: String) -> Finding {
        let value = variables[name] ?? ""
        switch KnownVariables.standing(of: name) {
        case .ofOthers: return .ok(.environment, name, "\(value): of tools and tests")
        case .unknown(let nearest):
            let text = "\(value): nothing reads a variable of this name"
            guard let nearest else { return .note(.environment, name, text) }
            return .change(
                .environment, name, text + "; \(nearest) comes nearest",
                ["unset \(name)", "export \(nearest)=\(Self.quoted(value))"], brings: "what was meant, if it was that")
        case .ofTheLibrary where value.isEmpty: return .ok(.environment, name, "empty, which counts as not set")
        case .ofTheLibrary:
            guard let problem = problem(name, value) else { return .ok(.environment, name, value) }
            return .change(
                .environment, name, problem, ["unset \(name)   (or one of the values in docs/operations.md)"],
                brings: "what was meant, and no error in the log of each process")
        }
    }

    /// What the library says of one variable alone.
    private func problem(_ name: String, _ value: String) -> String? {
        switch name {
        case "PCCL_LOG_LEVEL":
            return Log.Level(name: value) == nil ? "\(value) is no level of the log; WARN is used" : nil
        case "PCCL_MASTER":
            return HostAndPort(parsing: value) == nil ? "\(value) is not HOST:PORT" : nil
        default:
            var problem: String?
            _ = Environment(reading: { $0 == name ? value : nil }, onProblem: { problem = problem ?? $0 })
            return problem
        }
    }

    /// For a shell, where that is needed.
    private static func quoted(_ value: String) -> String {
        let isPlain = value.allSatisfy { $0.isLetter || $0.isNumber || ".,:/_-=".contains($0) }
        return isPlain ? value : "'" + value.map { $0 == "'" ? #"'\''"# : String($0) }.joined() + "'"
    }
}
