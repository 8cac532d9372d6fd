/// What Linux writes into files under /proc and /sys, read without touching them.
enum SystemText {
    /// `4096 131072 6291456`
    static func buffer(_ text: String) -> Machine.Kernel.Buffer? {
        let numbers = words(text).compactMap { Int($0) }
        guard numbers.count == 3 else { return nil }
        return Machine.Kernel.Buffer(least: numbers[0], first: numbers[1], most: numbers[2])
    }

    static func words(_ text: String) -> [String] {
        text.split(whereSeparator: \.isWhitespace).map(String.init)
    }

    static func integer(_ text: String) -> Int? { words(text).first.flatMap { Int($0) } }

    /// `32768 60999`
    static func range(_ text: String) -> ClosedRange<UInt16>? {
        let numbers = words(text).compactMap { UInt16($0) }
        guard numbers.count == 2, numbers[0] <= numbers[1] else { return nil }
        return numbers[0]...numbers[1]
    }

    /// `48148,48150-48165`, as of reserved ports and of processors.
    static func ranges(_ text: String) -> [ClosedRange<UInt16>] {
        text.split(whereSeparator: { $0 == "," || $0.isWhitespace }).compactMap { part in
            let ends = part.split(separator: "-").compactMap { UInt16($0) }
            guard let low = ends.first, let high = ends.last, low <= high else { return nil }
            return low...high
        }
    }

    /// The line `NAME:   value` of /proc/PID/status.
    static func field(_ name: String, of status: String) -> String? {
        status.split(separator: "\n").first { $0.hasPrefix("\(name):") }
            .map { String($0.dropFirst(name.count + 1).drop(while: \.isWhitespace)) }
    }

    /// A mask in hexadecimal, as of CapEff.
    static func hasBit(_ bit: Int, inMask text: String) -> Bool {
        UInt64(text, radix: 16).map { $0 >> UInt64(bit) & 1 == 1 } ?? false
    }

    /// A line of /proc/self/limits: name, soft limit, hard limit, unit.
    static func limit(_ name: String, of table: String) -> Machine.Limits.Limit? {
        guard let line = table.split(separator: "\n").first(where: { $0.hasPrefix(name) }) else { return nil }
        let values = words(String(line.dropFirst(name.count))).prefix(2)
            .compactMap { $0 == "unlimited" ? .max : UInt64($0) }
        return values.count == 2 ? Machine.Limits.Limit(soft: values[0], hard: values[1]) : nil
    }

    // MARK: - control groups, version 2

    /// Folders of this process' group and of those around it, the innermost first; empty where there is no version 2.
    /// `memberships` is /proc/self/cgroup, `mounts` /proc/self/mountinfo.
    static func controlGroups(memberships: String, mounts: String) -> [String] {
        guard let line = memberships.split(separator: "\n").first(where: { $0.hasPrefix("0::/") }),
            let mount = mounts.split(separator: "\n").first(where: { $0.contains(" - cgroup2 ") })
        else { return [] }
        let columns = words(String(mount))
        guard columns.count > 4 else { return [] }
        // A container may see only a part of the tree: what is above the root of the mount is out of its sight.
        var path = line.dropFirst(3)
        let root = columns[3]
        if root != "/", path.hasPrefix(root) { path = path.dropFirst(root.count) }
        var names = path.split(separator: "/").map(String.init)
        var folders: [String] = []
        while !names.isEmpty {
            folders.append(([columns[4]] + names).joined(separator: "/"))
            names.removeLast()
        }
        return folders + [columns[4]]
    }

    /// `200000 100000` of cpu.max, in processors; nil for `max 100000`.
    static func quota(_ text: String) -> Double? {
        let numbers = words(text).compactMap { Double($0) }
        guard numbers.count == 2, numbers[1] > 0 else { return nil }
        return numbers[0] / numbers[1]
    }
}
