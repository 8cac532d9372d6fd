import PCCLBase
import StrictJSON

/// A lab as a preset or a file describes it.
package struct LabConfiguration: Equatable, Sendable {
    /// How many nodes there are; each is a network namespace. Addresses end at a byte, and memory at the square.
    package static let nodeLimits = 2...64

    package var nodeCount: Int
    package var mtu = 1500
    package var seed: UInt64 = 1
    /// Nodes by site; all in one if empty.
    package var sites: [[Int]] = []
    /// In order; where two are for the same link, the later wins.
    package var links: [LinkSetting] = []
    package var events: [LabEvent] = []

    package init(nodeCount: Int) { self.nodeCount = nodeCount }
}

package struct LinkSetting: Equatable, Sendable {
    package var name: LinkName
    package var figures: [FigureSetting]

    package init(name: LinkName, figures: [FigureSetting]) {
        self.name = name
        self.figures = figures
    }
}

/// Something that is done to a lab that runs.
package enum LabAction: Equatable, Sendable {
    case set(LinkSetting)
    /// Black-holes one connection, both ways; nil for ever.
    case stall(FlowChoice, Interval?)
    /// Lets the stalled connections of a pair go on.
    case resume(a: Int, b: Int)
    /// Ends one connection with a reset at both ends.
    case reset(FlowChoice)
}

package struct LabEvent: Equatable, Sendable {
    /// After the commands were started.
    package var after: Interval
    package var action: LabAction

    package init(after: Interval, action: LabAction) {
        self.after = after
        self.action = action
    }
}

extension LabConfiguration {
    /// Reads a lab file. `nodeCount`, if given, wins over the file's.
    package init(json text: String, nodeCount: Int?) throws(LabError) {
        let top = try Fields(
            Self.parsed(text), of: "a lab", known: ["nodes", "mtu", "seed", "sites", "links", "events"])
        let nodesInFile = try top.integer("nodes", Self.nodeLimits)
        guard let nodes = nodeCount ?? nodesInFile else { throw LabError("a lab needs \"nodes\": how many there are") }
        self.init(nodeCount: nodes)
        mtu = try top.integer("mtu", 1280...9000) ?? mtu
        seed = UInt64(try top.integer("seed", 0...Int(1 << 53)) ?? 1)
        for (index, site) in try top.list("sites").enumerated() {
            sites.append(try Self.site(site, "sites[\(index)]", nodes: nodes))
        }
        guard sites.isEmpty || sites.flatMap({ $0 }).sorted() == Array(0..<nodes) else {
            throw LabError("sites: each node from 0 to \(nodes - 1) must be in one site, and once")
        }
        links = try Self.settings(top.members("links"), "links")
        for (index, event) in try top.list("events").enumerated() {
            events += try Self.event(event, "events[\(index)]")
        }
        try check()
    }

    private static func parsed(_ text: String) throws(LabError) -> JSONValue {
        do throws(JSONError) { return try JSONValue(parsing: text) } catch { throw LabError(error.description) }
    }

    /// Throws if something names a node or a site that is not there.
    package func check() throws(LabError) {
        guard Self.nodeLimits.contains(nodeCount) else {
            throw LabError(
                "a lab has \(Self.nodeLimits.lowerBound) to \(Self.nodeLimits.upperBound) nodes, not \(nodeCount)")
        }
        for setting in links { try setting.name.check(nodes: nodeCount, sites: max(1, sites.count)) }
        for event in events { try event.action.check(nodes: nodeCount, sites: max(1, sites.count)) }
    }

    private static func site(_ value: JSONValue, _ place: String, nodes: Int) throws(LabError) -> [Int] {
        guard case .array(let members) = value else { throw LabError("\(place) is a list of nodes, not \(value.kind)") }
        var site: [Int] = []
        for member in members { site.append(try Fields.integer(member, place, 0...(nodes - 1))) }
        return site
    }

    private static func settings(_ members: [JSONValue.Member], _ place: String) throws(LabError) -> [LinkSetting] {
        var settings: [LinkSetting] = []
        for member in members {
            let link = "\(place): \"\(member.key)\""
            do throws(LabError) {
                guard case .object(let figures) = member.value else {
                    throw LabError("expected an object with figures, not \(member.value.kind)")
                }
                var read: [FigureSetting] = []
                for figure in figures { read.append(try FigureSetting(figure.key, figure.value)) }
                settings.append(LinkSetting(name: try LinkName(member.key), figures: read))
            } catch { throw LabError("\(link): \(error)") }
        }
        return settings
    }

