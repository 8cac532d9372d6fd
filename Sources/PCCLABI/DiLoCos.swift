import CPCCL
import Glibc
import PCCL
import PCCLTransport

@implementation @c
public func pcclDiLoCoCreate(
    _ communicator: OpaquePointer!, _ tensors: UnsafePointer<pcclDiLoCoTensor_t>!, _ count: Int,
    _ options: UnsafePointer<pcclDiLoCoOptions_t>!, _ dilocoOut: UnsafeMutablePointer<OpaquePointer?>!
) -> pcclResult_t {
    result("pcclDiLoCoCreate") { () throws(PCCLError) in
        let communicator = try Handles.communicator(communicator)
        let out = try required(dilocoOut, "diloco_out")
        guard (0...SharedState.largestCount).contains(count) else {
            throw PCCLError(.invalidArgument, "\(count) tensors; \(SharedState.largestCount) are possible")
        }
        let given = UnsafeBufferPointer(start: try required(tensors, "tensors"), count: count)
        var parameters: [DiLoCo.Tensor] = []
        for (index, tensor) in given.enumerated() { parameters.append(try DiLoCo.Tensor(tensor, index)) }
        let options = try PCCLABI.options(try required(options, "options"), pcclDiLoCoOptions_t())
        let diloco = try DiLoCo(communicator, parameters, try DiLoCo.Configuration(options))
        let object = DiLoCoObject(diloco)
        let pointer = Handles.pointer(to: object)
        Handles.dilocos.withLock { $0[pointer] = object }
        out.pointee = pointer
    }
}

@implementation @c
public func pcclDiLoCoBegin(_ diloco: OpaquePointer!) -> pcclResult_t {
    result("pcclDiLoCoBegin") { () throws(PCCLError) in
        try Handles.diloco(diloco).alone { (diloco) throws(PCCLError) in try diloco.begin() }
    }
}

@implementation @c
public func pcclDiLoCoStep(
    _ diloco: OpaquePointer!, _ weight: Float, _ roundsOut: UnsafeMutablePointer<pcclDiLoCoRound_t>?,
    _ roundsCapacity: Int, _ roundCountOut: UnsafeMutablePointer<Int>?
) -> pcclResult_t {
    result("pcclDiLoCoStep") { () throws(PCCLError) in
        let out = try RoundsOut(roundsOut, roundsCapacity, roundCountOut)
        out.write(
            try Handles.diloco(diloco).alone { (diloco) throws(PCCLError) in try diloco.step(weight: weight) })
    }
}

@implementation @c
public func pcclDiLoCoTouchesNext(
    _ diloco: OpaquePointer!, _ fragment: UInt32, _ touchesOut: UnsafeMutablePointer<Bool>!
) -> pcclResult_t {
    result("pcclDiLoCoTouchesNext") { () throws(PCCLError) in
        let out = try required(touchesOut, "touches_out")
        out.pointee = try Handles.diloco(diloco).alone { (diloco) throws(PCCLError) in
            guard fragment < diloco.fragmentCount else {
                throw PCCLError(.invalidArgument, "fragment \(fragment) of \(diloco.fragmentCount)")
            }
            return diloco.touchesNext(fragment: Int(fragment))
        }
    }
}

@implementation @c
public func pcclDiLoCoFragmentOf(
    _ diloco: OpaquePointer!, _ name: UnsafePointer<CChar>!, _ fragmentOut: UnsafeMutablePointer<UInt32>!
) -> pcclResult_t {
    result("pcclDiLoCoFragmentOf") { () throws(PCCLError) in
        let name = String(cString: try required(name, "name"))
        let out = try required(fragmentOut, "fragment_out")
        out.pointee = try Handles.diloco(diloco).alone { (diloco) throws(PCCLError) in
            guard let fragment = diloco.fragment(of: name) else {
                throw PCCLError(.invalidArgument, "there is no tensor \"\(name)\"")
            }
            return UInt32(fragment)
        }
    }
}

@implementation @c
public func pcclDiLoCoEnd(
    _ diloco: OpaquePointer!, _ roundsOut: UnsafeMutablePointer<pcclDiLoCoRound_t>?, _ roundsCapacity: Int,
    _ roundCountOut: UnsafeMutablePointer<Int>?
) -> pcclResult_t {
    result("pcclDiLoCoEnd") { () throws(PCCLError) in
        let out = try RoundsOut(roundsOut, roundsCapacity, roundCountOut)
        out.write(try Handles.diloco(diloco).alone { (diloco) throws(PCCLError) in try diloco.end() })
    }
}

