// The arithmetic of the library: loops over elements and nothing else. No allocation, no state, no locks; every
// function may be called from any thread.
//
// Types and operations are the numbers of the C API. Pointers may have any alignment. The floating-point environment
// must be the default one (round to nearest, no flush to zero): results are promised bit for bit.

#ifndef PCCL_KERNELS_H
#define PCCL_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pccl_kernel_type {
    pccl_kernel_uint8 = 0,
    pccl_kernel_int8 = 1,
    pccl_kernel_int16 = 2,
    pccl_kernel_uint16 = 3,
    pccl_kernel_uint32 = 4,
    pccl_kernel_int32 = 5,
    pccl_kernel_uint64 = 6,
    pccl_kernel_int64 = 7,
    pccl_kernel_float16 = 8,
    pccl_kernel_bfloat16 = 9,
    pccl_kernel_float32 = 10,
    pccl_kernel_float64 = 11,
} pccl_kernel_type;

#define PCCL_KERNEL_TYPES 12

typedef enum pccl_kernel_operation {
    pccl_kernel_sum = 0,
    pccl_kernel_average = 1,
    pccl_kernel_product = 2,
    pccl_kernel_maximum = 3,
    pccl_kernel_minimum = 4,
} pccl_kernel_operation;

#define PCCL_KERNEL_OPERATIONS 5

// What the loops were compiled for. Every level gives the same bits; a higher one gives them sooner.
typedef enum pccl_kernel_level {
    pccl_kernel_level_plain = 0, // the baseline of the architecture: SSE2 on x86-64, NEON on aarch64
    pccl_kernel_level_avx2 = 1,
    pccl_kernel_level_avx512 = 2,
} pccl_kernel_level;

// How contributions of one (type, operation) are folded: get it once, then call its loops with a count of elements.
//
// Contributions are elements of the type; partial results are accumulators, which may be wider:
//
//   integers      sum, product, maximum, minimum: the type itself, wrapping.
//                 average: 32 bits for 8- and 16-bit types, 64 for 32-bit, 128 for 64-bit; the sum is divided by the
//                 world size towards zero. Enough for 65536 contributions.
//   16-bit floats sum, average, product: float32, rounded once, to nearest even, by the loop that writes elements.
//                 maximum, minimum: the type itself.
//   32, 64 bits   the type itself; the average is one true division of the sum by the world size.
//
// Maximum and minimum are NaN when any contribution is, and -0 is less than +0. A NaN that leaves through `end`,
// `whole` or `finish` is the canonical quiet one (positive, payload empty), so no result depends on who came first. In
// accumulators a NaN is any NaN.
//
// The destination may be exactly one of the sources when their elements have the same size; buffers never overlap in
// part. A world size is at least 1.
//
//   n contributions: n = 1  load, finish          n = 2  whole, or start, finish
//                    n > 2  start (or load, more), more ..., end (or more, finish)
//
// Sums that others have begun are joined by merge.
typedef struct pccl_kernel_reduction {
    size_t element_bytes;
    size_t accumulator_bytes;

    // accumulator[i] = first[i]
    void (*_Nonnull load)(void *_Nonnull accumulator, const void *_Nonnull first, size_t count);

    // accumulator[i] = first[i] ∘ second[i]
    void (*_Nonnull start)(void *_Nonnull accumulator, const void *_Nonnull first, const void *_Nonnull second,
                           size_t count);

    // accumulator[i] = accumulator[i] ∘ next[i]
    void (*_Nonnull more)(void *_Nonnull accumulator, const void *_Nonnull next, size_t count);

    // accumulator[i] = accumulator[i] ∘ other[i], both accumulators
    void (*_Nonnull merge)(void *_Nonnull accumulator, const void *_Nonnull other, size_t count);

    // out[i] = finished(accumulator[i] ∘ last[i])
    void (*_Nonnull end)(void *_Nonnull out, const void *_Nonnull accumulator, const void *_Nonnull last, size_t count,
                         uint32_t world_size);

    // out[i] = finished(first[i] ∘ second[i])
    void (*_Nonnull whole)(void *_Nonnull out, const void *_Nonnull first, const void *_Nonnull second, size_t count,
                           uint32_t world_size);

    // out[i] = finished(accumulator[i])
    void (*_Nonnull finish)(void *_Nonnull out, const void *_Nonnull accumulator, size_t count, uint32_t world_size);
} pccl_kernel_reduction;

// The best loops that this processor runs; null for an unknown type or operation. The answer is constant memory.
const pccl_kernel_reduction *_Nullable pccl_kernel_reduction_for(uint32_t type, uint32_t operation);

// The loops of one level, so that tests can compare levels; null too where this build or processor lacks the level.
const pccl_kernel_reduction *_Nullable pccl_kernel_reduction_at(pccl_kernel_level level, uint32_t type,
                                                                uint32_t operation);

