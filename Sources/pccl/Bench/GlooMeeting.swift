/// Where the processes of gloo find each other when they are on several hosts: at a key-value store over TCP, which the
/// process of one peer serves.
struct GlooMeeting: Equatable {
    var store: HostAndPort
    /// The device that gloo is to use; nil leaves the choice to PyTorch, which looks up the host's own name.
    var interface: String?
    /// Whether this peer's process serves the store.
    var isServer = false

    /// PyTorch's own, where it is not told another one.
    static let usualPort: UInt16 = 29500

    /// In a laboratory everything is known. Elsewhere nobody can guess an address that the others reach: nil if none is
    /// given.
    init?(store: HostAndPort?, interface: String?, in lab: LabNode?) {
        guard let store = store ?? lab.map({ HostAndPort(host: $0.firstAddress, port: Self.usualPort) }) else {
            return nil
        }
        self.store = store
        self.interface = interface ?? lab?.interface
    }
}
