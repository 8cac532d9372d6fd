// What the reduction loops write, as one line for each (type, operation, loop): a digest over counts, alignments, world
// sizes, and destinations that are a source. And what codecs write, as one line for each (format, type, loop): a digest
// over counts, sizes of blocks and alignments. And a line for hashes of many lengths and alignments, and for checksums. Two levels, or two
// architectures, agree when their lines are equal.
//
//     digests LEVEL        plain, avx2 or avx512; status 3 where this build or processor has no such level
//
// The unit tests compare each level of the machine they run on with a reference; this is for machines that only an
// emulator has, where Swift's tests do not run.

#include "CKernels.h"

#include <stdio.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const char *const type_names[PCCL_KERNEL_TYPES] = {
    [pccl_kernel_uint8] = "uint8",       [pccl_kernel_int8] = "int8",       [pccl_kernel_int16] = "int16",
    [pccl_kernel_uint16] = "uint16",     [pccl_kernel_uint32] = "uint32",   [pccl_kernel_int32] = "int32",
    [pccl_kernel_uint64] = "uint64",     [pccl_kernel_int64] = "int64",     [pccl_kernel_float16] = "float16",
    [pccl_kernel_bfloat16] = "bfloat16", [pccl_kernel_float32] = "float32", [pccl_kernel_float64] = "float64",
};
static const char *const operation_names[PCCL_KERNEL_OPERATIONS] = {"sum", "average", "product", "maximum", "minimum"};
static const char *const level_names[] = {"plain", "avx2", "avx512"};

// Around the widths of vectors and unrolled loops, and one for many rounds of each.
static const size_t counts[] = {0, 1, 2, 3, 7, 8, 9, 15, 17, 31, 33, 63, 65, 1021};
#define LARGEST_COUNT 1021

// The borders between the ways of dividing; and 41 and 49, for 41 * (1 / 41) < 1 in float32, 49 in float64.
static const uint32_t world_sizes[] = {1, 2, 3, 41, 49, 64, 65, 16384, 16385, 65536};

// By how many bytes destination, first and second source miss any alignment.
static const size_t misalignments[][3] = {{0, 0, 0}, {1, 3, 5}, {2, 7, 6}};

// ---- Inputs -------------------------------------------------------------------------------------

// splitmix64
static uint64_t state;

