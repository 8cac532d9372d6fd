import Glibc
import PCCLBase
import PCCLCompute
import PCCLTestSupport
import PCCLTransport
import PCCLWire

@testable import PCCLEngine

/// One member of a group: an engine on a loop of its own, and the smallest possible coordinator in place of the
/// membership. It binds an operation when both sides have entered, and ends it when all hold the result.
///
/// It stands between the links and the engine, so that a test sees every frame, and can hold segments back.
final class Node: @unchecked Sendable {
    enum Event: Equatable, Sendable {
        case entered(UInt64, epoch: UInt32, tag: UInt64)
        case prepared(UInt64, tag: UInt64)
        case copied(UInt64, FrameHeader)
        case placed(UInt64, FrameHeader)
        case sending(UInt64, FrameHeader)
        case violation(UInt64, String)
        case finished(tag: UInt64)
        case outOfMemory(String)
    }

    struct Operation {
        let tag: UInt64
        let launch: LaunchNumber
        let completion: Completion<Traffic>
        /// Kept as long as it is lent.
        let lent: [Memory]
        var theirs: [UInt64: LaunchNumber] = [:]
        var isWhole = false
    }

    private struct Key: Hashable {
        var peer: UInt64
        var tag: UInt64
    }
    private struct PeerLaunch: Hashable {
        var peer: UInt64
        var launch: LaunchNumber
    }

    let id: UInt64
    let shares: [UInt16]
    let sites: [UInt16]
    let loop: EventLoop
    let events = Mailbox<Event>("events of a node")
    // The loop's thread only.
    private(set) var engine: Engine!
    private(set) var links: [UInt64: Link] = [:]
    private(set) var epoch = Epoch.none
    private var members: [PeerID] = []
    private var operations: [LaunchNumber: Operation] = [:]
    private var byTag: [UInt64: LaunchNumber] = [:]
    private var entries: [Key: [LaunchNumber]] = [:]
    private var prepared: Set<PeerLaunch> = []
    private var nextLaunch: UInt32
    private var pending: [() -> Void] = []
    private var isWorking = false
    /// Only so many segments leave from now on.
    var sendAllowance = Int.max
    var isLogging = false
    /// Entries that come now are heard later.
    private var heldEntries: [() -> Void]?

    init(_ id: UInt64, configuration: EngineConfiguration, shares: [UInt16] = [], sites: [UInt16] = []) throws {
        self.id = id
        self.shares = shares
        self.sites = sites
        // Launch numbers of peers are unrelated.
        nextLaunch = UInt32(id) * 1000
        loop = try EventLoop(name: "test")
        try onLoop { $0.engine = Engine($0.loop, configuration: configuration, delegate: $0) }
    }

    @discardableResult
    func onLoop<Value: Sendable>(_ body: @escaping @Sendable (Node) -> Value) throws -> Value {
        try loop.sync { [self] in body(self) }
    }

    func connect(to peer: UInt64, _ descriptors: [CInt]) throws {
        try onLoop { node in
            // Nobody makes a link anew here. On a starved machine both ends may give up a stripe as standing still, each
            // another one, and then the link is broken.
            var configuration = LinkConfiguration()
            configuration.stallPatience = .seconds(600)
            let link = Link(
                node.loop, peer: PeerID(peer), channels: descriptors.map { Channel(Socket(owning: $0)) },
                timeouts: Timeouts(deadTime: .seconds(600)),
                configuration: configuration, delegate: node)
            node.links[peer] = link
            node.engine.linkUp(link)
            link.start()
        }
    }

    func adopt(_ epoch: UInt32, _ members: [UInt64]) throws {
        try onLoop { node in
            node.begin(epoch, members)
            node.work { node.engine.adopt(epoch: node.epoch, members: node.members) }
        }
    }

    /// The memory is lent until the completion is set, or `abandonAll` returns.
    func start(
        tag: UInt64, _ descriptor: OperationDescriptor, from source: Memory, sourceOffset: Int = 0,
        into target: Memory, targetOffset: Int = 0, _ feedback: ErrorFeedback? = nil
    ) throws -> Completion<Traffic> {
        let completion = Completion<Traffic>()
        loop.submit { [self] in
            work { [self] in
                let launch = LaunchNumber(nextLaunch)
                nextLaunch += 1
                operations[launch] = Operation(
                    tag: tag, launch: launch, completion: completion, lent: [source, target])
                byTag[tag] = launch
                engine.start(
                    tag: Tag(tag), launch: launch, descriptor: descriptor,
                    place: Place(
                        epoch: epoch, members: members, rank: members.firstIndex(of: PeerID(id)) ?? -1, shares: shares,
                        sites: sites),
                    buffers: ReduceBuffers(
                        send: UnsafeRawPointer(source.base) + sourceOffset, receive: target.base + targetOffset,
                        feedback: feedback))
                for peer in members where peer.value != id { bindIfEntered(launch, peer.value) }
            }
        }
        return completion
    }

