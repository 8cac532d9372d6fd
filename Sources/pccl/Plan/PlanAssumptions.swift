import PCCLBase

/// What a plan takes for granted. docs/benchmarks.md has the measurements that the figures come from.
struct PlanAssumptions: Equatable {
    /// How much of a line's bits are elements once a call is under way, delays aside. For calls of 64 and 256 MiB between two
    /// peers in the lab, over 10 to 100 ms, it was 0.88 to 0.95; headers take 0.035 in packets of 1500 bytes.
    var lineShare = 0.9

    /// What an outer step with Nesterov momentum reads and writes in float32: 12 bytes for the delta (old, new, delta),
    /// 20 for the step (mean delta, momentum and parameter in, momentum and parameter out), 4 to give the model the result.
    var outerBytesPerParameter = 36.0

    /// What the outer step gets of the memory. One core was seen to add two buffers of 64 MiB into a third at 41 GB/s.
    var memoryBytesPerSecond = 20e9

    /// Of an inner step, where its time is not given: a sequence or some of 65,536 tokens in all, by a peer that has one
    /// H100 and gets two fifths of the 989 TFLOP/s that are on its data sheet.
    static let tokensPerStep = 65_536
    static let operationsPerSecond = 400e12
    /// Forward and backward: each parameter is multiplied and added once forwards, twice backwards.
    static let operationsPerParameterAndToken = 6.0

    /// Below it nobody trains, above it nothing is left to be planned.
    static let lineLimits = 1e3...1e15
    static let longestRound = 1_000_000

    /// How fast one peer's processor gets elements of float32 through with a codec, counted as bus bandwidth: 64 MiB over
    /// loopback TCP, P = 2, the slower of two runs. Formats that were not measured get the figure of the slowest.
    static func busBytesPerSecond(_ format: Codec.Format) -> Double {
        switch format {
        case .none: 1.7e9
        case .minMax8, .zeroPoint8: 3.2e9
        case .int4, .int4PowerScale: 3.7e9
        case .float16, .bfloat16: 2.8e9
        case .e4m3, .e4m3PowerScale, .e3m0, .e3m0PowerScale, .minMax16, .minMax32, .zeroPoint16, .zeroPoint32: 2.7e9
        }
    }
}
