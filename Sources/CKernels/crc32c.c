// CRC-32C: with tables on every processor, and in quicker ways where it has the instructions for them. They are not those
// of a level, so the ways are counted by themselves.

#include "CKernels.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words of the input are little-endian");

static inline uint64_t word_at(const uint8_t *bytes) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

// ---- With tables --------------------------------------------------------------------------------
//
// Eight bytes at a time, after M. Kounavis and F. Berry, "A Systematic Approach to Building High Performance
// Software-based CRC Generators" (2005): table k has what a byte becomes with k bytes of zeros behind it.

// Of a byte with one bit set: the remainder of x^32, x^33, ... x^95. The highest bit of a byte comes first, and after the
// eight of a byte those of one with a zero more behind it.
#define BITS(X)                                                                                                        \
    X(0x82f63b78, 0x417b1dbc, 0x20bd8ede, 0x105ec76f, 0x8ad958cf, 0xc79a971f, 0xe13b70f7, 0xf26b8303)                  \
    X(0xfbc3faf9, 0xff17c604, 0x7f8be302, 0x3fc5f181, 0x9d14c3b8, 0x4e8a61dc, 0x274530ee, 0x13a29877)                  \
    X(0x8b277743, 0xc76580d9, 0xe144fb14, 0x70a27d8a, 0x38513ec5, 0x9edea41a, 0x4f6f520d, 0xa541927e)                  \
    X(0x52a0c93f, 0xaba65fe7, 0xd725148b, 0xe964b13d, 0xf64463e6, 0x7b2231f3, 0xbf672381, 0xdd45aab8)                  \
    X(0x6ea2d55c, 0x37516aae, 0x1ba8b557, 0x8f2261d3, 0xc5670b91, 0xe045beb0, 0x7022df58, 0x38116fac)                  \
    X(0x1c08b7d6, 0x0e045beb, 0x85f4168d, 0xc00c303e, 0x6006181f, 0xb2f53777, 0xdb8ca0c3, 0xef306b19)                  \
    X(0xf56e0ef4, 0x7ab7077a, 0x3d5b83bd, 0x9c5bfaa6, 0x4e2dfd53, 0xa5e0c5d1, 0xd0065990, 0x68032cc8)                  \
    X(0x34019664, 0x1a00cb32, 0x0d006599, 0x847609b4, 0x423b04da, 0x211d826d, 0x9278fa4e, 0x493c7d27)

#define OF_BYTE(b, h, g, f, e, d, c, B, a)                                                                             \
    (((b)&1 ? a : 0) ^ ((b)&2 ? B : 0) ^ ((b)&4 ? c : 0) ^ ((b)&8 ? d : 0) ^ ((b)&16 ? e : 0) ^ ((b)&32 ? f : 0) ^     \
     ((b)&64 ? g : 0) ^ ((b)&128 ? h : 0))
#define OF_4(b, ...)                                                                                                   \
    OF_BYTE(b, __VA_ARGS__), OF_BYTE(b + 1, __VA_ARGS__), OF_BYTE(b + 2, __VA_ARGS__), OF_BYTE(b + 3, __VA_ARGS__)
#define OF_16(b, ...)                                                                                                  \
    OF_4(b, __VA_ARGS__), OF_4(b + 4, __VA_ARGS__), OF_4(b + 8, __VA_ARGS__), OF_4(b + 12, __VA_ARGS__)
#define OF_64(b, ...)                                                                                                  \
    OF_16(b, __VA_ARGS__), OF_16(b + 16, __VA_ARGS__), OF_16(b + 32, __VA_ARGS__), OF_16(b + 48, __VA_ARGS__)
#define TABLE(...) {OF_64(0, __VA_ARGS__), OF_64(64, __VA_ARGS__), OF_64(128, __VA_ARGS__), OF_64(192, __VA_ARGS__)},

static const uint32_t tables[8][256] = {BITS(TABLE)};

static inline uint32_t after_byte(uint32_t crc, uint8_t byte) { return crc >> 8 ^ tables[0][(uint8_t)crc ^ byte]; }

