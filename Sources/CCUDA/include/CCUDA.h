// The CUDA driver, if there is one: loaded at the first use, never linked. The declarations are our own, of facts of
// its binary interface, so that nothing of NVIDIA's is needed to build; scripts/check-cuda-declarations compares them
// with its cuda.h.
#ifndef CCUDA_H
#define CCUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

typedef int pccl_cuda_result;
typedef int pccl_cuda_device;
typedef uint64_t pccl_cuda_pointer;
typedef struct pccl_cuda_context_s *pccl_cuda_context;
typedef struct pccl_cuda_stream_s *pccl_cuda_stream;
typedef struct pccl_cuda_module_s *pccl_cuda_module;
typedef struct pccl_cuda_function_s *pccl_cuda_function;

enum {
    pccl_cuda_success = 0,
    pccl_cuda_invalid_value = 1,
    pccl_cuda_out_of_memory = 2,
    pccl_cuda_no_device_found = 100,
    pccl_cuda_invalid_context = 201,
    pccl_cuda_not_supported = 801,
    pccl_cuda_stream_capture_unsupported = 900,
    /// Of ours: the driver lacks the function.
    pccl_cuda_unavailable = -1
};

// Numbers that functions take and give.
enum {
    pccl_cuda_pointer_context = 1,
    pccl_cuda_pointer_memory_type = 2,
    pccl_cuda_pointer_device_ordinal = 9,
    pccl_cuda_memory_of_device = 2,
    pccl_cuda_host_register_portable = 1,
    pccl_cuda_stream_non_blocking = 1,
    pccl_cuda_allocation_pinned = 1,
    pccl_cuda_location_device = 1,
    pccl_cuda_handle_descriptor = 1,
    pccl_cuda_granularity_minimum = 0,
    pccl_cuda_access_read = 1,
    pccl_cuda_access_read_write = 3
};

typedef uint64_t pccl_cuda_allocation;

typedef struct pccl_cuda_location {
    int type, ordinal;
} pccl_cuda_location;

/// Of memory that other processes may map.
typedef struct pccl_cuda_allocation_properties {
    int type;
    int handle_types;
    pccl_cuda_location location;
    void *_Nullable unused;
    uint8_t flags[8];
} pccl_cuda_allocation_properties;

typedef struct pccl_cuda_access {
    pccl_cuda_location location;
    int rights;
} pccl_cuda_access;