// The level that pccl_kernel_reduction_for uses here.
pccl_kernel_level pccl_kernel_best_level(void);

// Bytes of one accumulator; 0 for an unknown type or operation.
size_t pccl_kernel_accumulator_bytes(uint32_t type, uint32_t operation);

// ---- Codecs ----

// What travels of floats instead of themselves. A buffer is cut into blocks of as many values as the caller says, 32 to
// 256, the last one maybe shorter; the blocks lie one after the other, each as
//
//   header | codes, `code_bits` each: byte_count = header_bytes + (values × code_bits + 7) / 8
//
//   format          header (little endian)               code                                a value is
//   min_max_N       scale, lowest value                  N bits, 0 to 2^N - 1                lowest + code × scale
//   zero_point_N    scale, code of zero (as a float)     N bits, 0 to 2^N - 1                (code - zero) × scale
//   int4            scale                                4 bits, number + 8, of -7 to 7      number × scale
//   e3m0            scale                                4 bits: sign, exponent e            ± 2^(e - 7) × scale, or 0
//   e4m3            scale                                8 bits: sign, exponent, mantissa    number × scale
//   cast_float16    none                                 16 bits                             the number
//   cast_bfloat16   none                                 16 bits                             the number
//
// Headers of min_max and zero_point are two floats of the type that is coded, scales otherwise are float32, or, in the
// formats `_power`, one byte of the type E8M0: the power of two 2^(byte - 127), 255 for NaN. Of codes of 4 bits, byte j
// of n values holds the j-th in its low half and the one (n + 1) / 2 further in its high half.
//
// Each product and each sum is rounded by itself, to nearest even, and codes are rounded so too: the same on every
// machine. An e3m0 goes to the larger neighbour from the middle on. A block with a value that is no number, or one of
// 2^126 (float64: 2^1022) or more, is NaN all through, but for casts, which code each value by itself.
typedef enum pccl_kernel_format {
    pccl_kernel_min_max_8 = 0,
    pccl_kernel_min_max_16 = 1,
    pccl_kernel_min_max_32 = 2, // float64 alone
    pccl_kernel_zero_point_8 = 3,
    pccl_kernel_zero_point_16 = 4,
    pccl_kernel_zero_point_32 = 5, // float64 alone
    pccl_kernel_int4 = 6,          // this one and those below: float32 alone
    pccl_kernel_int4_power = 7,
    pccl_kernel_e3m0 = 8,
    pccl_kernel_e3m0_power = 9,
    pccl_kernel_e4m3 = 10,
    pccl_kernel_e4m3_power = 11,
    pccl_kernel_cast_float16 = 12,
    pccl_kernel_cast_bfloat16 = 13,
} pccl_kernel_format;

#define PCCL_KERNEL_FORMATS 14
#define PCCL_KERNEL_LARGEST_BLOCK 256

// Counts are in values, `block` is how many make up one. Buffers do not overlap.
typedef struct pccl_kernel_codec {
    size_t value_bytes;
    size_t header_bytes;
    size_t code_bits;

    // Rounds to nearest.
    void (*_Nonnull encode)(void *_Nonnull codes, const void *_Nonnull values, size_t count, size_t block);

    // Rounds up or down at random, as often as the value is nearer to it, so that the mean of what is decoded is the
    // value. The same seed and values give the same codes.
    void (*_Nonnull encode_randomly)(void *_Nonnull codes, const void *_Nonnull values, size_t count, size_t block,
                                     uint64_t seed);

    // values[i] = what the code says
    void (*_Nonnull decode)(void *_Nonnull values, const void *_Nonnull codes, size_t count, size_t block);

    // sums[i] = sums[i] + what the code says
    void (*_Nonnull add)(void *_Nonnull sums, const void *_Nonnull codes, size_t count, size_t block);
} pccl_kernel_codec;

// The loops of one level; null for an unknown format, where the format cannot code the type (float32 or float64), and
// where this build or processor lacks the level. The answer is constant memory.
const pccl_kernel_codec *_Nullable pccl_kernel_codec_at(pccl_kernel_level level, uint32_t format, uint32_t type);

// lost[i] = (values[i] - decoded[i]) × factor, 0 where that is no number or out of reach for a codec. `lost` may be
// exactly `values` or `decoded`. Null for types but float32 and float64.
typedef void (*pccl_kernel_loss)(void *_Nonnull lost, const void *_Nonnull values, const void *_Nonnull decoded,
                                 float factor, size_t count);
pccl_kernel_loss _Nullable pccl_kernel_loss_at(pccl_kernel_level level, uint32_t type);

// ---- Hashes ----

// The canonical form of xxHash, in which a hash travels and is shown, is `high` and then `low`, big-endian both.
typedef struct pccl_kernel_hash128 {
    uint64_t high, low;
} pccl_kernel_hash128;

