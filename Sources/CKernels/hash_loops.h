// The loop of XXH3 over long inputs, compiled once per level. The file that includes this one sets
//
//   LEVEL_XXH3    the name of the function to define
//
// What is short, or done once, is in hash.c. Eight lanes of 64 bits go through the input side by side. They are written
// as one vector, and each level cuts it to the width that it has: of a loop over lanes clang makes something slower, on
// aarch64 without any vectors.

typedef uint64_t row __attribute__((vector_size(8 * PCCL_XXH3_LANES)));
typedef row unaligned_row __attribute__((aligned(1), may_alias));

#define BLOCK_BYTES ((size_t)PCCL_XXH3_ROWS_OF_BLOCK * sizeof(row))

// A lane takes its neighbour's word as it is, so that no word is lost where it meets a zero, and its own as a product.
static inline void accumulate(row *lanes, const uint8_t *bytes, const uint8_t *secret) {
    row words = *(const unaligned_row *)bytes;
    row keyed = words ^ *(const unaligned_row *)secret;
    row neighbours = __builtin_shufflevector(words, words, 1, 0, 3, 2, 5, 4, 7, 6);
    *lanes += neighbours + (keyed & 0xffffffff) * (keyed >> 32);
}

static inline void scramble(row *lanes, const uint8_t *secret) {
    row keyed = *lanes ^ (*lanes >> 47) ^ *(const unaligned_row *)secret;
    *lanes = keyed * PCCL_XXH3_PRIME32_1;
}

pccl_kernel_hash128 LEVEL_XXH3(const void *bytes, size_t count) {
    if (count <= PCCL_XXH3_LONGEST_SHORT) {
        return pccl_xxh3_of_short(bytes, count);
    }
    const uint8_t *secret = pccl_xxh3_secret, *place = bytes, *end = place + count;
    row lanes;
    memcpy(&lanes, pccl_xxh3_start, sizeof lanes);
    // The last block is not scrambled, even if it is a whole one.
    for (; (size_t)(end - place) > BLOCK_BYTES; place += BLOCK_BYTES) {
        for (size_t i = 0; i < PCCL_XXH3_ROWS_OF_BLOCK; i++) {
            accumulate(&lanes, place + i * sizeof(row), secret + 8 * i);
        }
        scramble(&lanes, secret + PCCL_XXH3_SCRAMBLE_SECRET);
    }
    size_t rows = ((size_t)(end - place) - 1) / sizeof(row);
    for (size_t i = 0; i < rows; i++) {
        accumulate(&lanes, place + i * sizeof(row), secret + 8 * i);
    }
    // Of the last row some bytes may have been seen already.
    accumulate(&lanes, end - sizeof(row), secret + PCCL_XXH3_LAST_SECRET);
    uint64_t merged[PCCL_XXH3_LANES];
    memcpy(merged, &lanes, sizeof lanes);
    return pccl_kernel_xxh3_of_lanes(merged, count);
}