static uint32_t sum_with_tables(uint32_t before, const void *bytes, size_t count) {
    const uint8_t *place = bytes;
    uint32_t crc = ~before;
    for (; count >= 8; place += 8, count -= 8) {
        uint64_t word = word_at(place) ^ crc;
        crc = 0;
        for (int i = 0; i < 8; i++) {
            crc ^= tables[7 - i][(uint8_t)(word >> 8 * i)];
        }
    }
    for (; count > 0; place++, count--) {
        crc = after_byte(crc, *place);
    }
    return ~crc;
}

// ---- Copying ------------------------------------------------------------------------------------

typedef uint32_t (*crc32c_sum)(uint32_t crc, const void *bytes, size_t count);

// What was copied is still in the first cache when it is summed.
#define PIECE_BYTES ((size_t)4096)

static inline uint32_t copy_in_pieces(crc32c_sum sum, uint32_t crc, uint8_t *target, const uint8_t *source,
                                      size_t count) {
    while (count > 0) {
        size_t piece = count < PIECE_BYTES ? count : PIECE_BYTES;
        memcpy(target, source, piece);
        crc = sum(crc, target, piece);
        target += piece;
        source += piece;
        count -= piece;
    }
    return crc;
}

static uint32_t copy_with_tables(uint32_t crc, void *target, const void *source, size_t count) {
    return copy_in_pieces(sum_with_tables, crc, target, source, count);
}

// ---- With instructions --------------------------------------------------------------------------

#if !defined(PCCL_PLAIN_KERNELS) && defined(__x86_64__)
#define ON_X86 1
#elif !defined(PCCL_PLAIN_KERNELS) && defined(__aarch64__) && defined(__linux__)
#define ON_ARM 1
#endif

#if ON_X86 || ON_ARM
// Fewer words in a stream are not worth the joining. With more, memory that is in no cache is read in places so far from
// each other that what the processor fetches ahead does not help: with 128 words half as fast as with 32.
#define LEAST_WORDS 4
#define MOST_WORDS 32

// x^(64 i - 33) modulo the polynomial, from i = 1 on, to move a checksum over i words. The product of two times 32 bits,
// taken as 64 bits in the order that bits have here, is too high by a factor of x, and the instruction multiplies by x^32.
static const uint32_t shifts[2 * MOST_WORDS] = {
    0x00000001, 0x493c7d27, 0xf20c0dfe, 0xba4fc28e, 0x3da6d0cb, 0xddc0152b, 0x1c291d04, 0x9e4addf8,
    0x740eef02, 0x39d3b296, 0x083a6eec, 0x0715ce53, 0xc49f4f67, 0x47db8317, 0x2ad91c30, 0x0d3b6092,
    0x6992cea2, 0xc96cfdc0, 0x7e908048, 0x878a92a7, 0x1b3d8f29, 0xdaece73e, 0xf1d0f55e, 0xab7aff2a,
    0xa87ab8a8, 0x2162d385, 0x8462d800, 0x83348832, 0x71d111a8, 0x299847d5, 0xffd852c6, 0xb9e02b86,
    0xdcb17aa4, 0x18b33a4e, 0xf37c5aee, 0xb6dd949b, 0x6051d5a2, 0x78d9ccb7, 0x18b0d4ff, 0xbac2fd7b,
    0x21f3d99c, 0xa60ce07b, 0x8f158014, 0xce7f39f4, 0xa00457f7, 0x61d82e56, 0x8d6d2c43, 0xd270f1a2,
    0x00ac29cf, 0xc619809d, 0xe9adf796, 0x2b3cac5d, 0x96638b34, 0x65863b64, 0xe0e9f351, 0x1b03397f,
    0x9af01f2d, 0xebb883bd, 0x2cff42cf, 0xb3e32c28, 0x88f25a3a, 0x064f7f26, 0x4e36f0b0, 0xdd7e3b0c,
};
#endif

#if ON_X86
#include <immintrin.h>

#define CRC_64(crc, word) ((uint32_t)_mm_crc32_u64(crc, word))
#define CRC_32(crc, word) _mm_crc32_u32(crc, word)
#define CRC_16(crc, word) _mm_crc32_u16(crc, word)
#define CRC_8(crc, word) _mm_crc32_u8(crc, word)

