// C that Swift cannot import: GNU extensions and varargs. No logic.
#ifndef PCCL_CSHIMS_H
#define PCCL_CSHIMS_H

#include <fenv.h>
#include <pthread.h>
#include <sys/socket.h>

/// accept4 with SOCK_NONBLOCK and SOCK_CLOEXEC, which Glibc's module does not show.
int pccl_shim_accept(int listener, struct sockaddr *address, socklen_t *length);

/// pthread_setname_np: at most 15 bytes are shown.
void pccl_shim_name_thread(pthread_t thread, const char *name);

/// FE_DFL_ENV, a macro with a cast.
const fenv_t *pccl_shim_default_floating_point_environment(void);

#endif
