// What a reduction does with single elements: everything about its result, and nothing about loops. Compiled once per
// level of the processor, by reduce_loops.h, and once for devices (Sources/CCUDA/kernels), so that all of them give the
// same bits. The file that includes this one sets
//
//   FLOAT16_CONVERTS_IN_HARDWARE   1 when a cast from or to _Float16 is an instruction
//
// and has included <stddef.h>, <stdint.h> and <string.h>, or has its own of what they declare. From the bottom up:
// conversions, what ∘ does, how a result is finished, the list of reductions.

#ifndef PCCL_KERNEL_ELEMENTS_H
#define PCCL_KERNEL_ELEMENTS_H

// A fused multiply-add rounds once where other levels round twice.
#pragma STDC FP_CONTRACT OFF

typedef __int128 int128_t;
typedef unsigned __int128 uint128_t;

// ---- Conversions --------------------------------------------------------------------------------

static inline uint32_t bits_of_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float f32_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline double f64_of_bits(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint64_t bits_of_f64(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float f32_of_bf16(uint16_t x) { return f32_of_bits((uint32_t)x << 16); }

static inline uint16_t bf16_of_f32(float x) {
    uint32_t bits = bits_of_f32(x);
    // Half of what is cut off, less one, and the last bit kept: ties go to even. Overflow carries into infinity.
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

#if FLOAT16_CONVERTS_IN_HARDWARE

static inline float f32_of_f16(uint16_t x) {
    _Float16 half;
    memcpy(&half, &x, sizeof half);
    return (float)half;
}

static inline uint16_t f16_of_f32(float x) {
    _Float16 half = (_Float16)x;
    uint16_t bits;
    memcpy(&bits, &half, sizeof bits);
    return x == x ? bits : 0x7e00;
}

#else

// Without branches, so that the loops around them are still vectorised.

static inline float f32_of_f16(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000) << 16;
    int32_t magnitude = x & 0x7fff; // signed comparisons, for that is what old vector units have
    uint32_t normal = ((uint32_t)magnitude << 13) + (112u << 23);  // the exponent's bias goes from 15 to 127
    uint32_t special = ((uint32_t)magnitude << 13) + (224u << 23); // infinity and NaN: from 31 to 255
    uint32_t subnormal = bits_of_f32((float)magnitude * 0x1p-24f); // exact, and normal as float32
    uint32_t bits = magnitude >= 0x7c00 ? special : normal;
    return f32_of_bits((magnitude < 0x0400 ? subnormal : bits) | sign);
}

static inline uint16_t f16_of_f32(float x) {
    int32_t bits = (int32_t)bits_of_f32(x);
    int32_t sign = (bits >> 16) & 0x8000;
    int32_t magnitude = bits & 0x7fffffff;
    int32_t normal = (magnitude - (112 << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    // The last place of 0.5 is 2^-24, as that of a float16 subnormal: the addition rounds where we want it.
    int32_t small = magnitude < 0x38800000 ? magnitude : 0;
    int32_t subnormal = (int32_t)bits_of_f32(f32_of_bits((uint32_t)small) + 0.5f) - 0x3f000000;
    int32_t half = magnitude < 0x38800000 ? subnormal : normal;
    half = magnitude >= 0x477ff000 ? 0x7c00 : half; // 65520 and more round to infinity
    return (uint16_t)(magnitude > 0x7f800000 ? 0x7e00 : half | sign);
}

#endif

#define same(x) (x)
#define to_i32(x) ((int32_t)(x))
#define to_u32(x) ((uint32_t)(x))
#define to_i64(x) ((int64_t)(x))
#define to_u64(x) ((uint64_t)(x))
#define to_i128(x) ((int128_t)(x))
#define to_u128(x) ((uint128_t)(x))

// ---- What ∘ does --------------------------------------------------------------------------------

// Computed unsigned, where wrapping is defined; the factor 1u keeps 16-bit operands from becoming int.
#define WRAPPING(name, type, unsigned_type)                                                                            \
    static inline type add_##name(type a, type b) { return (type)((unsigned_type)a + (unsigned_type)b); }              \
    static inline type multiply_##name(type a, type b) { return (type)(1u * (unsigned_type)a * (unsigned_type)b); }

#define ORDERED(name, type)                                                                                            \
    static inline type larger_##name(type a, type b) { return a > b ? a : b; }                                         \
    static inline type smaller_##name(type a, type b) { return a < b ? a : b; }

WRAPPING(u8, uint8_t, uint8_t)
WRAPPING(u16, uint16_t, uint16_t)
WRAPPING(u32, uint32_t, uint32_t)
WRAPPING(u64, uint64_t, uint64_t)
#define add_i32(a, b) ((int32_t)add_u32((uint32_t)(a), (uint32_t)(b)))
#define add_i64(a, b) ((int64_t)add_u64((uint64_t)(a), (uint64_t)(b)))
#define add_u128(a, b) ((uint128_t)(a) + (uint128_t)(b))
#define add_i128(a, b) ((int128_t)add_u128(a, b))

ORDERED(u8, uint8_t)
ORDERED(i8, int8_t)
ORDERED(u16, uint16_t)
ORDERED(i16, int16_t)
ORDERED(u32, uint32_t)
ORDERED(i32, int32_t)
ORDERED(u64, uint64_t)
ORDERED(i64, int64_t)

#define add_f32(a, b) ((a) + (b))
#define multiply_f32(a, b) ((a) * (b))
#define add_f64(a, b) ((a) + (b))
#define multiply_f64(a, b) ((a) * (b))

// Floats are ordered by their bits: of negative ones all but the sign is flipped, and then signed integers compare as
// the floats do, with -0 below +0. Bits also are the same with and without a float unit for the type. (All but the sign
// is made by a second shift: of a shift and a mask clang-14 makes, for devices, the one bit that the shift has copied.)
#define ORDERED_BY_BITS(name, bits, signed_bits, infinity, quiet_nan)                                                  \
    static inline signed_bits order_##name(bits x) {                                                                   \
        return (signed_bits)(x ^ ((bits)((signed_bits)x >> (8 * sizeof(bits) - 1)) >> 1));                             \
    }                                                                                                                  \
    static inline int is_nan_##name(bits x) {                                                                          \
        return (signed_bits)(x & (bits)((bits) ~(bits)0 >> 1)) > (signed_bits)(infinity);                              \
    }                                                                                                                  \
    static inline bits canonical_##name(bits x) { return is_nan_##name(x) ? (bits)(quiet_nan) : x; }                   \
    static inline bits larger_##name(bits a, bits b) {                                                                 \
        bits larger = order_##name(a) > order_##name(b) ? a : b;                                                       \
        return (is_nan_##name(a) | is_nan_##name(b)) ? (bits)(quiet_nan) : larger;                                     \
    }                                                                                                                  \
    static inline bits smaller_##name(bits a, bits b) {                                                                \
        bits smaller = order_##name(a) < order_##name(b) ? a : b;                                                      \
        return (is_nan_##name(a) | is_nan_##name(b)) ? (bits)(quiet_nan) : smaller;                                    \
    }

ORDERED_BY_BITS(f16_bits, uint16_t, int16_t, 0x7c00, 0x7e00)
ORDERED_BY_BITS(bf16_bits, uint16_t, int16_t, 0x7f80, 0x7fc0)
ORDERED_BY_BITS(f32_bits, uint32_t, int32_t, 0x7f800000, 0x7fc00000)
ORDERED_BY_BITS(f64_bits, uint64_t, int64_t, 0x7ff0000000000000, 0x7ff8000000000000)

// ---- How a result is finished -------------------------------------------------------------------

// What division by the world size needs, made once per call; what a loop does not use costs it nothing.
typedef struct divisor {
    uint32_t world_size;
    float f32, f32_inverse, f32_inverse_above;
    double f64, f64_inverse, f64_inverse_above;
} divisor;

static inline divisor divisor_of(uint32_t world_size) {
    divisor d;
    d.world_size = world_size;
    d.f32 = (float)world_size;
    d.f64 = (double)world_size;
    d.f32_inverse = 1.0f / d.f32;
    d.f64_inverse = 1.0 / d.f64;
    // The next float up, so that it is more than the true inverse however that was rounded.
    d.f32_inverse_above = f32_of_bits(bits_of_f32(d.f32_inverse) + 1);
    d.f64_inverse_above = f64_of_bits(bits_of_f64(d.f64_inverse) + 1);
    return d;
}

// A finisher has a quick form, the world sizes where that is exact, and a form for any world size.
//
// Integers: a quotient of integers is a multiple of 1/d, so truncating x * (1/d + a little) is exact while the relative
// error of the product, which is never negative before its rounding, stays below 1/|x|. The inverse is at most 1.5
// units in the last place above, the product's rounding adds half a unit: 2^-22 for float32, 2^-51 for float64. Hence
// |x| < 2^22 (8 bits x 16384 contributions, 16 bits x 64) and |x| < 2^51 (32 bits x 2^19).
//
// Floats: a power of two has an exact inverse, and the product with it rounds as the quotient does.
#define FINISHER(name, result, sum, quick_when, quick, any)                                                            \
    static inline int name##_is_quick(uint32_t world_size) {                                                           \
        (void)world_size;                                                                                              \
        return quick_when;                                                                                             \
    }                                                                                                                  \
    static inline result name##_quick(sum x, divisor d) {                                                              \
        (void)d;                                                                                                       \
        return quick;                                                                                                  \
    }                                                                                                                  \
    static inline result name##_any(sum x, divisor d) {                                                                \
        (void)d;                                                                                                       \
        return any;                                                                                                    \
    }

