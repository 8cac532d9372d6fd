import PCCLCompute

/// What an outer step does with the average of what the members have found. All members have the same one.
///
/// The gradient of an outer step is how far the members' parameters have moved away from the outer ones, on average, with
/// the sign turned: outer parameters minus local ones.
public struct OuterOptimizer: Hashable, Sendable {
    public enum Rule: Hashable, Sendable {
        /// outer ← outer - rate × gradient. With a rate of 1 the average of the members' parameters: local SGD.
        case descent
        /// momentum ← factor × momentum + gradient; outer ← outer - rate × momentum.
        case momentum(factor: Float)
        /// momentum ← factor × momentum + gradient; outer ← outer - rate × (gradient + factor × momentum). As PyTorch's SGD
        /// with `nesterov=True`, and as DiLoCo was published with (Douillard and others, arXiv 2311.08105).
        case nesterov(factor: Float)
    }

    public var rule: Rule
    public var learningRate: Float
    /// The momentum of a fragment is made no longer than this, as a vector; 0: as long as it is. After CO2 (Sun and others,
    /// arXiv 2401.16265).
    public var momentumLimit: Float

    public init(_ rule: Rule, learningRate: Float, momentumLimit: Float = 0) {
        self.rule = rule
        self.learningRate = learningRate
        self.momentumLimit = momentumLimit
    }

    /// What DiLoCo was published with.
    public static func nesterov(learningRate: Float = 0.7, momentum: Float = 0.9) -> OuterOptimizer {
        OuterOptimizer(.nesterov(factor: momentum), learningRate: learningRate)
    }

    /// Outer parameters are the average of the members'.
    public static let average = OuterOptimizer(.descent, learningRate: 1)

    var hasMomentum: Bool { rule != .descent }

    /// Throws `.invalidArgument` for rates and factors that are no finite numbers, or negative.
    func validate() throws(PCCLError) {
        let factor: Float =
            switch rule {
            case .descent: 0
            case .momentum(let factor), .nesterov(let factor): factor
            }
        guard learningRate.isFinite, learningRate >= 0, (0..<1).contains(factor) else {
            throw PCCLError(
                .invalidArgument, "an outer learning rate of \(learningRate) and a momentum of \(factor) cannot be")
        }
        guard momentumLimit.isFinite, momentumLimit >= 0 else {
            throw PCCLError(.invalidArgument, "a longest outer momentum of \(momentumLimit) cannot be")
        }
    }

    /// One step, of `count` parameters; `momentum` is there if the rule has one.
    func step(
        _ outer: UnsafeMutablePointer<Float>, _ momentum: UnsafeMutablePointer<Float>?,
        _ gradient: UnsafePointer<Float>, count: Int, at place: OuterPlace
    ) throws(DeviceError) {
        switch (rule, momentum) {
        case (.descent, _), (_, nil): try place.descend(outer, along: gradient, rate: learningRate, count: count)
        case (.momentum(let factor), let momentum?):
            try accumulate(gradient, into: momentum, factor: factor, count: count, at: place)
            try place.descend(outer, along: momentum, rate: learningRate, count: count)
        case (.nesterov(let factor), let momentum?):
            try accumulate(gradient, into: momentum, factor: factor, count: count, at: place)
            try place.descendAhead(
                outer, momentum: momentum, gradient: gradient, rate: learningRate, factor: factor, count: count)
        }
    }

    private func accumulate(
        _ gradient: UnsafePointer<Float>, into momentum: UnsafeMutablePointer<Float>, factor: Float, count: Int,
        at place: OuterPlace
    ) throws(DeviceError) {
        try place.accumulate(gradient, into: momentum, factor: factor, count: count)
        guard momentumLimit > 0 else { return }
        let length = try place.squares(of: momentum, count: count).squareRoot()
        if length > Double(momentumLimit) {
            try place.divide(momentum, by: Float(length / Double(momentumLimit)), count: count)
        }
    }
}
