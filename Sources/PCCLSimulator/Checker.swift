import PCCLBase
import PCCLMembership
import PCCLSchedule
import PCCLWire

/// What a bystander who sees everything knows: who was admitted, which views were decided, how operations ended where.
struct Checker {
    enum Ending { case success, abort, restart, resume, mismatch, misuse }

    enum Judgement {
        /// By element: of how many members the contributions are.
        case right([Int])
        case wrong(SimulationCheck, String)
    }

    /// A group of a run. A master that knows nothing may begin another run, with epochs and ids of its own.
    struct Lineage: Hashable {
        var run: RunID
        var group: GroupID
    }
    private struct ViewKey: Hashable {
        var group: Lineage
        var epoch: Epoch
    }
    private struct InstanceKey: Hashable {
        var group: Lineage
        var epoch: Epoch
        var tag: Tag
        var ordinal: Int
    }
    private struct TagKey: Hashable {
        var host: Int
        var group: Lineage
        var epoch: Epoch
        var tag: Tag
    }
    struct StateAnswer: Hashable {
        var revision: UInt64?
        var values: [UInt64]
    }
    struct AnswerKey: Hashable {
        var group: Lineage
        var epoch: Epoch
        var number: Int
    }
    private struct Entrant {
        var peer: PeerID
        var launch: LaunchNumber
        var callNumber: Int
        var input: [UInt64]
    }
    /// The n-th call of a tag in an epoch, by all who made it.
    private struct Instance {
        var key: InstanceKey
        let place: Assignment
        let descriptor: OperationDescriptor
        /// What it goes on with, and the instance that was interrupted.
        let resumed: (from: Int, resumption: Resumption)?
        var entrants: [Entrant] = []
        var endings: [(host: Int, peer: PeerID?, ending: Ending)] = []
        var result: [UInt64]?
    }

    private struct Registered: Hashable {
        var peer: PeerID
        var group: Lineage
    }
    private struct View {
        var members: [PeerID]
        var arrangement: Arrangement
        var isVerdict: Bool
        var isAdopted = false
    }

    private var registered: Set<Registered> = []
    private var views: [ViewKey: View] = [:]
    private var lastView: [Lineage: [PeerID]] = [:]
    private var instances: [Instance] = []
    private var instanceIndex: [InstanceKey: Int] = [:]
    private var ordinals: [TagKey: Int] = [:]
    private var answers: [AnswerKey: Bool] = [:]
    var stateAnswers: [AnswerKey: StateAnswer] = [:]
    /// What the processes of a node have heard at join points, and who heard it first.
    private var heard: [Ensemble: [(text: String, by: String)]] = [:]
    /// Of shared states, what somebody has brought.
    var offered: Set<[UInt64]> = []
    /// A master began without knowing anything: what the last one decided is known to those alone who heard it.
    var hasForgetfulMaster = false

    mutating func register(_ peer: PeerID, _ group: Lineage) {
        registered.insert(Registered(peer: peer, group: group))
    }

    mutating func decide(
        _ group: Lineage, _ epoch: Epoch, _ members: [PeerID], _ arrangement: Arrangement,
        _ counts: inout SimulationCounts, isVerdict: Bool
    ) {
        let key = ViewKey(group: group, epoch: epoch)
        let isNew = views[key] == nil
        // What a master decided before it died, and nobody has heard, another master may decide otherwise.
        guard !(views[key]?.isAdopted ?? false) else { return }
        views[key] = View(members: members, arrangement: arrangement, isVerdict: isVerdict)
        guard isNew else { return }
        if isVerdict {
            if (lastView[group] ?? []).count > members.count { counts.losses += 1 } else { counts.repairs += 1 }
        }
        lastView[group] = members
    }

    func isVerdict(_ group: Lineage, _ epoch: Epoch) -> Bool {
        views[ViewKey(group: group, epoch: epoch)]?.isVerdict ?? false
    }

