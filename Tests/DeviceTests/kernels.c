// Every kernel against the loops of the processor, bit for bit: all types, operations and codecs, sizes around every
// boundary, values that are no numbers. Works with any driver; the one that stands in for a GPU also tells of an access
// out of bounds, a register that was never written, and lanes that do not meet (Tests/FakeCUDA).
//
//     kernels [NAME]      all kernels, or that one; prints "ok N kernels" or what differs, and ends with status 1
//
// KERNEL_SEED=n: other random values.

#include "device.h"

// The loops themselves, for what is compared with has the names of the kernels.
#define LEVEL_TABLE test_reductions
#define LEVEL_CODECS test_codecs
#define FLOAT16_CONVERTS_IN_HARDWARE 0
#include "levels.h"

#include "reduce_loops.h"

#include "codec_loops.h"

#include "outer_elements.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_BYTES = 1 << 20, MOST_INPUTS = 8 };

static const char *only;
static int kernel_count, failure_count;

static uint64_t random_state = 1;

static uint64_t random_64(void) {
    uint64_t z = random_state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static uint64_t random_below(uint64_t limit) { return random_64() % limit; }

// ---- The device -------------------------------------------------------------------------------------

static pccl_cuda_module module;

static void launch(void **parameters) {
    pccl_cuda_function function;
    MUST(pccl_cuda_module_function(&function, module, doing));
    // So few that each thread has several turns at the larger sizes.
    unsigned teams = 1 + (unsigned)random_below(3);
    MUST(pccl_cuda_launch(function, teams, 1, 1, pccl_cuda_threads_of_team, 1, 1, 0, NULL, parameters, NULL));
    must(pccl_cuda_stream_synchronize(NULL), "run");
}

// ---- Values -----------------------------------------------------------------------------------------

// Bits of any type of that width: mostly any, and among them what the types have at their edges.
static void fill_with_bits(uint8_t *to, size_t count, size_t width) {
    static const uint64_t edges_16[] = {0,      0x8000, 0x7c00, 0xfc00, 0x7e00, 0x7c01, 0x7bff, 0x0001, 0x3c00,
                                        0x7f80, 0xff80, 0x7fc0, 0x7f81, 0x7f7f, 0x3f80, 0x7fff, 0xffff, 0x03ff};
    static const uint64_t edges_32[] = {0, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0x7f7fffff,
                                        0x00000001, 0x3f800000, 0x7fffffff, 0xffffffff, 0x807fffff,
                                        // Between two neighbours as bfloat16, and as float16.
                                        0x3f808000, 0x3f818000, 0x3f801000, 0x3f803000, 0x38801000, 0x33000000};
    static const uint64_t edges_64[] = {0,
                                        0x8000000000000000,
                                        0x7ff0000000000000,
                                        0xfff0000000000000,
                                        0x7ff8000000000000,
                                        0x7ff0000000000001,
                                        0x7fefffffffffffff,
                                        1,
                                        0x3ff0000000000000,
                                        0x7fffffffffffffff,
                                        0xffffffffffffffff,
                                        0x800fffffffffffff,
                                        0x00000000ffffffff,
                                        0xffffffff00000000};
    for (size_t i = 0; i < count; i++) {
        uint64_t bits = random_64();
        if (random_below(4) == 0)
            bits = width == 2   ? edges_16[random_below(sizeof edges_16 / 8)]
                   : width == 4 ? edges_32[random_below(sizeof edges_32 / 8)]
                   : width == 8 ? edges_64[random_below(sizeof edges_64 / 8)]
                                : random_below(2) * 0xff;
        // Small ones, so that sums of whole numbers and of floats are something else than their largest part.
        else if (random_below(3) == 0)
            bits = random_below(width == 8 ? 1 << 20 : 1 << 10);
        else if (random_below(2) == 0)
            bits = width == 2   ? 0x3c00 + random_below(0x800)
                   : width == 4 ? 0x3f800000 + random_below(0x1000000)
                   : width == 8 ? 0x3ff0000000000000 + random_below(0x20000000000000)
                                : random_below(8);
        memcpy(to + i * width, &bits, width);
    }
}

// Floats of one sort, as the blocks of codecs have them.
static double random_value(int sort) {
    double unit = (double)(random_64() >> 11) * 0x1p-53 * 2 - 1;
    switch (sort) {
    case 0:
        return unit;
    case 1:
        return unit * 1e-41;
    case 2:
        return unit * 0x1p126;
    case 3:
        return 3 + unit * 1e-3;
    case 4:
        return random_below(3) == 0 ? 0 : random_below(2) ? -0.0 : unit * 1e-3;
    case 5:
        return random_below(40) == 0 ? (random_below(2) ? (double)NAN : (double)INFINITY) : unit * 100;
    case 6:
        return 2.5;
    case 7:
        return ldexp(unit, (int)random_below(60) - 30);
    case 8:
        return unit * 0x1p1021;
    case 9:
        return unit * 1e-38;
    case 10:
        return unit * 1e-309;
    case 11:
        return unit * 1e-313;
    case 12:
        return unit * 1e-303;
    case 14: // Beyond what a float32 has, in part.
        return unit * 3.6e38;
    case 13: // What is too large for a block begins there.
        return random_below(64) == 0 ? 0x1p126 : random_below(64) == 0 ? -0x1p1022 : unit;
    default:
        return (double)(int64_t)random_below(17) - 8;
    }
}
enum { SORTS = 16 };

static void fill_with_values(void *to, size_t count, size_t width) {
    int sort = (int)random_below(SORTS);
    for (size_t i = 0; i < count; i++) {
        // Blocks side by side are of different sorts.
        if (random_below(150) == 0)
            sort = (int)random_below(SORTS);
        double value = random_value(sort);
        if (width == 4)
            ((float *)to)[i] = (float)value;
        else
            ((double *)to)[i] = value;
    }
}

// ---- Comparison -------------------------------------------------------------------------------------

static void compare(const void *wanted, const void *found, size_t bytes, const char *what, size_t count,
                    size_t detail) {
    const uint8_t *a = wanted, *b = found;
    size_t i = 0;
    while (i < bytes && a[i] == b[i])
        i++;
    if (i == bytes)
        return;
    failure_count++;
    printf("%s: %s of %zu (%zu): byte %zu is %#x instead of %#x\n", doing, what, count, detail, i, b[i], a[i]);
    exit(1);
}

// Any NaN is as good as another one.
static void forget_nans(void *values, size_t count, size_t width) {
    for (size_t i = 0; i < count; i++)
        if (width == 4)
            ((float *)values)[i] = canonical_f32(((float *)values)[i]);
        else
            ((double *)values)[i] = canonical_f64(((double *)values)[i]);
}

static bool is_wanted(const char *name) {
    if (only && strcmp(only, name) != 0)
        return false;
    doing = name;
    kernel_count++;
    return true;
}

// ---- Reductions -------------------------------------------------------------------------------------

static uint8_t host[MOST_INPUTS][MOST_BYTES], wanted[MOST_BYTES], found[MOST_BYTES], other[MOST_BYTES],
    accumulators[2 * MOST_BYTES];

// `misplaced` has a bit for each input, and one more for the result, that is not aligned for sixteen bytes at a time.
static void reduce_once(const pccl_kernel_reduction *loops, size_t count, uint32_t inputs, uint32_t world_size,
                        uint32_t misplaced, int in_place) {
    // A sum of more than the members is none of an average's.
    if (world_size < inputs)
        world_size = inputs;
    size_t width = loops->element_bytes, bytes = count * width;
    pccl_cuda_pointer memory[MOST_INPUTS], table[MOST_INPUTS];
    for (uint32_t k = 0; k < inputs; k++) {
        fill_with_bits(host[k], count, width);
        size_t skipped = misplaced >> k & 1 ? width : 0;
        memory[k] = device_memory(skipped + bytes);
        table[k] = memory[k] + skipped;
        write_device(table[k], host[k], bytes);
        if (k == 0)
            loops->load(accumulators, host[0], count);
        else
            loops->more(accumulators, host[k], count);
    }
    loops->finish(wanted, accumulators, count, world_size);
    size_t skipped = misplaced >> inputs & 1 ? width : 0;
    pccl_cuda_pointer result = device_memory(skipped + bytes);
    pccl_cuda_pointer out = in_place < 0 ? result + skipped : table[(uint32_t)in_place % inputs];
    pccl_cuda_pointer addresses = device_memory(sizeof table[0] * inputs);
    write_device(addresses, table, sizeof table[0] * inputs);
    void *parameters[] = {&out, &addresses, &inputs, &count, &world_size};
    launch(parameters);
    read_device(found, out, bytes);
    compare(wanted, found, bytes, in_place < 0 ? "out of place" : "in place", count, inputs);
    for (uint32_t k = 0; k < inputs; k++) {
        if (in_place < 0 || (uint32_t)in_place % inputs != k) {
            read_device(found, table[k], bytes);
            compare(host[k], found, bytes, "an input", count, k);
        }
        MUST(pccl_cuda_device_free(memory[k]));
    }
    MUST(pccl_cuda_device_free(result));
    MUST(pccl_cuda_device_free(addresses));
}

// As many contributions as a group of that size has, which takes sums to where small ones do not come: of few buffers,
// over and over.
static void reduce_many(const pccl_kernel_reduction *loops, uint32_t world_size) {
    enum { COUNT = 70, BUFFERS = 3 };
    size_t width = loops->element_bytes, count = COUNT, bytes = count * width;
    pccl_cuda_pointer memory[BUFFERS], out = device_memory(bytes);
    pccl_cuda_pointer addresses = device_memory(sizeof addresses * world_size);
    pccl_cuda_pointer *table = malloc(sizeof *table * world_size);
    for (uint32_t k = 0; k < world_size; k++) {
        if (k < BUFFERS) {
            fill_with_bits(host[k], count, width);
            memory[k] = device_memory(bytes);
            write_device(memory[k], host[k], bytes);
        }
        table[k] = memory[k % BUFFERS];
        if (k == 0)
            loops->load(accumulators, host[0], count);
        else
            loops->more(accumulators, host[k % BUFFERS], count);
    }
    loops->finish(wanted, accumulators, count, world_size);
    write_device(addresses, table, sizeof *table * world_size);
    void *parameters[] = {&out, &addresses, &world_size, &count, &world_size};
    launch(parameters);
    read_device(found, out, bytes);
    compare(wanted, found, bytes, "many inputs", count, world_size);
    for (int k = 0; k < BUFFERS; k++)
        MUST(pccl_cuda_device_free(memory[k]));
    MUST(pccl_cuda_device_free(out));
    MUST(pccl_cuda_device_free(addresses));
    free(table);
}

static void test_reduction(const char *name, const pccl_kernel_reduction *loops) {
    if (!is_wanted(name))
        return;
    static const size_t counts[] = {1, 15, 16, 17, 255, 4099};
    static const uint32_t inputs[] = {1, 2, 3, 5};
    // On either side of what is divided in another way.
    static const uint32_t worlds[] = {1, 2, 3, 7, 8, 64, 65, 16384, 16385, 1 << 19, (1 << 19) + 1, 65521};
    size_t turn = 0;
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
        for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++, turn++) {
            uint32_t world = worlds[turn % (sizeof worlds / sizeof *worlds)];
            reduce_once(loops, counts[c], inputs[i], world, 0, -1);
            reduce_once(loops, counts[c], inputs[i], world, 0, (int)turn);
            // One at a time, and all of them.
            reduce_once(loops, counts[c], inputs[i], world, turn % 7 == 6 ? ~0u : 1u << turn % (inputs[i] + 1), -1);
        }
    for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++)
        reduce_once(loops, 700, 3, worlds[w], 0, -1);
    if (strstr(name, "average")) {
        static const uint32_t many[] = {64, 65, 16385};
        for (size_t m = 0; m < sizeof many / sizeof *many; m++)
            reduce_many(loops, many[m]);
    }
}

