// What a codec does with one block, compiled once per level of the processor, by codec_loops.h, and once for devices.
// See elements.h, which the file that includes this one has included, and CKernels.h for the layout of blocks.
//
// A block is the work of one lane or of several that go through it side by side. The file that includes this one says
// what that means, and how the memory of values is reached:
//
//   given_float, given_double      a value of the caller's
//   VECTOR_LOOP(count, statement)  for each i below count, no matter in which order, or by which lane
//   LANE_LOOP(count, statement)    the same, for what a lane finds out by itself
//   LEAST_OF_LANES(x), MOST_OF_LANES(x)   of what each lane has
//   ONE_LANE(statement)            done once
//   LANES_MEET()                   what any lane wrote before it, any lane sees after it
//   BLOCK_CODES(codes)             declares memory of all lanes for a byte for each value of a block
//   CLEAR(bytes, count), COPY(to, from, count)
//   WITH_USUAL_NAN(x)              the same; but a NaN that arithmetic gave is 0x7fc00000, as processors make it of one
//
// From the bottom up: what a block's values have in common, random numbers, scales, how one value becomes a code and
// back, the blocks of each codec, the list of codecs.

#ifndef PCCL_KERNEL_BLOCKS_H
#define PCCL_KERNEL_BLOCKS_H

// ---- What the values of a block have in common --------------------------------------------------

// The extremes of a block, by the order of bits: it does not matter in which order they are looked at, so every level
// finds the same zero. A block is tame if all its values are numbers below TAME in magnitude.
#define EXTREMES(name, type, bits, signed_bits, order, tame_bits, of_bits)                                             \
    typedef struct extremes_##name {                                                                                   \
        type low, high;                                                                                                \
        int is_tame;                                                                                                   \
    } extremes_##name;                                                                                                 \
    static inline extremes_##name extremes_of_##name(const given_##type *x, size_t count) {                            \
        signed_bits low = (signed_bits)((bits) ~(bits)0 >> 1), high = ~low;                                            \
        LANE_LOOP(count, signed_bits key = order(x[i]); low = key < low ? key : low; high = key > high ? key : high)   \
        low = LEAST_OF_LANES(low);                                                                                     \
        high = MOST_OF_LANES(high);                                                                                    \
        extremes_##name e;                                                                                             \
        e.is_tame = high < (signed_bits)(tame_bits) && low > ~(signed_bits)(tame_bits);                                \
        /* The order undoes itself. */                                                                                 \
        e.low = of_bits((bits)order(of_bits((bits)low)));                                                              \
        e.high = of_bits((bits)order(of_bits((bits)high)));                                                            \
        return e;                                                                                                      \
    }

static inline int32_t order_f32(float x) { return order_f32_bits(bits_of_f32(x)); }
static inline int64_t order_f64(double x) { return order_f64_bits(bits_of_f64(x)); }

// 2^126 and 2^1022: so that neither the range of a block nor what is decoded can overflow.
EXTREMES(f32, float, uint32_t, int32_t, order_f32, 0x7e800000, f32_of_bits)
EXTREMES(f64, double, uint64_t, int64_t, order_f64, 0x7fd0000000000000, f64_of_bits)

// The bits of the largest magnitude. That of a NaN is larger than that of any number.
static inline int32_t peak_of(const given_float *x, size_t count) {
    int32_t peak = 0;
    LANE_LOOP(count, int32_t magnitude = (int32_t)(bits_of_f32(x[i]) & 0x7fffffff);
              peak = magnitude > peak ? magnitude : peak)
    return MOST_OF_LANES(peak);
}

// The inverse of a scale that is 0 or more. That of a subnormal may be too large for the type.
static inline float inverse_f32(float scale) {
    float inverse = 1.0f / scale;
    return scale > 0.0f ? (inverse < 0x1p127f ? inverse : 0x1p127f) : 0.0f;
}

static inline double inverse_f64(double scale) {
    double inverse = 1.0 / scale;
    return scale > 0.0 ? (inverse < 0x1p1023 ? inverse : 0x1p1023) : 0.0;
}

