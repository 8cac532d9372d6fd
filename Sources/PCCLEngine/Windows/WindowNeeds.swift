import PCCLBase
import PCCLCompute
import PCCLSchedule

/// How an operation would go through windows, and the memory of a device that it takes for that.
struct WindowNeeds {
    let plan: WindowPlan
    let isInPlace: Bool
    let regionBytes: Int
    /// For what is overwritten and does not stay in the region: in place, and in more rounds than may be under way at once.
    let asideBytes: Int

    /// Nil where it goes through the host in any case.
    init?(_ descriptor: OperationDescriptor, _ buffers: ReduceBuffers, _ place: Place, roundBytes: Int) {
        isInPlace = buffers.isInPlace(descriptor, place)
        guard descriptor.codec == .none,
            let plan = WindowPlan(
                descriptor.collective, count: Int(descriptor.count), elementBytes: descriptor.type.byteCount,
                rank: place.rank, worldSize: place.worldSize, isInPlace: isInPlace, roundBytes: roundBytes)
        else { return nil }
        self.plan = plan
        // Behind what the plan has there is room, in each half, for the addresses that a kernel is given.
        regionBytes = plan.regionBytes + plan.halves * WindowNeeds.tableBytes(place.worldSize)
        let overwrites = plan.folds && isInPlace && plan.roundCount > plan.halves
        asideBytes = overwrites ? Int(descriptor.byteCount) : 0
    }

    static func tableBytes(_ worldSize: Int) -> Int {
        let bytes = worldSize * MemoryLayout<UInt64>.stride
        return (bytes + WindowPlan.grain - 1) / WindowPlan.grain * WindowPlan.grain
    }
}

/// What there is of it now, for whoever is about to launch: what finds no room is copied to the host by the thread that
/// launches it, and not by the loop's, for which others wait.
package struct WindowRoom: Sendable {
    var location: DeviceLocation
    var regionBytes: Int
    var asideBytes: Int
    var roundBytes: Int

    package func suits(
        _ descriptor: OperationDescriptor, _ buffers: ReduceBuffers, rank: Int, worldSize: Int
    ) -> Bool {
        let place = Place(epoch: .none, members: Array(repeating: PeerID(0), count: worldSize), rank: rank)
        guard buffers.device?.location?.isSameContext(as: location) ?? false,
            let needs = WindowNeeds(descriptor, buffers, place, roundBytes: roundBytes)
        else { return false }
        return needs.regionBytes <= regionBytes && needs.asideBytes <= asideBytes
    }
}
