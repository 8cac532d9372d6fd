// Every codec, compiled once per level, after reduce_loops.h, whose vector loops it uses. The file that includes this
// one sets
//
//   LEVEL_CODECS    the name of the table to define
//
// What is done with one block is in blocks.h.

// A block is the work of one lane.
#define given_float unaligned_float
#define given_double unaligned_double
#define LANE_LOOP SCALAR_LOOP
#define LEAST_OF_LANES(x) (x)
#define MOST_OF_LANES(x) (x)
#define ONE_LANE(statement) statement
#define LANES_MEET() (void)0
#define BLOCK_CODES(codes) uint8_t codes[MOST_BLOCK_ELEMENTS]
#define CLEAR(bytes, count) memset(bytes, 0, count)
#define COPY(to, from, count) memcpy(to, from, count)
#define WITH_USUAL_NAN(x) (x)

#include "blocks.h"

// ---- Loops of a buffer --------------------------------------------------------------------------

// A block of a whole buffer, at `values + i` and `bytes`; the last one may be shorter.
#define FOR_BLOCKS(statement)                                                                                          \
    for (size_t i = 0; i < count; i += block) {                                                                        \
        size_t n = count - i < block ? count - i : block;                                                              \
        statement;                                                                                                     \
    }

// The functions of a codec, from those of its block: measure(values, n), whose answer has the type `measured`, and
// those that the list in blocks.h names. Arguments that are constants make loops of their own. A block is measured
// before the one in front of it is encoded: the end of a measurement is a chain of few instructions, during which the
// processor can do that.
#define CODEC(name, type, measured, measure, header, bits)                                                             \
    ALWAYS void name##_encode_all(unaligned_uint8_t *bytes, const unaligned_##type *x, size_t count, size_t block,     \
                                  uint64_t seed, int is_random) {                                                      \
        measured next = measure(x, count < block ? count : block);                                                     \
        FOR_BLOCKS(measured this = next; size_t left = count - i - n; if (left > 0) {                                  \
            next = measure(x + i + n, left < block ? left : block);                                                    \
        } encode_##name(bytes, x + i, n, this, seed, (uint32_t)i, is_random);                                          \
                   bytes += header + (n * bits + 7) / 8)                                                               \
    }                                                                                                                  \
    static void name##_encode(void *codes, const void *values, size_t count, size_t block) {                           \
        name##_encode_all(codes, values, count, block, 0, 0);                                                          \
    }                                                                                                                  \
    static void name##_encode_randomly(void *codes, const void *values, size_t count, size_t block, uint64_t seed) {   \
        name##_encode_all(codes, values, count, block, seed, 1);                                                       \
    }                                                                                                                  \
    static void name##_decode(void *values, const void *codes, size_t count, size_t block) {                           \
        const unaligned_uint8_t *bytes = codes;                                                                        \
        unaligned_##type *out = values;                                                                                \
        FOR_BLOCKS(decode_##name(out + i, bytes, n, 0); bytes += header + (n * bits + 7) / 8)                          \
    }                                                                                                                  \
    static void name##_add(void *sums, const void *codes, size_t count, size_t block) {                                \
        const unaligned_uint8_t *bytes = codes;                                                                        \
        unaligned_##type *out = sums;                                                                                  \
        FOR_BLOCKS(decode_##name(out + i, bytes, n, 1); bytes += header + (n * bits + 7) / 8)                          \
    }                                                                                                                  \
    static const pccl_kernel_codec name = {                                                                            \
        sizeof(type), header, bits, name##_encode, name##_encode_randomly, name##_decode, name##_add,                  \
    };

CODECS(CODEC)

// ---- What a codec lost --------------------------------------------------------------------------

#define LOSS(suffix, type)                                                                                             \
    static void loss_##suffix(void *lost, const void *values, const void *decoded, float factor, size_t count) {       \
        unaligned_##type *out = lost;                                                                                  \
        const unaligned_##type *x = values, *y = decoded;                                                              \
        VECTOR_LOOP(count, out[i] = loss_of_##suffix(x[i], y[i], factor))                                              \
    }

LOSS(f32, float)
LOSS(f64, double)

// ---- The table ----------------------------------------------------------------------------------

const pccl_kernel_codec_table LEVEL_CODECS = {
    {
        [pccl_kernel_min_max_8] = {&min_max_8_f32, &min_max_8_f64},
        [pccl_kernel_min_max_16] = {&min_max_16_f32, &min_max_16_f64},
        [pccl_kernel_min_max_32] = {NULL, &min_max_32_f64},
        [pccl_kernel_zero_point_8] = {&zero_point_8_f32, &zero_point_8_f64},
        [pccl_kernel_zero_point_16] = {&zero_point_16_f32, &zero_point_16_f64},
        [pccl_kernel_zero_point_32] = {NULL, &zero_point_32_f64},
        [pccl_kernel_int4] = {&int4_float, NULL},
        [pccl_kernel_int4_power] = {&int4_power, NULL},
        [pccl_kernel_e3m0] = {&e3m0_float, NULL},
        [pccl_kernel_e3m0_power] = {&e3m0_power, NULL},
        [pccl_kernel_e4m3] = {&e4m3_float, NULL},
        [pccl_kernel_e4m3_power] = {&e4m3_power, NULL},
        [pccl_kernel_cast_float16] = {&cast_f16, NULL},
        [pccl_kernel_cast_bfloat16] = {&cast_bf16, NULL},
    },
    {loss_f32, loss_f64},
};
