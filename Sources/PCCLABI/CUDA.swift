import CPCCL
import PCCL

@implementation @c
public func pcclGetCudaStatus(_ statusOut: UnsafeMutablePointer<pcclCudaStatus_t>!) -> pcclResult_t {
    result("pcclGetCudaStatus") { () throws(PCCLError) in
        let out = try required(statusOut, "status_out")
        let status = CUDAStatus.current
        var native = pcclCudaStatus_t()
        native.is_ready = status.obstacle == nil
        native.driver_version = Int32(clamping: status.driverVersion)
        native.device_count = Int32(clamping: status.deviceCount)
        withUnsafeMutableBytes(of: &native.reason) { reason in
            // The last byte stays 0.
            for (place, byte) in zip(reason.indices.dropLast(), (status.obstacle ?? "").utf8) { reason[place] = byte }
        }
        out.pointee = native
    }
}
