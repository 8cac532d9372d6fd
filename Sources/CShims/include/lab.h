// What `pccl wanlab` needs of Linux: namespaces, TUN devices, and processes that begin elsewhere.
#ifndef PCCL_LAB_H
#define PCCL_LAB_H

#include <netinet/in.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/types.h>

// Each returns a negative number on failure and leaves the reason in errno.

/// Moves the calling thread into a new network namespace.
int pccl_shim_leave_network_namespace(void);

/// Moves the calling thread into the network namespace of that descriptor.
int pccl_shim_enter_network_namespace(int descriptor);

int pccl_shim_bind_mount(const char *from, const char *to);
int pccl_shim_detach_mount(const char *path);

/// Makes a TUN device in the caller's network namespace whose packets have virtio headers. With `offload` the kernel
/// hands out TCP super-packets and leaves out checksums. The descriptor does not block.
int pccl_shim_open_tun(const char *name, int offload);

/// Addresses, MTU and queue of a device of the caller's network namespace, and up with it, and with the loopback
/// device.
int pccl_shim_set_up_interface(const char *name, int mtu, int queue_length, uint32_t v4_address, int v4_prefix);
int pccl_shim_add_v6_address(const char *name, const struct in6_addr *address, int prefix);

/// Lets the calling thread run before all ordinary ones, and wake when it asked to.
int pccl_shim_become_real_time(void);
int pccl_shim_wake_precisely(void);

/// epoll_pwait2 with a time-out in nanoseconds; negative for none.
int pccl_shim_epoll_wait(int epoll, struct epoll_event *events, int count, int64_t nanoseconds);

/// Starts a program in a network namespace (in the caller's if negative), as leader of a process group, without the
/// caller's signal mask, without input, and so that it is killed when the calling thread ends. The caller must be the
/// only thread that takes locks. If it cannot be executed, the child says so on `errors` and ends with status 127, as a
/// shell's would.
pid_t pccl_shim_spawn_in_namespace(int network_namespace, int output, int errors, char *const arguments[],
                                   char *const environment[]);

#endif
