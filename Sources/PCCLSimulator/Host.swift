import PCCLBase
import PCCLMembership
import PCCLWire

/// A frame between peers. Its header has been through its bytes; payloads are elements.
struct Frame {
    var header: FrameHeader
    var entry: Entry?
    var values: [UInt64] = []
}

/// What reaches a process from outside, or from its own clock and caller.
enum HostEvent {
    case frame(link: Int, Frame)
    case linkBroken(link: Int, String)
    case silence(link: Int)
    case dialArrives(from: Int, peer: PeerID, to: PeerID, attempt: Int)
    case heldDialExpires(from: Int, attempt: Int)
    case dialAnswered(PeerID, attempt: Int, link: Int?)
    case dialDeadline(PeerID, attempt: Int)
    case dialRetry(PeerID, attempt: Int)
    case unreachable(PeerID, dial: Int)
    case masterAnswered(connection: Int, accepted: Bool)
    case masterDialDeadline(connection: Int)
    case masterBytes(connection: Int, [UInt8])
    case masterClosed(connection: Int)
    case tick(Int)
    case measured(life: Int, [LinkFigure])
    case stateArrives(LaunchNumber)
    case caller(life: Int, CallerStep)
    /// The other process of the node is gone.
    case orphaned
}

/// What a caller does next.
enum CallerStep {
    case connect
    case call(Call)
    case optimize
    case synchronize
    case launch(lane: Int)
    case round
    case afterCall(Call, CallAnswer)
    case afterOperation(lane: Int, OperationOutcome)
    case quit
}

/// The memory and the story of one call of a caller.
final class OperationCall {
    let id: OperationID
    let lane: Int
    /// How many calls of the tag this process has made since the last join point, this one with them.
    let number: Int
    let inPlace: Bool
    let input: [UInt64]
    var buffer: [UInt64]
    var result: [UInt64]
    /// The instance that it was last part of, while its end there is not known.
    var instance: Int?
    /// By element of a success: of how many members the contributions are, as the checker has found.
    var worldSizes: [Int] = []

    init(id: OperationID, lane: Int, number: Int, inPlace: Bool, input: [UInt64]) {
        self.id = id
        self.lane = lane
        self.number = number
        self.inPlace = inPlace
        self.input = input
        buffer = input
        result = [UInt64](repeating: 0, count: input.count)
    }
    var output: [UInt64] { inPlace ? buffer : result }
}

/// A process: machine, links, data plane and caller.
final class Host {
    enum Life {
        case running
        case hung(until: Instant)
        case exited
        case dead(silent: Bool)
    }
    struct LinkEnd {
        var peer: PeerID
        var link: Int
    }
    struct Dial {
        var member: Member
        var number: Int
        var attempt = 0
        var backoff: Interval
        /// The connection that the listener has made of the attempt, before its answer is here.
        var link: Int?
        var isWaiting = false
    }
    struct HeldDial {
        var from: Int
        var peer: PeerID
        var to: PeerID
        var attempt: Int
    }

    let index: Int
    let slot: Int
    let group: GroupID
    let program: Scenario.Program
    /// What it came with, if it is of a node.
    let ensemble: Ensemble?
    var machine: PeerMachine
    var life = Life.running
    var inbox: [HostEvent] = []
    var pending: [PeerMachine.Event] = []
    var isPumping = false
    var wakeNumber = 0

    var control: Int?
    var diallingMaster: Int?
    var identity: Registration?
    var wanted: [Member] = []
    var links: [LinkEnd] = []
    var dials: [Dial] = []
    var held: [HeldDial] = []

    var plane = DataPlane()
    var calls: [OperationCall] = []
    var caller = Caller()
    /// By tag, since the last join point.
    var callNumbers: [Tag: Int] = [:]
    var lastEpoch = Epoch.none
    var pendingAnswers = 0
    var stateAnswers = 0
    /// How many answers at join points, and to the question whether peers are pending, it has heard.
    var jointAnswers = 0
    var state: HostState

    init(
        index: Int, slot: Int, group: GroupID, program: Scenario.Program, ensemble: Ensemble?, state: HostState,
        machine: PeerMachine
    ) {
        self.ensemble = ensemble
        self.state = state
        self.index = index
        self.slot = slot
        self.group = group
        self.program = program
        self.machine = machine
    }

    var isOver: Bool {
        switch life {
        case .running, .hung: false
        case .exited, .dead: true
        }
    }
    var lineage: Checker.Lineage? { identity.map { Checker.Lineage(run: $0.run, group: group) } }
    var name: String { "host \(index)" + (identity.map { " (\($0.peer))" } ?? "") }
    func link(to peer: PeerID) -> Int? { links.first { $0.peer == peer }?.link }
}

/// Where the program of a process stands.
struct Caller {
    struct LaneState {
        var left: Int
        var inFlight = false
    }
    /// Grows when the process stops being a member: plans made before are void.
    var life = 0
    var round = 0
    var connectsLeft = 4
    var reconnectsLeft = 0
    var soloRounds = 0
    var roundsSinceJoin = 0
    /// As it last looked.
    var worldSize = 1
    var hasVotedWrongly = false
    var lanes: [LaneState] = []
    var queue: [Int] = []
    var isMasterless = false
    /// In the variant that asks while operations run: the answer, once it is here.
    var asked: Bool?
    var isBatchOver = true
    var nextCall: UInt64 = 1
    var nextOperation: UInt64 = 1
    var currentCall: (id: CallID, call: Call)?
}
