#define _GNU_SOURCE
#include "CShims.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

int pccl_shim_accept(int listener, struct sockaddr *address, socklen_t *length) {
    return accept4(listener, address, length, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static _Thread_local char thread_text[1024];

const char *pccl_shim_thread_text(void) { return thread_text; }

void pccl_shim_set_thread_text(const char *text) {
    size_t length = strnlen(text, sizeof thread_text - 1);
    memcpy(thread_text, text, length);
    thread_text[length] = '\0';
}

void pccl_shim_name_thread(pthread_t thread, const char *name) { pthread_setname_np(thread, name); }

const fenv_t *pccl_shim_default_floating_point_environment(void) { return FE_DFL_ENV; }

ssize_t pccl_shim_read_process(pid_t process, uint64_t address, void *target, size_t count) {
    struct iovec local = {target, count};
    struct iovec remote = {(void *)(uintptr_t)address, count};
    return process_vm_readv(process, &local, 1, &remote, 1, 0);
}

int pccl_shim_can_be_read(const void *memory, size_t count) {
    char ends[2];
    struct iovec local = {ends, sizeof ends};
    struct iovec remote[2] = {{(void *)memory, 1}, {(char *)memory + count - 1, 1}};
    return process_vm_readv(getpid(), &local, 1, remote, 2, 0) == sizeof ends;
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

int pccl_shim_open_local_socket(uint8_t name[pccl_shim_socket_name_bytes], int *count) {
    int made = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (made < 0)
        return -1;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t length = sizeof(sa_family_t); // Without a name: the kernel chooses one.
    if (bind(made, (struct sockaddr *)&address, length) != 0)
        goto failed;
    length = sizeof address;
    if (getsockname(made, (struct sockaddr *)&address, &length) != 0)
        goto failed;
    *count = (int)(length - offsetof(struct sockaddr_un, sun_path));
    if (*count <= 0 || *count > pccl_shim_socket_name_bytes)
        goto failed;
    memcpy(name, address.sun_path, (size_t)*count);
    return made;
failed:
    close(made);
    return -1;
}

int pccl_shim_send_descriptor(int from, const uint8_t *name, int name_count, const void *bytes, size_t count,
                              int descriptor) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (name_count < 0 || (size_t)name_count > sizeof to.sun_path)
        return -1;
    memcpy(to.sun_path, name, (size_t)name_count);
    struct iovec content = {(void *)(uintptr_t)bytes, count};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    memset(&control, 0, sizeof control);
    struct msghdr message = {.msg_name = &to,
                             .msg_namelen = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)name_count),
                             .msg_iov = &content,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    struct cmsghdr *passed = CMSG_FIRSTHDR(&message);
    passed->cmsg_level = SOL_SOCKET;
    passed->cmsg_type = SCM_RIGHTS;
    passed->cmsg_len = CMSG_LEN(sizeof descriptor);
    memcpy(CMSG_DATA(passed), &descriptor, sizeof descriptor);
    return sendmsg(from, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)count ? 0 : -1;
}

ssize_t pccl_shim_receive_descriptor(int socket, void *bytes, size_t room, int *descriptor) {
    struct iovec content = {bytes, room};
    // Room for more than one: what nobody asked for is closed, and not left open.
    enum { MOST = 8 };
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(MOST * sizeof(int))];
    } control;
    struct msghdr message = {
        .msg_iov = &content, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    *descriptor = -1;
    ssize_t count = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC);
    if (count < 0)
        return -1;
    for (struct cmsghdr *passed = CMSG_FIRSTHDR(&message); passed; passed = CMSG_NXTHDR(&message, passed)) {
        if (passed->cmsg_level != SOL_SOCKET || passed->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; CMSG_LEN((i + 1) * sizeof(int)) <= passed->cmsg_len; i++) {
            int one;
            memcpy(&one, CMSG_DATA(passed) + i * sizeof one, sizeof one);
            if (*descriptor < 0)
                *descriptor = one;
            else
                close(one);
        }
    }
    return count;
}

int pccl_shim_clock_is_synchronised(void) {
    struct timex asked = {.modes = 0};
    int state = adjtimex(&asked);
    return state < 0 ? -1 : state != TIME_ERROR && !(asked.status & STA_UNSYNC);
}
