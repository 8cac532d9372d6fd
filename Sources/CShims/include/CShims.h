// C that Swift cannot import: GNU extensions and varargs. No logic.
#ifndef PCCL_CSHIMS_H
#define PCCL_CSHIMS_H

#include <fenv.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "lab.h"

/// accept4 with SOCK_NONBLOCK and SOCK_CLOEXEC, which Glibc's module does not show.
int pccl_shim_accept(int listener, struct sockaddr *address, socklen_t *length);

/// pthread_setname_np: at most 15 bytes are shown.
void pccl_shim_name_thread(pthread_t thread, const char *name);

/// FE_DFL_ENV, a macro with a cast.
const fenv_t *pccl_shim_default_floating_point_environment(void);

/// process_vm_readv of one range: the bytes read, or -1.
ssize_t pccl_shim_read_process(pid_t process, uint64_t address, void *target, size_t count);
/// Whether process_vm_readv can read the first and the last byte of a range of this process: 1, or 0.
int pccl_shim_can_be_read(const void *memory, size_t count);

/// From now on this signal is counted, and nothing else is done about it: 0; -1 if the program has a handler for it,
/// which stays; or errno.
int pccl_shim_count_signal(int number);
/// How many signals were counted.
uint32_t pccl_shim_signal_count(void);

/// The longest name of a socket that the kernel chooses.
enum { pccl_shim_socket_name_bytes = 6 };

/// A datagram socket of this host with a name that the kernel chose, `count` bytes of it, in no folder: -1 on failure.
int pccl_shim_open_local_socket(uint8_t name[pccl_shim_socket_name_bytes], int *count);

/// Sends bytes and a descriptor to such a socket: 0, or -1.
int pccl_shim_send_descriptor(int from, const uint8_t *name, int name_count, const void *bytes, size_t count,
                              int descriptor);

/// Takes what has come: the number of bytes, of which as many as there is room for are written, or -1. The descriptor
/// that came with them is the caller's; -1 if there was none.
ssize_t pccl_shim_receive_descriptor(int socket, void *bytes, size_t room, int *descriptor);

/// What the kernel knows of a TCP connection.
struct pccl_shim_tcp_figures {
    uint64_t acknowledged_bytes;
    /// Those also that lie behind a gap; in whole packets, of which the last of a transfer is seldom one.
    uint64_t delivered_bytes;
    /// Time in which something was sent and not acknowledged yet.
    uint64_t busy_microseconds;
    uint64_t delivery_bytes_per_second;
    uint32_t round_trip_microseconds;
    uint32_t least_round_trip_microseconds;
};

/// TCP_INFO: 0, or -1 if it is no TCP connection or the kernel is too old.
int pccl_shim_tcp_figures(int descriptor, struct pccl_shim_tcp_figures *figures);

/// TCP_CONGESTION: 0, or -1.
int pccl_shim_set_congestion_control(int descriptor, const char *name);

/// adjtimex, asked only: 1 when the system's clock follows a reference, 0 when it does not, -1 where that is not told.
int pccl_shim_clock_is_synchronised(void);

/// What this thread was told last, at most 1023 bytes of it; empty at first.
const char *pccl_shim_thread_text(void);
void pccl_shim_set_thread_text(const char *text);

/// Descriptors that a forked child must not keep; see fork.c. Any thread.
void pccl_shim_note_descriptor(int descriptor);
void pccl_shim_forget_descriptor(int descriptor);
/// How many forks lie between the first process and this one.
uint32_t pccl_shim_fork_generation(void);

#endif
