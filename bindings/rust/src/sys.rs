//! The C API as it is: `pccl.h`, and of `pccl_ext.h` what this crate wraps. For calls that the crate has no function
//! for, with [`Communicator::native`](crate::Communicator::native). The headers say what each does; `tests/layout.rs`
//! compares each struct with them.

#![allow(non_camel_case_types, non_upper_case_globals, missing_docs)]

use std::marker::{PhantomData, PhantomPinned};
use std::os::raw::{c_char, c_int, c_uint, c_void};

/// Declares what C only ever points to.
macro_rules! opaque {
    ($($name:ident),*) => { $(
        #[repr(C)]
        pub struct $name {
            data: [u8; 0],
            marker: PhantomData<(*mut u8, PhantomPinned)>,
        }
    )* };
}
opaque!(pcclComm_t, pcclMasterInstance_t);

// Enumerations are numbers here: a value that this crate does not know must not be undefined behaviour.
pub type pcclResult_t = c_uint;
pub type pcclDataType_t = c_uint;
pub type pcclDeviceType_t = c_uint;
pub type pcclRedOp_t = c_uint;
pub type pcclDistributionHint_t = c_uint;
pub type pcclQuantizationAlgorithm_t = c_uint;
pub type pcclAttribute_t = c_uint;
pub type pcclSharedStateSyncStrategy_t = c_uint;
pub type pcclOnLoss_t = c_uint;
pub type pcclCodec_t = c_uint;
pub type pcclRounding_t = c_uint;
pub type ccoip_inet_protocol_t = c_uint;

pub const pcclSuccess: pcclResult_t = 0;
pub const pcclNotInitialized: pcclResult_t = 1;
pub const pcclInternalError: pcclResult_t = 2;
pub const pcclInvalidArgument: pcclResult_t = 3;
pub const pcclInvalidUsage: pcclResult_t = 4;
pub const pcclTooFewPeers: pcclResult_t = 5;
pub const pcclMasterConnectionFailed: pcclResult_t = 6;
pub const pcclRankConnectionFailed: pcclResult_t = 7;
pub const pcclRankConnectionLost: pcclResult_t = 8;
pub const pcclNoSharedStateAvailable: pcclResult_t = 9;
pub const pcclPendingAsyncOps: pcclResult_t = 10;
pub const pcclUpdateTopologyFailed: pcclResult_t = 11;
pub const pcclTopologyOptimizationFailed: pcclResult_t = 12;