// ---- Codecs -----------------------------------------------------------------------------------------

static size_t code_bytes(const pccl_kernel_codec *codec, size_t count, size_t block) {
    size_t left = count % block;
    return count / block * (codec->header_bytes + (block * codec->code_bits + 7) / 8) +
           (left > 0 ? codec->header_bytes + (left * codec->code_bits + 7) / 8 : 0);
}

static void encode_once(const pccl_kernel_codec *codec, size_t count, size_t block, bool is_random) {
    size_t bytes = count * codec->value_bytes, coded = code_bytes(codec, count, block);
    uint64_t seed = random_64();
    fill_with_values(host[0], count, codec->value_bytes);
    if (is_random)
        codec->encode_randomly(wanted, host[0], count, block, seed);
    else
        codec->encode(wanted, host[0], count, block);
    // At an odd address, as in the middle of a message.
    pccl_cuda_pointer values = device_memory(bytes), memory = device_memory(coded + 1), codes = memory + 1;
    write_device(values, host[0], bytes);
    memset(found, 0x55, coded);
    write_device(codes, found, coded);
    void *parameters[] = {&codes, &values, &count, &block, &seed};
    launch(parameters);
    read_device(found, codes, coded);
    compare(wanted, found, coded, "codes", count, block);
    read_device(found, values, bytes);
    compare(host[0], found, bytes, "values", count, block);
    MUST(pccl_cuda_device_free(values));
    MUST(pccl_cuda_device_free(memory));
}

