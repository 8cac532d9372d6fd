// Codecs, with the functions that processors compute them with (Sources/CKernels), so that the bits are the same.
// scripts/device-kernels makes codec.ptx of it, which is what the library has in it; `make lint` tells whether they
// belong together.
//
// No kernel waits for anything but the end of its own work. Counts are of elements; pointers are aligned as their
// elements are, codes have any alignment. A grid may have any number of teams of THREADS_OF_TEAM threads.

#include "device.h"

#pragma clang force_cuda_host_device begin

#define given_float float
#define given_double double
#define LANE_LOOP(count, statement)                                                                                    \
    for (size_t i = lane_of_warp(); i < (count); i += LANES) {                                                         \
        statement;                                                                                                     \
    }
#define VECTOR_LOOP LANE_LOOP
#define LEAST_OF_LANES(x) least_of_lanes(x)
#define MOST_OF_LANES(x) most_of_lanes(x)
#define ONE_LANE(statement)                                                                                            \
    if (lane_of_warp() == 0) {                                                                                         \
        statement;                                                                                                     \
    }
#define LANES_MEET() asm volatile("bar.warp.sync -1;" ::: "memory")
#define BLOCK_CODES(codes) uint8_t *codes = codes_of_warp()
#define CLEAR(bytes, count) LANE_LOOP(count, (bytes)[i] = 0)
#define COPY(to, from, count) LANE_LOOP(count, (to)[i] = (from)[i])
#define WITH_USUAL_NAN(x) with_usual_nan(x)
static inline float with_usual_nan(float x) { return canonical_f32(x); }
static inline double with_usual_nan(double x) { return canonical_f64(x); }

#define LARGEST_BLOCK 256
static __device__ inline uint8_t *codes_of_warp() {
    static __shared__ uint8_t codes[THREADS_OF_TEAM / LANES][LARGEST_BLOCK];
    return codes[thread_of_team() / LANES];
}

#include "../../CKernels/blocks.h"

#pragma clang force_cuda_host_device end

// A warp for each block.
#define FOR_BLOCKS(header, bits, statement)                                                                            \
    const size_t block_bytes = header + (block * bits + 7) / 8;                                                        \
    for (size_t b = thread_of_grid() / LANES; b * block < count; b += threads_of_grid() / LANES) {                     \
        const size_t first = b * block, n = count - first < block ? count - first : block;                             \
        statement;                                                                                                     \
    }

// The kernels of a codec, each of them for the blocks of a whole buffer.
#define ENCODE_BLOCK(name, measure, seed, is_random)                                                                   \
    encode_##name(codes + b * block_bytes, values + first, n, measure(values + first, n), seed, (uint32_t)first,       \
                  is_random)

#define CODEC(name, type, measured, measure, header, bits)                                                             \
    KERNEL encode_##name(uint8_t *codes, const type *values, size_t count, size_t block) {                             \
        FOR_BLOCKS(header, bits, ENCODE_BLOCK(name, measure, 0, 0));                                                   \
    }                                                                                                                  \
    KERNEL encode_randomly_##name(uint8_t *codes, const type *values, size_t count, size_t block, uint64_t seed) {     \
        FOR_BLOCKS(header, bits, ENCODE_BLOCK(name, measure, seed, 1));                                                \
    }                                                                                                                  \
    KERNEL decode_##name(type *values, const uint8_t *codes, size_t count, size_t block) {                             \
        FOR_BLOCKS(header, bits, decode_##name(values + first, codes + b * block_bytes, n, 0));                        \
    }                                                                                                                  \
    KERNEL add_##name(type *sums, const uint8_t *codes, size_t count, size_t block) {                                  \
        FOR_BLOCKS(header, bits, decode_##name(sums + first, codes + b * block_bytes, n, 1));                          \
    }

CODECS(CODEC)

// lost[i] = what coding value i lost; `lost` may be `values` or `decoded`.
#define LOSS(suffix, type)                                                                                             \
    KERNEL loss_##suffix(type *lost, const type *values, const type *decoded, float factor, size_t count) {            \
        for (size_t i = thread_of_grid(); i < count; i += threads_of_grid())                                           \
            lost[i] = loss_of_##suffix(values[i], decoded[i], factor);                                                 \
    }

LOSS(f32, float)
LOSS(f64, double)
