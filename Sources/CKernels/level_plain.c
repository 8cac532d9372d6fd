#include "levels.h"

// What every processor of the architecture has. On aarch64 that is NEON, with its conversions between float16 and
// float32 (fcvtl, fcvtn): what this file becomes there is the NEON level, and there is nothing to choose at run time.
// Arithmetic in float16 is an extension there, and not wanted: the sums are float32.
#define LEVEL_TABLE pccl_kernel_reductions_plain
#define LEVEL_CODECS pccl_kernel_codecs_plain
#define LEVEL_XXH3 pccl_xxh3_plain
#if defined(__aarch64__)
#define FLOAT16_CONVERTS_IN_HARDWARE 1
#else
#define FLOAT16_CONVERTS_IN_HARDWARE 0
#endif
#include "reduce_loops.h"

#include "codec_loops.h"

#include "hash_loops.h"
