import PCCLTransport

/// What a process of this user may have.
extension Machine {
    var limitFindings: [Finding] {
        [descriptors, lockedMemory, threads, processors, memory].compactMap { $0 }
    }

    /// Beside those of links: the program's own, the master, the listener, the loop, files of snapshots.
    private static let otherDescriptors = 64

    private var descriptors: Finding? {
        guard let limit = limits.descriptors else { return nil }
        let perLink = LinkConfiguration().largestStripeCount
        let needed = UInt64((wishes.peers - 1) * perLink + Self.otherDescriptors)
        let text =
            "\(Self.text(limit.soft)): \(wishes.peers) peers with \(perLink) connections a link, the most there can be, "
            + "take \(needed)"
        if limit.soft >= needed { return .ok(.limits, "open files", text) }
        let commands =
            limit.hard >= needed
            ? ["ulimit -n \(Self.roundedUp(needed, atMost: limit.hard))"]
            : ["LimitNOFILE=65536 in the service's unit, or nofile in /etc/security/limits.conf"]
        // One connection to each, and somewhat for the program.
        if limit.soft < UInt64(wishes.peers + Self.otherDescriptors / 2) {
            return .fault(.limits, "open files", text, commands, brings: "links to all peers, which now cannot be made")
        }
        return .change(
            .limits, "open files", text, commands, brings: "links with as many connections as the way is worth")
    }

    private var lockedMemory: Finding? {
        guard let limit = limits.lockedBytes else { return nil }
        let text = limit.soft == .max ? "no limit" : Quantity.bytes(Double(limit.soft))
        guard gpu.isUsable, limit.soft != .max else {
            return .ok(.limits, "locked memory", "\(text): only memory that is pinned for a GPU would need more")
        }
        return .note(
            .limits, "locked memory",
            "\(text): the CUDA driver pins memory by itself, and is not known to count it here; what it refuses to pin is "
                + "copied slower",
            ["ulimit -l unlimited"], brings: "of use only if the log says that memory cannot be pinned")
    }

    /// Those of the library are few: one a communicator, and while hashing one for each processor. A training program's are
    /// many.
    private static let usualThreads = 256

    private var threads: Finding? {
        let byUser = limits.processes.map { $0.soft == .max ? Int.max : Int(clamping: $0.soft) } ?? .max
        let byGroup = limits.threadsAllowed.map { max(0, $0 - (limits.threadsPresent ?? 0)) } ?? .max
        let allowed = min(byUser, byGroup)
        let limit = byGroup < byUser ? "left by the control group's pids.max" : "for this user"
        guard allowed < Self.usualThreads else {
            return .ok(.limits, "threads", (allowed == .max ? "no limit" : "\(allowed) \(limit)") + ": enough")
        }
        let command =
            byGroup < byUser
            ? "docker run --pids-limit 4096 ..., or TasksMax=4096 in the service's unit" : "ulimit -u 4096"
        return .change(
            .limits, "threads",
            "\(allowed) \(limit): the library starts one a communicator and, to hash, one for each of "
                + "\(limits.processorsAllowed) processors; programs that train start many",
            [command], brings: "no call that fails because a thread cannot be started")
    }

    private var processors: Finding? {
        let allowed = limits.processorsAllowed
        let found = allowed == limits.processors ? "\(allowed)" : "\(allowed) of \(limits.processors)"
        if let quota = limits.processorQuota, quota < Double(allowed) {
            return .note(
                .limits, "processors",
                "\(found), of whose time a control group allows \(fixed(quota, 2)): a process that has used its share is "
                    + "stopped for the rest of a tenth of a second, with its links",
                ["docker run --cpus \(allowed) ..., or CPUQuota= in the service's unit"],
                brings: "no pauses while the program computes; give each peer what it computes with and one more")
        }
        let isOne = allowed == 1
        return isOne
            ? .note(.limits, "processors", "\(found): a peer's loop and its program take turns")
            : .ok(.limits, "processors", found)
    }

    private static let littleMemory = 1 << 30

    private var memory: Finding? {
        guard let bytes = limits.memoryBytes else { return nil }
        let total = Quantity.bytes(Double(bytes))
        guard let limit = limits.memoryLimitBytes else {
            return .ok(.limits, "memory", "\(total), no limit by a control group of version 2")
        }
        let left = max(0, limit - (limits.memoryUsedBytes ?? 0))
        let text =
            "\(total), of which a control group allows \(Quantity.bytes(Double(limit))), "
            + "\(Quantity.bytes(Double(left))) thereof unused"
        guard left < Self.littleMemory else { return .ok(.limits, "memory", text) }
        return .change(
            .limits, "memory", text + ": who exceeds it is killed, and lost to the others",
            ["docker run --memory ..., or MemoryMax= in the service's unit"],
            brings: "room for buffers and for what is on its way")
    }

    private static func text(_ limit: UInt64) -> String { limit == .max ? "no limit" : "\(limit)" }

    /// To what people write.
    private static func roundedUp(_ value: UInt64, atMost limit: UInt64) -> UInt64 {
        var power: UInt64 = 1024
        while power < value { power *= 2 }
        return min(power, limit)
    }
}
