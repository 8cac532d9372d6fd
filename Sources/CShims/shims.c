#define _GNU_SOURCE
#include "CShims.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/timex.h>
#include <sys/uio.h>

int pccl_shim_accept(int listener, struct sockaddr *address, socklen_t *length) {
    return accept4(listener, address, length, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

void pccl_shim_name_thread(pthread_t thread, const char *name) { pthread_setname_np(thread, name); }

const fenv_t *pccl_shim_default_floating_point_environment(void) { return FE_DFL_ENV; }

ssize_t pccl_shim_read_process(pid_t process, uint64_t address, void *target, size_t count) {
    struct iovec local = {target, count};
    struct iovec remote = {(void *)(uintptr_t)address, count};
    return process_vm_readv(process, &local, 1, &remote, 1, 0);
}

int pccl_shim_tcp_figures(int descriptor, struct pccl_shim_tcp_figures *figures) {
    struct tcp_info info;
    socklen_t length = sizeof info;
    memset(&info, 0, sizeof info);
    if (getsockopt(descriptor, IPPROTO_TCP, TCP_INFO, &info, &length) != 0)
        return -1;
    if (length < offsetof(struct tcp_info, tcpi_delivery_rate) + sizeof info.tcpi_delivery_rate)
        return -1;
    figures->acknowledged_bytes = info.tcpi_bytes_acked;
    figures->delivered_bytes = length >= offsetof(struct tcp_info, tcpi_delivered) + sizeof info.tcpi_delivered
                                   ? (uint64_t)info.tcpi_delivered * info.tcpi_snd_mss
                                   : info.tcpi_bytes_acked;
    figures->delivery_bytes_per_second = info.tcpi_delivery_rate;
    figures->round_trip_microseconds = info.tcpi_rtt;
    // All ones until there was a round trip.
    figures->least_round_trip_microseconds = info.tcpi_min_rtt == ~0U ? 0 : info.tcpi_min_rtt;
    figures->busy_microseconds = info.tcpi_busy_time;
    return 0;
}

int pccl_shim_set_congestion_control(int descriptor, const char *name) {
    return setsockopt(descriptor, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name));
}

int pccl_shim_is_open_at_other_end(int descriptor) {
    struct pollfd watched = {descriptor, POLLRDHUP, 0};
    return poll(&watched, 1, 0) == 0;
}

int pccl_shim_clock_is_synchronised(void) {
    struct timex asked = {.modes = 0};
    int state = adjtimex(&asked);
    return state < 0 ? -1 : state != TIME_ERROR && !(asked.status & STA_UNSYNC);
}
