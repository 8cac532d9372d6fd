// The tables that reduce_loops.h and codec_loops.h make, and the function of hash_loops.h, one of each per level.

#ifndef PCCL_LEVELS_H
#define PCCL_LEVELS_H

#include "CKernels.h"
#include "xxh3.h"

#if defined(__x86_64__) && !defined(PCCL_PLAIN_KERNELS)
#define PCCL_KERNEL_X86_LEVELS 1
#endif

// By operation; the table is an array of these by type.
typedef const pccl_kernel_reduction *pccl_kernel_reduction_row[PCCL_KERNEL_OPERATIONS];

// By format, then float32 and float64; what coding lost, likewise.
typedef struct pccl_kernel_codec_table {
    const pccl_kernel_codec *codecs[PCCL_KERNEL_FORMATS][2];
    pccl_kernel_loss losses[2];
} pccl_kernel_codec_table;

#define PCCL_KERNEL_INTERNAL __attribute__((visibility("hidden")))

extern PCCL_KERNEL_INTERNAL const pccl_kernel_reduction_row pccl_kernel_reductions_plain[PCCL_KERNEL_TYPES];
extern PCCL_KERNEL_INTERNAL const pccl_kernel_codec_table pccl_kernel_codecs_plain;
#ifdef PCCL_KERNEL_X86_LEVELS
extern PCCL_KERNEL_INTERNAL const pccl_kernel_reduction_row pccl_kernel_reductions_avx2[PCCL_KERNEL_TYPES];
extern PCCL_KERNEL_INTERNAL const pccl_kernel_codec_table pccl_kernel_codecs_avx2;
extern PCCL_KERNEL_INTERNAL const pccl_kernel_reduction_row pccl_kernel_reductions_avx512[PCCL_KERNEL_TYPES];
extern PCCL_KERNEL_INTERNAL const pccl_kernel_codec_table pccl_kernel_codecs_avx512;
#endif

// XXH3: what the loops of the levels share with hash.c.
extern PCCL_KERNEL_INTERNAL const uint8_t pccl_xxh3_secret[PCCL_XXH3_SECRET_BYTES];
extern PCCL_KERNEL_INTERNAL const uint64_t pccl_xxh3_start[PCCL_XXH3_LANES];
PCCL_KERNEL_INTERNAL pccl_kernel_hash128 pccl_xxh3_of_short(const uint8_t *bytes, size_t count);

PCCL_KERNEL_INTERNAL pccl_kernel_hash128 pccl_xxh3_plain(const void *bytes, size_t count);
#ifdef PCCL_KERNEL_X86_LEVELS
PCCL_KERNEL_INTERNAL pccl_kernel_hash128 pccl_xxh3_avx2(const void *bytes, size_t count);
PCCL_KERNEL_INTERNAL pccl_kernel_hash128 pccl_xxh3_avx512(const void *bytes, size_t count);
#endif

#endif
