// XXH3 with 128 bits, after "xxHash fast digest algorithm" (Yann Collet, version 0.2.0), with the seed 0 and the secret
// that is given there. The seed is left out of the formulas. The loop over long inputs is in hash_loops.h.

#include "levels.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words of the input are little-endian");

// The names of the specification.
#define PRIME32_1 PCCL_XXH3_PRIME32_1
#define PRIME32_2 0x85ebca77u
#define PRIME64_1 0x9e3779b185ebca87u
#define PRIME64_2 0xc2b2ae3d27d4eb4fu
#define PRIME64_3 0x165667b19e3779f9u
#define PRIME64_4 0x85ebca77c2b2ae63u
#define PRIME_MX1 0x165667919e3779f9u
#define PRIME_MX2 0x9fb21c651e98df25u

const uint8_t pccl_xxh3_secret[PCCL_XXH3_SECRET_BYTES] = {PCCL_XXH3_SECRET};

const uint64_t pccl_xxh3_start[PCCL_XXH3_LANES] = {PCCL_XXH3_START};

// ---- Words and products -------------------------------------------------------------------------

static inline uint64_t word_at(const uint8_t *bytes) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

static inline uint32_t half_word_at(const uint8_t *bytes) {
    uint32_t half;
    memcpy(&half, bytes, sizeof half);
    return half;
}

static inline uint64_t secret_at(size_t offset) { return word_at(pccl_xxh3_secret + offset); }

// Two words of the secret in one.
static inline uint64_t secrets_at(size_t offset) { return secret_at(offset) ^ secret_at(offset + 8); }

static inline pccl_kernel_hash128 product(uint64_t a, uint64_t b) {
    unsigned __int128 all = (unsigned __int128)a * b;
    return (pccl_kernel_hash128){.high = (uint64_t)(all >> 64), .low = (uint64_t)all};
}

static inline uint64_t folded_product(uint64_t a, uint64_t b) {
    pccl_kernel_hash128 all = product(a, b);
    return all.high ^ all.low;
}

// Each bit of what goes in decides about each bit of what comes out. The second one is that of XXH64.
static inline uint64_t avalanche(uint64_t x) {
    x = (x ^ (x >> 37)) * PRIME_MX1;
    return x ^ (x >> 32);
}

static inline uint64_t avalanche_64(uint64_t x) {
    x = (x ^ (x >> 33)) * PRIME64_2;
    x = (x ^ (x >> 29)) * PRIME64_3;
    return x ^ (x >> 32);
}

// ---- Up to 16 bytes -----------------------------------------------------------------------------

static pccl_kernel_hash128 of_nothing(void) {
    return (pccl_kernel_hash128){.high = avalanche_64(secrets_at(80)), .low = avalanche_64(secrets_at(64))};
}

static pccl_kernel_hash128 of_1_to_3(const uint8_t *bytes, size_t count) {
    uint32_t first = bytes[0], middle = bytes[count / 2], last = bytes[count - 1];
    uint32_t all = last | (uint32_t)count << 8 | first << 16 | middle << 24;
    uint32_t turned = __builtin_rotateleft32(__builtin_bswap32(all), 13);
    const uint8_t *secret = pccl_xxh3_secret;
    return (pccl_kernel_hash128){
        .high = avalanche_64(half_word_at(secret + 8) ^ half_word_at(secret + 12) ^ turned),
        .low = avalanche_64(half_word_at(secret) ^ half_word_at(secret + 4) ^ all),
    };
}

static pccl_kernel_hash128 of_4_to_8(const uint8_t *bytes, size_t count) {
    uint64_t all = half_word_at(bytes) | (uint64_t)half_word_at(bytes + count - 4) << 32;
    pccl_kernel_hash128 hash = product(all ^ secrets_at(16), PRIME64_1 + 4 * count);
    hash.high += hash.low << 1;
    hash.low ^= hash.high >> 3;
    hash.low = (hash.low ^ (hash.low >> 35)) * PRIME_MX2;
    hash.low ^= hash.low >> 28;
    hash.high = avalanche(hash.high);
    return hash;
}

static pccl_kernel_hash128 of_9_to_16(const uint8_t *bytes, size_t count) {
    uint64_t first = word_at(bytes), last = word_at(bytes + count - 8);
    uint64_t keyed = last ^ secrets_at(48);
    pccl_kernel_hash128 hash = product(first ^ last ^ secrets_at(32), PRIME64_1);
    hash.low += (uint64_t)(count - 1) << 54;
    hash.high += (keyed & 0xffffffff00000000) + (keyed & 0xffffffff) * PRIME32_2;
    pccl_kernel_hash128 again = product(hash.low ^ __builtin_bswap64(hash.high), PRIME64_2);
    again.high += hash.high * PRIME64_2;
    return (pccl_kernel_hash128){.high = avalanche(again.high), .low = avalanche(again.low)};
}

