import CPCCL
import CShims
import PCCL
import PCCLTransport

/// The objects behind the opaque pointers of the header. A pointer is looked up before it is used, so that one that was
/// destroyed, or never made, is an error and not a crash.
enum Handles {
    static let communicators = Guarded<[OpaquePointer: Communicator]>([:])
    static let masters = Guarded<[OpaquePointer: Master]>([:])
    static let snapshots = Guarded<[OpaquePointer: Snapshot]>([:])
    static let isInitialized = Guarded(false)

    /// The address of the object serves as its name: unique while the object lives, which the table sees to.
    static func pointer(to object: AnyObject) -> OpaquePointer {
        OpaquePointer(Unmanaged.passUnretained(object).toOpaque())
    }

    static func communicator(_ pointer: OpaquePointer?) throws(PCCLError) -> Communicator {
        guard isInitialized.withLock({ $0 }) else {
            throw PCCLError(.notInitialized, "pcclInit was not called")
        }
        guard let pointer else { throw PCCLError(.invalidArgument, "the communicator is null") }
        guard let communicator = communicators.withLock({ $0[pointer] }) else {
            throw PCCLError(.invalidArgument, "the communicator was destroyed, or never created")
        }
        return communicator
    }

    static func master(_ pointer: OpaquePointer?) throws(PCCLError) -> Master {
        guard let pointer else { throw PCCLError(.invalidArgument, "the master instance is null") }
        guard let master = masters.withLock({ $0[pointer] }) else {
            throw PCCLError(.invalidArgument, "the master instance was destroyed, or never created")
        }
        return master
    }
}

/// Runs one function of the header: errors become result codes, a text that the thread may ask for, and a line in the log.
func result(_ name: StaticString, _ body: () throws(PCCLError) -> Void) -> pcclResult_t {
    do {
        try body()
        return pcclSuccess
    } catch {
        // Whoever is alone may ask again and again, and is told by the code alone.
        let text = "\(name): \(error.reason)"
        Log.write(error.code == .tooFewPeers ? .debug : .warning, text)
        pccl_shim_set_thread_text(text)
        return pcclResult_t(error.code)
    }
}

@implementation @c
public func pcclGetErrorText(_ textOut: UnsafeMutablePointer<UnsafePointer<CChar>?>!) -> pcclResult_t {
    result("pcclGetErrorText") { () throws(PCCLError) in
        try required(textOut, "text_out").pointee = pccl_shim_thread_text()
    }
}

extension pcclResult_t {
    init(_ code: PCCLError.Code) {
        switch code {
        case .notInitialized: self = pcclNotInitialized
        case .internalError: self = pcclInternalError
        case .invalidArgument: self = pcclInvalidArgument
        case .invalidUsage: self = pcclInvalidUsage
        case .tooFewPeers: self = pcclTooFewPeers
        case .masterConnectionFailed: self = pcclMasterConnectionFailed
        case .rankConnectionFailed: self = pcclRankConnectionFailed
        case .rankConnectionLost: self = pcclRankConnectionLost
        case .noSharedStateAvailable: self = pcclNoSharedStateAvailable
        case .pendingAsyncOps: self = pcclPendingAsyncOps
        case .updateTopologyFailed: self = pcclUpdateTopologyFailed
        case .topologyOptimizationFailed: self = pcclTopologyOptimizationFailed
        }
    }
}

/// An argument that may not be null.
func required<T>(_ pointer: T?, _ name: StaticString) throws(PCCLError) -> T {
    guard let pointer else { throw PCCLError(.invalidArgument, "\(name) is null") }
    return pointer
}

/// Of options whose struct may be that of an older release, and shorter. `known` is what is not given; its first member
/// is the size of the struct.
func options<T>(_ given: UnsafePointer<T>?, _ known: T) throws(PCCLError) -> T {
    guard let given else { return known }
    let size = UnsafeRawPointer(given).loadUnaligned(as: Int.self)
    guard size >= MemoryLayout<Int>.size, size <= 1 << 16 else {
        throw PCCLError(
            .invalidArgument, "struct_size of the options is \(UInt(bitPattern: size)); set it to their size")
    }
    var known = known
    let bytes = UnsafeRawBufferPointer(start: given, count: size)
    let isLater = withUnsafeMutableBytes(of: &known) { known in
        known.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes.prefix(known.count)))
        return bytes.dropFirst(known.count).contains { $0 != 0 }
    }
    guard !isLater else { throw PCCLError.laterRelease }
    return known
}

extension PCCLError {
    static let laterRelease = PCCLError(.invalidArgument, "the options have something of a later release")
}

extension SocketAddress {
    init(_ address: ccoip_socket_address_t) throws(PCCLError) {
        switch address.inet.protocol {
        case inetIPv4:
            let bytes = address.inet.ipv4.data
            let bits = [bytes.0, bytes.1, bytes.2, bytes.3].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
            self.init(.v4(bits), port: address.port)
        case inetIPv6:
            let halves = withUnsafeBytes(of: address.inet.ipv6.data) {
                (
                    UInt64(bigEndian: $0.loadUnaligned(as: UInt64.self)),
                    UInt64(bigEndian: $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
                )
            }
            self.init(.v6(high: halves.0, low: halves.1), port: address.port)
        default:
            throw PCCLError(.invalidArgument, "\(address.inet.protocol.rawValue) is no address protocol")
        }
    }
}