    mutating func adopt(_ assignment: Assignment, by host: Host) -> String? {
        guard let identity = host.identity, let lineage = host.lineage,
            assignment.members.indices.contains(assignment.rank),
            assignment.members[assignment.rank] == identity.peer
        else { return "\(host.name) has the rank of another" }
        for peer in assignment.members where !registered.contains(Registered(peer: peer, group: lineage)) {
            return "\(host.name) has \(peer) in its view, who is not of \(host.group)"
        }
        let key = ViewKey(group: lineage, epoch: assignment.epoch)
        let decided = views[key]
        guard decided?.members == assignment.members, decided?.arrangement == assignment.arrangement else {
            return "\(host.name), \(assignment.epoch): \(assignment.members), \(assignment.arrangement) instead of "
                + "\(decided.map { "\($0)" } ?? "nothing")"
        }
        views[key]?.isAdopted = true
        return nil
    }

    mutating func answer(_ host: Host, _ arePending: Bool) -> String? {
        guard let lineage = host.lineage else { return "\(host.name) was answered, and is not registered" }
        let key = AnswerKey(group: lineage, epoch: host.lastEpoch, number: host.pendingAnswers)
        if let earlier = answers[key], earlier != arePending {
            return "\(host.name), \(host.lastEpoch), question \(key.number): \(arePending), another got \(earlier)"
        }
        answers[key] = arePending
        return nil
    }

    /// The processes of a node go on together only if they hear the same.
    mutating func hear(_ text: String, _ host: Host) -> String? {
        // A master that knows nothing may repeat what another has said to some of them.
        guard let ensemble = host.ensemble, !hasForgetfulMaster else { return nil }
        defer { host.jointAnswers += 1 }
        guard let known = heard[ensemble], host.jointAnswers < known.count else {
            heard[ensemble, default: []].append((text, host.name))
            return nil
        }
        let first = known[host.jointAnswers]
        guard first.text != text else { return nil }
        return
            "answer \(host.jointAnswers + 1) to \(host.name) is \(text); \(first.by), of the same node, heard \(first.text)"
    }

    mutating func enter(
        _ host: Host, _ tag: Tag, _ launch: LaunchNumber, _ assignment: Assignment, _ call: OperationCall,
        _ descriptor: OperationDescriptor, resumed: (from: Int, resumption: Resumption)? = nil
    ) -> Int {
        let lineage = host.lineage ?? Lineage(run: RunID(high: 0, low: 0), group: host.group)
        let tagKey = TagKey(host: host.index, group: lineage, epoch: assignment.epoch, tag: tag)
        let ordinal = ordinals[tagKey, default: 0]
        ordinals[tagKey] = ordinal + 1
        let key = InstanceKey(group: lineage, epoch: assignment.epoch, tag: tag, ordinal: ordinal)
        let index: Int
        if let known = instanceIndex[key] {
            index = known
        } else {
            index = instances.count
            instanceIndex[key] = index
            instances.append(Instance(key: key, place: assignment, descriptor: descriptor, resumed: resumed))
        }
        instances[index].entrants.append(
            Entrant(
                peer: assignment.members[assignment.rank], launch: launch, callNumber: call.number, input: call.input))
        return index
    }

    /// One ending for all who go on together. Two may differ only if one of them went with the peer that knew of it: a
    /// mismatch, which each finds out by itself and which differs from a failure at most, with a finder that was lost before
    /// the others heard of it; a verdict, with the last that heard it, if the master forgot it too.
    mutating func end(_ index: Int, _ ending: Ending, at host: Host) -> String? {
        let key = instances[index].key
        let view = lastView[key.group] ?? []
        for earlier in instances[index].endings where earlier.ending != ending {
            let isLostMismatch =
                (ending == .mismatch || earlier.ending == .mismatch)
                && !isMember(ending == .mismatch ? host.identity?.peer : earlier.peer, after: key)
            let isForgotten = hasForgetfulMaster && !(earlier.peer.map(view.contains) ?? false)
            let areFailures = ending != .success && earlier.ending != .success
            if !isForgotten && !(areFailures && isLostMismatch) {
                return "\(instances[index].key.tag) in \(instances[index].key.epoch): \(ending) at \(host.name), "
                    + "\(earlier.ending) at host \(earlier.host)"
            }
        }
        instances[index].endings.append((host.index, host.identity?.peer, ending))
        return nil
    }

    /// Whether the peer is still a member in the view that came next.
    private func isMember(_ peer: PeerID?, after key: InstanceKey) -> Bool {
        let next = views.filter { $0.key.group == key.group && $0.key.epoch > key.epoch }
            .min { $0.key.epoch < $1.key.epoch }
        guard let peer, let next else { return false }
        return next.value.members.contains(peer)
    }

