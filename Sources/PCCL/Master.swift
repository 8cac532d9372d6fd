import PCCLBase
import PCCLMembership
import PCCLSession
import PCCLTransport

/// A master inside this process: admits, evicts and arbitrates; takes no part in reductions. The daemon `pccl-master` is
/// this and a command line.
///
/// Any thread may call any method. Its life goes one way: made, running, ended.
public final class Master: Sendable {
    private enum State: Sendable {
        case made
        case running(MasterSession)
        case ended(MasterSession?)
    }
    private let listenAddress: SocketAddress
    private let timeouts: Timeouts
    private let makeStore: @Sendable () throws(PCCLError) -> (any MasterStore)?
    private let security: (keys: String?, token: String?, tokenFile: String?)
    private let state = Guarded(State.made)

    /// Port 0 takes a free one. `::` listens on all addresses of both families. Binds nothing yet.
    ///
    /// `journal`: a file in which it keeps who belongs to the run, so that a master that is started anew with it goes on
    /// where the last one ended; made if it is not there. Without one a new master takes over what its peers report.
    ///
    /// `keys`, `joinToken`: what it shows to peers and asks them for, as for a `Communicator`; nil: what the environment names.
    public convenience init(
        listen address: SocketAddress, journal: String? = nil, keys: String? = nil, joinToken: String? = nil
    ) throws(PCCLError) {
        self.init(
            listen: address, journal: journal, timeouts: Environment.process.timeouts, keys: keys, joinToken: joinToken)
    }

    package convenience init(
        listen address: SocketAddress, journal: String? = nil, timeouts: Timeouts = Environment.process.timeouts,
        keys: String? = nil, joinToken: String? = nil, tokenFile: String? = nil
    ) {
        self.init(listen: address, timeouts: timeouts, keys: keys, joinToken: joinToken, tokenFile: tokenFile) {
            () throws(PCCLError) in
            guard let journal else { return nil }
            do throws(MasterJournal.Problem) {
                return try MasterJournal(at: journal)
            } catch {
                throw PCCLError(.invalidUsage, error.description)
            }
        }
    }

    /// `makeStore` is called once, by `run`.
    package init(
        listen address: SocketAddress, timeouts: Timeouts = Environment.process.timeouts, keys: String? = nil,
        joinToken: String? = nil, tokenFile: String? = nil,
        makeStore: @escaping @Sendable () throws(PCCLError) -> (any MasterStore)?
    ) {
        security = (keys, joinToken, tokenFile)
        listenAddress = address
        self.makeStore = makeStore
        self.timeouts = timeouts
    }

    deinit { destroy() }

    /// Binds and serves on a thread of its own; returns at once. Throws `.invalidUsage` when the address cannot be bound
    /// (the reason says why), when the journal is another master's, or no journal, or cannot be read, or when it was run
    /// before; `.invalidArgument` when keys or the token cannot be used.
    public func run() throws(PCCLError) {
        let failure: PCCLError? = state.withLock { state -> PCCLError? in
            guard case .made = state else { return PCCLError(.invalidUsage, "the master was run before") }
            let credentials: Credentials
            do throws(Credentials.Problem) {
                credentials = try Environment.process.credentials(
                    keys: security.keys, token: security.token, tokenFile: security.tokenFile)
            } catch {
                return PCCLError(.invalidArgument, error.description)
            }
            let store: (any MasterStore)?
            do throws(PCCLError) {
                store = try makeStore()
            } catch {
                return error
            }
            do throws(SystemError) {
                state = .running(
                    try MasterSession(
                        listen: listenAddress, timeouts: timeouts, journal: store, credentials: credentials))
                return nil
            } catch {
                return PCCLError(.invalidUsage, error.description)
            }
        }
        if let failure { throw failure }
    }

    /// The port it listens on: the real one after `run`.
    public var port: UInt16 { address.port }
    public var address: SocketAddress {
        state.withLock { state in
            switch state {
            case .made, .ended(nil): listenAddress
            case .running(let session), .ended(.some(let session)): session.address
            }
        }
    }

    /// Ends the master: its peers lose it, port and journal are free when this returns. Again: nothing happens. Throws
    /// `.invalidUsage` before `run`.
    public func interrupt() throws(PCCLError) {
        guard let session = try started() else { return }
        session.close()
        state.withLock { $0 = .ended(session) }
    }

    /// Blocks until it has ended. Throws `.invalidUsage` before `run`.
    public func awaitTermination() throws(PCCLError) { try started()?.awaitEnd() }

    /// Ends it if it runs.
    public func destroy() {
        let session: MasterSession? = state.withLock { state in
            switch state {
            case .made:
                state = .ended(nil)
                return nil
            case .running(let session):
                state = .ended(session)
                return session
            case .ended: return nil
            }
        }
        session?.close()
    }

    /// Shows its state to somebody who watches: see `MasterSession.inspect`. False: it does not run.
    package func inspect(_ look: @escaping @Sendable (MasterMachine?, MasterStanding) -> Void) -> Bool {
        let session: MasterSession? = state.withLock { state in
            if case .running(let session) = state { session } else { nil }
        }
        return session?.inspect(look) ?? false
    }

    private func started() throws(PCCLError) -> MasterSession? {
        let current = state.withLock { $0 }
        switch current {
        case .made: throw PCCLError(.invalidUsage, "the master was not run yet")
        case .running(let session): return session
        case .ended(let session): return session
        }
    }
}
