#define _GNU_SOURCE
#include "CShims.h"

int pccl_shim_accept(int listener, struct sockaddr *address, socklen_t *length) {
    return accept4(listener, address, length, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

void pccl_shim_name_thread(pthread_t thread, const char *name) { pthread_setname_np(thread, name); }

const fenv_t *pccl_shim_default_floating_point_environment(void) { return FE_DFL_ENV; }