// Also codes that nobody has encoded, as they may come from a peer that lies.
static void decode_once(const pccl_kernel_codec *codec, size_t count, size_t block, bool adds, bool is_garbage) {
    size_t bytes = count * codec->value_bytes, coded = code_bytes(codec, count, block);
    fill_with_values(host[0], count, codec->value_bytes);
    if (is_garbage)
        fill_with_bits(host[1], coded, 1);
    else
        codec->encode_randomly(host[1], host[0], count, block, random_64());
    fill_with_values(wanted, count, codec->value_bytes);
    memcpy(other, wanted, bytes);
    pccl_cuda_pointer values = device_memory(bytes), memory = device_memory(coded + 1), codes = memory + 1;
    write_device(codes, host[1], coded);
    write_device(values, wanted, bytes);
    void *parameters[] = {&values, &codes, &count, &block};
    launch(parameters);
    read_device(found, values, bytes);
    if (adds)
        codec->add(wanted, host[1], count, block);
    else
        codec->decode(wanted, host[1], count, block);
    if (adds || is_garbage) {
        forget_nans(wanted, count, codec->value_bytes);
        forget_nans(found, count, codec->value_bytes);
    }
    compare(wanted, found, bytes, "values", count, block);
    MUST(pccl_cuda_device_free(values));
    MUST(pccl_cuda_device_free(memory));
}

