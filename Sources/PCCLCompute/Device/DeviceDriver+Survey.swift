import CCUDA

extension DeviceDriver {
    /// What there is of a driver, for a tool that tells people about it.
    package struct Survey: Hashable, Sendable {
        package enum State: String, CaseIterable, Sendable {
            case ready, noDriver, tooOld, initialisationFailed, noDevice, forked
        }
        package var state: State
        /// Nil: it can be used.
        package var obstacle: String?
        /// 12040 is 12.4; 0 where there is none.
        package var version: Int
        /// Of those that can be used, by their numbers.
        package var deviceNames: [String]
        package init(state: State, obstacle: String?, version: Int, deviceNames: [String]) {
            self.state = state
            self.obstacle = obstacle
            self.version = version
            self.deviceNames = deviceNames
        }
    }

    /// Loads and initialises it, unless that was done.
    package static var survey: Survey {
        let native = pccl_cuda_load()
        let state: Survey.State =
            switch native.state {
            case pccl_cuda_ready: .ready
            case pccl_cuda_no_driver: .noDriver
            case pccl_cuda_too_old: .tooOld
            case pccl_cuda_no_device: .noDevice
            case pccl_cuda_forked: .forked
            default: .initialisationFailed  // C's enums are open.
            }
        let names = state == .ready ? (0..<native.device_count).map(name(ofDevice:)) : []
        let status = status
        return Survey(state: state, obstacle: status.obstacle, version: status.version, deviceNames: names)
    }

    private static func name(ofDevice ordinal: CInt) -> String {
        var device: pccl_cuda_device = 0
        var text = [CChar](repeating: 0, count: 128)
        guard pccl_cuda_device_get(&device, ordinal) == pccl_cuda_success,
            pccl_cuda_device_name(&text, CInt(text.count), device) == pccl_cuda_success
        else { return "a device without a name" }
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