    mutating func checkResult(_ index: Int, _ execution: Execution, at host: Host) -> Judgement {
        let place = execution.place
        let output = execution.call.output
        for (rank, peer) in place.members.enumerated() {
            guard let entrant = instances[index].entrants.first(where: { $0.peer == peer }) else {
                return .wrong(.pairing, "\(host.name): \(execution.tag) is a success, and \(peer) has not called it")
            }
            if rank != place.rank, execution.peers[rank].theirs != entrant.launch {
                return .wrong(
                    .pairing,
                    "\(host.name): \(execution.tag) is paired with launch "
                        + "\(execution.peers[rank].theirs?.value ?? 0) of \(peer), not \(entrant.launch.value)"
                )
            }
            if let first = instances[index].entrants.first, first.callNumber != entrant.callNumber {
                return .wrong(
                    .pairing,
                    "\(host.name): \(execution.tag) is call \(first.callNumber) of \(first.peer) since the join point, and "
                        + "call \(entrant.callNumber) of \(peer)"
                )
            }
        }
        if execution.descriptor.collective.hasOneResult, let result = instances[index].result, result != output {
            return .wrong(.identicalBits, "\(host.name), \(execution.tag): \(output), not \(result)")
        }
        instances[index].result = output
        var worldSizes: [Int] = []
        let own = ChunkLayout(elementCount: output.count, chunkCount: place.members.count)
            .elements(ofChunk: place.rank)
        for (element, value) in output.enumerated() {
            guard execution.descriptor.collective.hasOneResult || own.contains(element) else {
                worldSizes.append(place.members.count)
                continue
            }
            let candidates = candidates(index, element)
            guard let made = candidates.first(where: { $0.value == value }) else {
                return .wrong(
                    .elements,
                    "\(host.name), \(execution.tag): element \(element) is \(value), not one of \(candidates)")
            }
            worldSizes.append(made.worldSize)
        }
        return .right(worldSizes)
    }

    /// What an element of the result may be: as the members have made it, or for one that was kept as those of an earlier
    /// view did. Between these a repair may lie: the same members, in another order of folding.
    private func candidates(_ index: Int, _ element: Int) -> [(value: UInt64, worldSize: Int)] {
        let instance = instances[index]
        let worldSize = instance.place.members.count
        let source: Int? =
            switch instance.descriptor.collective {
            case .allReduce, .reduceScatter, .barrier: nil
            case .allGather: element / (Int(instance.descriptor.count) / worldSize)
            case .broadcast(let root): Int(root)
            }
        if let source {
            let entrant = instance.entrants.first { $0.peer == instance.place.members[source] }
            return entrant.map { [($0.input[element], worldSize)] } ?? []
        }
        guard let (from, resumption) = instance.resumed else {
            let sites = instance.place.arrangement.sites
            let algorithm = instance.descriptor.algorithm
            let layout = CollectiveSchedule.layout(
                instance.descriptor.collective, algorithm, elementCount: Int(instance.descriptor.count),
                worldSize: worldSize, shares: instance.place.arrangement.shares, sites: sites)
            guard let chunk = (0..<layout.chunkCount).first(where: { layout.elements(ofChunk: $0).contains(element) })
            else { return [] }
            let order = AllReduceSchedule.foldOrder(algorithm, chunk: chunk, worldSize: worldSize, sites: sites)
            return sum(instance, element, order).map { [($0, worldSize)] } ?? []
        }
        guard let kept = resumption.kept.first(where: { $0.part.elements.contains(element) }) else {
            return sum(instance, element, (0..<worldSize).map { [$0] }).map { [($0, worldSize)] } ?? []
        }
        return candidates(from, element).filter { $0.worldSize == kept.part.worldSize }
    }

    private func sum(_ instance: Instance, _ element: Int, _ order: [[Int]]) -> UInt64? {
        var inputs: [UInt64] = []
        for peer in instance.place.members {
            guard let entrant = instance.entrants.first(where: { $0.peer == peer }) else { return nil }
            inputs.append(entrant.input[element])
        }
        let sums = order.map { ranks in
            ranks.dropFirst().reduce(inputs[ranks[0]]) { DataPlane.fold($0, inputs[$1]) }
        }
        return sums.dropFirst().reduce(sums[0], DataPlane.fold)
    }
}
