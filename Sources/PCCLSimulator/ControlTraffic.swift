import PCCLBase
import PCCLMembership
import PCCLWire

/// What membership costs in a group of a given size: the two machines, messages as bytes, links that stand at once, and no
/// data. Nothing goes wrong but what an event says, and no time passes, so there are no heartbeats.
package struct ControlTraffic {
    package struct Count: Hashable, Sendable {
        package var messages = 0
        /// With the length before each message.
        package var bytes = 0

        mutating func add(_ size: Int) {
            messages += 1
            bytes += size
        }
    }

    package enum Event: String, Sendable, CaseIterable {
        case connect = "all connect"
        /// The first peer, alone, admits all others.
        case join = "join point"
        case operation = "operation"
        /// While one operation is in flight, which all have entered.
        case loss = "loss in an operation"
        case joinFull = "one more joins"
    }

    package struct Cost: Sendable {
        package let event: Event
        package var toMaster = Count()
        package var fromMaster = Count()
        /// At the peer with the most bytes, both ways.
        package var busiestPeer = Count()
        /// Between peers, all together.
        package var enterFrames = 0
        package var preparedFrames = 0
        package var masterNanoseconds: UInt64 = 0
        /// Of all peers together.
        package var peerNanoseconds: UInt64 = 0
    }

    private enum Packet {
        case toMaster(Int, [UInt8])
        case closed(Int)
        case toPeer(Int, PeerMachine.Event)
    }

    private struct Peer {
        var machine: PeerMachine
        var wanted: Set<PeerID> = []
        var links: Set<PeerID> = []
        /// The operation under way, and how many have yet to enter it.
        var running: (tag: Tag, launch: LaunchNumber, missing: Int)?
        var isWithheld = false
        var isDead = false
        var traffic = Count()
        var successes = 0
    }

    package private(set) var costs: [Cost] = []
    /// How many members have returned a success so far, counted for each operation.
    package var successes: Int { peers.reduce(0) { $0 + $1.successes } }

    private let peerCount: Int
    private let clock: () -> UInt64
    private let now = Instant(nanoseconds: 0)
    private var master: MasterMachine
    private var peers: [Peer] = []
    private var queue: [Packet] = []
    private var cost = Cost(event: .connect)
    private var nextCall: UInt64 = 1
    private static let port: UInt16 = 48150

    /// `clock` tells the processor time used, in nanoseconds; the room itself has none.
    package init(peerCount: Int, clock: @escaping () -> UInt64 = { 0 }) {
        precondition((3...WireLimits.members).contains(peerCount))
        self.peerCount = peerCount
        self.clock = clock
        master = MasterMachine(run: RunID(high: 1, low: 2), timeouts: .standard, now: now)
    }

    package mutating func run() {
        measure(.connect) { $0.connect($0.peerCount) }
        measure(.join) { $0.call(0..<1, .updateTopology) }
        measure(.operation) { $0.launch(0..<$0.peerCount) }
        // The last member holds up an operation that all have entered, and is lost.
        let last = peerCount - 1
        peers[last].isWithheld = true
        launch(0..<peerCount)
        drain()
        measure(.loss) { $0.lose(last) }
        measure(.joinFull) {
            $0.connect(1)
            $0.call(0..<last, .updateTopology)
        }
    }

    private mutating func measure(_ event: Event, _ body: (inout Self) -> Void) {
        cost = Cost(event: event)
        for i in peers.indices { peers[i].traffic = Count() }
        body(&self)
        drain()
        cost.busiestPeer = peers.map(\.traffic).max { $0.bytes < $1.bytes } ?? Count()
        costs.append(cost)
    }

    // MARK: what happens

    private mutating func connect(_ count: Int) {
        for _ in 0..<count {
            let index = peers.count
            let machine = PeerMachine(
                PeerMachine.Configuration(
                    group: GroupID(0), listenPort: Self.port, addresses: [], stripes: 1, timeouts: .standard))
            peers.append(Peer(machine: machine))
            call(index..<index + 1, .connect)
        }
    }

    private mutating func call(_ indices: Range<Int>, _ call: Call) {
        for index in indices {
            queue.append(.toPeer(index, .call(CallID(nextCall), call)))
            nextCall += 1
        }
        drain()
    }

    private mutating func launch(_ indices: Range<Int>) {
        let descriptor = OperationDescriptor(count: 1, type: .float32, operation: .sum, algorithm: .ring)
        for index in indices {
            queue.append(.toPeer(index, .launch(OperationID(nextCall), Tag(1), descriptor)))
            nextCall += 1
        }
    }

    /// Its connections are reset; that to the master last, so that all others complain of their links first.
    private mutating func lose(_ index: Int) {
        peers[index].isDead = true
        for other in peers.indices where peers[other].links.remove(id(index)) != nil {
            queue.append(.toPeer(other, .linkDown(id(index), "reset")))
        }
        drain()
        queue.append(.closed(index))
    }

    // MARK: the network

    /// Peers register in their order here, one connection each.
    private func id(_ index: Int) -> PeerID { PeerID(UInt64(index + 1)) }
    private func index(_ peer: PeerID) -> Int { Int(peer.value) - 1 }

    private mutating func drain() {
        while !queue.isEmpty {
            let packets = queue
            queue = []
            for packet in packets { deliver(packet) }
        }
    }

    private mutating func deliver(_ packet: Packet) {
        switch packet {
        case .toMaster(let index, let bytes):
            let start = clock()
            // What cannot be read would show in every count.
            guard let message = try? ToMaster(bytes) else { return }
            cost.masterNanoseconds += clock() - start
            handleAtMaster(.received(.init(UInt64(index)), message))
        case .closed(let index): handleAtMaster(.closed(.init(UInt64(index)), reason: "reset"))
        case .toPeer(let index, let event): handle(index, event)
        }
    }

    private mutating func handleAtMaster(_ event: MasterMachine.Event) {
        let start = clock()
        var effects: [MasterMachine.Effect] = []
        master.handle(event, at: now, effects: &effects)
        for effect in effects {
            guard case .send(let connection, let message) = effect else { continue }
            let size = message.bytes.count + 4
            let index = Int(connection.value)
            cost.fromMaster.add(size)
            peers[index].traffic.add(size)
            queue.append(.toPeer(index, .fromMaster(message)))
        }
        cost.masterNanoseconds += clock() - start
    }

    private mutating func handle(_ index: Int, _ event: PeerMachine.Event) {
        guard !peers[index].isDead else { return }
        let start = clock()
        var effects: [PeerMachine.Effect] = []
        peers[index].machine.handle(event, at: now, effects: &effects)
        cost.peerNanoseconds += clock() - start
        for effect in effects { perform(effect, index) }
    }

    private mutating func perform(_ effect: PeerMachine.Effect, _ index: Int) {
        switch effect {
        case .dialMaster:
            handleAtMaster(
                .connected(
                    .init(UInt64(index)), from: .v4(0x0a00_0000 | UInt32(index)),
                    secret: PeerSecret(high: 0, low: UInt64(index))))
            queue.append(.toPeer(index, .masterConnected))
        case .sendToMaster(let message):
            let bytes = message.bytes
            cost.toMaster.add(bytes.count + 4)
            peers[index].traffic.add(bytes.count + 4)
            queue.append(.toMaster(index, bytes))
        case .wantLinks(_, let members): link(index, to: members)
        case .start(_, let tag, let launch, let descriptor, let assignment):
            let others = assignment.others
            peers[index].running = (tag, launch, others.count)
            cost.enterFrames += others.count
            for other in others {
                let frame = PeerMachine.Event.entered(id(index), assignment.epoch, tag, launch, descriptor)
                queue.append(.toPeer(self.index(other), frame))
            }
        case .bind:
            peers[index].running?.missing -= 1
            guard let running = peers[index].running, running.missing == 0, !peers[index].isWithheld else { return }
            queue.append(.toPeer(index, .resultWhole(running.tag, running.launch)))
        case .announcePrepared(let tag, let launch, let epoch, let others):
            cost.preparedFrames += others.count
            for other in others {
                queue.append(.toPeer(self.index(other), .prepared(id(index), epoch, tag, launch)))
            }
        // The operation of these runs is of one element, and nobody has the result of it.
        case .listFinal(_, let epoch): queue.append(.toPeer(index, .final([:], epoch)))
        case .observe(let launches):
            let progress = launches.map { ($0, OperationProgress(members: [])) }
            queue.append(.toPeer(index, .observed(Dictionary(uniqueKeysWithValues: progress))))
        case .finish: peers[index].running = nil
        case .complete(_, .success): peers[index].successes += 1
        case .complete, .closeMaster, .abandonMaster, .adopt, .halt, .resume, .measureLinks, .ignore, .answer, .view,
            .wake, .log, .lendState, .fetchState, .returnState, .noteStuck:
            break
        }
    }

    /// A link stands as soon as both ends want it.
    private mutating func link(_ index: Int, to members: [Member]) {
        let own = id(index)
        peers[index].wanted = Set(members.map(\.id)).subtracting([own])
        for other in peers[index].links.subtracting(peers[index].wanted) {
            peers[index].links.remove(other)
            peers[self.index(other)].links.remove(own)
        }
        for member in members where member.id != own && !peers[index].links.contains(member.id) {
            let other = self.index(member.id)
            guard peers[other].wanted.contains(own) else { continue }
            peers[index].links.insert(member.id)
            peers[other].links.insert(own)
            queue.append(.toPeer(index, .linkUp(member.id)))
            queue.append(.toPeer(other, .linkUp(own)))
        }
    }
}
