// Chooses the level of the codecs' loops, as reduce.c does for reductions.

#include "levels.h"

static const pccl_kernel_codec_table *table_of(pccl_kernel_level level) {
    if (level > pccl_kernel_best_level()) {
        return NULL;
    }
    switch (level) {
    case pccl_kernel_level_plain:
        return &pccl_kernel_codecs_plain;
#ifdef PCCL_KERNEL_X86_LEVELS
    case pccl_kernel_level_avx2:
        return &pccl_kernel_codecs_avx2;
    case pccl_kernel_level_avx512:
        return &pccl_kernel_codecs_avx512;
#endif
    default:
        return NULL;
    }
}

// -1 for types that are not coded.
static int column_of(uint32_t type) { return type == pccl_kernel_float32 ? 0 : type == pccl_kernel_float64 ? 1 : -1; }

const pccl_kernel_codec *pccl_kernel_codec_at(pccl_kernel_level level, uint32_t format, uint32_t type) {
    const pccl_kernel_codec_table *table = table_of(level);
    int column = column_of(type);
    return table == NULL || column < 0 || format >= PCCL_KERNEL_FORMATS ? NULL : table->codecs[format][column];
}

pccl_kernel_loss pccl_kernel_loss_at(pccl_kernel_level level, uint32_t type) {
    const pccl_kernel_codec_table *table = table_of(level);
    int column = column_of(type);
    return table == NULL || column < 0 ? NULL : table->losses[column];
}
