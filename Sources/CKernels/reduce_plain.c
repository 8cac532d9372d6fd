#include "reduce_levels.h"

#define LEVEL_TABLE pccl_kernel_reductions_plain
// Conversion to and from float16 is in the baseline of aarch64, but not of x86-64.
#if defined(__aarch64__)
#define FLOAT16_CONVERTS_IN_HARDWARE 1
#else
#define FLOAT16_CONVERTS_IN_HARDWARE 0
#endif
#include "reduce_loops.h"
