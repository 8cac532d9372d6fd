import PCCLCompute

/// What the CUDA driver of this process can be used for.
public struct CUDAStatus: Hashable, Sendable {
    /// Why buffers cannot lie in the memory of a device; nil: they can.
    public let obstacle: String?
    /// As the driver writes it: 12040 for 12.4. 0 where there is none.
    public let driverVersion: Int
    public let deviceCount: Int

    /// Loads and initialises the driver, unless that was done. Nothing else of the library does so but `DeviceBuffer`: buffers
    /// of a device are recognised once the program itself uses the driver.
    public static var current: CUDAStatus {
        let status = DeviceDriver.status
        return CUDAStatus(
            obstacle: status.obstacle, driverVersion: status.version, deviceCount: status.deviceCount)
    }
}
