#include "levels.h"

#ifdef PCCL_KERNEL_X86_LEVELS
#include <string.h>

// See level_avx2.c.
#pragma clang attribute push(__attribute__((target("avx2,f16c,avx512f,avx512bw,avx512vl,avx512dq"))),                  \
                             apply_to = function)
#define LEVEL_TABLE pccl_kernel_reductions_avx512
#define LEVEL_CODECS pccl_kernel_codecs_avx512
#define LEVEL_XXH3 pccl_xxh3_avx512
#define FLOAT16_CONVERTS_IN_HARDWARE 1
#include "reduce_loops.h"

#include "codec_loops.h"

#include "hash_loops.h"
#pragma clang attribute pop
#endif