    /// As after a flush began: everything stops. Returns what is final, by tag.
    func halt() throws -> [UInt64: [ResultPart]] {
        try onLoop { node in
            node.engine.halt()
            let final = node.engine.final(node.operations.keys.sorted())
            return Dictionary(uniqueKeysWithValues: node.operations.values.map { ($0.tag, final[$0.launch] ?? []) })
        }
    }

    func hasFinal() throws -> Bool {
        try onLoop { node in node.engine.final(node.operations.keys.sorted()).values.contains { !$0.isEmpty } }
    }

    /// A new epoch begins, and in the same breath all that was halted goes on in it: nothing may come in between.
    func resume(
        in epoch: UInt32, _ members: [UInt64], _ descriptors: [UInt64: OperationDescriptor],
        _ resumptions: [UInt64: Resumption]
    ) throws {
        try onLoop { node in
            node.begin(epoch, members)
            node.work {
                node.engine.adopt(epoch: node.epoch, members: node.members)
                for halted in node.operations.values.sorted(by: { $0.launch < $1.launch }) {
                    guard let resumption = resumptions[halted.tag], let descriptor = descriptors[halted.tag] else {
                        continue
                    }
                    let launch = LaunchNumber(node.nextLaunch)
                    node.nextLaunch += 1
                    node.operations[halted.launch] = nil
                    node.operations[launch] = Operation(
                        tag: halted.tag, launch: launch, completion: halted.completion, lent: halted.lent)
                    node.byTag[halted.tag] = launch
                    node.engine.resume(
                        halted.launch, as: launch, descriptor: descriptor,
                        place: Place(
                            epoch: node.epoch, members: node.members,
                            rank: node.members.firstIndex(of: PeerID(node.id)) ?? -1),
                        resumption)
                }
            }
        }
    }

    private func begin(_ epoch: UInt32, _ members: [UInt64]) {
        self.epoch = Epoch(epoch)
        self.members = members.map { PeerID($0) }
        entries = [:]
        prepared = []
    }

    /// As after a loss: everything stops, and inputs are restored.
    func abandonAll() throws {
        try onLoop { node in
            node.engine.halt()
            for launch in node.operations.keys.sorted() { _ = node.engine.finish(launch, succeeded: false) }
            node.operations = [:]
            node.byTag = [:]
        }
    }

    /// From now on this is another peer, of another run: what it was in is over.
    func forget() throws {
        try abandonAll()
        try onLoop { $0.engine.forget() }
    }

    /// As if the stripe that carries entries stood still, until `hearEntries`.
    func holdEntries() throws { try onLoop { $0.heldEntries = [] } }
    func hearEntries() throws {
        try onLoop { node in
            let held = node.heldEntries ?? []
            node.heldEntries = nil
            for hear in held { node.work(hear) }
        }
    }

    func allowSending(_ count: Int) throws {
        try onLoop { node in
            node.sendAllowance = count
            for link in node.links.values { link.kick() }
        }
    }

    func stop() throws {
        try onLoop { node in
            for link in node.links.values { link.close() }
            node.links = [:]
            node.engine = nil
        }
        loop.stop()
    }

    // MARK: on the loop's thread, for tests of single steps

    var launches: [LaunchNumber] { operations.keys.sorted() }

    func forgetOperations() {
        operations = [:]
        byTag = [:]
    }

    func ignoreAllEntries(of peer: UInt64) {
        for key in entries.keys where key.peer == peer {
            for launch in entries.removeValue(forKey: key) ?? [] { engine.ignore(PeerID(peer), theirs: launch) }
        }
    }

    func theirLaunch(of peer: UInt64) -> LaunchNumber? { operations.values.first?.theirs[peer] }

    func dropLink(to peer: UInt64) {
        links.removeValue(forKey: peer)?.close()
        engine.linkDown(PeerID(peer))
    }

    // MARK: the coordinator