// XXH3 with 128 bits, seed 0 and the secret of the specification, as `xxhsum -H2` computes it, of `count` bytes; they
// may be null if there are none. Fit to tell contents apart, not to withstand somebody who makes two that are alike.
typedef pccl_kernel_hash128 (*pccl_kernel_xxh3)(const void *_Nullable bytes, size_t count);

// The best one that this processor runs.
pccl_kernel_xxh3 _Nonnull pccl_kernel_xxh3_best(void);

// That of one level; null where this build or processor lacks it.
pccl_kernel_xxh3 _Nullable pccl_kernel_xxh3_at(pccl_kernel_level level);

// The hash of more than 240 bytes, from its eight lanes after the last row: for who has worked them out elsewhere.
pccl_kernel_hash128 pccl_kernel_xxh3_of_lanes(const uint64_t lanes[_Nonnull 8], size_t count);

// ---- Checksums ----

// CRC-32C (Castagnoli), as iSCSI has it: RFC 3720, section 12.1 and appendix B.4. `crc` is that of what comes before
// these bytes, 0 if nothing does. They may be null if there are none. Finds every error of up to 32 bits in a row, and
// other accidents but for one in 2^32; it does not withstand anybody.
uint32_t pccl_crc32c(uint32_t crc, const void *_Nullable bytes, size_t count);

// The same, and copies the bytes on the way. The two do not overlap.
uint32_t pccl_copy_crc32c(uint32_t crc, void *_Nullable target, const void *_Nullable source, size_t count);

// How it is worked out. All give the same; the last one that a processor has is the fastest.
typedef enum pccl_kernel_crc32c_way {
    pccl_kernel_crc32c_tables = 0,       // any processor
    pccl_kernel_crc32c_instructions = 1, // those for this checksum: SSE4.2, or the CRC extension of aarch64
    pccl_kernel_crc32c_streams = 2,      // the same, three at a time, and a carry-less product: PCLMULQDQ, PMULL
    pccl_kernel_crc32c_vectors = 3,      // carry-less products of 32 bytes at once: VPCLMULQDQ with AVX2
} pccl_kernel_crc32c_way;

#define PCCL_KERNEL_CRC32C_WAYS 4

typedef struct pccl_kernel_crc32c {
    uint32_t (*_Nonnull sum)(uint32_t crc, const void *_Nullable bytes, size_t count);
    uint32_t (*_Nonnull copy)(uint32_t crc, void *_Nullable target, const void *_Nullable source, size_t count);
} pccl_kernel_crc32c;

// Null where this build or processor lacks it. The answer is constant memory.
const pccl_kernel_crc32c *_Nullable pccl_kernel_crc32c_by(pccl_kernel_crc32c_way way);

// ---- Outer steps ----
//
// What an optimiser does with parameters that all hold alike. Pointers are those of whole floats; buffers do not
// overlap. Devices compute the same (Sources/CCUDA/kernels/outer.cu), to the bit: a NaN that is written is the
// canonical quiet one, as above.

// out[i] = local[i]
void pccl_kernel_outer_load(float *_Nonnull out, const float *_Nonnull local, size_t count);

// The same of float64, which lie anywhere.
void pccl_kernel_outer_widen(float *_Nonnull out, const void *_Nonnull local, size_t count);

// local[i] = values[i], where `local` are float64, which lie anywhere.
void pccl_kernel_outer_narrow(void *_Nonnull local, const float *_Nonnull values, size_t count);

// out[i] = weight × (outer[i] - local[i])
void pccl_kernel_outer_difference(float *_Nonnull out, const float *_Nonnull outer, const float *_Nonnull local,
                                  float weight, size_t count);

// values[i] = values[i] / divisor
void pccl_kernel_outer_divide(float *_Nonnull values, float divisor, size_t count);

// outer[i] = outer[i] - rate × gradient[i]
void pccl_kernel_outer_descend(float *_Nonnull outer, const float *_Nonnull gradient, float rate, size_t count);

// momentum[i] = factor × momentum[i] + gradient[i]
void pccl_kernel_outer_accumulate(float *_Nonnull momentum, const float *_Nonnull gradient, float factor, size_t count);

// outer[i] = outer[i] - rate × (gradient[i] + factor × momentum[i])
void pccl_kernel_outer_descend_ahead(float *_Nonnull outer, const float *_Nonnull momentum,
                                     const float *_Nonnull gradient, float rate, float factor, size_t count);

// local[i] = mixing × local[i] + (1 - mixing) × outer[i]
void pccl_kernel_outer_mix(float *_Nonnull local, const float *_Nonnull outer, float mixing, size_t count);

// The sum of a[i]², or of (a[i] - b[i])², in float64: of eight sums, one for each remainder of i.
double pccl_kernel_outer_squares(const float *_Nonnull a, const float *_Nullable b, size_t count);

// That sum of those eight: for who has worked them out elsewhere.
double pccl_kernel_outer_squares_of_lanes(const double lanes[_Nonnull 8]);

#ifdef __cplusplus
}
#endif

#endif