#define ONE_FORM(name, result, sum, form) FINISHER(name, result, sum, 1, form, form)

// Exact for |x| < 2^51: the integer goes where 1.5 * 2^52 has its mantissa. Only AVX-512 has an instruction for it.
static inline double f64_of_i51(int64_t x) { return f64_of_bits((uint64_t)x + 0x4338000000000000) - 0x1.8p52; }

static inline float canonical_f32(float x) { return x == x ? x : f32_of_bits(0x7fc00000); }
static inline double canonical_f64(double x) { return x == x ? x : f64_of_bits(0x7ff8000000000000); }

ONE_FORM(kept_u8, uint8_t, uint8_t, x)
ONE_FORM(kept_i8, int8_t, int8_t, x)
ONE_FORM(kept_u16, uint16_t, uint16_t, x)
ONE_FORM(kept_i16, int16_t, int16_t, x)
ONE_FORM(kept_u32, uint32_t, uint32_t, x)
ONE_FORM(kept_i32, int32_t, int32_t, x)
ONE_FORM(kept_u64, uint64_t, uint64_t, x)
ONE_FORM(kept_i64, int64_t, int64_t, x)

ONE_FORM(kept_f16, uint16_t, uint16_t, canonical_f16_bits(x))
ONE_FORM(kept_bf16, uint16_t, uint16_t, canonical_bf16_bits(x))
ONE_FORM(kept_f32_bits, uint32_t, uint32_t, canonical_f32_bits(x))
ONE_FORM(kept_f64_bits, uint64_t, uint64_t, canonical_f64_bits(x))
ONE_FORM(kept_f32, float, float, canonical_f32(x))
ONE_FORM(kept_f64, double, double, canonical_f64(x))