#pragma clang attribute push(__attribute__((target("sse4.2"))), apply_to = function)
#define STREAMS_SUM sum_with_instructions
#include "crc32c_streams.h"
#undef STREAMS_SUM
#pragma clang attribute pop

#pragma clang attribute push(__attribute__((target("sse4.2,pclmul"))), apply_to = function)
static inline uint64_t product(uint32_t a, uint32_t b) {
    __m128i all = _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)a), _mm_cvtsi64_si128((int64_t)b), 0);
    return (uint64_t)_mm_cvtsi128_si64(all);
}
#define STREAMS_SUM sum_with_streams
#define STREAMS_PRODUCT product
#include "crc32c_streams.h"
#pragma clang attribute pop
#endif

#if ON_ARM
#include <arm_acle.h>
#include <arm_neon.h>
#include <sys/auxv.h>

#define CRC_64(crc, word) __crc32cd(crc, word)
#define CRC_32(crc, word) __crc32cw(crc, word)
#define CRC_16(crc, word) __crc32ch(crc, word)
#define CRC_8(crc, word) __crc32cb(crc, word)

#pragma clang attribute push(__attribute__((target("crc"))), apply_to = function)
#define STREAMS_SUM sum_with_instructions
#include "crc32c_streams.h"
#undef STREAMS_SUM
#pragma clang attribute pop

// PMULL of 64 bits is one of the instructions for AES.
#pragma clang attribute push(__attribute__((target("crc,aes"))), apply_to = function)
static inline uint64_t product(uint32_t a, uint32_t b) {
    return vgetq_lane_u64(vreinterpretq_u64_p128(vmull_p64(a, b)), 0);
}
#define STREAMS_SUM sum_with_streams
#define STREAMS_PRODUCT product
#include "crc32c_streams.h"
#pragma clang attribute pop
#endif

#if ON_X86 || ON_ARM
static uint32_t copy_with_instructions(uint32_t crc, void *target, const void *source, size_t count) {
    return copy_in_pieces(sum_with_instructions, crc, target, source, count);
}

static uint32_t copy_with_streams(uint32_t crc, void *target, const void *source, size_t count) {
    return copy_in_pieces(sum_with_streams, crc, target, source, count);
}
#endif

// ---- With vectors -------------------------------------------------------------------------------

#if ON_X86
// After V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction" (Intel, 2009): what
// lies in a vector is moved over the bytes behind it and added to them, until one vector is left. To move 16 bytes, each
// half of them is multiplied by a power of x modulo the polynomial: over n bytes the one in front by x^(8 n + 63), the
// other by x^(8 n - 1). Both stand in the upper half of 64 bits.
#pragma clang attribute push(__attribute__((target("sse4.2,pclmul,avx2,vpclmulqdq"))), apply_to = function)
#define VECTOR_BYTES 32
#define VECTORS 4
#define LEAST_BYTES ((size_t)2 * VECTOR_BYTES * VECTORS)

static inline __m256i twice(__m128i half) { return _mm256_broadcastsi128_si256(half); }
static inline __m128i over_128_bytes(void) { return _mm_set_epi64x(0x7417153f00000000, 0x6577b24500000000); }
static inline __m128i over_32_bytes(void) { return _mm_set_epi64x(0xa2158b3400000000, 0x33ccbbbc00000000); }
static inline __m128i over_16_bytes(void) { return _mm_set_epi64x(0x3171d43000000000, 0x3743f7bd00000000); }

static inline __m256i folded(__m256i vector, __m256i distance, __m256i behind) {
    __m256i front = _mm256_clmulepi64_epi128(vector, distance, 0x00);
    return _mm256_xor_si256(_mm256_xor_si256(front, _mm256_clmulepi64_epi128(vector, distance, 0x11)), behind);
}

static inline __m256i copied(uint8_t *target, const uint8_t *source, size_t offset) {
    __m256i vector = _mm256_loadu_si256((const __m256i *)(const void *)(source + offset));
    if (target != NULL) {
        _mm256_storeu_si256((__m256i *)(void *)(target + offset), vector);
    }
    return vector;
}

