import PCCLBase
import StrictJSON

extension Network {
    /// Carries out an action, and says what was done; throws if there is nothing that it could be done to.
    package mutating func perform(_ action: LabAction, at now: Instant) throws(LabError) -> String {
        try action.check(nodes: nodeCount, sites: siteCount)
        switch action {
        case .set(let setting):
            apply(setting)
            return "set"
        case .stall(let choice, let time):
            let flow = try find(choice)
            afflict(flow, .stalled(until: time.map { now + $0 }))
            return "stalled \(describe(flow))"
        case .resume(let a, let b):
            let (low, high) = (min(a, b), max(a, b))
            var resumed = 0
            for index in flows.flows.indices {
                guard flows.flows[index].key.low == low, flows.flows[index].key.high == high,
                    case .stalled = flows.flows[index].affliction
                else { continue }
                afflict(Int32(index), nil)
                resumed += 1
            }
            return "resumed \(resumed)"
        case .reset(let choice):
            let flow = try find(choice)
            afflict(flow, .reset)
            return "reset \(describe(flow))"
        }
    }

    private func find(_ choice: FlowChoice) throws(LabError) -> Int32 {
        if let flow = flows.chosen(choice) { return flow }
        let port = choice.port.map { " with port \($0)" } ?? ""
        throw LabError("there is no open TCP connection\(port) between nodes \(choice.a) and \(choice.b) to do that to")
    }

    /// Each end as address:port, the node with the lower number first.
    private func describe(_ index: Int32) -> String {
        let key = flows[index].key
        func end(_ node: Int, _ port: UInt16) -> String {
            key.isV6 ? "[\(LabAddress.v6Text(node: node))]:\(port)" : "\(LabAddress.v4Text(node: node)):\(port)"
        }
        return "\(end(key.low, key.lowPort)) \(end(key.high, key.highPort))"
    }
}

extension LabAction {
    /// Reads a line of the control socket:
    ///
    ///     set LINK FIGURE=VALUE...      stall A B [port=P] [for_s=S]      resume A B      reset A B [port=P]
    package init(command line: String) throws(LabError) {
        let words = line.split(separator: " ").map(String.init)
        switch words.first {
        case "set":
            guard words.count >= 3 else { throw LabError("expected: set LINK FIGURE=VALUE...") }
            let figures = try Self.options(words[2...])
            var settings: [FigureSetting] = []
            for (name, text) in figures { settings.append(try FigureSetting(name, try Self.value(text))) }
            self = .set(LinkSetting(name: try LinkName(words[1]), figures: settings))
        case "stall": self = try Self.stall(words)
        case "resume":
            let (flow, _) = try Self.flow(words, allowed: [])
            self = .resume(a: flow.a, b: flow.b)
        case "reset": self = .reset(try Self.flow(words, allowed: ["port"]).0)
        default:
            throw LabError("unknown command \"\(words.first ?? "")\"; there are set, stall, resume, reset and stats")
        }
    }

    private static func stall(_ words: [String]) throws(LabError) -> LabAction {
        let (flow, options) = try flow(words, allowed: ["port", "for_s"])
        guard let text = options.first(where: { $0.0 == "for_s" })?.1 else { return .stall(flow, nil) }
        guard let seconds = Double(text), (0...1_000_000).contains(seconds) else {
            throw LabError("for_s is a number of seconds, not \(text)")
        }
        return .stall(flow, .seconds(seconds))
    }

    private static func flow(
        _ words: [String], allowed: [String]
    ) throws(LabError) -> (FlowChoice, [(String, String)]) {
        guard words.count >= 3, let a = UInt16(words[1]), let b = UInt16(words[2]) else {
            throw LabError("expected: \(words[0]) A B, the numbers of two nodes")
        }
        let options = try options(words[3...])
        if let unknown = options.first(where: { !allowed.contains($0.0) }) {
            throw LabError("\(words[0]) has no option \(unknown.0)")
        }
        var choice = FlowChoice(a: Int(a), b: Int(b))
        if let text = options.first(where: { $0.0 == "port" })?.1 {
            guard let port = UInt16(text), port > 0 else {
                throw LabError("port is a number from 1 to 65535, not \(text)")
            }
            choice.port = port
        }
        return (choice, options)
    }

    private static func options(_ words: ArraySlice<String>) throws(LabError) -> [(String, String)] {
        var options: [(String, String)] = []
        for word in words {
            let parts = word.split(separator: "=", maxSplits: 1).map(String.init)
            guard parts.count == 2 else { throw LabError("expected NAME=VALUE, not \(word)") }
            options.append((parts[0], parts[1]))
        }
        return options
    }

    private static func value(_ text: String) throws(LabError) -> JSONValue {
        do throws(JSONError) { return try JSONValue(parsing: text) } catch {
            throw LabError("\(text) is no value: \(error.problem)")
        }
    }
}