    private static func event(_ value: JSONValue, _ place: String) throws(LabError) -> [LabEvent] {
        let fields = try Fields(value, of: place, known: ["at_s", "set", "stall", "resume", "reset"])
        guard let seconds = try fields.number("at_s", 0...1_000_000) else { throw LabError("\(place) needs \"at_s\"") }
        var actions = try settings(fields.members("set"), "\(place).set").map { LabAction.set($0) }
        if let stall = fields["stall"] {
            let stallFields = try Fields(stall, of: "\(place).stall", known: ["between", "port", "for_s"])
            let time = try stallFields.number("for_s", 0...1_000_000).map { Interval.seconds($0) }
            actions.append(.stall(try flow(stallFields, "\(place).stall"), time))
        }
        if let reset = fields["reset"] {
            let resetFields = try Fields(reset, of: "\(place).reset", known: ["between", "port"])
            actions.append(.reset(try flow(resetFields, "\(place).reset")))
        }
        if let resume = fields["resume"] {
            let resumed = try flow(Fields(resume, of: "\(place).resume", known: ["between"]), "\(place).resume")
            actions.append(.resume(a: resumed.a, b: resumed.b))
        }
        guard !actions.isEmpty else { throw LabError("\(place) does nothing: it needs set, stall, resume or reset") }
        return actions.map { LabEvent(after: .seconds(seconds), action: $0) }
    }

    private static func flow(_ fields: Fields, _ place: String) throws(LabError) -> FlowChoice {
        let ends = try fields.list("between")
        guard ends.count == 2 else { throw LabError("\(place) needs \"between\": two nodes, as in [0, 1]") }
        let port = try fields.integer("port", 1...65535)
        return FlowChoice(
            a: try Fields.integer(ends[0], place, 0...65535), b: try Fields.integer(ends[1], place, 0...65535),
            port: port.map { UInt16($0) })
    }
}

extension LabAction {
    package func check(nodes: Int, sites: Int) throws(LabError) {
        switch self {
        case .set(let setting): try setting.name.check(nodes: nodes, sites: sites)
        case .stall(let flow, _), .reset(let flow): try Self.check(flow.a, flow.b, nodes: nodes)
        case .resume(let a, let b): try Self.check(a, b, nodes: nodes)
        }
    }

    private static func check(_ a: Int, _ b: Int, nodes: Int) throws(LabError) {
        guard a != b else { throw LabError("a connection has two ends, and both are node \(a)") }
        try LinkName("path:\(a)-\(b)").check(nodes: nodes, sites: 1)
    }
}

/// The members of an object, none of which is unknown.
private struct Fields {
    private let members: [JSONValue.Member]
    private let place: String

    init(_ value: JSONValue, of place: String, known: [String]) throws(LabError) {
        guard case .object(let members) = value else { throw LabError("\(place) is an object, not \(value.kind)") }
        if let unknown = members.first(where: { !known.contains($0.key) }) {
            throw LabError("\(place) has no \"\(unknown.key)\"; it may have \(known.joined(separator: ", "))")
        }
        self.members = members
        self.place = place
    }

    subscript(name: String) -> JSONValue? { members.first { $0.key == name }?.value }

    func number(_ name: String, _ limits: ClosedRange<Double>) throws(LabError) -> Double? {
        guard let value = self[name] else { return nil }
        guard case .number(let number) = value, limits.contains(number) else {
            throw LabError(
                "\(name) is a number from \(plain(limits.lowerBound)) to \(plain(limits.upperBound)), not \(value.kind)"
            )
        }
        return number
    }

    func integer(_ name: String, _ limits: ClosedRange<Int>) throws(LabError) -> Int? {
        guard let value = self[name] else { return nil }
        return try Self.integer(value, name, limits)
    }

    static func integer(_ value: JSONValue, _ name: String, _ limits: ClosedRange<Int>) throws(LabError) -> Int {
        guard case .number(let number) = value, let whole = Int(exactly: number), limits.contains(whole) else {
            throw LabError(
                "\(name): expected a whole number from \(limits.lowerBound) to \(limits.upperBound), not \(value.kind)")
        }
        return whole
    }

    func list(_ name: String) throws(LabError) -> [JSONValue] {
        guard let value = self[name] else { return [] }
        guard case .array(let elements) = value else { throw LabError("\(name) is a list, not \(value.kind)") }
        return elements
    }

    func members(_ name: String) throws(LabError) -> [JSONValue.Member] {
        guard let value = self[name] else { return [] }
        guard case .object(let members) = value else { throw LabError("\(name) is an object, not \(value.kind)") }
        return members
    }
}
