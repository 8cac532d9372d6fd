// Chooses the level of the reduction loops. No ifuncs: the caller keeps the pointer it gets, so the choice is made once
// per reducer, and loaders, sanitizers and static linking have nothing to trip over.

#include "levels.h"

pccl_kernel_level pccl_kernel_best_level(void) {
#ifdef PCCL_KERNEL_X86_LEVELS
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("f16c")) {
        return pccl_kernel_level_plain;
    }
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq")) {
        return pccl_kernel_level_avx2;
    }
    return pccl_kernel_level_avx512;
#else
    return pccl_kernel_level_plain;
#endif
}

static const pccl_kernel_reduction_row *rows_of(pccl_kernel_level level) {
    switch (level) {
    case pccl_kernel_level_plain:
        return pccl_kernel_reductions_plain;
#ifdef PCCL_KERNEL_X86_LEVELS
    case pccl_kernel_level_avx2:
        return pccl_kernel_reductions_avx2;
    case pccl_kernel_level_avx512:
        return pccl_kernel_reductions_avx512;
#endif
    default:
        return NULL;
    }
}

const pccl_kernel_reduction *pccl_kernel_reduction_at(pccl_kernel_level level, uint32_t type, uint32_t operation) {
    if (type >= PCCL_KERNEL_TYPES || operation >= PCCL_KERNEL_OPERATIONS || level > pccl_kernel_best_level()) {
        return NULL;
    }
    return rows_of(level)[type][operation];
}

const pccl_kernel_reduction *pccl_kernel_reduction_for(uint32_t type, uint32_t operation) {
    return pccl_kernel_reduction_at(pccl_kernel_best_level(), type, operation);
}

size_t pccl_kernel_accumulator_bytes(uint32_t type, uint32_t operation) {
    const pccl_kernel_reduction *reduction = pccl_kernel_reduction_at(pccl_kernel_level_plain, type, operation);
    return reduction == NULL ? 0 : reduction->accumulator_bytes;
}