ONE_FORM(rounded_f16, uint16_t, float, f16_of_f32(x))
ONE_FORM(rounded_bf16, uint16_t, float, bf16_of_f32(x))

#define QUOTIENT_F32(type) (type)((float)(int32_t)x * d.f32_inverse_above)
#define QUOTIENT_F64(type, as_f64) (type)(as_f64(x) * d.f64_inverse_above)

FINISHER(average_u8, uint8_t, uint32_t, world_size <= 16384, QUOTIENT_F32(int32_t), QUOTIENT_F64(int64_t, (double)))
FINISHER(average_i8, int8_t, int32_t, world_size <= 16384, QUOTIENT_F32(int32_t), QUOTIENT_F64(int64_t, (double)))
FINISHER(average_u16, uint16_t, uint32_t, world_size <= 64, QUOTIENT_F32(int32_t), QUOTIENT_F64(int64_t, (double)))
FINISHER(average_i16, int16_t, int32_t, world_size <= 64, QUOTIENT_F32(int32_t), QUOTIENT_F64(int64_t, (double)))
FINISHER(average_u32, uint32_t, uint64_t, world_size <= (1u << 19), QUOTIENT_F64(uint32_t, f64_of_i51),
         x / d.world_size)
FINISHER(average_i32, int32_t, int64_t, world_size <= (1u << 19), QUOTIENT_F64(int32_t, f64_of_i51),
         x / (int64_t)d.world_size)
// Most sums fit 64 bits. Of the others digit by digit of 32 bits, as on paper: the compiler's own division of 128 bits
// is a call to a library that devices do not have. What the quotient has beyond 64 bits is dropped.
static inline uint64_t quotient_u128(uint128_t x, uint32_t divisor) {
    uint64_t low = (uint64_t)x, high = (uint64_t)(x >> 64);
    if (high == 0) {
        return low / divisor;
    }
    uint64_t upper = (high % divisor) << 32 | low >> 32;
    uint64_t lower = (upper % divisor) << 32 | (low & 0xffffffff);
    return (upper / divisor) << 32 | lower / divisor;
}