static const size_t block_sizes[] = {32, 33, 64, 100, 255, 256};
static const size_t value_counts[] = {1, 2, 31, 32, 33, 63, 255, 256, 257, 512, 768, 6001};

#define FOR_SIZES(statement)                                                                                           \
    for (size_t b = 0; b < sizeof block_sizes / sizeof *block_sizes; b++)                                              \
        for (size_t c = 0; c < sizeof value_counts / sizeof *value_counts; c++) {                                      \
            size_t block = block_sizes[b], count = value_counts[c];                                                    \
            statement;                                                                                                 \
        }

static void test_codec(const char *encode, const char *encode_randomly, const char *decode, const char *add,
                       const pccl_kernel_codec *codec) {
    if (is_wanted(encode))
        FOR_SIZES(encode_once(codec, count, block, false))
    if (is_wanted(encode_randomly))
        FOR_SIZES(encode_once(codec, count, block, true))
    if (is_wanted(decode))
        FOR_SIZES(decode_once(codec, count, block, false, (b + c) % 3 == 0))
    if (is_wanted(add))
        FOR_SIZES(decode_once(codec, count, block, true, (b + c) % 3 == 0))
}

static void test_loss(const char *name, size_t width, pccl_kernel_loss loop) {
    if (!is_wanted(name))
        return;
    static const float factors[] = {1, 0.5f, 0.9f, 0};
    for (size_t c = 0; c < sizeof value_counts / sizeof *value_counts; c++)
        for (int in_place = 0; in_place < 3; in_place++) {
            size_t count = value_counts[c], bytes = count * width;
            float factor = factors[(c + (size_t)in_place) % 4];
            fill_with_values(host[0], count, width);
            fill_with_values(host[1], count, width);
            loop(wanted, host[0], host[1], factor, count);
            pccl_cuda_pointer values = device_memory(bytes), decoded = device_memory(bytes),
                              memory = device_memory(bytes);
            pccl_cuda_pointer lost = in_place == 0 ? memory : in_place == 1 ? values : decoded;
            write_device(values, host[0], bytes);
            write_device(decoded, host[1], bytes);
            void *parameters[] = {&lost, &values, &decoded, &factor, &count};
            launch(parameters);
            read_device(found, lost, bytes);
            compare(wanted, found, bytes, "losses", count, (size_t)in_place);
            MUST(pccl_cuda_device_free(values));
            MUST(pccl_cuda_device_free(decoded));
            MUST(pccl_cuda_device_free(memory));
        }
}