    /// The engine is never called from inside its own calls.
    private func work(_ body: @escaping () -> Void) {
        pending.append(body)
        guard !isWorking else { return }
        isWorking = true
        while !pending.isEmpty { pending.removeFirst()() }
        isWorking = false
    }

    private func bindIfEntered(_ launch: LaunchNumber, _ peer: UInt64) {
        let key = Key(peer: peer, tag: operations[launch]?.tag ?? 0)
        guard operations[launch]?.theirs[peer] == nil, entries[key]?.isEmpty == false,
            let theirs = entries[key]?.removeFirst()
        else { return }
        operations[launch]?.theirs[peer] = theirs
        engine.bind(launch, PeerID(peer), theirs: theirs)
        endIfPrepared(launch)
    }

    private func endIfPrepared(_ launch: LaunchNumber) {
        guard let operation = operations[launch], operation.isWhole else { return }
        for peer in members where peer.value != id {
            guard let theirs = operation.theirs[peer.value],
                prepared.contains(PeerLaunch(peer: peer.value, launch: theirs))
            else { return }
        }
        operations[launch] = nil
        if byTag[operation.tag] == launch { byTag[operation.tag] = nil }
        let traffic = engine.finish(launch, succeeded: true)
        if isLogging { events.put(.finished(tag: operation.tag)) }
        operation.completion.set(traffic)
    }
}

extension Node: EngineDelegate {
    func engineEntered(
        _ peer: PeerID, _ epoch: Epoch, _ tag: Tag, _ launch: LaunchNumber, _ descriptor: OperationDescriptor
    ) {
        if isLogging { events.put(.entered(peer.value, epoch: epoch.value, tag: tag.value)) }
        let hear: () -> Void = { [self] in
            entries[Key(peer: peer.value, tag: tag.value), default: []].append(launch)
            if let mine = byTag[tag.value] { bindIfEntered(mine, peer.value) }
        }
        if heldEntries == nil { work(hear) } else { heldEntries?.append(hear) }
    }

    func enginePrepared(_ peer: PeerID, _ epoch: Epoch, _ tag: Tag, _ launch: LaunchNumber) {
        if isLogging { events.put(.prepared(peer.value, tag: tag.value)) }
        work { [self] in
            prepared.insert(PeerLaunch(peer: peer.value, launch: launch))
            for mine in operations.values.filter({ $0.tag == tag.value }) { endIfPrepared(mine.launch) }
        }
    }

    func engineCannotGoOn(_ text: String) { events.put(.outOfMemory(text)) }

    func engineHoldsResult(_ tag: Tag, _ launch: LaunchNumber) {
        work { [self] in
            operations[launch]?.isWhole = true
            engine.announcePrepared(tag, launch, epoch, to: members.filter { $0.value != id })
            endIfPrepared(launch)
        }
    }
}

extension Node: LinkDelegate {
    func link(_ link: Link, placementFor header: FrameHeader) -> Placement {
        let placement = engine.link(link, placementFor: header)
        if case .violation(let reason) = placement { events.put(.violation(link.peer.value, reason)) }
        return placement
    }
    func link(_ link: Link, received header: FrameHeader, token: Int) {
        engine.link(link, received: header, token: token)
        if isLogging { events.put(.placed(link.peer.value, header)) }
    }
    func link(_ link: Link, received header: FrameHeader, payload: [UInt8]) {
        engine.link(link, received: header, payload: payload)
        if isLogging, header.kind == .data { events.put(.copied(link.peer.value, header)) }
    }
    func nextSegment(for link: Link, limit: Int) -> OutgoingSegment? {
        guard sendAllowance > 0, let segment = engine.nextSegment(for: link, limit: limit) else { return nil }
        if sendAllowance != .max { sendAllowance -= 1 }
        if isLogging { events.put(.sending(link.peer.value, segment.header)) }
        return segment
    }
    func bytesLeft(for link: Link) -> Int { engine.bytesLeft(for: link) }
    func link(_ link: Link, sent segment: OutgoingSegment) { engine.link(link, sent: segment) }
}

/// Nodes that are all linked with each other.
struct Cluster {
    let nodes: [Node]
    var worldSize: Int { nodes.count }

