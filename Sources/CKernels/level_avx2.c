#include "levels.h"

#ifdef PCCL_KERNEL_X86_LEVELS
#include <string.h>

// An attribute for each function rather than a flag for the file: the package manager has no flags per file. The
// features named here are the ones that pccl_kernel_best_level asks for.
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#define LEVEL_TABLE pccl_kernel_reductions_avx2
#define LEVEL_CODECS pccl_kernel_codecs_avx2
#define LEVEL_XXH3 pccl_xxh3_avx2
#define FLOAT16_CONVERTS_IN_HARDWARE 1
#include "reduce_loops.h"

#include "codec_loops.h"

#include "hash_loops.h"
#pragma clang attribute pop
#endif
