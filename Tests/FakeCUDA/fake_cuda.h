// What tests ask of the driver that stands in for a real one.
#ifndef FAKE_CUDA_H
#define FAKE_CUDA_H

#include <stddef.h>
#include <stdint.h>

// Memory of the device. An access of the host's to it is a fault, as it is to a real one's.
void *fake_cuda_alloc(size_t bytes);
void fake_cuda_free(void *memory);
// At once, whatever streams do.
void fake_cuda_write(void *to, const void *from, size_t bytes);
void fake_cuda_read(void *to, const void *from, size_t bytes);
// The n-th call from now on of this function of the driver returns `code`; those from 700 on stay: the context is lost.
void fake_cuda_fail(const char *function, int n, int code);
void fake_cuda_recover(void);
// The n-th copy from now on that this function asks for, and those behind it in its stream, wait until they are let go.
void fake_cuda_hold(const char *function, int n);
void fake_cuda_let_go(void);
// So many calls of this function so far.
int fake_cuda_calls(const char *function);
// Bytes that streams were asked to copy between the host and a device so far.
size_t fake_cuda_crossed(void);

#endif
