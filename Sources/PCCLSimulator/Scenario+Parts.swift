import PCCLBase
import PCCLWire

/// What can be left out of a scenario, to see whether it still fails.
extension Scenario {
    package enum Part: Hashable, Sendable {
        case fault(Int)
        case lane(Int)
        /// All rounds of a program but the first.
        case laterRounds(slot: Int)
        case otherStripes
        case otherSegmentSizes
        case optimizing
        case sharing
        case asking
        case secondGroup
        /// Each process comes by itself.
        case nodes
        case firewall
        case policies
        case stragglerDeadline
    }

    var parts: [Part] {
        var parts: [Part] = faults.indices.map { .fault($0) } + lanes.indices.map { .lane($0) }
        for (slot, program) in programs.enumerated() where program.rounds > 1 { parts.append(.laterRounds(slot: slot)) }
        if stripes > 1 { parts.append(.otherStripes) }
        if segmentElements > 1 { parts.append(.otherSegmentSizes) }
        if optimizesEvery > 0 { parts.append(.optimizing) }
        if synchronizesEvery > 0 { parts.append(.sharing) }
        if asksDuringOperations { parts.append(.asking) }
        if Set(groupOfSlot).count > 1 { parts.append(.secondGroup) }
        if nodeSlots > 0 { parts.append(.nodes) }
        if !firewalled.isEmpty { parts.append(.firewall) }
        if lanes.contains(where: { $0.onLoss != .abort }) { parts.append(.policies) }
        if stragglerDeadline.nanoseconds > 0 { parts.append(.stragglerDeadline) }
        return parts
    }

    func without(_ parts: Set<Part>) -> Scenario {
        var rest = self
        rest.faults = faults.indices.filter { !parts.contains(.fault($0)) }.map { faults[$0] }
        rest.lanes = lanes.indices.filter { !parts.contains(.lane($0)) }.map { lanes[$0] }
        for slot in programs.indices where parts.contains(.laterRounds(slot: slot)) { rest.programs[slot].rounds = 1 }
        if parts.contains(.otherStripes) { rest.stripes = 1 }
        if parts.contains(.otherSegmentSizes) { rest.segmentElements = 1 }
        if parts.contains(.optimizing) { rest.optimizesEvery = 0 }
        if parts.contains(.sharing) { rest.synchronizesEvery = 0 }
        if parts.contains(.asking) { rest.asksDuringOperations = false }
        if parts.contains(.nodes) || parts.contains(.secondGroup) { rest.nodeSlots = 0 }
        if parts.contains(.secondGroup) { rest.groupOfSlot = groupOfSlot.map { _ in groupOfSlot[0] } }
        if parts.contains(.firewall) { rest.firewalled = [] }
        if parts.contains(.policies) { for lane in rest.lanes.indices { rest.lanes[lane].onLoss = .abort } }
        if parts.contains(.stragglerDeadline) { rest.stragglerDeadline = .milliseconds(0) }
        return rest
    }

    /// A part in words.
    func description(of part: Part) -> String {
        switch part {
        case .fault(let index):
            let milliseconds = (faults[index].at - Instant(nanoseconds: 0)).milliseconds
            return "\(milliseconds) ms: \(faults[index].fault)"
        case .lane(let index):
            let lane = lanes[index]
            return "\(lane.tag), \(lane.repeats) times: \(lane.descriptor), \(lane.onLoss)"
        case .laterRounds(let slot): return "slot \(slot): \(programs[slot].rounds) rounds"
        case .otherStripes: return "\(stripes) stripes"
        case .otherSegmentSizes: return "\(segmentElements) elements a segment"
        case .optimizing: return "every \(optimizesEvery) rounds members optimise"
        case .sharing:
            return "every \(synchronizesEvery) rounds members synchronise" + (hasOneSender ? ", from slot 0" : "")
        case .asking: return "members ask while operations run"
        case .secondGroup: return "groups: \(groupOfSlot.map(\.value))"
        case .nodes: return "slots below \(nodeSlots) are nodes of two"
        case .firewall: return "cannot reach each other: \(firewalled)"
        case .policies: return "losses resume"
        case .stragglerDeadline: return "a straggler deadline of \(stragglerDeadline.milliseconds) ms"
        }
    }
}
