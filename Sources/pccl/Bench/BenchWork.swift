import PCCL

/// What is reduced, the same for every library of a run.
struct BenchWork: Equatable {
    var type = DataType.float32
    var operation = ReduceOperation.sum
    var isInPlace = false
    /// Operations in flight at a time, each of the full size.
    var tags = 1
    /// Connections per link, where one may ask for them; 0 leaves it to the library.
    var stripes = 0
    /// What travels of floats, where one may ask for it.
    var codec = Codec.none
    /// The topology is optimised after the warm-up of each turn, where the library can.
    var optimizes = false

    static func type(named name: String) -> DataType? { DataType.allCases.first { "\($0)" == name } }

    /// The short names are those of the tool's options, and of most other libraries.
    static let operations: [(name: String, operation: ReduceOperation)] = [
        ("sum", .sum), ("avg", .average), ("prod", .product), ("max", .maximum), ("min", .minimum),
    ]

    var operationName: String { BenchWork.operations.first { $0.operation == operation }?.name ?? "\(operation)" }

    /// A size of whole elements, one at least.
    func wholeElements(_ bytes: Int) -> Int { max(bytes / type.byteCount, 1) * type.byteCount }

    func addTo(_ line: inout ControlLine) {
        line["type"] = "\(type)"
        line["op"] = operationName
        line["inplace"] = isInPlace ? "1" : "0"
        line["codec"] = "\(codec)"
        line["tags"] = String(tags)
        line["stripes"] = String(stripes)
        line["optimize"] = optimizes ? "1" : "0"
    }

    init() {}

    init(of line: ControlLine) throws(BenchFailure) {
        guard let type = BenchWork.type(named: try line.text("type")) else { throw line.isMalformed("type") }
        let operationName = try line.text("op")
        guard let operation = BenchWork.operations.first(where: { $0.name == operationName })?.operation else {
            throw line.isMalformed("op")
        }
        guard let codec = Codec(try line.text("codec")) else { throw line.isMalformed("codec") }
        self.type = type
        self.operation = operation
        self.codec = codec
        isInPlace = try line.number("inplace") == 1
        tags = try line.number("tags")
        stripes = try line.number("stripes")
        optimizes = try line.number("optimize") == 1
    }
}

/// One library's go at one size. Memory is taken and given back inside, so that others have theirs meanwhile.
struct BenchTurn: Equatable {
    /// Of one operation.
    var bytes: Int
    var warmUps: Int
    var calls: Int
    /// In place: calls that one filling of the memory lasts; 0 for any number.
    var callsPerFill: Int
    /// Idle before each timed call.
    var pauseMilliseconds: Int

    init(bytes: Int, warmUps: Int, calls: Int, callsPerFill: Int, pauseMilliseconds: Int = 0) {
        self.bytes = bytes
        self.warmUps = warmUps
        self.calls = calls
        self.callsPerFill = callsPerFill
        self.pauseMilliseconds = pauseMilliseconds
    }

    /// What all pauses add to the time that a turn may take, rounded up.
    var secondsOfPauses: Int { (pauseMilliseconds * calls + 999) / 1000 }

    init(of line: ControlLine) throws(BenchFailure) {
        bytes = try line.number("bytes")
        warmUps = try line.number("warmups")
        calls = try line.number("calls")
        callsPerFill = try line.number("callsperfill")
        pauseMilliseconds = try line.number("pause")
    }

    var line: ControlLine {
        var line = ControlLine("turn")
        line["bytes"] = String(bytes)
        line["warmups"] = String(warmUps)
        line["calls"] = String(calls)
        line["callsperfill"] = String(callsPerFill)
        line["pause"] = String(pauseMilliseconds)
        return line
    }
}

extension BenchTurnResult {
    /// Of one peer.
    init(of line: ControlLine) throws(BenchFailure) {
        self.init(
            nanoseconds: try line.numbers("times").map(Double.init),
            processorNanoseconds: Double(try line.number("cpu")),
            extraBytes: try line.number("extra"), wrongElements: try line.number("wrong"))
    }

    var line: ControlLine {
        var line = ControlLine("done")
        line["times"] = nanoseconds.map { String(Int($0)) }.joined(separator: ",")
        line["cpu"] = String(Int(processorNanoseconds))
        line["extra"] = String(extraBytes)
        line["wrong"] = String(wrongElements)
        return line
    }
}
