// Runs PTX, as far as the library's kernels need it: PTX ISA 6.3 (NVIDIA, Parallel Thread Execution). What is not known
// is an error when a module is loaded, and what a device would leave undefined is an error when a kernel runs: a
// register that was never written, an address that is no memory's or not aligned, lanes that meet without each other.
#ifndef PTX_H
#define PTX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ptx_module ptx_module;
typedef struct ptx_kernel ptx_kernel;

enum { PTX_LANES = 32, PTX_ERROR_BYTES = 256 };

// Null, and why, if it is no module that can be run here.
ptx_module *ptx_load(const char *text, char error[PTX_ERROR_BYTES]);
void ptx_unload(ptx_module *module);
ptx_kernel *ptx_find(ptx_module *module, const char *name);

// The parameters, in the memory that they are to be copied to.
int ptx_parameter_count(const ptx_kernel *kernel);
size_t ptx_parameter_place(const ptx_kernel *kernel, int index, size_t *bytes);
size_t ptx_parameter_bytes(const ptx_kernel *kernel);
// 0 if it says nothing.
unsigned ptx_most_threads(const ptx_kernel *kernel);

// Where memory of the device is for this process; null if it is none, or may not be written.
typedef void *(*ptx_memory)(uint64_t address, size_t bytes, bool writes);

// Runs all teams, and the warps of each, in an order that follows from the seed. False, and why, if it may not.
bool ptx_run(const ptx_kernel *kernel, unsigned teams, unsigned threads, const uint8_t *parameters, ptx_memory memory,
             uint32_t seed, char error[PTX_ERROR_BYTES]);

#endif
