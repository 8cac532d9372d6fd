import CPCCL
import PCCL

@implementation @c
public func pcclCreateMaster(
    _ listen_address: ccoip_socket_address_t, _ p_master_handle_out: UnsafeMutablePointer<OpaquePointer?>!
) -> pcclResult_t {
    result("pcclCreateMaster") { () throws(PCCLError) in
        let out = try required(p_master_handle_out, "p_master_handle_out")
        let master = try Master(listen: try SocketAddress(listen_address))
        let pointer = Handles.pointer(to: master)
        Handles.masters.withLock { $0[pointer] = master }
        out.pointee = pointer
    }
}

@implementation @c
public func pcclRunMaster(_ master_instance: OpaquePointer!) -> pcclResult_t {
    result("pcclRunMaster") { () throws(PCCLError) in try Handles.master(master_instance).run() }
}

@implementation @c
public func pcclInterruptMaster(_ master_instance: OpaquePointer!) -> pcclResult_t {
    result("pcclInterruptMaster") { () throws(PCCLError) in try Handles.master(master_instance).interrupt() }
}

@implementation @c
public func pcclMasterAwaitTermination(_ master_instance: OpaquePointer!) -> pcclResult_t {
    result("pcclMasterAwaitTermination") { () throws(PCCLError) in
        try Handles.master(master_instance).awaitTermination()
    }
}

@implementation @c
public func pcclDestroyMaster(_ master_instance: OpaquePointer!) -> pcclResult_t {
    result("pcclDestroyMaster") { () throws(PCCLError) in
        let master = try Handles.master(master_instance)
        _ = Handles.masters.withLock { $0.removeValue(forKey: master_instance) }
        master.destroy()
    }
}
