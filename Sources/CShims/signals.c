// A handler may do next to nothing: it counts. Swift has no function that is safe to run there.
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "CShims.h"

static _Atomic uint32_t signals;

static void count(int number) {
    (void)number;
    atomic_fetch_add_explicit(&signals, 1, memory_order_relaxed);
}

int pccl_shim_count_signal(int number) {
    struct sigaction present;
    if (sigaction(number, NULL, &present) != 0) {
        return errno;
    }
    if ((present.sa_flags & SA_SIGINFO) != 0 || (present.sa_handler != SIG_DFL && present.sa_handler != count)) {
        return -1;
    }
    struct sigaction wanted;
    memset(&wanted, 0, sizeof wanted);
    wanted.sa_handler = count;
    wanted.sa_flags = SA_RESTART;
    sigemptyset(&wanted.sa_mask);
    return sigaction(number, &wanted, NULL) == 0 ? 0 : errno;
}

uint32_t pccl_shim_signal_count(void) { return atomic_load_explicit(&signals, memory_order_relaxed); }
