#define _GNU_SOURCE
#include "CSnapshots.h"

#include <CKernels.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { HASH_BYTES = 16, HASH_DIGITS = 2 * HASH_BYTES };

// ---- Writing ------------------------------------------------------------------------------------

static int write_all(int file, const uint8_t *bytes, size_t count, size_t place) {
    while (count > 0) {
        ssize_t written = pwrite(file, bytes, count, (off_t)place);
        if (written < 0 && errno == EINTR)
            continue;
        if (written == 0)
            errno = EIO;
        if (written <= 0)
            return -1;
        bytes += written;
        place += (size_t)written;
        count -= (size_t)written;
    }
    return 0;
}

// The canonical form.
static void put_hash(uint8_t *bytes, pccl_kernel_hash128 hash) {
    uint64_t words[] = {__builtin_bswap64(hash.high), __builtin_bswap64(hash.low)};
    memcpy(bytes, words, sizeof words);
}

static void put_digits(uint8_t *digits, pccl_kernel_hash128 hash) {
    uint8_t bytes[HASH_BYTES];
    put_hash(bytes, hash);
    for (int i = 0; i < HASH_BYTES; i++) {
        digits[2 * i] = (uint8_t) "0123456789abcdef"[bytes[i] >> 4];
        digits[2 * i + 1] = (uint8_t) "0123456789abcdef"[bytes[i] & 15];
    }
}

static int write_tensor(const pccl_snapshot_job *job, const pccl_snapshot_tensor *tensor, size_t place) {
    pccl_kernel_xxh3 hash_of = pccl_kernel_xxh3_best();
    uint8_t *digits = job->header + tensor->digits, *chunk_digits = digits + HASH_DIGITS + 1;
    uint8_t *scratch = job->scratch;
    const uint8_t *bytes = tensor->bytes;
    pccl_kernel_hash128 hash;
    size_t done = 0;
    do {
        size_t left = tensor->count - done;
        size_t count = left < job->chunk_bytes ? left : job->chunk_bytes;
        // The kernel looks first: memory that a child does not have is an error to it, and would be the end of the
        // child if the child looked.
        if (count > 0 && write_all(job->file, bytes + done, count, place + done) != 0)
            return -1;
        hash = hash_of(count > 0 ? bytes + done : NULL, count);
        put_digits(chunk_digits, hash);
        put_hash(scratch, hash);
        chunk_digits += HASH_DIGITS;
        scratch += HASH_BYTES;
        done += count;
    } while (done < tensor->count);
    if (tensor->count > job->chunk_bytes) {
        uint64_t byte_count = tensor->count; // Little-endian, as the machines are that the kernels are for.
        memcpy(scratch, &byte_count, sizeof byte_count);
        hash = hash_of(job->scratch, (size_t)(scratch - job->scratch) + sizeof byte_count);
    }
    put_digits(digits, hash);
    return 0;
}

static int write_contents(const pccl_snapshot_job *job) {
    size_t place = job->header_count;
    for (size_t i = 0; i < job->tensor_count; i++) {
        if (write_tensor(job, &job->tensors[i], place) != 0)
            return -1;
        place += job->tensors[i].count;
    }
    // The last one, since only now all hashes are there.
    return write_all(job->file, job->header, job->header_count, 0);
}

static pccl_snapshot_outcome failure(const pccl_snapshot_job *job, enum pccl_snapshot_step step) {
    pccl_snapshot_outcome outcome = {step, errno};
    if (step != pccl_snapshot_synchronizing_folder)
        unlinkat(job->folder, job->temporary_name, 0);
    return outcome;
}

static pccl_snapshot_outcome write_snapshot(const pccl_snapshot_job *job) {
    if (write_contents(job) != 0)
        return failure(job, pccl_snapshot_writing);
    if (fsync(job->file) != 0)
        return failure(job, pccl_snapshot_synchronizing);
    if (renameat(job->folder, job->temporary_name, job->folder, job->name) != 0)
        return failure(job, pccl_snapshot_renaming);
    // There are file systems that have nothing to bring to disk for a folder, and say so.
    if (fsync(job->folder) != 0 && errno != EINVAL)
        return failure(job, pccl_snapshot_synchronizing_folder);
    return (pccl_snapshot_outcome){pccl_snapshot_done, 0};
}

pccl_snapshot_outcome pccl_snapshot_write(const pccl_snapshot_job *job) {
    // A file above the limit is an error here, and not the end of the caller's process.
    sigset_t too_large, before;
    sigemptyset(&too_large);
    sigaddset(&too_large, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &too_large, &before);
    pccl_snapshot_outcome outcome = write_snapshot(job);
    if (outcome.code == EFBIG && !sigismember(&before, SIGXFSZ))
        sigtimedwait(&too_large, NULL, &(struct timespec){0, 0});
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return outcome;
}

// ---- The child ----------------------------------------------------------------------------------

static void close_range_of(int first, int last) {
    if (first > last || syscall(SYS_close_range, (unsigned)first, (unsigned)last, 0u) == 0)
        return;
    // Kernels before 5.9.
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur > 1 << 16)
        limit.rlim_cur = 1 << 16;
    for (int descriptor = first; descriptor <= last && (rlim_t)descriptor < limit.rlim_cur; descriptor++)
        close(descriptor);
}

static void swap_to_order(int *a, int *b) {
    if (*a > *b) {
        int c = *a;
        *a = *b;
        *b = c;
    }
}

// The parent keeps all of its own. But what the child had a copy of would stay open if the parent died: other peers
// would take it for alive, its port would be in use, and who reads its output would wait.
static void close_all_but(int a, int b, int c) {
    swap_to_order(&a, &b);
    swap_to_order(&b, &c);
    swap_to_order(&a, &b);
    close_range_of(0, a - 1);
    close_range_of(a + 1, b - 1);
    close_range_of(b + 1, c - 1);
    close_range_of(c + 1, INT32_MAX);
}

// If memory runs out since parent and child have different copies, it is the child that goes.
static void go_first_without_memory(void) {
    int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (file < 0)
        return;
    if (write(file, "1000", 4) < 0) {
        // Then it is as likely as the parent.
    }
    close(file);
}

static _Noreturn void run_child(const pccl_snapshot_job *job, int outcome_pipe) {
    close_all_but(job->folder, job->file, outcome_pipe);
    go_first_without_memory();
    prctl(PR_SET_NAME, "pccl-snapshot");
    // The parent's work goes first.
    setpriority(PRIO_PROCESS, 0, 10);
    pccl_snapshot_outcome outcome = write_snapshot(job);
    // Shorter than what a pipe takes whole. If nobody reads it, nobody wants to know.
    ssize_t written = write(outcome_pipe, &outcome, sizeof outcome);
    _exit(outcome.step == pccl_snapshot_done && written == sizeof outcome ? 0 : 1);
}

pid_t pccl_snapshot_fork(const pccl_snapshot_job *job, int *outcome) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
        return -1;
    // The child never lets a signal in, for the handlers are the parent's; Ctrl-C does not end it either.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    // Not fork: handlers of pthread_atfork take locks, and some end all threads of a library for the occasion.
    pid_t child = _Fork();
    if (child == 0)
        run_child(job, ends[1]);
    int code = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(ends[1]);
    if (child < 0)
        close(ends[0]);
    *outcome = ends[0];
    errno = code;
    return child;
}