// Towards zero.
static inline uint64_t quotient_i128(int128_t x, uint32_t divisor) {
    uint128_t bits = (uint128_t)x;
    return x < 0 ? 0 - quotient_u128(0 - bits, divisor) : quotient_u128(bits, divisor);
}

ONE_FORM(average_u64, uint64_t, uint128_t, quotient_u128(x, d.world_size))
ONE_FORM(average_i64, int64_t, int128_t, (int64_t)quotient_i128(x, d.world_size))

#define POWER_OF_TWO(n) (((n) & ((n)-1)) == 0)

FINISHER(average_f16, uint16_t, float, POWER_OF_TWO(world_size), f16_of_f32(d.f32_inverse *x), f16_of_f32(x / d.f32))
FINISHER(average_bf16, uint16_t, float, POWER_OF_TWO(world_size), bf16_of_f32(d.f32_inverse *x), bf16_of_f32(x / d.f32))
FINISHER(average_f32, float, float, POWER_OF_TWO(world_size), canonical_f32(d.f32_inverse *x), canonical_f32(x / d.f32))
FINISHER(average_f64, double, double, POWER_OF_TWO(world_size), canonical_f64(d.f64_inverse *x),
         canonical_f64(x / d.f64))

// Memory of any alignment and of any effective type.
#define ANYWHERE(type) typedef type __attribute__((aligned(1), may_alias)) unaligned_##type;
ANYWHERE(uint8_t)
ANYWHERE(int8_t)
ANYWHERE(uint16_t)
ANYWHERE(int16_t)
ANYWHERE(uint32_t)
ANYWHERE(int32_t)
ANYWHERE(uint64_t)
ANYWHERE(int64_t)
ANYWHERE(uint128_t)
ANYWHERE(int128_t)
ANYWHERE(float)
ANYWHERE(double)

// ---- The list -----------------------------------------------------------------------------------

