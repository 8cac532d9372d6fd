import PCCLBase
import PCCLTransport

/// What the environment may set, read once. docs/operations.md lists the same variables.
package struct Environment: Sendable {
    /// `PCCL_TIMEOUT`: the dead time in seconds, between 0.1 and 3600. `PCCL_MASTER_GRACE`: how long members wait for a
    /// master that is gone, in seconds; six dead times if it is not set. `PCCL_STRAGGLER_DEADLINE`: after how many seconds a
    /// member that others wait for is lost; never if it is not set.
    package var timeouts = Timeouts.standard
    /// `PCCL_MASTERS`: HOST:PORT, separated by commas; where masters are besides the one that the program names.
    package var masters: [(host: String, port: UInt16)] = []
    /// `PCCL_PORT_BASE`: the first port tried for connections from other peers.
    package var portBase: UInt16 = 48150
    /// `PCCL_ADVERTISE`: where other peers are to dial, ADDRESS or ADDRESS:PORT, separated by commas. Port 0: the port that
    /// this peer listens at.
    package var advertised: [SocketAddress] = []
    /// `PCCL_INTERFACE`: whose addresses are told to other peers.
    package var interfaces: NetworkInterfaces.Choice?
    /// `PCCL_ALGORITHM`: auto, oneshot, direct, ring or twolevel. All peers of a group must agree.
    package var algorithm: Algorithm?

    /// `PCCL_DEVICE_WINDOW`: how much of a device's memory is for what peers of one host do together, in MiB; 0: none. Nil:
    /// as much as is usual.
    package var deviceWindowBytes: Int?
    /// `PCCL_DEVICE_ROUND`: how much of a buffer they go through at once, in KiB. All of them must agree.
    package var deviceRoundBytes: Int?
    /// `PCCL_DEVICE_PIECE`: how much of a buffer is copied between a device and the host at once, in KiB.
    package var devicePieceBytes: Int?

    /// `PCCL_STATE_HASH`: xxh3 or sha256. All peers of a group must agree.
    package var stateHash = HashFunction.xxh3

    /// `PCCL_TRANSPORT`: auto, tcp or shm; `PCCL_CONGESTION`: a congestion control of the kernel; `PCCL_CHECKSUM`: 0 for links
    /// without checksums.
    package var links = LinkConfiguration()

    /// `PCCL_KEYS`: a folder with certificates. `PCCL_TOKEN`, `PCCL_TOKEN_FILE`: the join token, or where it is.
    private var keys: String?
    private var token: String?
    private var tokenFile: String?

    /// `PCCL_RECORDER`: KiB of memory for the flight recorder of each communicator, 0 for none; `PCCL_RECORDER_DIR`: where it is
    /// written to when something fails; `PCCL_RECORDER_SIGNAL`: USR1 or USR2, upon which it is.
    package var recorder = RecorderConfiguration()

    package static let process = Environment()

    /// `onProblem` is told of each value that is none, and what is taken in its place.
    package init(
        reading environment: (String) -> String? = environment,
        onProblem: (String) -> Void = { Log.write(.error, $0) }
    ) {
        if let text = environment("PCCL_TIMEOUT") {
            if let seconds = Double(text), (0.1...3600).contains(seconds) {
                timeouts = Timeouts(
                    deadTime: .seconds(seconds), masterGrace: Timeouts.masterGrace(deadTime: .seconds(seconds)))
            } else {
                onProblem("PCCL_TIMEOUT=\(text) is not a number of seconds from 0.1 to 3600; 5 is used")
            }
        }
        if let text = environment("PCCL_MASTER_GRACE") {
            if let seconds = Double(text), (0...86_400).contains(seconds) {
                timeouts = Timeouts(deadTime: timeouts.deadTime, masterGrace: .seconds(seconds))
            } else {
                onProblem(
                    "PCCL_MASTER_GRACE=\(text) is not a number of seconds from 0 to 86400; "
                        + "\(timeouts.masterGrace.seconds) is used")
            }
        }
        if let text = environment("PCCL_STRAGGLER_DEADLINE") {
            if let seconds = Double(text), (0...86_400).contains(seconds) {
                timeouts = Timeouts(
                    deadTime: timeouts.deadTime, masterGrace: timeouts.masterGrace, stragglerDeadline: .seconds(seconds)
                )
            } else {
                onProblem(
                    "PCCL_STRAGGLER_DEADLINE=\(text) is not a number of seconds from 0 to 86400; nobody is lost for being late"
                )
            }
        }
        if let text = environment("PCCL_PORT_BASE") {
            if let port = UInt16(text), port > 0 {
                portBase = port
            } else {
                onProblem("PCCL_PORT_BASE=\(text) is not a port; \(portBase) is used")
            }
        }
        if let text = environment("PCCL_MASTERS") {
            for part in text.split(separator: ",") {
                if let master = Environment.hostAndPort(part) {
                    masters.append(master)
                } else {
                    onProblem("PCCL_MASTERS: \(part) is not HOST:PORT; it is left out")
                }
            }
        }
        if let text = environment("PCCL_ADVERTISE") {
            for part in text.split(separator: ",") {
                if let address = SocketAddress(numeric: String(part)) {
                    advertised.append(address)
                } else {
                    onProblem("PCCL_ADVERTISE: \(part) is neither ADDRESS nor ADDRESS:PORT; it is left out")
                }
            }
        }
        if let text = environment("PCCL_INTERFACE") {
            interfaces = NetworkInterfaces.Choice(text)
            if interfaces == nil { onProblem("PCCL_INTERFACE=\(text) names no interface; all are used") }
        }
        links.sharing = .ifPossible
        if let text = environment("PCCL_TRANSPORT") {
            switch text {
            case "auto": break
            case "tcp": links.sharing = .never
            case "shm": links.sharing = .always
            default: onProblem("PCCL_TRANSPORT=\(text) is none of auto, tcp, shm; auto is used")
            }
        }
        links.congestionControl = environment("PCCL_CONGESTION")
        links.isSummed = true
        if let text = environment("PCCL_CHECKSUM") {
            switch text {
            case "1", "on": break
            case "0", "off": links.isSummed = false
            default: onProblem("PCCL_CHECKSUM=\(text) is neither 0 nor 1; checksums are sent")
            }
        }
        if let text = environment("PCCL_DEVICE_WINDOW") {
            if let mebibytes = Int(text), (0...(1 << 20)).contains(mebibytes) {
                deviceWindowBytes = mebibytes << 20
            } else {
                onProblem("PCCL_DEVICE_WINDOW=\(text) is not a number of MiB; what is usual is taken")
            }
        }
        func kibibytes(_ name: String) -> Int? {
            guard let text = environment(name) else { return nil }
            if let count = Int(text), (1...(1 << 20)).contains(count) { return count << 10 }
            onProblem("\(name)=\(text) is not a number of KiB from 1 on; what is usual is taken")
            return nil
        }
        deviceRoundBytes = kibibytes("PCCL_DEVICE_ROUND")
        devicePieceBytes = kibibytes("PCCL_DEVICE_PIECE")
        recorder = RecorderConfiguration(reading: environment, onProblem: onProblem)
        if let text = environment("PCCL_STATE_HASH") {
            switch text {
            case "xxh3": stateHash = .xxh3
            case "sha256": stateHash = .sha256
            default: onProblem("PCCL_STATE_HASH=\(text) is neither xxh3 nor sha256; xxh3 is used")
            }
        }
        keys = environment("PCCL_KEYS")
        token = environment("PCCL_TOKEN")
        tokenFile = environment("PCCL_TOKEN_FILE")
        if let text = environment("PCCL_ALGORITHM") {
            switch text {
            case "auto": break
            case "oneshot": algorithm = .oneShot
            case "direct": algorithm = .direct
            case "ring": algorithm = .ring
            case "twolevel": algorithm = .twoLevel
            default:
                onProblem(
                    "PCCL_ALGORITHM=\(text) is none of auto, oneshot, direct, ring, twolevel; auto is used")
            }
        }
    }

    /// What this process shows and asks for: what is given here, else what the environment names. Read anew each time. What was
    /// named and cannot be used is an error, never a reason to do without.
    package func credentials(
        keys: String? = nil, token: String? = nil, tokenFile: String? = nil
    ) throws(Credentials.Problem) -> Credentials {
        let isTokenGiven = token != nil || tokenFile != nil
        return try Credentials(
            keys: keys ?? self.keys, token: isTokenGiven ? token : self.token,
            tokenFile: isTokenGiven ? tokenFile : self.tokenFile)
    }

    /// IPv6 addresses stand in brackets.
    private static func hostAndPort(_ text: Substring) -> (host: String, port: UInt16)? {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]), port > 0 else {
            return nil
        }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            return nil
        }
        return host.isEmpty ? nil : (String(host), port)
    }
}