static inline float nan_f32(void) { return f32_of_bits(0x7fc00000); }
static inline double nan_f64(void) { return f64_of_bits(0x7ff8000000000000); }

// ---- Random numbers -----------------------------------------------------------------------------

// A counter and a seed become 32 bits that look random: the finaliser of MurmurHash3 (Appleby, 2008).
static inline uint32_t mixed(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x85ebca6bu;
    x = (x ^ (x >> 13)) * 0xc2b2ae35u;
    return x ^ (x >> 16);
}

static inline uint32_t random_bits(uint64_t seed, uint32_t index) {
    return mixed(mixed(index + (uint32_t)seed) ^ (uint32_t)(seed >> 32));
}

// From -1/2 to 1/2, both left out: added to a value before it is rounded to the nearest, it takes it up as often as
// the value is nearer to what is above.
static inline float dither_f32(uint64_t seed, uint32_t index) {
    return ((float)(int32_t)(random_bits(seed, index) >> 9) + 0.5f) * 0x1p-23f - 0.5f;
}
static inline double dither_f64(uint64_t seed, uint32_t index) { return (double)dither_f32(seed, index); }

// ---- Rounding to whole numbers ------------------------------------------------------------------

// Where the last place of the sum is 1, the addition rounds, to nearest even; the low bits of the sum are the number.
#define WHOLE_f32 0x1.8p23f
#define WHOLE_f64 0x1.8p52
static inline float whole_f32(float x) { return (x + WHOLE_f32) - WHOLE_f32; }
static inline double whole_f64(double x) { return (x + WHOLE_f64) - WHOLE_f64; }
static inline float above_f32(float x) { return whole_f32(x) < x ? whole_f32(x) + 1.0f : whole_f32(x); }
static inline double above_f64(double x) { return whole_f64(x) < x ? whole_f64(x) + 1.0 : whole_f64(x); }
static inline uint32_t low_bits_f32(float x) { return bits_of_f32(x + WHOLE_f32); }
static inline uint64_t low_bits_f64(double x) { return bits_of_f64(x + WHOLE_f64); }

// Codes to floats, through signed integers where they fit: that is what old vector units have.
#define f32_of_u8(x) ((float)(int32_t)(x))
#define f32_of_u16(x) ((float)(int32_t)(x))
#define f64_of_u8(x) ((double)(int32_t)(x))
#define f64_of_u16(x) ((double)(int32_t)(x))
#define f64_of_u32(x) ((double)(x))

// ---- Codes to values, and blocks ----------------------------------------------------------------

#define MOST_BLOCK_ELEMENTS 256

#define ALWAYS static inline __attribute__((always_inline))

#define STORE_OR_ADD(count, place, value)                                                                              \
    if (adds) {                                                                                                        \
        VECTOR_LOOP(count, place = WITH_USUAL_NAN(place + (value)))                                                    \
    } else {                                                                                                           \
        VECTOR_LOOP(count, place = WITH_USUAL_NAN(value))                                                              \
    }

// ---- Ranges: minimum and maximum, and the same with zero among the codes ------------------------

// A block that is NaN all through, whatever its codes.
static inline void write_untame_f32(unaligned_uint8_t *bytes, size_t code_bytes) {
    unaligned_float *header = (unaligned_float *)bytes;
    ONE_LANE(header[0] = header[1] = nan_f32());
    CLEAR(bytes + 2 * sizeof(float), code_bytes);
}
static inline void write_untame_f64(unaligned_uint8_t *bytes, size_t code_bytes) {
    unaligned_double *header = (unaligned_double *)bytes;
    ONE_LANE(header[0] = header[1] = nan_f64());
    CLEAR(bytes + 2 * sizeof(double), code_bytes);
}