// ---- Hashes -----------------------------------------------------------------------------------------

static void hash_once(size_t count, size_t chunk) {
    enum { LANES = 8, LONGEST_SHORT = 240 };
    size_t chunks = (count + chunk - 1) / chunk, lane_bytes = chunks * LANES * sizeof(uint64_t);
    fill_with_bits(host[0], count, 1);
    pccl_cuda_pointer data = device_memory(count), lanes = device_memory(lane_bytes);
    write_device(data, host[0], count);
    memset(found, 0x55, lane_bytes);
    write_device(lanes, found, lane_bytes);
    void *parameters[] = {&lanes, &data, &count, &chunk};
    launch(parameters);
    read_device(found, lanes, lane_bytes);
    for (size_t c = 0; c < chunks; c++) {
        size_t bytes = count - c * chunk < chunk ? count - c * chunk : chunk;
        uint64_t of_chunk[LANES], untouched[LANES];
        memcpy(of_chunk, found + c * sizeof of_chunk, sizeof of_chunk);
        memset(untouched, 0x55, sizeof untouched);
        if (bytes <= LONGEST_SHORT) {
            compare(untouched, of_chunk, sizeof of_chunk, "the lanes of a short chunk", count, chunk);
            continue;
        }
        pccl_kernel_hash128 right = pccl_kernel_xxh3_best()(host[0] + c * chunk, bytes);
        pccl_kernel_hash128 hash = pccl_kernel_xxh3_of_lanes(of_chunk, bytes);
        compare(&right, &hash, sizeof hash, "a hash", count, chunk);
    }
    MUST(pccl_cuda_device_free(data));
    MUST(pccl_cuda_device_free(lanes));
}

static void test_hash(const char *name) {
    if (!is_wanted(name))
        return;
    static const size_t counts[] = {1,    240,  241,  255,  256,  257,  320,  1023, 1024, 1025,  1087,  1088,
                                    1089, 1984, 2047, 2048, 2049, 3000, 4096, 4336, 4337, 10000, 66000, 70001};
    static const size_t chunks[] = {4096, 1 << 20, 256, 2056};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
        for (size_t k = 0; k < sizeof chunks / sizeof *chunks; k++)
            hash_once(counts[c], chunks[k]);
}

// ---- Outer steps ------------------------------------------------------------------------------------

// What a kernel of outer steps has to do with; what is not of its parameters is not looked at.
typedef struct outer_case {
    size_t count, misplaced; // So many elements away from where sixteen bytes could be loaded at once.
    float factors[2];
    uint8_t *values[3]; // What the buffers hold, and then what they are to hold.
    pccl_cuda_pointer memory[3], places[3];
    size_t widths[3];
} outer_case;

static float random_factor(void) {
    static const float edges[] = {0, 1, 0.5f, 3, 0.7f, 0.9f, 1e-30f, 1e30f};
    return edges[random_below(sizeof edges / sizeof *edges)];
}

static void make_outer_case(outer_case *each, size_t count, size_t turn, const size_t widths[3]) {
    each->count = count;
    each->misplaced = turn % 3;
    each->factors[0] = random_factor();
    each->factors[1] = random_factor();
    uint8_t *const room[] = {host[0], host[1], host[2]};
    for (int k = 0; k < 3; k++) {
        each->widths[k] = widths[k];
        each->values[k] = room[k];
        if (turn % 2 == 0 || widths[k] == 2)
            fill_with_bits(room[k], count, widths[k]);
        else
            fill_with_values(room[k], count, widths[k]);
        size_t skipped = each->misplaced * widths[k];
        each->memory[k] = device_memory(skipped + count * widths[k]);
        each->places[k] = each->memory[k] + skipped;
        write_device(each->places[k], room[k], count * widths[k]);
    }
}

// All buffers: also those that are only read.
static void end_outer_case(outer_case *each) {
    for (size_t k = 0; k < 3; k++) {
        size_t bytes = each->count * each->widths[k];
        read_device(found, each->places[k], bytes);
        compare(each->values[k], found, bytes, "a buffer", each->count, k);
        MUST(pccl_cuda_device_free(each->memory[k]));
    }
}

