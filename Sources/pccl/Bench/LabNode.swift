import Glibc

/// This process' place in a laboratory of `pccl wanlab`.
struct LabNode: Equatable {
    let number: Int
    /// Of node 0.
    let firstAddress: String
    let interface: String

    /// Nil outside of a laboratory.
    init?(environment value: (String) -> String?) {
        guard let number = value("PCCL_LAB_NODE").flatMap({ Int($0) }),
            let master = value("PCCL_LAB_MASTER").flatMap({ HostAndPort(parsing: $0) }),
            let interface = value("PCCL_LAB_INTERFACE")
        else { return nil }
        self.number = number
        firstAddress = master.host
        self.interface = interface
    }

    static var current: LabNode? { LabNode { name in getenv(name).map { String(cString: $0) } } }
}