    init(
        _ worldSize: Int, stripes: Int = 1, _ configuration: EngineConfiguration = EngineConfiguration(),
        of others: [Int: EngineConfiguration] = [:], shares: [UInt16] = [], sites: [UInt16] = []
    ) throws {
        nodes = try (0..<worldSize).map {
            try Node(UInt64($0 + 1), configuration: others[$0] ?? configuration, shares: shares, sites: sites)
        }
        try adopt(1)
        for a in nodes {
            for b in nodes where a.id < b.id {
                let pairs = (0..<stripes).map { _ in socketPair() }
                try a.connect(to: b.id, pairs.map(\.0))
                try b.connect(to: a.id, pairs.map(\.1))
            }
        }
    }

    func adopt(_ epoch: UInt32) throws { for node in nodes { try node.adopt(epoch, nodes.map(\.id)) } }
    func stop() throws { for node in nodes { try node.stop() } }
    func log() throws { for node in nodes { try node.onLoop { $0.isLogging = true } } }

    /// No frame was turned down as a violation.
    var violations: [Node.Event] {
        nodes.flatMap { $0.events.all.filter { if case .violation = $0 { true } else { false } } }
    }
}

/// One all-reduce of a whole group, with its inputs.
struct Reduction {
    let tag: UInt64
    let descriptor: OperationDescriptor
    let isInPlace: Bool
    let sites: [UInt16]
    let inputs: [[UInt8]]
    let sources: [Memory]
    let targets: [Memory]
    /// By rank; none without error feedback.
    var feedbacks: [ErrorFeedback] = []

    init(
        tag: UInt64, _ type: DataType, _ operation: ReduceOperation, _ algorithm: Algorithm, count: Int,
        isInPlace: Bool, worldSize: Int, sites: [UInt16] = [], codec: Codec = .none,
        inputs: [[UInt8]]? = nil
    ) {
        self.tag = tag
        self.sites = sites
        self.isInPlace = isInPlace
        descriptor = OperationDescriptor(
            count: UInt64(count), type: type, operation: operation, algorithm: algorithm, codec: codec)
        let inputs = inputs ?? (0..<worldSize).map { type.elements(count, seed: tag * 100 + UInt64($0)) }
        self.inputs = inputs
        // Users' buffers need not be aligned.
        sources = inputs.enumerated().map { Memory($1, misalignment: Int(tag) % 3 == 0 ? 1 + $0 : 0) }
        targets = isInPlace ? sources : inputs.map { Memory(byteCount: $0.count, filled: 0xcd) }
    }

    func start(_ node: Node, rank: Int) throws -> Completion<Traffic> {
        try node.start(
            tag: tag, descriptor, from: sources[rank], into: targets[rank], feedbacks.isEmpty ? nil : feedbacks[rank])
    }

    /// What is wrong with the outcome, if anything.
    func mistake() -> String? {
        let stride = descriptor.count > 10_000 ? 100 : 1
        let reference = ScalarReference(
            type: descriptor.type, operation: descriptor.operation, algorithm: descriptor.algorithm, sites: sites,
            stride: stride)
        let expected = reference.result(inputs)
        let unit = descriptor.type.byteCount
        for rank in inputs.indices {
            let name = "rank \(rank) of \(inputs.count), \(descriptor), \(isInPlace ? "in place" : "apart")"
            let result = targets[rank].bytes
            if result != targets[0].bytes { return "\(name): not the same bits as at rank 0" }
            for start in Swift.stride(from: 0, to: result.count, by: unit * stride) {
                let (found, wanted) = (result[start..<start + unit], expected[start..<start + unit])
                if found != wanted { return "\(name): element \(start / unit) is \(found), not \(wanted)" }
            }
            if !isInPlace, sources[rank].bytes != inputs[rank] { return "\(name): the source was changed" }
            if !sources[rank].isIntactAround || !targets[rank].isIntactAround {
                return "\(name): something was written beside a buffer"
            }
        }
        return nil
    }
}

extension Cluster {
    /// Runs all at once; each rank launches them in an order of its own.
    func run(_ reductions: [Reduction]) throws -> [[Traffic]] {
        let traffic = try together(worldSize) { rank in
            var order = Array(reductions.indices)
            var source = RandomSource(seed: UInt64(rank) + 17)
            order.shuffle(using: &source)
            var completions: [Int: Completion<Traffic>] = [:]
            for index in order { completions[index] = try reductions[index].start(nodes[rank], rank: rank) }
            return try reductions.indices.map { try completions[$0]?.value("tag \(reductions[$0].tag)") ?? Traffic() }
        }
        return traffic
    }
}
