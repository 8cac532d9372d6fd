import CPCCL
import PCCL

@implementation @c
public func pcclSaveSharedState(
    _ state: UnsafePointer<pcclSharedState_t>!, _ directory: UnsafePointer<CChar>!,
    _ options: UnsafePointer<pcclSaveOptions_t>?, _ snapshotOut: UnsafeMutablePointer<OpaquePointer?>?
) -> pcclResult_t {
    result("pcclSaveSharedState") { () throws(PCCLError) in
        var shared = try SharedState(try required(state, "state").pointee)
        let directory = try path(directory)
        let options = try PCCLABI.options(options, pcclSaveOptions_t())
        guard options.foreground <= 1 else {
            throw PCCLError(.invalidArgument, "foreground is \(options.foreground); it is 0 or 1")
        }
        if let shapes = options.shapes {
            for index in shared.entries.indices { shared.entries[index].shape = try extents(shapes[index], index) }
        }
        let snapshot = try shared.save(
            to: directory, keep: options.keep == 0 ? nil : Int(options.keep), inBackground: options.foreground == 0)
        guard let snapshotOut else { return }
        let pointer = Handles.pointer(to: snapshot)
        Handles.snapshots.withLock { $0[pointer] = snapshot }
        snapshotOut.pointee = pointer
    }
}

@implementation @c
public func pcclAwaitSnapshot(_ snapshot: OpaquePointer!) -> pcclResult_t {
    result("pcclAwaitSnapshot") { () throws(PCCLError) in
        guard let snapshot else { throw PCCLError(.invalidArgument, "the snapshot is null") }
        guard let object = Handles.snapshots.withLock({ $0.removeValue(forKey: snapshot) }) else {
            throw PCCLError(.invalidArgument, "the snapshot was awaited, or never begun")
        }
        try object.wait()
    }
}

@implementation @c
public func pcclLoadSharedState(
    _ directory: UnsafePointer<CChar>!, _ state: UnsafeMutablePointer<pcclSharedState_t>!
) -> pcclResult_t {
    result("pcclLoadSharedState") { () throws(PCCLError) in
        let given = try required(state, "state")
        var shared = try SharedState(given.pointee)
        try shared.load(from: try path(directory))
        given.pointee.revision = shared.revision
    }
}

private func path(_ directory: UnsafePointer<CChar>?) throws(PCCLError) -> String {
    guard let path = String(validatingCString: try required(directory, "directory")) else {
        throw PCCLError(.invalidArgument, "the directory's name is not UTF-8")
    }
    return path
}

private func extents(_ shape: pcclShape_t, _ index: Int) throws(PCCLError) -> [Int]? {
    guard let extents = shape.extents else { return nil }
    // More dimensions than any program has, and fewer than would be read from a structure that was not set.
    guard (0...64).contains(shape.rank) else {
        throw PCCLError(
            .invalidArgument,
            "the shape of entry \(index) has \(UInt(bitPattern: shape.rank)) dimensions; 64 are possible")
    }
    var values: [Int] = []
    for dimension in 0..<shape.rank {
        guard let extent = Int(exactly: extents[dimension]) else {
            throw PCCLError(.invalidArgument, "the shape of entry \(index) has the extent \(extents[dimension])")
        }
        values.append(extent)
    }
    return values
}