static uint64_t draw(void) {
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

// Infinity's bits tell all of a float's format; 0 for an integer. By width, for accumulators may be wider than
// elements.
static uint64_t infinity_of(uint32_t type, size_t bytes) {
    if (type < pccl_kernel_float16)
        return 0;
    if (bytes == 2)
        return type == pccl_kernel_float16 ? 0x7c00 : 0x7f80;
    return bytes == 4 ? 0x7f800000 : 0x7ff0000000000000;
}

static uint64_t hard_float(uint64_t infinity, size_t bytes) {
    uint64_t least_normal = infinity & -infinity;
    uint64_t quiet = least_normal >> 1;
    uint64_t one = (infinity >> 1) & infinity;
    uint64_t nan = infinity | quiet;
    const uint64_t special[] = {
        0,   1,      2, quiet, least_normal - 1, least_normal, one, one + 1, infinity - 1, infinity, infinity | 1,
        nan, nan | 5};
    uint64_t sign = (draw() & 1) << (8 * bytes - 1);
    switch (draw() % 6) {
    case 0:
        return special[draw() % COUNT(special)] | sign;
    case 1: // Near enough to one for sums that cancel, and that are rounded.
        return (one + draw() % (8 * least_normal) - 4 * least_normal) | sign;
    default:
        return draw();
    }
}

static uint64_t hard_integer(size_t bytes) {
    uint64_t sign = (uint64_t)1 << (8 * bytes - 1);
    const uint64_t special[] = {0, 1, sign - 1, sign, sign + 1, ~(uint64_t)0};
    return draw() % 4 == 0 ? special[draw() % COUNT(special)] : draw();
}

// In the middle between two neighbours of a 16-bit float, or beside it: where rounding is decided.
static uint32_t float32_near_tie(uint32_t type) {
    uint32_t low = (uint32_t)draw() & 0x7fff;
    uint32_t sign = (uint32_t)(draw() & 1) << 31;
    uint32_t tie = (low << 16) + 0x8000;
    if (type == pccl_kernel_float16 && low < 0x0400) {
        float middle = (float)(2 * low + 1) * 0x1p-25f;
        memcpy(&tie, &middle, sizeof tie);
    } else if (type == pccl_kernel_float16) {
        tie = (low << 13) + (112u << 23) + 0x1000;
    }
    return (tie + (uint32_t)(draw() % 3) - 1) | sign;
}

static void put(unsigned char *place, uint64_t value, size_t bytes) { memcpy(place, &value, bytes); }

static uint64_t get(const unsigned char *place, size_t bytes) {
    uint64_t value = 0;
    memcpy(&value, place, bytes);
    return value;
}

static void fill_elements(unsigned char *place, uint32_t type, size_t bytes, size_t count) {
    uint64_t infinity = infinity_of(type, bytes);
    for (size_t i = 0; i < count; i++)
        put(place + i * bytes, infinity != 0 ? hard_float(infinity, bytes) : hard_integer(bytes), bytes);
}

// The sums that `contributions` equal elements have. Wrapping products, hence the same for signed and unsigned.
static void fill_integer_sums(unsigned char *place, const pccl_kernel_reduction *reduction, uint32_t type, size_t count,
                              uint32_t contributions) {
    static unsigned char elements[LARGEST_COUNT * 8];
    size_t bytes = reduction->accumulator_bytes;
    fill_elements(elements, type, reduction->element_bytes, count);
    reduction->load(place, elements, count);
    for (size_t i = 0; i < count; i++) {
        unsigned __int128 sum = 0;
        memcpy(&sum, place + i * bytes, bytes);
        sum *= contributions;
        memcpy(place + i * bytes, &sum, bytes);
    }
}

// What contributions of this type may have come to: an integer that they cannot reach is outside the loops' promise.
static void fill_accumulators(unsigned char *place, const pccl_kernel_reduction *reduction, uint32_t type, size_t count,
                              uint32_t contributions) {
    size_t bytes = reduction->accumulator_bytes;
    if (bytes == reduction->element_bytes) {
        fill_elements(place, type, bytes, count);
    } else if (type < pccl_kernel_float16) {
        fill_integer_sums(place, reduction, type, count, contributions);
    } else {
        for (size_t i = 0; i < count; i++) {
            int beside_tie = draw() % 2 == 0;
            put(place + i * bytes, beside_tie ? float32_near_tie(type) : hard_float(infinity_of(type, bytes), bytes),
                bytes);
        }
    }
}

// ---- Digests ------------------------------------------------------------------------------------

// FNV-1a, 64 bits.
static uint64_t digest(uint64_t so_far, const unsigned char *bytes, size_t count) {
    for (size_t i = 0; i < count; i++)
        so_far = (so_far ^ bytes[i]) * 0x100000001b3;
    return so_far;
}

// In accumulators a NaN is any NaN, and architectures make different ones.
static void make_nans_equal(unsigned char *accumulators, uint32_t type, size_t bytes, size_t count) {
    uint64_t infinity = infinity_of(type, bytes);
    for (size_t i = 0; infinity != 0 && i < count; i++) {
        uint64_t sign = (uint64_t)1 << (8 * bytes - 1);
        if ((get(accumulators + i * bytes, bytes) & ~sign) > infinity)
            put(accumulators + i * bytes, infinity + 1, bytes);
    }
}

// ---- The loops ----------------------------------------------------------------------------------

enum operand { no_operand, element, accumulator };

typedef struct call {
    void *out;
    const void *first, *second;
    size_t count;
    uint32_t world_size;
} call;

static void run_load(const pccl_kernel_reduction *r, call c) { r->load(c.out, c.first, c.count); }
static void run_start(const pccl_kernel_reduction *r, call c) { r->start(c.out, c.first, c.second, c.count); }
static void run_more(const pccl_kernel_reduction *r, call c) { r->more(c.out, c.second, c.count); }
static void run_merge(const pccl_kernel_reduction *r, call c) { r->merge(c.out, c.second, c.count); }
static void run_end(const pccl_kernel_reduction *r, call c) { r->end(c.out, c.first, c.second, c.count, c.world_size); }
static void run_whole(const pccl_kernel_reduction *r, call c) {
    r->whole(c.out, c.first, c.second, c.count, c.world_size);
}
static void run_finish(const pccl_kernel_reduction *r, call c) { r->finish(c.out, c.first, c.count, c.world_size); }

static const struct loop {
    const char *name;
    void (*run)(const pccl_kernel_reduction *, call);
    enum operand out, first, second;
    int only_in_place; // the first source is the destination
} loops[] = {
    {"load", run_load, accumulator, element, no_operand, 0},
    {"start", run_start, accumulator, element, element, 0},
    {"more", run_more, accumulator, accumulator, element, 1},
    {"merge", run_merge, accumulator, accumulator, accumulator, 1},
    {"end", run_end, element, accumulator, element, 0},
    {"whole", run_whole, element, element, element, 0},
    {"finish", run_finish, element, accumulator, no_operand, 0},
};

#define FENCE 64
#define FENCE_BYTE 0xa5

static unsigned char memory[3][FENCE + LARGEST_COUNT * 16 + FENCE];

static size_t bytes_of(enum operand operand, const pccl_kernel_reduction *reduction) {
    return operand == no_operand ? 0 : operand == element ? reduction->element_bytes : reduction->accumulator_bytes;
}

static void fill(unsigned char *place, enum operand operand, const pccl_kernel_reduction *reduction, uint32_t type,
                 size_t count, uint32_t contributions) {
    if (operand == element)
        fill_elements(place, type, reduction->element_bytes, count);
    else if (operand == accumulator)
        fill_accumulators(place, reduction, type, count, contributions);
}

// One call; `where` the destination is: 0 a buffer of its own, 1 the first source, 2 the second.
static uint64_t digest_of_call(uint64_t so_far, const struct loop *loop, const pccl_kernel_reduction *reduction,
                               uint32_t type, size_t count, uint32_t world_size, const size_t misalignment[3],
                               int where) {
    unsigned char *places[3];
    memset(memory, FENCE_BYTE, sizeof memory);
    for (int i = 0; i < 3; i++)
        places[i] = memory[i] + FENCE / 2 + misalignment[i];
    fill(places[1], loop->first, reduction, type, count, loop->second == no_operand ? world_size : world_size - 1);
    fill(places[2], loop->second, reduction, type, count, 1);
    loop->run(reduction, (call){places[where], places[1], places[2], count, world_size});
    size_t bytes = bytes_of(loop->out, reduction);
    if (loop->out == accumulator)
        make_nans_equal(places[where], type, bytes, count);
    return digest(so_far, places[where] - FENCE / 2, count * bytes + FENCE);
}

static int may_be_destination(const struct loop *loop, const pccl_kernel_reduction *reduction, int where) {
    const enum operand source[] = {no_operand, loop->first, loop->second};
    if (where == 0)
        return !loop->only_in_place;
    return bytes_of(source[where], reduction) == bytes_of(loop->out, reduction);
}

// A result of two sources has two contributions at least.
static int is_world_of(const struct loop *loop, uint32_t world_size) {
    return world_size > 1 || loop->out == accumulator || loop->second == no_operand;
}

static uint64_t digest_of_loop(const struct loop *loop, const pccl_kernel_reduction *reduction, uint32_t type) {
    uint64_t so_far = 0xcbf29ce484222325;
    for (size_t c = 0; c < COUNT(counts); c++)
        for (size_t w = 0; w < COUNT(world_sizes); w++)
            for (size_t m = 0; m < COUNT(misalignments); m++)
                for (int where = 0; where < 3; where++)
                    if (is_world_of(loop, world_sizes[w]) && may_be_destination(loop, reduction, where))
                        so_far = digest_of_call(so_far, loop, reduction, type, counts[c], world_sizes[w],
                                                misalignments[m], where);
    return so_far;
}

// ---- Codecs -------------------------------------------------------------------------------------

static const char *const format_names[PCCL_KERNEL_FORMATS] = {
    "min-max8",  "min-max16", "min-max32", "zero-point8", "zero-point16", "zero-point32", "int4",
    "int4-e8m0", "e3m0",      "e3m0-e8m0", "e4m3",        "e4m3-e8m0",    "float16",      "bfloat16",
};

// Mostly such as gradients are: of one magnitude within a block, or of very different ones; some of it hard.
static void fill_values(unsigned char *place, uint32_t type, size_t bytes, size_t count) {
    int is_hard = draw() % 3 == 0;
    int spread = 1 << draw() % 6;
    for (size_t i = 0; i < count; i++) {
        uint64_t random = draw();
        double value = ((double)(random >> 12) * 0x1p-51 - 1) * (double)((uint64_t)1 << random % (uint64_t)spread);
        float single = (float)value;
        if (is_hard && random % 5 == 0)
            put(place + i * bytes, hard_float(infinity_of(type, bytes), bytes), bytes);
        else if (bytes == 4)
            memcpy(place + i * bytes, &single, bytes);
        else
            memcpy(place + i * bytes, &value, bytes);
    }
}

// Two digests: of the codes that both ways of rounding write, and of what these are decoded to, alone and added.
static void digest_codec(const pccl_kernel_codec *codec, uint32_t type, uint64_t digests[2]) {
    digests[0] = digests[1] = 0xcbf29ce484222325;
    size_t bytes = codec->value_bytes;
    for (size_t c = 0; c < COUNT(counts); c++)
        for (size_t block = 32; block <= PCCL_KERNEL_LARGEST_BLOCK; block *= 2)
            for (size_t m = 0; m < COUNT(misalignments); m++)
                for (uint64_t is_random = 0; is_random < 2; is_random++) {
                    unsigned char *places[3];
                    size_t count = counts[c];
                    memset(memory, FENCE_BYTE, sizeof memory);
                    for (int i = 0; i < 3; i++)
                        places[i] = memory[i] + FENCE / 2 + misalignments[m][i];
                    fill_values(places[1], type, bytes, count);
                    if (is_random)
                        codec->encode_randomly(places[0], places[1], count, block, draw());
                    else
                        codec->encode(places[0], places[1], count, block);
                    digests[0] = digest(digests[0], memory[0], sizeof memory[0]);
                    codec->decode(places[2], places[0], count, block);
                    make_nans_equal(places[2], type, bytes, count);
                    digests[1] = digest(digests[1], memory[2], sizeof memory[2]);
                    codec->add(places[1], places[0], count, block);
                    make_nans_equal(places[1], type, bytes, count);
                    digests[1] = digest(digests[1], memory[1], sizeof memory[1]);
                }
}

static void print_codecs(pccl_kernel_level level) {
    static const uint32_t types[] = {pccl_kernel_float32, pccl_kernel_float64};
    for (uint32_t format = 0; format < PCCL_KERNEL_FORMATS; format++)
        for (size_t t = 0; t < COUNT(types); t++) {
            const pccl_kernel_codec *codec = pccl_kernel_codec_at(level, format, types[t]);
            if (codec == NULL)
                continue;
            uint64_t digests[2];
            state = format * COUNT(types) + t;
            digest_codec(codec, types[t], digests);
            printf("%s %s codes %016llx\n", format_names[format], type_names[types[t]], (unsigned long long)digests[0]);
            printf("%s %s values %016llx\n", format_names[format], type_names[types[t]],
                   (unsigned long long)digests[1]);
        }
}

// ---- Hashes -------------------------------------------------------------------------------------

#define LARGEST_HASHED 20000

// Every length up to two blocks of 1024 bytes and some, then a few beyond.
static void print_hashes(pccl_kernel_level level) {
    static unsigned char bytes[LARGEST_HASHED + 8];
    pccl_kernel_xxh3 xxh3 = pccl_kernel_xxh3_at(level);
    uint64_t so_far = 0xcbf29ce484222325;
    state = 0;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)draw();
    for (size_t count = 0; count <= LARGEST_HASHED; count += count < 2200 ? 1 : 331) {
        pccl_kernel_hash128 hash = xxh3(bytes + count % 8, count);
        so_far = digest(so_far, (const unsigned char *)&hash, sizeof hash);
    }
    printf("xxh3 %016llx\n", (unsigned long long)so_far);
}

