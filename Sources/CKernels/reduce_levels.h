// The tables that reduce_loops.h makes, one per level.

#ifndef PCCL_REDUCE_LEVELS_H
#define PCCL_REDUCE_LEVELS_H

#include "CKernels.h"

#if defined(__x86_64__) && !defined(PCCL_PLAIN_KERNELS)
#define PCCL_KERNEL_X86_LEVELS 1
#endif

// By operation; the table is an array of these by type.
typedef const pccl_kernel_reduction *pccl_kernel_reduction_row[PCCL_KERNEL_OPERATIONS];

#define PCCL_KERNEL_INTERNAL __attribute__((visibility("hidden")))

extern PCCL_KERNEL_INTERNAL const pccl_kernel_reduction_row pccl_kernel_reductions_plain[PCCL_KERNEL_TYPES];
#ifdef PCCL_KERNEL_X86_LEVELS
extern PCCL_KERNEL_INTERNAL const pccl_kernel_reduction_row pccl_kernel_reductions_avx2[PCCL_KERNEL_TYPES];
extern PCCL_KERNEL_INTERNAL const pccl_kernel_reduction_row pccl_kernel_reductions_avx512[PCCL_KERNEL_TYPES];
#endif

#endif
