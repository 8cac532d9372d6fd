public import PCCLBase

extension DiLoCo {
    /// When peers wait for each other. Sources: synchronous, Douillard and others, arXiv 2311.08105; delayed, after CO2, Sun
    /// and others, arXiv 2401.16265; streaming, Douillard and others, arXiv 2501.18512.
    public enum Mode: Hashable, Sendable {
        /// At the end of a round all wait for the average, and go on from the new outer parameters.
        case synchronous
        /// What is found in a round travels during the next one, and is applied at its end. `stalenessPenalty` makes a step
        /// smaller the further the outer parameters have moved since it was found: by 1 + penalty × (how far they have moved
        /// / how long the step is).
        case delayed(stalenessPenalty: Float = 0)
        /// Parameters travel in fragments, one after the other, each for `overlap` steps; local parameters become
        /// `mixing` × local + (1 - `mixing`) × outer.
        case streaming(fragments: Int, overlap: Int, mixing: Float = 0.5)
    }

    public struct Configuration: Sendable {
        public var mode: Mode
        /// Inner steps between two outer steps of the same parameters. It may differ from peer to peer, where some are
        /// slower: see `step(weight:)`.
        public var syncEvery: Int
        public var optimizer = OuterOptimizer.nesterov()
        /// What travels; the same at all peers.
        public var codec = Codec.none
        /// Whether what coding loses is added to the next round's.
        public var hasErrorFeedback = false
        /// With fewer peers the others wait, at the end of a round, for more to come; 1: one goes on alone, as
        /// those that come in ensembles do whatever is asked for.
        public var minimumPeers = 2
        /// How many seconds they wait at most, 0: for ever.
        public var patienceSeconds = 0.0
        /// Every so many rounds members compare what they hold, at the cost of hashing it, and who has drifted away gets what
        /// the others have; 0: never but when somebody joins.
        public var checkEvery = 1
        /// The first of the tags that are in use, as many as there are fragments and one.
        public var firstTag: UInt64 = 0x4469_4c6f_436f_0000
        /// How often, in a row and without an outer step, a peer that was declared lost comes back before it gives up; one of an
        /// ensemble does not.
        public var returns = 5

        public init(_ mode: Mode = .synchronous, syncEvery: Int) {
            self.mode = mode
            self.syncEvery = syncEvery
        }
    }

    /// Parameters of this peer's model: memory that stays valid, and where it is, as long as this object lives. It is read
    /// and written inside of `begin`, `step` and `end` alone.
    public struct Tensor {
        /// Unique, and the same at all peers.
        public var name: String
        public var memory: UnsafeMutableRawPointer
        /// In elements.
        public var count: Int
        /// A float.
        public var type: DataType
        /// Nil: fragments are of tensors that lie next to each other, and about equally large.
        public var fragment: Int?

        public init(
            _ name: String, _ memory: UnsafeMutableRawPointer, count: Int, type: DataType, fragment: Int? = nil
        ) {
            self.name = name
            self.memory = memory
            self.count = count
            self.type = type
            self.fragment = fragment
        }

        public init<T: Reducible>(_ name: String, _ buffer: UnsafeMutableBufferPointer<T>, fragment: Int? = nil) {
            self.init(name, buffer.someAddress, count: buffer.count, type: T.dataType, fragment: fragment)
        }
    }

    /// An outer step that was done.
    public struct RoundInfo: Hashable, Sendable {
        /// How many rounds are done with it, from the beginning of the run.
        public var round: UInt64
        public var fragment: Int
        /// How many peers took part.
        public var worldSize: Int
        /// Payload bytes that this peer sent and received for it.
        public var sentBytes: UInt64
        public var receivedBytes: UInt64
        /// How long this peer has stood still for it.
        public var secondsWaited: Double
    }
}

extension DiLoCo.Configuration {
    var fragmentCount: Int {
        if case .streaming(let fragments, _, _) = mode { fragments } else { 1 }
    }
    var overlap: Int {
        switch mode {
        case .synchronous: 0
        case .delayed: syncEvery
        case .streaming(_, let overlap, _): overlap
        }
    }
    var mixing: Float {
        if case .streaming(_, _, let mixing) = mode { mixing } else { 0 }
    }
    var stalenessPenalty: Float {
        if case .delayed(let penalty) = mode { penalty } else { 0 }
    }

    /// Throws `.invalidArgument`.
    func validate(tensorCount: Int) throws(PCCLError) {
        func refuse(_ text: String) -> PCCLError { PCCLError(.invalidArgument, text) }
        try optimizer.validate()
        guard syncEvery >= 1 else { throw refuse("a round of \(syncEvery) steps") }
        guard minimumPeers >= 1 else { throw refuse("\(minimumPeers) peers at least") }
        guard patienceSeconds >= 0, checkEvery >= 0, returns >= 0 else {
            throw refuse("a patience of \(patienceSeconds) s, a check every \(checkEvery) rounds, \(returns) returns")
        }
        guard codec.format == .none || codec.canCode(.float32) else {
            throw refuse("\(codec) cannot code float32 in fewer bytes")
        }
        switch mode {
        case .synchronous: break
        case .delayed(let penalty):
            guard penalty.isFinite, penalty >= 0 else { throw refuse("a staleness penalty of \(penalty)") }
        case .streaming(let fragments, let overlap, let mixing):
            guard (1...max(min(tensorCount, syncEvery), 1)).contains(fragments), fragments <= 4096 else {
                throw refuse(
                    "\(fragments) fragments of \(tensorCount) tensors in \(syncEvery) steps: each has a tensor and a step"
                )
            }
            guard (0...syncEvery).contains(overlap) else {
                throw refuse("results \(overlap) steps after their launch, where the next is after \(syncEvery)")
            }
            guard (0..<1).contains(mixing) else { throw refuse("a mixing of \(mixing); 0 to below 1 are possible") }
        }
    }
}
