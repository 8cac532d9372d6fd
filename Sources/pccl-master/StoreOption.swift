import ArgumentParser

/// What `--store` says.
enum StoreOption: Equatable, ExpressibleByArgument {
    /// The journal, in this folder.
    case folder(String)
    case etcd(EtcdLocation)

    private static let fileScheme = "file:"

    init?(argument: String) {
        if let location = EtcdLocation(parsing: argument) {
            self = .etcd(location)
        } else if argument.hasPrefix(StoreOption.fileScheme) {
            var folder = argument.dropFirst(StoreOption.fileScheme.count)
            while folder.count > 1, folder.hasSuffix("/") { folder = folder.dropLast() }
            guard !folder.isEmpty else { return nil }
            self = .folder(String(folder))
        } else {
            return nil
        }
    }
}