// ---- Up to 240 bytes ----------------------------------------------------------------------------

static inline uint64_t mixed_16(const uint8_t *bytes, size_t secret) {
    return folded_product(word_at(bytes) ^ secret_at(secret), word_at(bytes + 8) ^ secret_at(secret + 8));
}

static inline void mix(pccl_kernel_hash128 *sums, const uint8_t *first, const uint8_t *second, size_t secret) {
    sums->low = (sums->low + mixed_16(first, secret)) ^ (word_at(second) + word_at(second + 8));
    sums->high = (sums->high + mixed_16(second, secret + 16)) ^ (word_at(first) + word_at(first + 8));
}

static pccl_kernel_hash128 of_sums(pccl_kernel_hash128 sums, size_t count) {
    uint64_t high = sums.low * PRIME64_1 + sums.high * PRIME64_4 + count * PRIME64_2;
    return (pccl_kernel_hash128){.high = 0 - avalanche(high), .low = avalanche(sums.low + sums.high)};
}

// From both ends outside to the middle, where they may overlap; the middle comes first.
static pccl_kernel_hash128 of_17_to_128(const uint8_t *bytes, size_t count) {
    pccl_kernel_hash128 sums = {.high = 0, .low = count * PRIME64_1};
    for (size_t i = (count + 31) / 32; i-- > 0;) {
        mix(&sums, bytes + 16 * i, bytes + count - 16 * (i + 1), 32 * i);
    }
    return of_sums(sums, count);
}

static pccl_kernel_hash128 of_129_to_240(const uint8_t *bytes, size_t count) {
    pccl_kernel_hash128 sums = {.high = 0, .low = count * PRIME64_1};
    for (size_t i = 0; i < 128; i += 32) {
        mix(&sums, bytes + i, bytes + i + 16, i);
    }
    sums = (pccl_kernel_hash128){.high = avalanche(sums.high), .low = avalanche(sums.low)};
    for (size_t i = 128; i + 32 <= count; i += 32) {
        mix(&sums, bytes + i, bytes + i + 16, i - 128 + 3);
    }
    mix(&sums, bytes + count - 16, bytes + count - 32, 103);
    return of_sums(sums, count);
}

pccl_kernel_hash128 pccl_xxh3_of_short(const uint8_t *bytes, size_t count) {
    return count == 0     ? of_nothing()
           : count <= 3   ? of_1_to_3(bytes, count)
           : count <= 8   ? of_4_to_8(bytes, count)
           : count <= 16  ? of_9_to_16(bytes, count)
           : count <= 128 ? of_17_to_128(bytes, count)
                          : of_129_to_240(bytes, count);
}

// ---- The end of a long input --------------------------------------------------------------------

static uint64_t merged_lanes(const uint64_t lanes[PCCL_XXH3_LANES], uint64_t start, size_t secret) {
    for (size_t i = 0; i < PCCL_XXH3_LANES; i += 2) {
        start += folded_product(lanes[i] ^ secret_at(secret + 8 * i), lanes[i + 1] ^ secret_at(secret + 8 * i + 8));
    }
    return avalanche(start);
}

pccl_kernel_hash128 pccl_kernel_xxh3_of_lanes(const uint64_t lanes[PCCL_XXH3_LANES], size_t count) {
    return (pccl_kernel_hash128){
        .high = merged_lanes(lanes, ~(count * PRIME64_2), PCCL_XXH3_SECRET_BYTES - 64 - 11),
        .low = merged_lanes(lanes, count * PRIME64_1, 11),
    };
}

// ---- The level ----------------------------------------------------------------------------------

pccl_kernel_xxh3 pccl_kernel_xxh3_at(pccl_kernel_level level) {
    if (level > pccl_kernel_best_level()) {
        return NULL;
    }
    switch (level) {
    case pccl_kernel_level_plain:
        return pccl_xxh3_plain;
#ifdef PCCL_KERNEL_X86_LEVELS
    case pccl_kernel_level_avx2:
        return pccl_xxh3_avx2;
    case pccl_kernel_level_avx512:
        return pccl_xxh3_avx512;
#endif
    default:
        return NULL;
    }
}

pccl_kernel_xxh3 pccl_kernel_xxh3_best(void) { return pccl_kernel_xxh3_at(pccl_kernel_best_level()); }