@implementation @c
public func pcclDiLoCoGetInfo(
    _ diloco: OpaquePointer!, _ infoOut: UnsafeMutablePointer<pcclDiLoCoInfo_t>!
) -> pcclResult_t {
    result("pcclDiLoCoGetInfo") { () throws(PCCLError) in
        let out = try required(infoOut, "info_out")
        out.pointee = try Handles.diloco(diloco).alone { (diloco) throws(PCCLError) in
            var info = pcclDiLoCoInfo_t()
            info.round = diloco.round
            info.parameter_count = UInt64(diloco.parameterCount)
            info.fragment_count = UInt32(diloco.fragmentCount)
            let digits = Array(try diloco.parametersHash.utf8)
            withUnsafeMutableBytes(of: &info.parameters_hash) { text in
                // What remains are zeros.
                text.copyBytes(from: digits.prefix(text.count - 1))
            }
            return info
        }
    }
}

@implementation @c
public func pcclDiLoCoGetSharedState(
    _ diloco: OpaquePointer!, _ stateOut: UnsafeMutablePointer<pcclSharedState_t>!
) -> pcclResult_t {
    result("pcclDiLoCoGetSharedState") { () throws(PCCLError) in
        let out = try required(stateOut, "state_out")
        let object = try Handles.diloco(diloco)
        let revision = try object.alone { (diloco) throws(PCCLError) in diloco.sharedState.revision }
        out.pointee = pcclSharedState_t(
            revision: revision, count: object.infos.count, infos: object.infos.baseAddress)
    }
}

@implementation @c
public func pcclDiLoCoRestore(_ diloco: OpaquePointer!, _ revision: UInt64) -> pcclResult_t {
    result("pcclDiLoCoRestore") { () throws(PCCLError) in
        try Handles.diloco(diloco).alone { (diloco) throws(PCCLError) in try diloco.restore(revision: revision) }
    }
}

@implementation @c
public func pcclDiLoCoLoad(_ diloco: OpaquePointer!, _ directory: UnsafePointer<CChar>!) -> pcclResult_t {
    result("pcclDiLoCoLoad") { () throws(PCCLError) in
        guard let path = String(validatingCString: try required(directory, "directory")) else {
            throw PCCLError(.invalidArgument, "the directory's name is not UTF-8")
        }
        try Handles.diloco(diloco).alone { (diloco) throws(PCCLError) in try diloco.load(from: path) }
    }
}

@implementation @c
public func pcclDiLoCoDestroy(_ diloco: OpaquePointer!) -> pcclResult_t {
    result("pcclDiLoCoDestroy") { () throws(PCCLError) in
        let object = try Handles.diloco(diloco)
        try object.alone { (_) throws(PCCLError) in Handles.dilocos.withLock { $0[diloco] = nil } }
    }
}

/// A DiLoCo, what its shared state is to C, and whether a thread is in it.
final class DiLoCoObject: @unchecked Sendable {
    private let diloco: DiLoCo
    let infos: UnsafeMutableBufferPointer<pcclTensorInfo_t>
    private let isBusy = Guarded(false)

    init(_ diloco: DiLoCo) {
        self.diloco = diloco
        let entries = diloco.sharedState.entries
        infos = .allocate(capacity: entries.count)
        for (index, entry) in entries.enumerated() {
            infos.initializeElement(
                at: index,
                to: pcclTensorInfo_t(
                    name: strdup(entry.name), data: entry.memory, count: entry.count,
                    datatype: pcclDataType_t(rawValue: entry.type.rawValue),
                    device_type: diloco.isOnDevice(entry.memory) ? pcclDeviceCuda : pcclDeviceCpu,
                    allow_content_inequality: false))
        }
    }

    deinit {
        for info in infos { free(UnsafeMutablePointer(mutating: info.name)) }
        infos.deallocate()
    }

    /// Throws `.invalidUsage` if another thread is in it.
    func alone<T>(_ body: (DiLoCo) throws(PCCLError) -> T) throws(PCCLError) -> T {
        let isFree = isBusy.withLock { isBusy in
            defer { isBusy = true }
            return !isBusy
        }
        guard isFree else { throw PCCLError(.invalidUsage, "another thread is in a call of this DiLoCo") }
        defer { isBusy.withLock { $0 = false } }
        return try body(diloco)
    }
}

extension Handles {
    static let dilocos = Guarded<[OpaquePointer: DiLoCoObject]>([:])

