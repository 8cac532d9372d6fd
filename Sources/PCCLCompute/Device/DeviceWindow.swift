import CCUDA
import PCCLBase

/// Memory of a device that other processes of the host can read: their own process maps it from a descriptor. It is the
/// library's, never the caller's. Whoever maps it holds it: it is there until the last of them has let go, also when its maker
/// has died.
///
/// Nobody frees it while a device works with it.
package final class DeviceWindow: Sendable {
    package let address: UInt
    package let byteCount: Int
    /// Of the mapping, and of what is handed to others.
    private let location: DeviceLocation
    /// Nil where it came from another process.
    private let allocation: pccl_cuda_allocation?

    /// At least so many bytes, on the device of that memory.
    package init(byteCount: Int, at location: DeviceLocation) throws(DeviceError) {
        var properties = pccl_cuda_allocation_properties()
        properties.type = CInt(pccl_cuda_allocation_pinned)
        properties.handle_types = CInt(pccl_cuda_handle_descriptor)
        properties.location = DeviceWindow.place(location)
        let device = location.device
        var granule = 0
        try DeviceDriver.check(
            pccl_cuda_granularity(&granule, &properties, CInt(pccl_cuda_granularity_minimum)),
            "cuMemGetAllocationGranularity", device: device)
        let byteCount = (byteCount + granule - 1) / granule * granule
        var allocation: pccl_cuda_allocation = 0
        try DeviceDriver.check(
            pccl_cuda_create(&allocation, byteCount, &properties, 0), "cuMemCreate", device: device)
        do throws(DeviceError) {
            address = try DeviceWindow.map(allocation, byteCount, location, rights: [pccl_cuda_access_read_write])
        } catch {
            pccl_cuda_release(allocation)
            throw error
        }
        self.byteCount = byteCount
        self.location = location
        self.allocation = allocation
    }

    /// What another process has exported, for the device of that memory to read. The descriptor stays the caller's.
    package init(importing descriptor: CInt, byteCount: Int, at location: DeviceLocation) throws(DeviceError) {
        var allocation: pccl_cuda_allocation = 0
        try DeviceDriver.check(
            pccl_cuda_import_descriptor(
                &allocation, UnsafeMutableRawPointer(bitPattern: Int(descriptor)), CInt(pccl_cuda_handle_descriptor)),
            "cuMemImportFromShareableHandle", device: location.device)
        // The mapping holds it.
        defer { pccl_cuda_release(allocation) }
        // A driver that knows no rights but all gives all.
        address = try DeviceWindow.map(
            allocation, byteCount, location, rights: [pccl_cuda_access_read, pccl_cuda_access_read_write])
        self.byteCount = byteCount
        self.location = location
        self.allocation = nil
    }

    private static func place(_ location: DeviceLocation) -> pccl_cuda_location {
        pccl_cuda_location(type: CInt(pccl_cuda_location_device), ordinal: CInt(location.device))
    }

    /// With the first of these rights that the driver gives.
    private static func map(
        _ allocation: pccl_cuda_allocation, _ byteCount: Int, _ location: DeviceLocation, rights: [Int]
    ) throws(DeviceError) -> UInt {
        let device = location.device
        var address: pccl_cuda_pointer = 0
        try DeviceDriver.check(
            pccl_cuda_reserve(&address, byteCount, 0, 0, 0), "cuMemAddressReserve", device: device)
        do throws(DeviceError) {
            try DeviceDriver.check(pccl_cuda_map(address, byteCount, 0, allocation, 0), "cuMemMap", device: device)
        } catch {
            pccl_cuda_unreserve(address, byteCount)
            throw error
        }
        var code: CInt = 0
        for right in rights {
            var access = pccl_cuda_access(location: place(location), rights: CInt(right))
            code = pccl_cuda_set_access(address, byteCount, &access, 1)
            if code == pccl_cuda_success { return UInt(address) }
        }
        pccl_cuda_unmap(address, byteCount)
        pccl_cuda_unreserve(address, byteCount)
        throw DeviceError("cuMemSetAccess", code: code, device: device)
    }

    /// A new descriptor, for other processes to map it from; the caller's.
    package func export() throws(DeviceError) -> CInt {
        guard let allocation else {
            throw DeviceError("export", code: CInt(pccl_cuda_invalid_value), device: location.device)
        }
        var descriptor: CInt = -1
        try DeviceDriver.check(
            pccl_cuda_export_descriptor(&descriptor, allocation, CInt(pccl_cuda_handle_descriptor), 0),
            "cuMemExportToShareableHandle", device: location.device)
        return descriptor
    }

    deinit {
        pccl_cuda_unmap(pccl_cuda_pointer(address), byteCount)
        pccl_cuda_unreserve(pccl_cuda_pointer(address), byteCount)
        if let allocation { pccl_cuda_release(allocation) }
    }
}