static const size_t outer_counts[] = {1, 7, 8, 9, 255, 256, 257, 2049, 4103};
static const size_t whole_floats[] = {4, 4, 4};

// `on_host` is what a processor does with floats a, b and c, and factors x and y.
#define TEST_OUTER(kernel, on_host, ...)                                                                               \
    if (is_wanted(kernel))                                                                                             \
        for (size_t turn = 0; turn < 4 * sizeof outer_counts / sizeof *outer_counts; turn++) {                         \
            outer_case each;                                                                                           \
            make_outer_case(&each, outer_counts[turn / 4], turn, whole_floats);                                        \
            float *a = (float *)each.values[0], *b = (float *)each.values[1], *c = (float *)each.values[2];            \
            float x = each.factors[0], y = each.factors[1];                                                            \
            size_t n = each.count;                                                                                     \
            pccl_cuda_pointer *at = each.places;                                                                       \
            (void)a, (void)b, (void)c, (void)x, (void)y, (void)at;                                                     \
            void *parameters[] = {__VA_ARGS__};                                                                        \
            launch(parameters);                                                                                        \
            on_host;                                                                                                   \
            end_outer_case(&each);                                                                                     \
        }

static void fill_floats(float *out, float value, size_t count) {
    for (size_t i = 0; i < count; i++)
        out[i] = value;
}

static void test_outer_steps(void) {
    TEST_OUTER("outer_fill", fill_floats(a, x, n), &at[0], &x, &n)
    TEST_OUTER("outer_divide", pccl_kernel_outer_divide(a, x, n), &at[0], &x, &n)
    TEST_OUTER("outer_descend", pccl_kernel_outer_descend(a, b, x, n), &at[0], &at[1], &x, &n)
    TEST_OUTER("outer_accumulate", pccl_kernel_outer_accumulate(a, b, x, n), &at[0], &at[1], &x, &n)
    TEST_OUTER("outer_descend_ahead", pccl_kernel_outer_descend_ahead(a, b, c, x, y, n), &at[0], &at[1], &at[2], &x, &y,
               &n)
}

// Parameters as a processor sees them, and as it leaves them (Sources/PCCLCompute/Outer).
static void widen(float *values, const void *local, size_t count, uint32_t type) {
    if (type == pccl_kernel_float64)
        pccl_kernel_outer_widen(values, local, count);
    else
        pccl_kernel_reduction_for(type, pccl_kernel_sum)->load(values, local, count);
}
static void narrow(void *local, const float *values, size_t count, uint32_t type) {
    if (type == pccl_kernel_float64)
        pccl_kernel_outer_narrow(local, values, count);
    else if (type == pccl_kernel_float32)
        memcpy(local, values, count * sizeof(float));
    else
        pccl_kernel_reduction_for(type, pccl_kernel_sum)->finish(local, values, count, 1);
}

static void test_outer_parameters(const char *load, const char *difference, const char *replace, const char *mix,
                                  uint32_t type, size_t width) {
    static float local[MOST_BYTES / sizeof(float)];
    const char *const names[] = {load, difference, replace, mix};
    for (int kernel = 0; kernel < 4; kernel++) {
        if (!is_wanted(names[kernel]))
            continue;
        for (size_t turn = 0; turn < 4 * sizeof outer_counts / sizeof *outer_counts; turn++) {
            outer_case each;
            make_outer_case(&each, outer_counts[turn / 4], turn, (const size_t[]){4, 4, width});
            pccl_cuda_pointer *at = each.places;
            float *a = (float *)each.values[0], *b = (float *)each.values[1];
            void *parameters[4][5] = {{&at[0], &at[2], &each.count},
                                      {&at[0], &at[1], &at[2], &each.factors[0], &each.count},
                                      {&at[2], &at[1], &each.count},
                                      {&at[2], &at[1], &each.factors[0], &each.count}};
            launch(parameters[kernel]);
            widen(local, each.values[2], each.count, type);
            switch (kernel) {
            case 0:
                pccl_kernel_outer_load(a, local, each.count);
                break;
            case 1:
                pccl_kernel_outer_difference(a, b, local, each.factors[0], each.count);
                break;
            case 2:
                narrow(each.values[2], b, each.count, type);
                break;
            default:
                pccl_kernel_outer_mix(local, b, each.factors[0], each.count);
                narrow(each.values[2], local, each.count, type);
                break;
            }
            end_outer_case(&each);
        }
    }
}

