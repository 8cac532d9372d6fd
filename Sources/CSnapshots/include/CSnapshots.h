// Writing a snapshot, in a child of this process or in the process itself. C, because a child of a process with threads
// may only do what a signal handler may: no memory, no lock, and so no Swift.
#ifndef PCCL_CSNAPSHOTS_H
#define PCCL_CSNAPSHOTS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/// What is written after the header, in the order of the file.
typedef struct pccl_snapshot_tensor {
    /// Null only if there are none.
    const void *_Nullable bytes;
    size_t count;
    /// Where the digits of its hash begin in the header: 32, any character, then 32 for each chunk.
    size_t digits;
} pccl_snapshot_tensor;

/// All that is needed; lent for the time of the call. A child has it in its copy of the memory.
typedef struct pccl_snapshot_job {
    /// Descriptors of the folder, and of the file in it that has the temporary name, which is open for writing.
    int folder;
    int file;
    const char *_Nonnull temporary_name;
    const char *_Nonnull name;
    /// Complete but for the digits of the hashes, which are put in.
    uint8_t *_Nonnull header;
    size_t header_count;
    const pccl_snapshot_tensor *_Nullable tensors;
    size_t tensor_count;
    size_t chunk_bytes;
    /// Room for 16 bytes for each chunk of the tensor that has the most, and 8 more.
    uint8_t *_Nonnull scratch;
} pccl_snapshot_job;

/// How far it came.
enum pccl_snapshot_step {
    pccl_snapshot_done = 0,
    pccl_snapshot_writing = 1,
    pccl_snapshot_synchronizing = 2,
    pccl_snapshot_renaming = 3,
    /// The snapshot is there, but a loss of power may take it away again.
    pccl_snapshot_synchronizing_folder = 4,
};

/// What a child says through its pipe before it ends.
typedef struct pccl_snapshot_outcome {
    /// One of `pccl_snapshot_step`: done, or what failed.
    int32_t step;
    /// The error's number; 0 if it is done.
    int32_t code;
} pccl_snapshot_outcome;

/// Writes the file, brings it to disk, gives it its name, and brings the folder to disk. If that fails before it has
/// its name, the temporary one is gone.
pccl_snapshot_outcome pccl_snapshot_write(const pccl_snapshot_job *_Nonnull job);

/// The same in a child, which has the memory as it is now. Returns the child's id, and the end of a pipe from which its
/// outcome can be read, which does not block; or -1 and leaves the reason in errno. Handlers of pthread_atfork are not
/// called.
pid_t pccl_snapshot_fork(const pccl_snapshot_job *_Nonnull job, int *_Nonnull outcome);

#endif
