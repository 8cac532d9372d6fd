// Hashes of chunks: the long loop of XXH3 (Sources/CKernels/hash_loops.h). scripts/device-kernels makes hash.ptx of it,
// which is what the library has in it; `make lint` tells whether they belong together.
//
// A chunk is the work of one warp. What is added to the eight lanes within a block of 16 rows may be added in any
// order: four rows at a time, one word of one row by each thread, and the sums are put together where a block ends.

#include "device.h"

#include "../../CKernels/xxh3.h"

static __device__ __attribute__((aligned(8))) const uint8_t secret[PCCL_XXH3_SECRET_BYTES] = {PCCL_XXH3_SECRET};
static __device__ const uint64_t start[PCCL_XXH3_LANES] = {PCCL_XXH3_START};

enum {
    WORD_BYTES = 8,
    ROWS_AT_ONCE = LANES / PCCL_XXH3_LANES,
    STEPS_OF_BLOCK = PCCL_XXH3_ROWS_OF_BLOCK / ROWS_AT_ONCE,
    BLOCK_BYTES = PCCL_XXH3_ROWS_OF_BLOCK * PCCL_XXH3_ROW_BYTES
};

static __device__ inline uint64_t word_anywhere(const uint8_t *bytes) {
    uint64_t word = 0;
    for (int i = 0; i < WORD_BYTES; i++)
        word |= (uint64_t)bytes[i] << (8 * i);
    return word;
}

// What a word adds to its lane. Its neighbour's word is the other thread's.
static __device__ inline uint64_t addend(uint64_t word, uint64_t secret_word) {
    uint64_t keyed = word ^ secret_word;
    return of_lane_across(word, 1) + (keyed & 0xffffffff) * (keyed >> 32);
}

// Of the threads that have words of the same lane.
static __device__ inline uint64_t sum_of_rows(uint64_t x) {
    for (uint32_t distance = PCCL_XXH3_LANES; distance < LANES; distance *= 2)
        x += of_lane_across(x, distance);
    return x;
}

// lanes[8 × c + i] is lane i of chunk c after all rows of its bytes: pccl_kernel_xxh3_of_lanes makes the hash of them.
// Chunks of PCCL_XXH3_LONGEST_SHORT bytes or less are hashed in another way, and left out. `data` and `chunk_bytes` are
// multiples of 8.
KERNEL hash_chunks(uint64_t *lanes, const uint8_t *data, size_t count, size_t chunk_bytes) {
    const uint32_t lane = lane_of_warp() % PCCL_XXH3_LANES, row = lane_of_warp() / PCCL_XXH3_LANES;
    const uint64_t *secret_words = (const uint64_t *)secret;
    uint64_t secrets[STEPS_OF_BLOCK];
#pragma unroll
    for (int step = 0; step < STEPS_OF_BLOCK; step++)
        secrets[step] = secret_words[step * ROWS_AT_ONCE + row + lane];
    const uint64_t scramble_secret = secret_words[PCCL_XXH3_SCRAMBLE_SECRET / WORD_BYTES + lane];

    for (size_t chunk = thread_of_grid() / LANES; chunk * chunk_bytes < count; chunk += threads_of_grid() / LANES) {
        const uint8_t *bytes = data + chunk * chunk_bytes;
        const size_t left_in_all = count - chunk * chunk_bytes;
        const uint8_t *end = bytes + (left_in_all < chunk_bytes ? left_in_all : chunk_bytes);
        if (end - bytes <= PCCL_XXH3_LONGEST_SHORT)
            continue;
        uint64_t sum = start[lane];
        const uint64_t *words = (const uint64_t *)bytes + row * PCCL_XXH3_LANES + lane;
        // The last block is not scrambled, even if it is a whole one.
        for (; end - bytes > BLOCK_BYTES; bytes += BLOCK_BYTES) {
            uint64_t added = 0;
#pragma unroll
            for (int step = 0; step < STEPS_OF_BLOCK; step++)
                added += addend(words[step * LANES], secrets[step]);
            words += BLOCK_BYTES / WORD_BYTES;
            sum += sum_of_rows(added);
            sum = (sum ^ (sum >> 47) ^ scramble_secret) * PCCL_XXH3_PRIME32_1;
        }
        const uint32_t rows = (uint32_t)((end - bytes - 1) / PCCL_XXH3_ROW_BYTES);
        uint64_t added = 0;
#pragma unroll
        for (int step = 0; step < STEPS_OF_BLOCK; step++) {
            const bool is_there = step * ROWS_AT_ONCE + row < rows;
            const uint64_t next = addend(is_there ? words[step * LANES] : 0, secrets[step]);
            added += is_there ? next : 0;
        }
        // Of the last row some bytes may have been seen already. Every row of threads has it, and one adds it.
        const uint64_t last = addend(word_anywhere(end - PCCL_XXH3_ROW_BYTES + WORD_BYTES * lane),
                                     word_anywhere(secret + PCCL_XXH3_LAST_SECRET + WORD_BYTES * lane));
        sum += sum_of_rows(added + (row == 0 ? last : 0));
        if (row == 0)
            lanes[chunk * PCCL_XXH3_LANES + lane] = sum;
    }
}