// ---- Checksums ----------------------------------------------------------------------------------

// All ways that there are, against the tables; which those are goes to standard error, for processors differ in it.
static void print_checksums(void) {
    static unsigned char bytes[LARGEST_HASHED + 8], copy[LARGEST_HASHED];
    const pccl_kernel_crc32c *tables = pccl_kernel_crc32c_by(pccl_kernel_crc32c_tables);
    uint64_t so_far = 0xcbf29ce484222325;
    state = 0;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)draw();
    for (size_t count = 0; count <= LARGEST_HASHED; count += count < 2200 ? 1 : 331) {
        const unsigned char *start = bytes + count % 8;
        uint32_t crc = tables->sum((uint32_t)count, start, count);
        for (int way = 0; way < PCCL_KERNEL_CRC32C_WAYS; way++) {
            const pccl_kernel_crc32c *crc32c = pccl_kernel_crc32c_by((pccl_kernel_crc32c_way)way);
            if (crc32c == NULL)
                continue;
            if (crc32c->sum((uint32_t)count, start, count) != crc ||
                crc32c->copy((uint32_t)count, copy, start, count) != crc || memcmp(copy, start, count) != 0)
                printf("crc32c in way %d of %zu bytes differs\n", way, count);
        }
        so_far = digest(so_far, (const unsigned char *)&crc, sizeof crc);
    }
    printf("crc32c %016llx\n", (unsigned long long)so_far);
    fprintf(stderr, "crc32c ways:");
    for (int way = 0; way < PCCL_KERNEL_CRC32C_WAYS; way++)
        if (pccl_kernel_crc32c_by((pccl_kernel_crc32c_way)way) != NULL)
            fprintf(stderr, " %d", way);
    fprintf(stderr, "\n");
}