// FUNCTION(our name, the driver's symbol, parameters, their names)
#define PCCL_CUDA_FUNCTIONS(FUNCTION)                                                                                  \
    FUNCTION(init, cuInit, (unsigned flags), (flags))                                                                  \
    FUNCTION(driver_version, cuDriverGetVersion, (int *version), (version))                                            \
    FUNCTION(error_name, cuGetErrorName, (pccl_cuda_result code, const char *_Nullable *_Nonnull name), (code, name))  \
    FUNCTION(device_count, cuDeviceGetCount, (int *count), (count))                                                    \
    FUNCTION(device_get, cuDeviceGet, (pccl_cuda_device * device, int ordinal), (device, ordinal))                     \
    FUNCTION(device_name, cuDeviceGetName, (char *name, int bytes, pccl_cuda_device device), (name, bytes, device))    \
    FUNCTION(primary_state, cuDevicePrimaryCtxGetState, (pccl_cuda_device device, unsigned *flags, int *is_active),    \
             (device, flags, is_active))                                                                               \
    FUNCTION(primary_retain, cuDevicePrimaryCtxRetain,                                                                 \
             (pccl_cuda_context _Nullable *_Nonnull context, pccl_cuda_device device), (context, device))              \
    FUNCTION(context_push, cuCtxPushCurrent_v2, (pccl_cuda_context context), (context))                                \
    FUNCTION(context_pop, cuCtxPopCurrent_v2, (pccl_cuda_context _Nullable *_Nonnull context), (context))              \
    FUNCTION(host_register, cuMemHostRegister_v2, (void *memory, size_t bytes, unsigned flags),                        \
             (memory, bytes, flags))                                                                                   \
    FUNCTION(host_unregister, cuMemHostUnregister, (void *memory), (memory))                                           \
    FUNCTION(device_alloc, cuMemAlloc_v2, (pccl_cuda_pointer * memory, size_t bytes), (memory, bytes))                 \
    FUNCTION(device_free, cuMemFree_v2, (pccl_cuda_pointer memory), (memory))                                          \
    FUNCTION(copy_to_host, cuMemcpyDtoHAsync_v2,                                                                       \
             (void *to, pccl_cuda_pointer from, size_t bytes, pccl_cuda_stream _Nullable stream),                      \
             (to, from, bytes, stream))                                                                                \
    FUNCTION(copy_to_device, cuMemcpyHtoDAsync_v2,                                                                     \
             (pccl_cuda_pointer to, const void *from, size_t bytes, pccl_cuda_stream _Nullable stream),                \
             (to, from, bytes, stream))                                                                                \
    FUNCTION(copy_on_device, cuMemcpyDtoDAsync_v2,                                                                     \
             (pccl_cuda_pointer to, pccl_cuda_pointer from, size_t bytes, pccl_cuda_stream _Nullable stream),          \
             (to, from, bytes, stream))                                                                                \
    FUNCTION(memory_info, cuMemGetInfo_v2, (size_t * free, size_t * total), (free, total))                             \
    FUNCTION(granularity, cuMemGetAllocationGranularity,                                                               \
             (size_t * bytes, const pccl_cuda_allocation_properties *properties, int which),                           \
             (bytes, properties, which))                                                                               \
    FUNCTION(create, cuMemCreate,                                                                                      \
             (pccl_cuda_allocation * allocation, size_t bytes, const pccl_cuda_allocation_properties *properties,      \
              unsigned long long flags),                                                                               \
             (allocation, bytes, properties, flags))                                                                   \
    FUNCTION(release, cuMemRelease, (pccl_cuda_allocation allocation), (allocation))                                   \
    FUNCTION(reserve, cuMemAddressReserve,                                                                             \
             (pccl_cuda_pointer * address, size_t bytes, size_t alignment, pccl_cuda_pointer wish,                     \
              unsigned long long flags),                                                                               \
             (address, bytes, alignment, wish, flags))                                                                 \
    FUNCTION(unreserve, cuMemAddressFree, (pccl_cuda_pointer address, size_t bytes), (address, bytes))                 \
    FUNCTION(map, cuMemMap,                                                                                            \
             (pccl_cuda_pointer address, size_t bytes, size_t offset, pccl_cuda_allocation allocation,                 \
              unsigned long long flags),                                                                               \
             (address, bytes, offset, allocation, flags))                                                              \
    FUNCTION(unmap, cuMemUnmap, (pccl_cuda_pointer address, size_t bytes), (address, bytes))                           \
    FUNCTION(set_access, cuMemSetAccess,                                                                               \
             (pccl_cuda_pointer address, size_t bytes, const pccl_cuda_access *access, size_t count),                  \
             (address, bytes, access, count))                                                                          \
    FUNCTION(export_descriptor, cuMemExportToShareableHandle,                                                          \
             (void *descriptor, pccl_cuda_allocation allocation, int type, unsigned long long flags),                  \
             (descriptor, allocation, type, flags))                                                                    \
    FUNCTION(import_descriptor, cuMemImportFromShareableHandle,                                                        \
             (pccl_cuda_allocation * allocation, void *_Nullable descriptor, int type),                                \
             (allocation, descriptor, type))                                                                           \
    FUNCTION(stream_create, cuStreamCreate, (pccl_cuda_stream _Nullable *_Nonnull stream, unsigned flags),             \
             (stream, flags))                                                                                          \
    FUNCTION(stream_destroy, cuStreamDestroy_v2, (pccl_cuda_stream stream), (stream))                                  \
    FUNCTION(stream_synchronize, cuStreamSynchronize, (pccl_cuda_stream _Nullable stream), (stream))                   \
    FUNCTION(stream_is_capturing, cuStreamIsCapturing, (pccl_cuda_stream _Nullable stream, int *status),               \
             (stream, status))                                                                                         \
    FUNCTION(module_load, cuModuleLoadData, (pccl_cuda_module _Nullable *_Nonnull module, const void *image),          \
             (module, image))                                                                                          \
    FUNCTION(module_unload, cuModuleUnload, (pccl_cuda_module module), (module))                                       \
    FUNCTION(module_function, cuModuleGetFunction,                                                                     \
             (pccl_cuda_function _Nullable *_Nonnull function, pccl_cuda_module module, const char *name),             \
             (function, module, name))                                                                                 \
    FUNCTION(launch, cuLaunchKernel,                                                                                   \
             (pccl_cuda_function function, unsigned teams_x, unsigned teams_y, unsigned teams_z, unsigned threads_x,   \
              unsigned threads_y, unsigned threads_z, unsigned shared_bytes, pccl_cuda_stream _Nullable stream,        \
              void *_Nonnull *_Nonnull parameters, void *_Nullable *_Nullable extra),                                  \
             (function, teams_x, teams_y, teams_z, threads_x, threads_y, threads_z, shared_bytes, stream, parameters,  \
              extra))                                                                                                  \
    FUNCTION(pointer_attribute, cuPointerGetAttribute, (void *value, int attribute, pccl_cuda_pointer pointer),        \
             (value, attribute, pointer))

#define PCCL_CUDA_DECLARE(name, symbol, parameters, names) pccl_cuda_result pccl_cuda_##name parameters;
PCCL_CUDA_FUNCTIONS(PCCL_CUDA_DECLARE)
#undef PCCL_CUDA_DECLARE

enum pccl_cuda_state {
    pccl_cuda_ready = 0,
    pccl_cuda_no_driver = 1,
    pccl_cuda_too_old = 2,
    pccl_cuda_init_failed = 3,
    pccl_cuda_no_device = 4,
    pccl_cuda_forked = 5
};

typedef struct pccl_cuda_status {
    enum pccl_cuda_state state;
    /// As the driver writes it: 12040 for 12.4.
    int driver_version;
    int device_count;
    /// Why it is not ready, in words; empty if it is.
    char reason[224];
} pccl_cuda_status;

/// Loads and initialises the driver if nobody has; any thread, any number of times.
pccl_cuda_status pccl_cuda_load(void);

/// Whether somebody has loaded the driver into this process. Loads nothing.
bool pccl_cuda_is_in_process(void);

typedef enum pccl_cuda_kernels {
    pccl_cuda_reduce = 0,
    pccl_cuda_codec = 1,
    pccl_cuda_hash = 2,
    pccl_cuda_outer = 3
} pccl_cuda_kernels;

/// The kernels, as PTX for devices of compute capability 7.0 and later: text that ends with a zero, for module_load.
/// Sources/CCUDA/kernels says what they do.
const char *pccl_cuda_ptx(pccl_cuda_kernels kernels);

/// Teams of so many threads are what they are launched with.
enum { pccl_cuda_threads_of_team = 256 };

#pragma clang assume_nonnull end

#endif