    static func diloco(_ pointer: OpaquePointer?) throws(PCCLError) -> DiLoCoObject {
        guard let pointer else { throw PCCLError(.invalidArgument, "the DiLoCo is null") }
        guard let object = dilocos.withLock({ $0[pointer] }) else {
            throw PCCLError(.invalidArgument, "the DiLoCo was destroyed, or never created")
        }
        return object
    }
}

/// Where a caller wants to be told of outer steps.
private struct RoundsOut {
    private let rounds: UnsafeMutableBufferPointer<pcclDiLoCoRound_t>
    private let count: UnsafeMutablePointer<Int>?

    init(
        _ rounds: UnsafeMutablePointer<pcclDiLoCoRound_t>?, _ capacity: Int, _ count: UnsafeMutablePointer<Int>?
    ) throws(PCCLError) {
        guard rounds != nil || capacity == 0 else {
            throw PCCLError(.invalidArgument, "rounds_out is null, and rounds_capacity \(capacity)")
        }
        self.rounds = UnsafeMutableBufferPointer(start: rounds, count: max(capacity, 0))
        self.count = count
    }

    func write(_ infos: [DiLoCo.RoundInfo]) {
        for (index, info) in infos.prefix(rounds.count).enumerated() {
            rounds[index] = pcclDiLoCoRound_t(
                round: info.round, fragment: UInt32(info.fragment), world_size: UInt32(info.worldSize),
                tx_bytes: info.sentBytes, rx_bytes: info.receivedBytes, seconds_waited: info.secondsWaited)
        }
        count?.pointee = infos.count
    }
}

extension DiLoCo.Tensor {
    fileprivate init(_ tensor: pcclDiLoCoTensor_t, _ index: Int) throws(PCCLError) {
        guard let pointer = tensor.name, let name = String(validatingCString: pointer) else {
            throw PCCLError(.invalidArgument, "tensor \(index) has no name, or one that is not UTF-8")
        }
        guard let data = tensor.data else { throw PCCLError(.invalidArgument, "the data of \"\(name)\" is null") }
        guard let type = DataType(rawValue: tensor.datatype.rawValue) else {
            throw PCCLError(.invalidArgument, "\(tensor.datatype.rawValue) is no data type")
        }
        self.init(
            name, data, count: tensor.count, type: type,
            fragment: tensor.fragment == 0 ? nil : Int(tensor.fragment) - 1)
    }
}

extension DiLoCo.Configuration {
    fileprivate init(_ options: pcclDiLoCoOptions_t) throws(PCCLError) {
        guard options.reserved == 0 else { throw PCCLError.laterRelease }
        let mode: DiLoCo.Mode
        switch options.mode {
        case pcclDiLoCoSynchronous: mode = .synchronous
        case pcclDiLoCoDelayed: mode = .delayed(stalenessPenalty: options.staleness_penalty)
        case pcclDiLoCoStreaming:
            mode = .streaming(
                fragments: Int(options.fragments), overlap: Int(options.overlap), mixing: options.mixing)
        default: throw PCCLError(.invalidArgument, "\(options.mode.rawValue) is no mode")
        }
        self.init(mode, syncEvery: Int(options.sync_every))
        let factor = options.momentum == 0 ? 0.9 : options.momentum
        let rule: OuterOptimizer.Rule
        switch options.rule {
        case pcclOuterNesterov: rule = .nesterov(factor: factor)
        case pcclOuterMomentum: rule = .momentum(factor: factor)
        case pcclOuterDescent: rule = .descent
        default: throw PCCLError(.invalidArgument, "\(options.rule.rawValue) is no rule of an outer step")
        }
        let usualRate: Float = rule == .descent ? 1 : 0.7
        optimizer = OuterOptimizer(
            rule, learningRate: options.learning_rate == 0 ? usualRate : options.learning_rate,
            momentumLimit: options.momentum_limit)
        let coding = try Options(
            codec: options.codec, blockElements: options.block_elements, rounding: options.rounding,
            errorFeedback: options.error_feedback)
        codec = coding.codec(.none)
        hasErrorFeedback = coding.hasErrorFeedback
        if options.minimum_peers > 0 { minimumPeers = Int(options.minimum_peers) }
        if options.check_every > 0 { checkEvery = options.check_every == .max ? 0 : Int(options.check_every) }
        patienceSeconds = options.patience_seconds
        if options.first_tag > 0 { firstTag = options.first_tag }
        if options.returns > 0 { returns = options.returns == .max ? 0 : Int(options.returns) }
    }
}
