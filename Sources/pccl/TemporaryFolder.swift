import Glibc

/// A folder of this process' own, in `TMPDIR` or `/tmp`. Nil: see `errno`.
func makeTemporaryFolder(_ name: String) -> String? {
    let parent = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
    guard let template = strdup("\(parent)/\(name).XXXXXX") else { return nil }
    defer { free(template) }
    return mkdtemp(template).map { String(cString: $0) }
}
