#define _GNU_SOURCE
#include "lab.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int pccl_shim_leave_network_namespace(void) { return unshare(CLONE_NEWNET); }

int pccl_shim_enter_network_namespace(int descriptor) { return setns(descriptor, CLONE_NEWNET); }

int pccl_shim_bind_mount(const char *from, const char *to) { return mount(from, to, "none", MS_BIND, NULL); }

int pccl_shim_detach_mount(const char *path) { return umount2(path, MNT_DETACH); }

static int close_keeping_errno(int descriptor) {
    int code = errno;
    close(descriptor);
    errno = code;
    return -1;
}

int pccl_shim_open_tun(const char *name, int offload) {
    int descriptor = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0)
        return -1;
    struct ifreq request;
    memset(&request, 0, sizeof(request));
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
    if (ioctl(descriptor, TUNSETIFF, &request) < 0)
        return close_keeping_errno(descriptor);
    unsigned features = offload ? TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 : 0;
    if (ioctl(descriptor, TUNSETOFFLOAD, (unsigned long)features) < 0)
        return close_keeping_errno(descriptor);
    return descriptor;
}

static int set(int descriptor, unsigned long what, const char *name, struct ifreq *request) {
    strncpy(request->ifr_name, name, IFNAMSIZ - 1);
    return ioctl(descriptor, what, request);
}

static void set_v4(struct ifreq *request, uint32_t address) {
    struct sockaddr_in *place = (struct sockaddr_in *)&request->ifr_addr;
    memset(request, 0, sizeof(*request));
    place->sin_family = AF_INET;
    place->sin_addr.s_addr = htonl(address);
}

int pccl_shim_set_up_interface(const char *name, int mtu, int queue_length, uint32_t v4_address, int v4_prefix) {
    int descriptor = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0)
        return -1;
    struct ifreq request;
    memset(&request, 0, sizeof(request));
    request.ifr_mtu = mtu;
    int status = set(descriptor, SIOCSIFMTU, name, &request);
    if (status == 0) {
        request.ifr_qlen = queue_length;
        status = set(descriptor, SIOCSIFTXQLEN, name, &request);
    }
    if (status == 0) {
        set_v4(&request, v4_address);
        status = set(descriptor, SIOCSIFADDR, name, &request);
    }
    if (status == 0) {
        set_v4(&request, ~(uint32_t)((1ull << (32 - v4_prefix)) - 1));
        status = set(descriptor, SIOCSIFNETMASK, name, &request);
    }
    const char *devices[] = {name, "lo"};
    for (int i = 0; i < 2 && status == 0; i++) {
        memset(&request, 0, sizeof(request));
        request.ifr_flags = IFF_UP | IFF_RUNNING;
        status = set(descriptor, SIOCSIFFLAGS, devices[i], &request);
    }
    if (status < 0)
        return close_keeping_errno(descriptor);
    close(descriptor);
    return 0;
}

int pccl_shim_add_v6_address(const char *name, const struct in6_addr *address, int prefix) {
    // As in <linux/ipv6.h>, which cannot be included beside <netinet/in.h>.
    struct {
        struct in6_addr address;
        uint32_t prefix_length;
        int interface_index;
    } request = {*address, (uint32_t)prefix, (int)if_nametoindex(name)};
    int descriptor = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0)
        return -1;
    if (ioctl(descriptor, SIOCSIFADDR, &request) < 0)
        return close_keeping_errno(descriptor);
    close(descriptor);
    return 0;
}

int pccl_shim_become_real_time(void) {
    struct sched_param parameters = {.sched_priority = 1};
    return sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &parameters);
}

int pccl_shim_wake_precisely(void) { return prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul); }

int pccl_shim_epoll_wait(int epoll, struct epoll_event *events, int count, int64_t nanoseconds) {
    struct timespec time = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    return epoll_pwait2(epoll, events, count, nanoseconds < 0 ? NULL : &time, NULL);
}

static void begin_elsewhere(int network_namespace, int output, int errors) {
    signal(SIGPIPE, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0);
    int input = open("/dev/null", O_RDONLY);
    dup2(input, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(errors, STDERR_FILENO);
    if (input > STDERR_FILENO)
        close(input);
    if (network_namespace >= 0 && setns(network_namespace, CLONE_NEWNET) < 0) {
        perror("pccl wanlab: entering the network namespace");
        _exit(127);
    }
}

pid_t pccl_shim_spawn_in_namespace(int network_namespace, int output, int errors, char *const arguments[],
                                   char *const environment[]) {
    pid_t parent = getpid();
    pid_t child = fork();
    if (child > 0)
        setpgid(child, child); // The child does the same: whoever comes first, the group is there when this returns.
    if (child != 0)
        return child;
    prctl(PR_SET_PDEATHSIG, (unsigned long)SIGKILL, 0ul, 0ul, 0ul);
    if (getppid() != parent) // The parent was gone before the line above.
        _exit(127);
    begin_elsewhere(network_namespace, output, errors);
    environ = (char **)environment; // In its PATH the program is looked for.
    execvp(arguments[0], arguments);
    fprintf(stderr, "pccl wanlab: cannot run %s: %s\n", arguments[0], strerror(errno));
    fflush(stderr);
    _exit(127);
}