pub const inetIPv4: ccoip_inet_protocol_t = 0;
pub const inetIPv6: ccoip_inet_protocol_t = 1;
pub const pcclDeviceCpu: pcclDeviceType_t = 0;
pub const PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE: pcclAttribute_t = 1;
pub const PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE: pcclAttribute_t = 2;
pub const PCCL_ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS: pcclAttribute_t = 3;
pub const PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE: pcclAttribute_t = 4;

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ccoip_ipv4_address_t {
    pub data: [u8; 4],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ccoip_ipv6_address_t {
    pub data: [u8; 16],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ccoip_inet_address_t {
    pub protocol: ccoip_inet_protocol_t,
    pub ipv4: ccoip_ipv4_address_t,
    pub ipv6: ccoip_ipv6_address_t,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ccoip_socket_address_t {
    pub inet: ccoip_inet_address_t,
    pub port: u16,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct pcclCommCreateParams_t {
    pub master_address: ccoip_socket_address_t,
    pub peer_group: u32,
    pub p2p_connection_pool_size: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct pcclEnsemble_t {
    pub id: u64,
    pub size: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct pcclReduceOperandDescriptor_t {
    pub datatype: pcclDataType_t,
    pub distribution_hint: pcclDistributionHint_t,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct pcclQuantizationOptions_t {
    pub quantized_datatype: pcclDataType_t,
    pub algorithm: pcclQuantizationAlgorithm_t,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct pcclReduceDescriptor_t {
    pub count: usize,
    pub op: pcclRedOp_t,
    pub tag: u64,
    pub src_descriptor: pcclReduceOperandDescriptor_t,
    pub quantization_options: pcclQuantizationOptions_t,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct pcclReduceOpDescriptor_t {
    pub sendbuf: *mut c_void,
    pub recvbuf: *mut c_void,
    pub descriptor: pcclReduceDescriptor_t,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct pcclReduceInfo_t {
    pub local_world_size: u32,
    pub tx_bytes: u64,
    pub rx_bytes: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct pcclAsyncReduceOp_t {
    pub comm: *mut pcclComm_t,
    pub tag: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct pcclReducePart_t {
    pub first_element: u64,
    pub element_count: u64,
    pub world_size: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct pcclReduceOptions_t {
    pub struct_size: usize,
    pub on_loss: pcclOnLoss_t,
    pub codec: pcclCodec_t,
    pub block_elements: u32,
    pub rounding: pcclRounding_t,
    pub error_feedback: u32,
    pub reserved: u32,
    pub cuda_stream: *mut c_void,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct pcclCollectiveDescriptor_t {
    pub struct_size: usize,
    pub tag: u64,
    pub count: usize,
    pub datatype: pcclDataType_t,
    pub op: pcclRedOp_t,
    pub world_size: u32,
    pub root: u32,
    pub options: *const pcclReduceOptions_t,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct pcclTensorInfo_t {
    pub name: *const c_char,
    pub data: *mut c_void,
    pub count: usize,
    pub datatype: pcclDataType_t,
    pub device_type: pcclDeviceType_t,
    pub allow_content_inequality: bool,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct pcclSharedState_t {
    pub revision: u64,
    pub count: usize,
    pub infos: *mut pcclTensorInfo_t,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct pcclSharedStateSyncInfo_t {
    pub tx_bytes: u64,
    pub rx_bytes: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct pcclSyncOptions_t {
    pub struct_size: usize,
    pub unchanged: *const bool,
}

extern "C" {
    pub fn pcclGetErrorText(text_out: *mut *const c_char) -> pcclResult_t;
    pub fn pcclInit() -> pcclResult_t;
    pub fn pcclCreateCommunicator(
        params: *const pcclCommCreateParams_t,
        comm_out: *mut *mut pcclComm_t,
    ) -> pcclResult_t;
    pub fn pcclCreateCommunicatorInEnsemble(
        params: *const pcclCommCreateParams_t,
        ensemble: *const pcclEnsemble_t,
        comm_out: *mut *mut pcclComm_t,
    ) -> pcclResult_t;
    pub fn pcclGetAttribute(
        communicator: *const pcclComm_t,
        attribute: pcclAttribute_t,
        attribute_out: *mut c_int,
    ) -> pcclResult_t;
    pub fn pcclGetRank(communicator: *const pcclComm_t, rank_out: *mut u32, world_size_out: *mut u32) -> pcclResult_t;
    pub fn pcclDestroyCommunicator(communicator: *mut pcclComm_t) -> pcclResult_t;
    pub fn pcclConnect(communicator: *mut pcclComm_t) -> pcclResult_t;
    pub fn pcclUpdateTopology(communicator: *mut pcclComm_t) -> pcclResult_t;
    pub fn pcclArePeersPending(communicator: *const pcclComm_t, pending_out: *mut bool) -> pcclResult_t;
    pub fn pcclOptimizeTopology(communicator: *const pcclComm_t) -> pcclResult_t;

    pub fn pcclAllReduceAsyncWithOptions(
        sendbuf: *const c_void,
        recvbuf: *mut c_void,
        descriptor: *const pcclReduceDescriptor_t,
        communicator: *const pcclComm_t,
        options: *const pcclReduceOptions_t,
        reduce_handle_out: *mut pcclAsyncReduceOp_t,
    ) -> pcclResult_t;
    pub fn pcclAwaitAsyncReduceParts(
        reduce_handle: *const pcclAsyncReduceOp_t,
        reduce_info_out: *mut pcclReduceInfo_t,
        parts_out: *mut pcclReducePart_t,
        parts_capacity: usize,
        part_count_out: *mut usize,
    ) -> pcclResult_t;
    pub fn pcclAllReduceMultipleWithOptions(
        descriptors: *const pcclReduceOpDescriptor_t,
        count: usize,
        communicator: *const pcclComm_t,
        options: *const pcclReduceOptions_t,
        reduce_info_out: *mut pcclReduceInfo_t,
        max_in_flight: c_int,
    ) -> pcclResult_t;
    pub fn pcclFreeErrorFeedback(communicator: *const pcclComm_t, tag: u64) -> pcclResult_t;

    pub fn pcclAllGatherAsync(
        sendbuf: *const c_void,
        recvbuf: *mut c_void,
        descriptor: *const pcclCollectiveDescriptor_t,
        communicator: *const pcclComm_t,
        reduce_handle_out: *mut pcclAsyncReduceOp_t,
    ) -> pcclResult_t;
    pub fn pcclReduceScatterAsync(
        sendbuf: *const c_void,
        recvbuf: *mut c_void,
        descriptor: *const pcclCollectiveDescriptor_t,
        communicator: *const pcclComm_t,
        reduce_handle_out: *mut pcclAsyncReduceOp_t,
    ) -> pcclResult_t;
    pub fn pcclBroadcastAsync(
        buffer: *mut c_void,
        descriptor: *const pcclCollectiveDescriptor_t,
        communicator: *const pcclComm_t,
        reduce_handle_out: *mut pcclAsyncReduceOp_t,
    ) -> pcclResult_t;
    pub fn pcclBarrier(
        tag: u64,
        communicator: *const pcclComm_t,
        reduce_info_out: *mut pcclReduceInfo_t,
    ) -> pcclResult_t;

    pub fn pcclSynchronizeSharedStateWithOptions(
        communicator: *const pcclComm_t,
        shared_state: *mut pcclSharedState_t,
        strategy: pcclSharedStateSyncStrategy_t,
        options: *const pcclSyncOptions_t,
        sync_info_out: *mut pcclSharedStateSyncInfo_t,
    ) -> pcclResult_t;

    pub fn pcclCreateMaster(
        listen_address: ccoip_socket_address_t,
        master_handle_out: *mut *mut pcclMasterInstance_t,
    ) -> pcclResult_t;
    pub fn pcclRunMaster(master_instance: *mut pcclMasterInstance_t) -> pcclResult_t;
    pub fn pcclInterruptMaster(master_instance: *mut pcclMasterInstance_t) -> pcclResult_t;
    pub fn pcclMasterAwaitTermination(master_instance: *mut pcclMasterInstance_t) -> pcclResult_t;
    pub fn pcclDestroyMaster(master_instance: *mut pcclMasterInstance_t) -> pcclResult_t;
}