// MIN-MAX: scale, lowest value, codes of 0 to `top` from the lowest to the highest.
#define MIN_MAX(name, type, suffix, code, top)                                                                         \
    ALWAYS void encode_##name(unaligned_uint8_t *bytes, const given_##type *x, size_t count, extremes_##suffix e,      \
                              uint64_t seed, uint32_t first, int is_random) {                                          \
        unaligned_##type *header = (unaligned_##type *)bytes;                                                          \
        unaligned_##code *codes = (unaligned_##code *)(bytes + 2 * sizeof(type));                                      \
        if (!e.is_tame) {                                                                                              \
            write_untame_##suffix(bytes, count * sizeof(code));                                                        \
            return;                                                                                                    \
        }                                                                                                              \
        const type low = e.low;                                                                                        \
        const type scale = (e.high - low) * ((type)1 / top);                                                           \
        const type inverse = inverse_##suffix(scale);                                                                  \
        ONE_LANE(header[0] = scale; header[1] = low);                                                                  \
        if (is_random) {                                                                                               \
            VECTOR_LOOP(count, type t = (x[i] - low) * inverse + dither_##suffix(seed, first + (uint32_t)i);           \
                        t = t < 0 ? 0 : t; t = t < top ? t : top; codes[i] = (code)low_bits_##suffix(t))               \
        } else {                                                                                                       \
            /* Never more than top and a fraction: scale and inverse err by a few units in the last place. */          \
            VECTOR_LOOP(count, codes[i] = (code)low_bits_##suffix((x[i] - low) * inverse))                             \
        }                                                                                                              \
    }                                                                                                                  \
    ALWAYS void decode_##name(given_##type *out, const unaligned_uint8_t *bytes, size_t count, int adds) {             \
        const unaligned_##type *header = (const unaligned_##type *)bytes;                                              \
        const unaligned_##code *codes = (const unaligned_##code *)(bytes + 2 * sizeof(type));                          \
        const type scale = header[0], low = header[1];                                                                 \
        STORE_OR_ADD(count, out[i], low + CODE_VALUE_##name(codes[i]) * scale)                                         \
    }

// ZERO POINT: scale, the code of zero, codes of 0 to `top` from the lowest value, or zero, to the highest, or zero.
#define ZERO_POINT(name, type, suffix, code, top)                                                                      \
    ALWAYS void encode_##name(unaligned_uint8_t *bytes, const given_##type *x, size_t count, extremes_##suffix e,      \
                              uint64_t seed, uint32_t first, int is_random) {                                          \
        unaligned_##type *header = (unaligned_##type *)bytes;                                                          \
        unaligned_##code *codes = (unaligned_##code *)(bytes + 2 * sizeof(type));                                      \
        if (!e.is_tame) {                                                                                              \
            write_untame_##suffix(bytes, count * sizeof(code));                                                        \
            return;                                                                                                    \
        }                                                                                                              \
        const type low = e.low < 0 ? e.low : 0, high = e.high > 0 ? e.high : 0;                                        \
        /* At random, every value needs a code on either side: one step more than those of the range. */               \
        const type scale = (high - low) * (is_random ? (type)1 / (top - 1) : (type)1 / top);                           \
        const type inverse = inverse_##suffix(scale);                                                                  \
        type zero = is_random ? above_##suffix(-low * inverse) : whole_##suffix(-low * inverse);                       \
        zero = zero < top ? zero : top;                                                                                \
        ONE_LANE(header[0] = scale; header[1] = zero);                                                                 \
        /* The sum rounds, as in low_bits. One that is the middle at both ends may be one too many. */                 \
        const type base = WHOLE_##suffix + zero, most = WHOLE_##suffix + top;                                          \
        if (is_random) {                                                                                               \
            VECTOR_LOOP(count, type t = (x[i] * inverse + dither_##suffix(seed, first + (uint32_t)i)) + base;          \
                        t = t < WHOLE_##suffix ? WHOLE_##suffix : t; t = t < most ? t : most;                          \
                        codes[i] = (code)bits_of_##suffix(t))                                                          \
        } else {                                                                                                       \
            VECTOR_LOOP(count, type t = x[i] * inverse + base; t = t < most ? t : most;                                \
                        codes[i] = (code)bits_of_##suffix(t))                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    ALWAYS void decode_##name(given_##type *out, const unaligned_uint8_t *bytes, size_t count, int adds) {             \
        const unaligned_##type *header = (const unaligned_##type *)bytes;                                              \
        const unaligned_##code *codes = (const unaligned_##code *)(bytes + 2 * sizeof(type));                          \
        const type scale = header[0], zero = header[1];                                                                \
        STORE_OR_ADD(count, out[i], (CODE_VALUE_##name(codes[i]) - zero) * scale)                                      \
    }

#define CODE_VALUE_min_max_8_f32 f32_of_u8
#define CODE_VALUE_min_max_16_f32 f32_of_u16
#define CODE_VALUE_min_max_8_f64 f64_of_u8
#define CODE_VALUE_min_max_16_f64 f64_of_u16
#define CODE_VALUE_min_max_32_f64 f64_of_u32
#define CODE_VALUE_zero_point_8_f32 f32_of_u8
#define CODE_VALUE_zero_point_16_f32 f32_of_u16
#define CODE_VALUE_zero_point_8_f64 f64_of_u8
#define CODE_VALUE_zero_point_16_f64 f64_of_u16
#define CODE_VALUE_zero_point_32_f64 f64_of_u32

MIN_MAX(min_max_8_f32, float, f32, uint8_t, 255.0f)
MIN_MAX(min_max_16_f32, float, f32, uint16_t, 65535.0f)
MIN_MAX(min_max_8_f64, double, f64, uint8_t, 255.0)
MIN_MAX(min_max_16_f64, double, f64, uint16_t, 65535.0)
MIN_MAX(min_max_32_f64, double, f64, uint32_t, 4294967295.0)
ZERO_POINT(zero_point_8_f32, float, f32, uint8_t, 255.0f)
ZERO_POINT(zero_point_16_f32, float, f32, uint16_t, 65535.0f)
ZERO_POINT(zero_point_8_f64, double, f64, uint8_t, 255.0)
ZERO_POINT(zero_point_16_f64, double, f64, uint16_t, 65535.0)
ZERO_POINT(zero_point_32_f64, double, f64, uint32_t, 4294967295.0)

// ---- Scaled: the magnitude, and the sign apart --------------------------------------------------

// A scale takes the largest magnitude of a block to the largest value of a code, or below. Its header is 4 or 1 bytes.

static inline float scale_of_float(int32_t peak, float inverse_top) {
    return peak < 0x7e800000 ? f32_of_bits((uint32_t)peak) * inverse_top : nan_f32();
}
#define store_scale_float(bytes, scale) memcpy(bytes, &scale, 4)
static inline float load_scale_float(const unaligned_uint8_t *bytes) { return *(const unaligned_float *)bytes; }

// E8M0 (Open Compute Project, Microscaling Formats 1.0): a byte b is 2^(b - 127), 255 is NaN. The power of two that is
// not below the quotient, and not below 2^-126 unless that is 0. The least byte's is subnormal as a float32.
static inline float scale_of_power(int32_t peak, float inverse_top) {
    uint32_t exponent = (bits_of_f32(f32_of_bits((uint32_t)peak) * inverse_top) + 0x7fffff) >> 23;
    float scale = exponent == 0 ? 0x1p-127f : f32_of_bits(exponent << 23);
    return peak < 0x7e800000 ? scale : nan_f32();
}
static inline void store_scale_power(unaligned_uint8_t *bytes, float scale) {
    bytes[0] = scale == scale ? (uint8_t)(bits_of_f32(scale) >> 23) : 255;
}
static inline float load_scale_power(const unaligned_uint8_t *bytes) {
    return bytes[0] == 255 ? nan_f32() : bytes[0] == 0 ? 0x1p-127f : f32_of_bits((uint32_t)bytes[0] << 23);
}

// INT4: -7 to 7, as 1 to 15.
static inline uint8_t int4_of(float t) {
    t = t < -7.0f ? -7.0f : t;
    t = t < 7.0f ? t : 7.0f;
    return (uint8_t)((low_bits_f32(t) & 15) ^ 8);
}
static inline uint8_t int4_of_random(float t, uint32_t random) {
    return int4_of(t + (((float)(int32_t)(random >> 9) + 0.5f) * 0x1p-23f - 0.5f));
}
static inline float value_of_int4(uint8_t code) { return (float)((int32_t)code - 8); }

// E3M0: sign, and 0 or the powers of two from 1/64 to 1. A magnitude in between goes to the nearer neighbour, and to
// the larger from the middle on: what is added carries from the mantissa into the exponent. At random it goes to
// either, as often as it is nearer to it.
static inline uint8_t e3m0_of_added(float t, int32_t added, float least) {
    uint32_t bits = bits_of_f32(t);
    int32_t magnitude = (int32_t)(bits & 0x7fffffff);
    int32_t exponent = ((magnitude + added) >> 23) - 120;
    int32_t small = f32_of_bits((uint32_t)magnitude) >= least ? 1 : 0;
    exponent = magnitude < 0x3c800000 ? small : exponent;
    exponent = exponent < 7 ? exponent : 7;
    return (uint8_t)(exponent | (int32_t)(bits >> 28 & 8));
}
static inline uint8_t e3m0_of(float t) { return e3m0_of_added(t, 0x400000, 0x1p-7f); }
static inline uint8_t e3m0_of_random(float t, uint32_t random) {
    // The least is never 0, so that 0 stays.
    return e3m0_of_added(t, (int32_t)(random >> 9), ((float)(int32_t)(random >> 9) + 0.5f) * 0x1p-29f);
}
static inline float value_of_e3m0(uint8_t code) {
    uint32_t exponent = code & 7;
    uint32_t magnitude = exponent == 0 ? 0 : (exponent + 120) << 23;
    return f32_of_bits(magnitude | (uint32_t)(code & 8) << 28);
}

// E4M3 (Micikevicius and others, FP8 Formats for Deep Learning, 2022): bias 7, largest 448, subnormals below 2^-6.
static inline uint8_t e4m3_of_added(float t, int32_t added, float dither) {
    int32_t bits = (int32_t)bits_of_f32(t);
    int32_t magnitude = bits & 0x7fffffff;
    int32_t normal = (magnitude - (120 << 23) + added) >> 20;
    int32_t small = magnitude < 0x3c800000 ? magnitude : 0;
    int32_t subnormal = (int32_t)(low_bits_f32(f32_of_bits((uint32_t)small) * 512.0f + dither) & 15);
    int32_t code = magnitude < 0x3c800000 ? subnormal : normal;
    code = code < 0x7e ? code : 0x7e;
    return (uint8_t)(code | (bits >> 24 & 0x80));
}
static inline uint8_t e4m3_of(float t) {
    int32_t lowest_kept = (int32_t)(bits_of_f32(t) >> 20 & 1);
    return e4m3_of_added(t, 0x7ffff + lowest_kept, 0.0f);
}
static inline uint8_t e4m3_of_random(float t, uint32_t random) {
    float dither = ((float)(int32_t)(random >> 9) + 0.5f) * 0x1p-23f - 0.5f;
    return e4m3_of_added(t, (int32_t)(random >> 12), dither);
}
static inline float value_of_e4m3(uint8_t code) {
    int32_t magnitude = code & 0x7f;
    uint32_t normal = ((uint32_t)magnitude << 20) + (120u << 23);
    uint32_t subnormal = bits_of_f32((float)magnitude * 0x1p-9f);
    return f32_of_bits((magnitude < 8 ? subnormal : normal) | (uint32_t)(code & 0x80) << 24);
}

// Codes of 4 bits: those of the first half of a block are low, those of the second half high, so that a vector of
// bytes is two vectors of codes. With an odd count the last high one is not used, and 0.
ALWAYS void pack_4(unaligned_uint8_t *bytes, const uint8_t *codes, size_t count) {
    size_t half = (count + 1) / 2;
    VECTOR_LOOP(count / 2, bytes[i] = (uint8_t)(codes[i] | codes[half + i] << 4))
    ONE_LANE(if (count % 2 == 1) bytes[half - 1] = codes[half - 1]);
}
ALWAYS void pack_8(unaligned_uint8_t *bytes, const uint8_t *codes, size_t count) { COPY(bytes, codes, count); }

#define DECODE_4(value)                                                                                                \
    size_t half = (count + 1) / 2;                                                                                     \
    STORE_OR_ADD(half, out[i], value((uint8_t)(codes[i] & 15)) * scale)                                                \
    STORE_OR_ADD(count / 2, out[half + i], value((uint8_t)(codes[i] >> 4)) * scale)
#define DECODE_8(value) STORE_OR_ADD(count, out[i], value(codes[i]) * scale)

#define SCALED(name, format, scale_kind, header_bytes, width, top)                                                     \
    ALWAYS void encode_##name(unaligned_uint8_t *bytes, const given_float *x, size_t count, int32_t peak,              \
                              uint64_t seed, uint32_t first, int is_random) {                                          \
        BLOCK_CODES(codes);                                                                                            \
        const float scale = scale_of_##scale_kind(peak, 1.0f / top);                                                   \
        ONE_LANE(store_scale_##scale_kind(bytes, scale));                                                              \
        if (scale != scale) {                                                                                          \
            CLEAR(bytes + header_bytes, (count * width + 7) / 8);                                                      \
            return;                                                                                                    \
        }                                                                                                              \
        const float inverse = inverse_f32(scale);                                                                      \
        if (is_random) {                                                                                               \
            VECTOR_LOOP(count, codes[i] = format##_of_random(x[i] * inverse, random_bits(seed, first + (uint32_t)i)))  \
        } else {                                                                                                       \
            VECTOR_LOOP(count, codes[i] = format##_of(x[i] * inverse))                                                 \
        }                                                                                                              \
        LANES_MEET();                                                                                                  \
        pack_##width(bytes + header_bytes, codes, count);                                                              \
        LANES_MEET();                                                                                                  \
    }                                                                                                                  \
    ALWAYS void decode_##name(given_float *out, const unaligned_uint8_t *bytes, size_t count, int adds) {              \
        const float scale = load_scale_##scale_kind(bytes);                                                            \
        const unaligned_uint8_t *codes = bytes + header_bytes;                                                         \
        DECODE_##width(value_of_##format)                                                                              \
    }

SCALED(int4_float, int4, float, 4, 4, 7.0f)
SCALED(int4_power, int4, power, 1, 4, 7.0f)
SCALED(e3m0_float, e3m0, float, 4, 4, 1.0f)
SCALED(e3m0_power, e3m0, power, 1, 4, 1.0f)
SCALED(e4m3_float, e4m3, float, 4, 8, 448.0f)
SCALED(e4m3_power, e4m3, power, 1, 8, 448.0f)

// ---- Casts --------------------------------------------------------------------------------------

// Without a header. A NaN is the canonical one, what is too large becomes infinite: no other value of a block suffers.
static inline uint16_t f16_of_random(float x, uint32_t random) {
    // The last place of a float16 of this magnitude, at least that of the subnormals.
    float magnitude = f32_of_bits(bits_of_f32(x) & 0x7f800000);
    float place = (magnitude > 0x1p-14f ? magnitude : 0x1p-14f) * 0x1p-10f;
    float dither = ((float)(int32_t)(random >> 9) + 0.5f) * 0x1p-23f - 0.5f;
    float moved = x + dither * place;
    return f16_of_f32(magnitude < 0x1p15f ? moved : x);
}
static inline uint16_t bf16_of_random(float x, uint32_t random) {
    uint32_t bits = bits_of_f32(x);
    uint32_t moved = (bits + (random >> 16)) >> 16;
    return (bits & 0x7fffffff) >= 0x7f000000 ? bf16_of_f32(x) : (uint16_t)moved;
}

static inline int32_t nothing_of(const given_float *x, size_t count) {
    (void)x;
    (void)count;
    return 0;
}

#define CAST(name, narrow, widen, narrow_randomly)                                                                     \
    ALWAYS void encode_##name(unaligned_uint8_t *bytes, const given_float *x, size_t count, int32_t peak,              \
                              uint64_t seed, uint32_t first, int is_random) {                                          \
        (void)peak;                                                                                                    \
        unaligned_uint16_t *codes = (unaligned_uint16_t *)bytes;                                                       \
        if (is_random) {                                                                                               \
            VECTOR_LOOP(count, codes[i] = narrow_randomly(x[i], random_bits(seed, first + (uint32_t)i)))               \
        } else {                                                                                                       \
            VECTOR_LOOP(count, codes[i] = narrow(x[i]))                                                                \
        }                                                                                                              \
    }                                                                                                                  \
    ALWAYS void decode_##name(given_float *out, const unaligned_uint8_t *bytes, size_t count, int adds) {              \
        const unaligned_uint16_t *codes = (const unaligned_uint16_t *)bytes;                                           \
        STORE_OR_ADD(count, out[i], widen(codes[i]))                                                                   \
    }

CAST(cast_f16, f16_of_f32, f32_of_f16, f16_of_random)
CAST(cast_bf16, bf16_of_f32, f32_of_bf16, bf16_of_random)

// ---- What a codec lost --------------------------------------------------------------------------

// Of what is no number nothing is kept, or it would never be a number again.
static inline float loss_of_f32(float value, float decoded, float factor) {
    float loss = (value - decoded) * factor;
    return f32_of_bits(bits_of_f32(loss) & 0x7fffffff) < 0x1p126f ? loss : 0.0f;
}

static inline double loss_of_f64(double value, double decoded, float factor) {
    double loss = (value - decoded) * (double)factor;
    return f64_of_bits(bits_of_f64(loss) & 0x7fffffffffffffff) < 0x1p1022 ? loss : 0.0;
}

// ---- The list -----------------------------------------------------------------------------------

// X(name, type, what is measured of a block, by which function, bytes of the header, bits of a code); the block itself
// is encode_##name(bytes, values, n, measurement, seed, first index, is random) and decode_##name(values, bytes, n,
// adds).
#define CODECS(X)                                                                                                      \
    X(min_max_8_f32, float, extremes_f32, extremes_of_f32, 8, 8)                                                       \
    X(min_max_16_f32, float, extremes_f32, extremes_of_f32, 8, 16)                                                     \
    X(min_max_8_f64, double, extremes_f64, extremes_of_f64, 16, 8)                                                     \
    X(min_max_16_f64, double, extremes_f64, extremes_of_f64, 16, 16)                                                   \
    X(min_max_32_f64, double, extremes_f64, extremes_of_f64, 16, 32)                                                   \
    X(zero_point_8_f32, float, extremes_f32, extremes_of_f32, 8, 8)                                                    \
    X(zero_point_16_f32, float, extremes_f32, extremes_of_f32, 8, 16)                                                  \
    X(zero_point_8_f64, double, extremes_f64, extremes_of_f64, 16, 8)                                                  \
    X(zero_point_16_f64, double, extremes_f64, extremes_of_f64, 16, 16)                                                \
    X(zero_point_32_f64, double, extremes_f64, extremes_of_f64, 16, 32)                                                \
    X(int4_float, float, int32_t, peak_of, 4, 4)                                                                       \
    X(int4_power, float, int32_t, peak_of, 1, 4)                                                                       \
    X(e3m0_float, float, int32_t, peak_of, 4, 4)                                                                       \
    X(e3m0_power, float, int32_t, peak_of, 1, 4)                                                                       \
    X(e4m3_float, float, int32_t, peak_of, 4, 8)                                                                       \
    X(e4m3_power, float, int32_t, peak_of, 1, 8)                                                                       \
    X(cast_f16, float, int32_t, nothing_of, 0, 16)                                                                     \
    X(cast_bf16, float, int32_t, nothing_of, 0, 16)

#endif
