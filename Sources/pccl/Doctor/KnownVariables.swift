/// Variables of the environment whose names begin with PCCL, and what a name that is none of them may be meant to be.
enum KnownVariables {
    /// docs/operations.md has the same, which a test compares.
    static let ofTheLibrary = [
        "PCCL_LOG_LEVEL", "PCCL_TIMEOUT", "PCCL_MASTER_GRACE", "PCCL_STRAGGLER_DEADLINE", "PCCL_PORT_BASE",
        "PCCL_ALGORITHM", "PCCL_ADVERTISE", "PCCL_STATE_HASH", "PCCL_INTERFACE", "PCCL_TRANSPORT", "PCCL_MASTER",
        "PCCL_MASTERS", "PCCL_CHECKSUM", "PCCL_KEYS", "PCCL_TOKEN", "PCCL_TOKEN_FILE", "PCCL_LIBCUDA",
        "PCCL_CONGESTION", "PCCL_DEVICE_WINDOW", "PCCL_DEVICE_ROUND", "PCCL_DEVICE_PIECE", "PCCL_RECORDER",
        "PCCL_RECORDER_DIR", "PCCL_RECORDER_SIGNAL",
    ]

    /// Of the Python package, of `pccl wanlab`, of builds and tests. Whoever sets these knows why.
    private static let ofOthers = ["PCCL_LIBRARY", "PCCL_PLAIN_KERNELS", "PCCL_LAB_", "PCCL_TEST_", "PCCL_FUZZ_"]

    enum Standing: Equatable {
        case ofTheLibrary
        case ofOthers
        case unknown(nearest: String?)
    }

    static func standing(of name: String) -> Standing {
        if ofTheLibrary.contains(name) { return .ofTheLibrary }
        if ofOthers.contains(where: { $0.hasSuffix("_") ? name.hasPrefix($0) : name == $0 }) { return .ofOthers }
        return .unknown(nearest: nearest(to: name))
    }

    /// A third of the letters may be wrong, missing or too many; else it is something else that was meant.
    static func nearest(to name: String) -> String? {
        let upper = name.uppercased()
        let ranked = ofTheLibrary.map { ($0, distance(letters(upper), letters($0))) }
        guard let best = ranked.min(by: { $0.1 < $1.1 }) else { return nil }
        return best.1 <= max(2, letters(best.0).count / 3) ? best.0 : nil
    }

    /// What all have in common is left out, with or without its underline: PCCLTIMEOUT.
    private static func letters(_ name: String) -> [Character] {
        Array(name.hasPrefix("PCCL") ? name.dropFirst(4).drop { $0 == "_" } : name[...])
    }

    /// After Levenshtein: the least number of letters to be put in, left out or changed.
    static func distance(_ a: [Character], _ b: [Character]) -> Int {
        var row = Array(0...b.count)
        for (i, left) in a.enumerated() {
            var diagonal = row[0]
            row[0] = i + 1
            for (j, right) in b.enumerated() {
                let changed = diagonal + (left == right ? 0 : 1)
                diagonal = row[j + 1]
                row[j + 1] = min(changed, row[j] + 1, diagonal + 1)
            }
        }
        return row[b.count]
    }
}