// ---- Outer steps --------------------------------------------------------------------------------

#define OUTER_COUNT 4099

// One level for all machines: what is compared is the rounding of each operation, and the order of the sums.
static void print_outer_steps(void) {
    static float outer[OUTER_COUNT], momentum[OUTER_COUNT], local[OUTER_COUNT], gradient[OUTER_COUNT];
    state = 0;
    float *const arrays[] = {outer, momentum, local};
    for (size_t a = 0; a < COUNT(arrays); a++)
        for (size_t i = 0; i < OUTER_COUNT; i++)
            arrays[a][i] = (float)(int32_t)draw() / 65536.0f;
    uint64_t so_far = 0xcbf29ce484222325;
    for (size_t count = 1; count <= OUTER_COUNT; count += count < 40 ? 1 : 1353) {
        pccl_kernel_outer_difference(gradient, outer, local, 0.3f, count);
        pccl_kernel_outer_divide(gradient, 3.0f, count);
        double length = pccl_kernel_outer_squares(gradient, NULL, count);
        so_far = digest(so_far, (const unsigned char *)&length, sizeof length);
        pccl_kernel_outer_accumulate(momentum, gradient, 0.9f, count);
        pccl_kernel_outer_descend_ahead(outer, momentum, gradient, 0.7f, 0.9f, count);
        pccl_kernel_outer_descend(outer, gradient, 0.1f, count);
        pccl_kernel_outer_mix(local, outer, 0.3f, count);
        length = pccl_kernel_outer_squares(outer, local, count);
        so_far = digest(so_far, (const unsigned char *)&length, sizeof length);
        for (size_t a = 0; a < COUNT(arrays); a++)
            so_far = digest(so_far, (const unsigned char *)arrays[a], sizeof outer);
    }
    printf("outer steps %016llx\n", (unsigned long long)so_far);
}

int main(int argc, char **argv) {
    size_t level = 0;
    while (level < COUNT(level_names) && (argc != 2 || strcmp(argv[1], level_names[level]) != 0))
        level++;
    if (level == COUNT(level_names)) {
        fprintf(stderr, "usage: digests plain | avx2 | avx512\n");
        return 2;
    }
    for (uint32_t type = 0; type < PCCL_KERNEL_TYPES; type++)
        for (uint32_t operation = 0; operation < PCCL_KERNEL_OPERATIONS; operation++) {
            const pccl_kernel_reduction *reduction =
                pccl_kernel_reduction_at((pccl_kernel_level)level, type, operation);
            if (reduction == NULL)
                return 3;
            for (size_t l = 0; l < COUNT(loops); l++) {
                state = (type * PCCL_KERNEL_OPERATIONS + operation) * COUNT(loops) + l;
                printf("%s %s %s %016llx\n", type_names[type], operation_names[operation], loops[l].name,
                       (unsigned long long)digest_of_loop(&loops[l], reduction, type));
            }
        }
    print_codecs((pccl_kernel_level)level);
    print_hashes((pccl_kernel_level)level);
    print_checksums();
    print_outer_steps();
    return 0;
}
