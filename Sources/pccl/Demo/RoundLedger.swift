/// What a peer concludes from the world sizes of its rounds: who was lost, who has joined, and when the run is over.
///
/// Members of a round see the same size from the join on, a newcomer from its first round on. So all of them end with the
/// same round: the last one, or, should the newcomer be late, the one after its first.
struct RoundLedger {
    private let peers: Int
    private let lastRound: Int
    private(set) var worldSize = 0
    private(set) var losses = 0
    private(set) var joins = 0
    private(set) var isOver = false
    /// Who starts a little later than others is no newcomer, and is not counted.
    private var wasComplete = false
    private var firstRoundWithNewcomer: Int?

    /// `peers` are those that begin the run.
    init(peers: Int, lastRound: Int, isNewcomer: Bool) {
        self.peers = peers
        self.lastRound = lastRound
        if isNewcomer {
            joins = 1
            wasComplete = true
        }
    }

    /// An outer step was made by so many.
    mutating func note(worldSize: Int) {
        // A newcomer's own first size is no change.
        if wasComplete && self.worldSize > 0 {
            losses += max(0, self.worldSize - worldSize)
            joins += max(0, worldSize - self.worldSize)
        }
        wasComplete = wasComplete || worldSize == peers
        self.worldSize = worldSize
    }

    mutating func end(round: Int) {
        if joins > 0 && firstRoundWithNewcomer == nil { firstRoundWithNewcomer = round }
        isOver = round >= lastRound && firstRoundWithNewcomer.map { $0 < round } ?? false
    }
}