static void squares_once(bool is_between, size_t count, size_t piece, size_t turn) {
    outer_case each;
    make_outer_case(&each, count, turn, whole_floats);
    size_t pieces = (count + piece - 1) / piece, bytes = pieces * OUTER_LANES * sizeof(double);
    pccl_cuda_pointer sums = device_memory(bytes), *at = each.places;
    void *of_one[] = {&sums, &at[0], &count, &piece}, *of_both[] = {&sums, &at[0], &at[1], &count, &piece};
    launch(is_between ? of_both : of_one);
    double lanes[64 * OUTER_LANES];
    read_device(lanes, sums, bytes);
    for (size_t p = 0; p < pieces; p++) {
        const float *a = (float *)each.values[0] + p * piece, *b = (float *)each.values[1] + p * piece;
        double right =
            pccl_kernel_outer_squares(a, is_between ? b : NULL, count - p * piece < piece ? count - p * piece : piece);
        double sum = pccl_kernel_outer_squares_of_lanes(lanes + p * OUTER_LANES);
        forget_nans(&right, 1, sizeof right);
        forget_nans(&sum, 1, sizeof sum);
        compare(&right, &sum, sizeof sum, "a sum", count, piece);
    }
    MUST(pccl_cuda_device_free(sums));
    end_outer_case(&each);
}

static void test_squares(const char *name, bool is_between) {
    if (!is_wanted(name))
        return;
    static const size_t pieces[] = {1 << 20, 8, 64, 1024};
    for (size_t turn = 0; turn < 4 * sizeof outer_counts / sizeof *outer_counts; turn++) {
        size_t count = outer_counts[turn / 4], piece = pieces[turn % 4];
        // With as many pieces as there is room for here.
        squares_once(is_between, count / piece < 63 ? count : 63 * piece, piece, turn);
        squares_once(is_between, count / piece < 63 ? count : 63 * piece, piece, 2 * turn + 1);
    }
}

// ---- All of them --------------------------------------------------------------------------------------

// A module that has none of the kernels that are asked for is not loaded.
static bool load_module(pccl_cuda_kernels kernels) {
    const char *text = pccl_cuda_ptx(kernels);
    if (only && !strstr(text, only))
        return false;
    MUST(pccl_cuda_module_load(&module, text));
    return true;
}

int main(int count, char **arguments) {
    only = count > 1 ? arguments[1] : NULL;
    const char *seed = getenv("KERNEL_SEED");
    if (seed)
        random_state = strtoull(seed, NULL, 10);
    start_device();
    if (load_module(pccl_cuda_reduce)) {
#define TEST(name, LOOP, element, accumulator, widen, combine, finisher) test_reduction("reduce_" #name, &name);
        REDUCTIONS(TEST)
#undef TEST
    }
    if (load_module(pccl_cuda_codec)) {
#define TEST(name, type, measured, measure, header, bits)                                                              \
    test_codec("encode_" #name, "encode_randomly_" #name, "decode_" #name, "add_" #name, &name);
        CODECS(TEST)
#undef TEST
        test_loss("loss_f32", 4, loss_f32);
        test_loss("loss_f64", 8, loss_f64);
    }
    if (load_module(pccl_cuda_hash))
        test_hash("hash_chunks");
    if (load_module(pccl_cuda_outer)) {
        test_outer_steps();
#define TEST(name, type, width)                                                                                        \
    test_outer_parameters("outer_load_" name, "outer_difference_" name, "outer_replace_" name, "outer_mix_" name,      \
                          type, width);
        TEST("f16", pccl_kernel_float16, 2)
        TEST("bf16", pccl_kernel_bfloat16, 2)
        TEST("f32", pccl_kernel_float32, 4)
        TEST("f64", pccl_kernel_float64, 8)
#undef TEST
        test_squares("outer_squares", false);
        test_squares("outer_squares_between", true);
    }
    if (kernel_count == 0) {
        printf("no kernel %s\n", only);
        return ERROR_STATUS;
    }
    printf("ok %d kernels\n", kernel_count);
    return 0;
}
