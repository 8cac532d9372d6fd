import CPCCL
import PCCL

@implementation @c
public func pcclCreateMaster(
    _ listenAddress: ccoip_socket_address_t, _ masterOut: UnsafeMutablePointer<OpaquePointer?>!
) -> pcclResult_t {
    result("pcclCreateMaster") { () throws(PCCLError) in
        let out = try required(masterOut, "p_master_handle_out")
        let master = try Master(listen: try SocketAddress(listenAddress))
        let pointer = Handles.pointer(to: master)
        Handles.masters.withLock { $0[pointer] = master }
        out.pointee = pointer
    }
}

@implementation @c
public func pcclRunMaster(_ masterInstance: OpaquePointer!) -> pcclResult_t {
    result("pcclRunMaster") { () throws(PCCLError) in try Handles.master(masterInstance).run() }
}

@implementation @c
public func pcclInterruptMaster(_ masterInstance: OpaquePointer!) -> pcclResult_t {
    result("pcclInterruptMaster") { () throws(PCCLError) in try Handles.master(masterInstance).interrupt() }
}

@implementation @c
public func pcclMasterAwaitTermination(_ masterInstance: OpaquePointer!) -> pcclResult_t {
    result("pcclMasterAwaitTermination") { () throws(PCCLError) in
        try Handles.master(masterInstance).awaitTermination()
    }
}

@implementation @c
public func pcclDestroyMaster(_ masterInstance: OpaquePointer!) -> pcclResult_t {
    result("pcclDestroyMaster") { () throws(PCCLError) in
        let master = try Handles.master(masterInstance)
        _ = Handles.masters.withLock { $0.removeValue(forKey: masterInstance) }
        master.destroy()
    }
}