// Copies if there is a target; in each of the two functions below this is as if written for it.
__attribute__((always_inline)) static inline uint32_t through_vectors(uint32_t before, uint8_t *target,
                                                                      const uint8_t *source, size_t count) {
    __m256i vectors[VECTORS];
    size_t offset = 0;
    for (int i = 0; i < VECTORS; i++, offset += VECTOR_BYTES) {
        vectors[i] = copied(target, source, offset);
    }
    vectors[0] = _mm256_xor_si256(vectors[0], _mm256_zextsi128_si256(_mm_cvtsi32_si128((int)~before)));
    __m256i distance = twice(over_128_bytes());
    while (count - offset >= (size_t)VECTOR_BYTES * VECTORS) {
        for (int i = 0; i < VECTORS; i++, offset += VECTOR_BYTES) {
            vectors[i] = folded(vectors[i], distance, copied(target, source, offset));
        }
    }
    __m256i all = vectors[0];
    for (int i = 1; i < VECTORS; i++) {
        all = folded(all, twice(over_32_bytes()), vectors[i]);
    }
    __m128i front = _mm256_castsi256_si128(all), last = _mm256_extracti128_si256(all, 1);
    last = _mm_xor_si128(last, _mm_clmulepi64_si128(front, over_16_bytes(), 0x00));
    last = _mm_xor_si128(last, _mm_clmulepi64_si128(front, over_16_bytes(), 0x11));
    uint32_t crc = CRC_64(0, (uint64_t)_mm_cvtsi128_si64(last));
    crc = CRC_64(crc, (uint64_t)_mm_extract_epi64(last, 1));
    if (target != NULL) {
        memcpy(target + offset, source + offset, count - offset);
    }
    return sum_with_streams(~crc, source + offset, count - offset);
}

static uint32_t sum_with_vectors(uint32_t crc, const void *bytes, size_t count) {
    return count < LEAST_BYTES ? sum_with_streams(crc, bytes, count) : through_vectors(crc, NULL, bytes, count);
}

static uint32_t copy_with_vectors(uint32_t crc, void *target, const void *source, size_t count) {
    return count < LEAST_BYTES ? copy_with_streams(crc, target, source, count)
                               : through_vectors(crc, target, source, count);
}
#pragma clang attribute pop
#endif

// ---- The way ------------------------------------------------------------------------------------

static pccl_kernel_crc32c_way best_way(void) {
#if ON_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("sse4.2")) {
        return pccl_kernel_crc32c_tables;
    }
    if (!__builtin_cpu_supports("pclmul")) {
        return pccl_kernel_crc32c_instructions;
    }
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("vpclmulqdq")) {
        return pccl_kernel_crc32c_streams;
    }
    return pccl_kernel_crc32c_vectors;
#elif ON_ARM
    unsigned long features = getauxval(AT_HWCAP);
    if (!(features & HWCAP_CRC32)) {
        return pccl_kernel_crc32c_tables;
    }
    return features & HWCAP_PMULL ? pccl_kernel_crc32c_streams : pccl_kernel_crc32c_instructions;
#else
    return pccl_kernel_crc32c_tables;
#endif
}

const pccl_kernel_crc32c *pccl_kernel_crc32c_by(pccl_kernel_crc32c_way way) {
    static const pccl_kernel_crc32c ways[PCCL_KERNEL_CRC32C_WAYS] = {
        [pccl_kernel_crc32c_tables] = {sum_with_tables, copy_with_tables},
#if ON_X86 || ON_ARM
        [pccl_kernel_crc32c_instructions] = {sum_with_instructions, copy_with_instructions},
        [pccl_kernel_crc32c_streams] = {sum_with_streams, copy_with_streams},
#endif
#if ON_X86
        [pccl_kernel_crc32c_vectors] = {sum_with_vectors, copy_with_vectors},
#endif
    };
    return way > best_way() ? NULL : &ways[way];
}

uint32_t pccl_crc32c(uint32_t crc, const void *bytes, size_t count) {
    return pccl_kernel_crc32c_by(best_way())->sum(crc, bytes, count);
}

uint32_t pccl_copy_crc32c(uint32_t crc, void *target, const void *source, size_t count) {
    return pccl_kernel_crc32c_by(best_way())->copy(crc, target, source, count);
}