// Wrapping sums and products are the same for signed and unsigned.
#define REDUCTIONS(X)                                                                                                  \
    X(sum_8, VECTOR_LOOP, uint8_t, uint8_t, same, add_u8, kept_u8)                                                     \
    X(sum_16, VECTOR_LOOP, uint16_t, uint16_t, same, add_u16, kept_u16)                                                \
    X(sum_32, VECTOR_LOOP, uint32_t, uint32_t, same, add_u32, kept_u32)                                                \
    X(sum_64, VECTOR_LOOP, uint64_t, uint64_t, same, add_u64, kept_u64)                                                \
    X(sum_f16, VECTOR_LOOP, uint16_t, float, f32_of_f16, add_f32, rounded_f16)                                         \
    X(sum_bf16, VECTOR_LOOP, uint16_t, float, f32_of_bf16, add_f32, rounded_bf16)                                      \
    X(sum_f32, VECTOR_LOOP, float, float, same, add_f32, kept_f32)                                                     \
    X(sum_f64, VECTOR_LOOP, double, double, same, add_f64, kept_f64)                                                   \
                                                                                                                       \
    X(average_u8, VECTOR_LOOP, uint8_t, uint32_t, to_u32, add_u32, average_u8)                                         \
    X(average_i8, VECTOR_LOOP, int8_t, int32_t, to_i32, add_i32, average_i8)                                           \
    X(average_u16, VECTOR_LOOP, uint16_t, uint32_t, to_u32, add_u32, average_u16)                                      \
    X(average_i16, VECTOR_LOOP, int16_t, int32_t, to_i32, add_i32, average_i16)                                        \
    X(average_u32, VECTOR_LOOP, uint32_t, uint64_t, to_u64, add_u64, average_u32)                                      \
    X(average_i32, VECTOR_LOOP, int32_t, int64_t, to_i64, add_i64, average_i32)                                        \
    X(average_u64, SCALAR_LOOP, uint64_t, uint128_t, to_u128, add_u128, average_u64)                                   \
    X(average_i64, SCALAR_LOOP, int64_t, int128_t, to_i128, add_i128, average_i64)                                     \
    X(average_f16, VECTOR_LOOP, uint16_t, float, f32_of_f16, add_f32, average_f16)                                     \
    X(average_bf16, VECTOR_LOOP, uint16_t, float, f32_of_bf16, add_f32, average_bf16)                                  \
    X(average_f32, VECTOR_LOOP, float, float, same, add_f32, average_f32)                                              \
    X(average_f64, VECTOR_LOOP, double, double, same, add_f64, average_f64)                                            \
                                                                                                                       \
    X(product_8, VECTOR_LOOP, uint8_t, uint8_t, same, multiply_u8, kept_u8)                                            \
    X(product_16, VECTOR_LOOP, uint16_t, uint16_t, same, multiply_u16, kept_u16)                                       \
    X(product_32, VECTOR_LOOP, uint32_t, uint32_t, same, multiply_u32, kept_u32)                                       \
    X(product_64, VECTOR_LOOP, uint64_t, uint64_t, same, multiply_u64, kept_u64)                                       \
    X(product_f16, VECTOR_LOOP, uint16_t, float, f32_of_f16, multiply_f32, rounded_f16)                                \
    X(product_bf16, VECTOR_LOOP, uint16_t, float, f32_of_bf16, multiply_f32, rounded_bf16)                             \
    X(product_f32, VECTOR_LOOP, float, float, same, multiply_f32, kept_f32)                                            \
    X(product_f64, VECTOR_LOOP, double, double, same, multiply_f64, kept_f64)                                          \
                                                                                                                       \
    X(maximum_u8, VECTOR_LOOP, uint8_t, uint8_t, same, larger_u8, kept_u8)                                             \
    X(maximum_i8, VECTOR_LOOP, int8_t, int8_t, same, larger_i8, kept_i8)                                               \
    X(maximum_u16, VECTOR_LOOP, uint16_t, uint16_t, same, larger_u16, kept_u16)                                        \
    X(maximum_i16, VECTOR_LOOP, int16_t, int16_t, same, larger_i16, kept_i16)                                          \
    X(maximum_u32, VECTOR_LOOP, uint32_t, uint32_t, same, larger_u32, kept_u32)                                        \
    X(maximum_i32, VECTOR_LOOP, int32_t, int32_t, same, larger_i32, kept_i32)                                          \
    X(maximum_u64, VECTOR_LOOP, uint64_t, uint64_t, same, larger_u64, kept_u64)                                        \
    X(maximum_i64, VECTOR_LOOP, int64_t, int64_t, same, larger_i64, kept_i64)                                          \
    X(maximum_f16, VECTOR_LOOP, uint16_t, uint16_t, same, larger_f16_bits, kept_f16)                                   \
    X(maximum_bf16, VECTOR_LOOP, uint16_t, uint16_t, same, larger_bf16_bits, kept_bf16)                                \
    X(maximum_f32, VECTOR_LOOP, uint32_t, uint32_t, same, larger_f32_bits, kept_f32_bits)                              \
    X(maximum_f64, VECTOR_LOOP, uint64_t, uint64_t, same, larger_f64_bits, kept_f64_bits)                              \
                                                                                                                       \
    X(minimum_u8, VECTOR_LOOP, uint8_t, uint8_t, same, smaller_u8, kept_u8)                                            \
    X(minimum_i8, VECTOR_LOOP, int8_t, int8_t, same, smaller_i8, kept_i8)                                              \
    X(minimum_u16, VECTOR_LOOP, uint16_t, uint16_t, same, smaller_u16, kept_u16)                                       \
    X(minimum_i16, VECTOR_LOOP, int16_t, int16_t, same, smaller_i16, kept_i16)                                         \
    X(minimum_u32, VECTOR_LOOP, uint32_t, uint32_t, same, smaller_u32, kept_u32)                                       \
    X(minimum_i32, VECTOR_LOOP, int32_t, int32_t, same, smaller_i32, kept_i32)                                         \
    X(minimum_u64, VECTOR_LOOP, uint64_t, uint64_t, same, smaller_u64, kept_u64)                                       \
    X(minimum_i64, VECTOR_LOOP, int64_t, int64_t, same, smaller_i64, kept_i64)                                         \
    X(minimum_f16, VECTOR_LOOP, uint16_t, uint16_t, same, smaller_f16_bits, kept_f16)                                  \
    X(minimum_bf16, VECTOR_LOOP, uint16_t, uint16_t, same, smaller_bf16_bits, kept_bf16)                               \
    X(minimum_f32, VECTOR_LOOP, uint32_t, uint32_t, same, smaller_f32_bits, kept_f32_bits)                             \
    X(minimum_f64, VECTOR_LOOP, uint64_t, uint64_t, same, smaller_f64_bits, kept_f64_bits)

#endif
