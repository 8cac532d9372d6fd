import PCCL
import PCCLBase

/// What all members do in one round: a function of the run's seed and the round's number, so that they need not agree on
/// it in any other way.
struct ChaosWork: Equatable {
    /// How a round begins.
    enum Meeting: Equatable {
        case none
        /// `arePeersPending`, and `updateTopology` if they are.
        case askFirst
        case updateTopology
        case optimizeTopology
    }

    enum Style: Equatable {
        /// One after the other; what fails is called again.
        case blocking
        /// All at once, each with its own tag; with `asking`, `arePeersPending` is called meanwhile.
        case concurrent(asking: Bool)
        /// The library's own retry, so many at a time; nil: it chooses what a loss does.
        case retried(maxInFlight: Int, onLoss: LossPolicy?)
    }

    struct Operation: Equatable {
        var type: DataType
        var operation: ReduceOperation
        var count: Int
        var isInPlace: Bool
        /// Bytes by which the buffers miss the alignment of their type.
        var misalignment: Int
        var tag: UInt64
        var salt: UInt64
        /// Of a call of its own.
        var onLoss: LossPolicy
        /// One that loses nothing of the values, nor of their results.
        var codec: Codec

        var byteCount: Int { count * type.byteCount }
        var pattern: ChaosPattern { ChaosPattern(type: type, operation: operation, salt: salt) }
    }

    var meeting: Meeting
    var style: Style
    var operations: [Operation]

    init(seed: UInt64, round: Int) {
        // Neighbouring rounds get generators that have nothing in common.
        var random = RandomSource(seed: seed &+ UInt64(round) &* 0x2545_f491_4f6c_dd1d)
        meeting =
            switch random.below(64) {
            case 0: .optimizeTopology
            case 1..<10: .updateTopology
            case 10..<42: .askFirst
            case _: .none
            }
        let count: Int
        switch random.below(4) {
        case 0, 1:
            style = .blocking
            count = 1 + random.below(3)
        case 2:
            style = .concurrent(asking: random.oneIn(4))
            count = 2 + random.below(3)
        case _:
            style = .retried(
                maxInFlight: random.below(4), onLoss: random.oneIn(2) ? nil : Self.policy(&random))
            count = 2 + random.below(4)
        }
        operations = (0..<count).map { Self.operation(&random, tag: UInt64($0)) }
    }

    private static func policy(_ random: inout RandomSource) -> LossPolicy {
        LossPolicy.allCases[random.below(LossPolicy.allCases.count)]
    }

    private static func operation(_ random: inout RandomSource, tag: UInt64) -> Operation {
        let type = DataType.allCases[random.below(DataType.allCases.count)]
        let operation = ReduceOperation.allCases[random.below(ReduceOperation.allCases.count)]
        // Mostly small, for these make many operations; some that take long enough to be killed in.
        let largest = [1 << 4, 1 << 12, 1 << 12, 1 << 16, 1 << 16, 1 << 18, 1 << 20, 1 << 22][random.below(8)]
        let bytes = 1 + random.below(largest)
        // Whole numbers up to 127 fit both; averages are none.
        let exact = [Codec(.float16), Codec(.bfloat16)].filter { $0.canCode(type) && operation != .average }
        let codec = exact.isEmpty || random.oneIn(2) ? .none : exact[random.below(exact.count)]
        return Operation(
            type: type, operation: operation, count: max(1, bytes / type.byteCount), isInPlace: random.oneIn(2),
            misalignment: random.oneIn(4) ? 1 : 0, tag: tag, salt: random.next(), onLoss: policy(&random),
            codec: codec)
    }
}
