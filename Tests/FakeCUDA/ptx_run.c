// Runs a kernel: from the bottom up, arithmetic on bits, one lane, one warp, all of them.
#include "ptx_parts.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

// ---- Arithmetic -----------------------------------------------------------------------------------

static uint64_t cut(uint64_t x, unsigned bytes) { return bytes >= 8 ? x : x & (((uint64_t)1 << (8 * bytes)) - 1); }
static int64_t extended(uint64_t x, unsigned bytes) {
    unsigned unused = 64 - 8 * bytes;
    return (int64_t)(x << unused) >> unused;
}

static float float_of(uint64_t bits) {
    uint32_t low = (uint32_t)bits;
    float x;
    memcpy(&x, &low, sizeof x);
    return x;
}
static double double_of(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
// What arithmetic makes of a NaN on a device has none of its bits, and is not what processors make of it.
static uint64_t bits_of_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return x == x ? bits : 0x7fffffff;
}
static uint64_t bits_of_double(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return x == x ? bits : 0xfff8000000000000;
}

#define OF_FLOATS(number, of_bits, bits_of)                                                                            \
    do {                                                                                                               \
        number a = of_bits(x), b = of_bits(y);                                                                         \
        return bits_of(operation == ADD   ? a + b                                                                      \
                       : operation == SUB ? a - b                                                                      \
                       : operation == MUL ? a * b                                                                      \
                       : operation == DIV ? a / b                                                                      \
                                          : 1 / a);                                                                    \
    } while (0)

static uint64_t of_floats(operation operation, type type, uint64_t x, uint64_t y) {
    if (type.bytes == 4)
        OF_FLOATS(float, float_of, bits_of_float);
    OF_FLOATS(double, double_of, bits_of_double);
}

// The smaller of two floats, as a device finds it: no NaN if there is a number, and -0 below +0.
static uint64_t least_float(type type, uint64_t x, uint64_t y, bool wants_most) {
    uint64_t sign = (uint64_t)1 << (8 * type.bytes - 1);
    double a = type.bytes == 4 ? (double)float_of(x) : double_of(x),
           b = type.bytes == 4 ? (double)float_of(y) : double_of(y);
    if (a != a && b != b)
        return type.bytes == 4 ? 0x7fffffff : 0xfff8000000000000;
    if (a != a || b != b)
        return a != a ? y : x;
    if (a == b)
        return ((x & sign) != 0) != wants_most ? x : y;
    return (a < b) != wants_most ? x : y;
}

static bool is_true(comparison comparison, type type, uint64_t x, uint64_t y) {
    int order; // -1, 0, 1, or 2 if there is none.
    if (type.kind == FLOAT) {
        double a = type.bytes == 4 ? (double)float_of(x) : double_of(x);
        double b = type.bytes == 4 ? (double)float_of(y) : double_of(y);
        order = a < b ? -1 : a > b ? 1 : a == b ? 0 : 2;
    } else if (type.kind == SIGNED) {
        int64_t a = extended(x, type.bytes), b = extended(y, type.bytes);
        order = a < b ? -1 : a > b;
    } else {
        order = x < y ? -1 : x > y;
    }
    switch (comparison) {
    case EQ:
        return order == 0;
    case NE:
        return order == -1 || order == 1;
    case LT:
        return order == -1;
    case LE:
        return order == -1 || order == 0;
    case GT:
        return order == 1;
    case GE:
        return order == 1 || order == 0;
    case EQU:
        return order == 0 || order == 2;
    case NEU:
        return order != 0;
    case LTU:
        return order == -1 || order == 2;
    case LEU:
        return order != 1;
    case GTU:
        return order == 1 || order == 2;
    case GEU:
        return order != -1;
    case NUM:
        return order != 2;
    default:
        return order == 2;
    }
}

static uint64_t converted(type to, type from, rounding rounding, uint64_t x) {
    if (from.kind == FLOAT && to.kind == FLOAT)
        return from.bytes == to.bytes ? x
               : to.bytes == 8        ? bits_of_double((double)float_of(x))
                                      : bits_of_float((float)double_of(x));
    if (from.kind == FLOAT) {
        double value = from.bytes == 4 ? (double)float_of(x) : double_of(x);
        // Out of range it is the nearest there is; a NaN is 0, or of 64 bits the sign alone.
        if (value != value)
            return to.bytes == 8 ? (uint64_t)1 << 63 : 0;
        value = rounding == TO_NEAREST_INTEGER ? nearbyint(value) : trunc(value);
        double limit = ldexp(1, 8 * to.bytes - (to.kind == SIGNED));
        if (to.kind == SIGNED)
            return value >= limit   ? cut(((uint64_t)1 << (8 * to.bytes - 1)) - 1, to.bytes)
                   : value < -limit ? cut((uint64_t)1 << (8 * to.bytes - 1), to.bytes)
                                    : cut((uint64_t)(int64_t)value, to.bytes);
        return value >= limit ? cut(~(uint64_t)0, to.bytes) : value < 0 ? 0 : (uint64_t)value;
    }
    int64_t signed_value = extended(x, from.bytes);
    uint64_t value = cut(x, from.bytes);
    if (to.kind == FLOAT && to.bytes == 4)
        return bits_of_float(from.kind == SIGNED ? (float)signed_value : (float)value);
    if (to.kind == FLOAT)
        return bits_of_double(from.kind == SIGNED ? (double)signed_value : (double)value);
    return from.kind == SIGNED ? (uint64_t)signed_value : value;
}

static uint64_t bit_field(type type, uint64_t x, uint64_t start, uint64_t count) {
    unsigned bits = 8u * type.bytes;
    start &= 0xff;
    count &= 0xff;
    if (count == 0)
        return 0;
    uint64_t top = start + count - 1 < bits - 1 ? start + count - 1 : bits - 1;
    uint64_t sign = type.kind == SIGNED ? x >> top & 1 : 0, field = start < bits ? x >> start : sign ? ~(uint64_t)0 : 0;
    uint64_t kept = start < bits && start + count <= bits ? count : start < bits ? bits - start : 0;
    uint64_t mask = kept >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << kept) - 1;
    return cut((field & mask) | (sign ? ~mask : 0), type.bytes);
}

// ---- Running --------------------------------------------------------------------------------------

typedef struct warp {
    const ptx_kernel *kernel;
    ptx_memory memory;
    const uint8_t *parameters;
    uint8_t *shared, *shared_is_written;
    uint64_t (*registers)[PTX_LANES];
    uint32_t *is_written; // By register, a bit for each lane.
    int place[PTX_LANES]; // The next instruction of each lane; -1 when it has returned.
    unsigned first_thread, threads, team, teams;
    // Of global memory, the last one that was found.
    uint64_t found_address;
    uint8_t *found;
    size_t found_bytes;
    bool found_is_writable;
    // Where lanes have written in the instruction that runs, and how many.
    const uint8_t *written[PTX_LANES];
    int written_count;
    char *error;
} warp;

__attribute__((format(printf, 3, 4))) static bool fault(warp *w, const instruction *at, const char *format, ...) {
    int start = snprintf(w->error, PTX_ERROR_BYTES, "%s, line %d: ", w->kernel->name, at->line);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(w->error + start, (size_t)(PTX_ERROR_BYTES - start), format, arguments);
    va_end(arguments);
    return false;
}

static bool value_of(warp *w, const instruction *at, const operand *from, int lane, uint64_t *out) {
    switch (from->kind) {
    case REGISTER:
        if (!(w->is_written[from->index] >> lane & 1))
            return fault(w, at, "lane %d reads a register that it never wrote", lane);
        *out = w->registers[from->index][lane];
        return true;
    case IMMEDIATE:
        *out = from->value;
        return true;
    case SPECIAL: {
        unsigned thread = w->first_thread + (unsigned)lane;
        const unsigned values[SPECIAL_COUNT] = {thread, w->threads, w->team, w->teams, (unsigned)lane};
        *out = values[from->index];
        return true;
    }
    default:
        return fault(w, at, "no operand to read");
    }
}

static bool put(warp *w, const instruction *at, const operand *to, int lane, uint64_t value) {
    if (to->kind != REGISTER)
        return fault(w, at, "no register to write");
    unsigned bytes = w->kernel->register_bytes[to->index];
    w->registers[to->index][lane] = bytes == 0 ? value & 1 : cut(value, bytes);
    w->is_written[to->index] |= (uint32_t)1 << lane;
    return true;
}

// Where `bytes` of the operand's address are.
static uint8_t *place_of(warp *w, const instruction *at, const operand *address, int lane, size_t bytes, bool writes) {
    uint64_t base = 0;
    if (address->index >= 0) {
        operand base_register = {REGISTER, address->index, 0};
        if (!value_of(w, at, &base_register, lane, &base))
            return NULL;
    }
    base += address->value;
    const ptx_module *module = w->kernel->module;
    if (base % bytes != 0) {
        fault(w, at, "lane %d: %zu bytes at %#llx are not aligned", lane, bytes, (unsigned long long)base);
        return NULL;
    }
    uint8_t *found = NULL;
    switch (at->space) {
    case PARAMETER:
        found = base + bytes <= w->kernel->parameter_bytes ? (uint8_t *)(uintptr_t)w->parameters + base : NULL;
        break;
    case CONSTANT:
        found = base + bytes <= module->constant_bytes ? module->constants + base : NULL;
        break;
    case SHARED:
        found = base + bytes <= module->shared_bytes ? w->shared + base : NULL;
        for (size_t i = 0; found && i < bytes; i++) {
            if (writes)
                w->shared_is_written[base + i] = 1;
            else if (!w->shared_is_written[base + i]) {
                fault(w, at, "lane %d reads shared memory that was never written", lane);
                return NULL;
            }
        }
        break;
    default:
        found = w->memory(base, bytes, writes);
        break;
    }
    if (!found)
        fault(w, at, "lane %d %s %zu bytes at %#llx, which are no memory of this kind", lane,
              writes ? "writes" : "reads", bytes, (unsigned long long)base);
    return found;
}

static bool load(warp *w, const instruction *at, int lane) {
    int parts = at->parts > 0 ? at->parts : 1;
    size_t bytes = at->type.bytes;
    const uint8_t *from = place_of(w, at, &at->operands[parts], lane, bytes * (size_t)parts, false);
    if (!from)
        return false;
    for (int i = 0; i < parts; i++) {
        uint64_t value = 0;
        memcpy(&value, from + (size_t)i * bytes, bytes);
        if (at->type.kind == SIGNED)
            value = (uint64_t)extended(value, (unsigned)bytes);
        if (!put(w, at, &at->operands[i], lane, value))
            return false;
    }
    return true;
}

static bool store(warp *w, const instruction *at, int lane) {
    int parts = at->parts > 0 ? at->parts : 1;
    size_t bytes = at->type.bytes;
    uint8_t *to = place_of(w, at, &at->operands[0], lane, bytes * (size_t)parts, true);
    if (!to)
        return false;
    for (int i = 0; i < w->written_count; i++)
        if (w->written[i] == to)
            return fault(w, at, "lane %d writes where another one does", lane);
    w->written[w->written_count++] = to;
    for (int i = 0; i < parts; i++) {
        uint64_t value;
        if (!value_of(w, at, &at->operands[1 + i], lane, &value))
            return false;
        memcpy(to + (size_t)i * bytes, &value, bytes);
    }
    return true;
}

// mov, which also puts a register together of parts, and takes one apart.
static bool move(warp *w, const instruction *at, int lane) {
    uint64_t value = 0, part;
    if (at->parts == 0)
        return value_of(w, at, &at->operands[1], lane, &value) && put(w, at, &at->operands[0], lane, value);
    unsigned bits = 8u * at->type.bytes / (unsigned)at->parts;
    if (at->parts_come_last) {
        for (int i = 0; i < at->parts; i++) {
            if (!value_of(w, at, &at->operands[1 + i], lane, &part))
                return false;
            value |= cut(part, bits / 8) << ((unsigned)i * bits);
        }
        return put(w, at, &at->operands[0], lane, value);
    }
    if (!value_of(w, at, &at->operands[at->parts], lane, &value))
        return false;
    for (int i = 0; i < at->parts; i++)
        if (!put(w, at, &at->operands[i], lane, value >> ((unsigned)i * bits)))
            return false;
    return true;
}

// Everything that is a function of the operands and concerns one lane.
static bool compute(warp *w, const instruction *at, int lane) {
    uint64_t v[3] = {0, 0, 0};
    for (int i = 1; i < at->count; i++)
        if (!value_of(w, at, &at->operands[i], lane, &v[i - 1]))
            return false;
    const type type = at->type;
    const bool is_float = type.kind == FLOAT, is_signed = type.kind == SIGNED;
    const unsigned bits = 8u * type.bytes;
    // A shift's second operand and a choice's third are no values of the type.
    uint64_t x = type.kind == PREDICATE ? v[0] : cut(v[0], type.bytes);
    uint64_t y = at->operation == SHL || at->operation == SHR || at->operation == BFE || type.kind == PREDICATE
                     ? v[1]
                     : cut(v[1], type.bytes);
    int64_t sx = is_signed ? extended(x, type.bytes) : 0, sy = is_signed ? extended(y, type.bytes) : 0;
    uint64_t z = 0;
    switch (at->operation) {
    case ADD:
        z = is_float ? of_floats(at->operation, type, x, y) : x + y;
        break;
    case SUB:
        z = is_float ? of_floats(at->operation, type, x, y) : x - y;
        break;
    case MUL:
        z = is_float ? of_floats(at->operation, type, x, y) : at->wide && is_signed ? (uint64_t)(sx * sy) : x * y;
        break;
    case DIV:
    case REM:
        if (is_float) {
            z = of_floats(at->operation, type, x, y);
            break;
        }
        if (y == 0)
            return fault(w, at, "lane %d divides by zero", lane);
        if (is_signed && sy == -1)
            z = at->operation == DIV ? (uint64_t)0 - x : 0;
        else if (is_signed)
            z = (uint64_t)(at->operation == DIV ? sx / sy : sx % sy);
        else
            z = at->operation == DIV ? x / y : x % y;
        break;
    case RCP:
        z = of_floats(at->operation, type, x, y);
        break;
    case NEG:
        z = is_float ? x ^ (uint64_t)1 << (bits - 1) : (uint64_t)0 - x;
        break;
    case MIN:
        z = is_float ? least_float(type, x, y, false) : (is_signed ? sx < sy : x < y) ? x : y;
        break;
    case MAX:
        z = is_float ? least_float(type, x, y, true) : (is_signed ? sx > sy : x > y) ? x : y;
        break;
    case AND:
        z = x & y;
        break;
    case OR:
        z = x | y;
        break;
    case XOR:
        z = x ^ y;
        break;
    case NOT:
        z = ~x;
        break;
    case SHL:
        z = (uint32_t)y >= bits ? 0 : x << (uint32_t)y;
        break;
    case SHR:
        z = (uint32_t)y < bits ? (is_signed ? (uint64_t)(sx >> (uint32_t)y) : x >> (uint32_t)y)
            : sx < 0           ? ~(uint64_t)0
                               : 0;
        break;
    case BFE:
        z = bit_field(type, x, v[1], v[2]);
        break;
    case POPC:
        z = (uint64_t)__builtin_popcountll(x);
        break;
    case SELP:
        z = v[2] & 1 ? x : y;
        break;
    case SETP:
        z = is_true(at->comparison, type, x, y);
        break;
    case CVT:
        z = converted(type, at->from, at->rounding, v[0]);
        break;
    case CVTA:
        z = x;
        break;
    default:
        return fault(w, at, "it is not run here");
    }
    // Of a type that is narrower than the register, the register has the rest.
    if (at->operation != SETP && at->operation != POPC && type.kind != PREDICATE) {
        unsigned bytes = at->wide ? 2u * type.bytes : type.bytes;
        z = is_signed ? (uint64_t)extended(z, bytes) : cut(z, bytes);
    }
    return put(w, at, &at->operands[0], lane, z);
}

// Lanes meet: all of them are here.
static bool exchange(warp *w, const instruction *at) {
    uint64_t mask, values[PTX_LANES];
    if (!value_of(w, at, &at->operands[at->count - 1], 0, &mask))
        return false;
    if ((uint32_t)mask != ~(uint32_t)0)
        return fault(w, at, "lanes %#x meet, and only all of them may here", (uint32_t)mask);
    if (at->operation == BAR)
        return true;
    for (int lane = 0; lane < PTX_LANES; lane++)
        if (!value_of(w, at, &at->operands[1], lane, &values[lane]))
            return false;
    for (int lane = 0; lane < PTX_LANES; lane++) {
        uint64_t distance, limit;
        if (!value_of(w, at, &at->operands[2], lane, &distance) || !value_of(w, at, &at->operands[3], lane, &limit))
            return false;
        if (limit != 31 || distance > 31)
            return fault(w, at, "a shuffle over %u lanes, %u away", (unsigned)limit + 1, (unsigned)distance);
        if (!put(w, at, &at->operands[0], lane, values[(uint64_t)lane ^ distance]))
            return false;
    }
    return true;
}

// More than any test has for a warp to do.
enum { MOST_STEPS = 5000000 };

// The lanes that are behind go first, so that those which have parted come together again; lanes that are to meet wait.
static bool run_warp(warp *w) {
    const instruction *code = w->kernel->code;
    for (uint64_t steps = 0;; steps++) {
        int at = -1;
        uint32_t active = 0, living = 0;
        for (int lane = 0; lane < PTX_LANES; lane++) {
            int place = w->place[lane];
            if (place < 0)
                continue;
            uint32_t bit = (uint32_t)1 << lane;
            living |= bit;
            if (code[place].operation == SHFL || code[place].operation == BAR) {
                continue;
            }
            if (at < 0 || place < at) {
                at = place;
                active = 0;
            }
            if (place == at)
                active |= bit;
        }
        if (living == 0)
            return true;
        if (steps == MOST_STEPS)
            return fault(w, &code[w->place[__builtin_ctz(living)]], "it has no end");
        if (active == 0) {
            at = w->place[__builtin_ctz(living)];
            for (int lane = 0; lane < PTX_LANES; lane++)
                if (w->place[lane] != at)
                    return fault(w, &code[at], "lane %d does not come here, where all lanes are to meet", lane);
            if (!exchange(w, &code[at]))
                return false;
            for (int lane = 0; lane < PTX_LANES; lane++)
                w->place[lane]++;
            continue;
        }
        const instruction *next = &code[at];
        w->written_count = 0;
        for (int lane = 0; lane < PTX_LANES; lane++) {
            if (!(active >> lane & 1))
                continue;
            w->place[lane] = at + 1;
            if (next->guard >= 0) {
                operand guard = {REGISTER, next->guard, 0};
                uint64_t holds = 0;
                if (!value_of(w, next, &guard, lane, &holds))
                    return false;
                if ((holds != 0) == next->guard_is_not)
                    continue;
            }
            bool is_good = true;
            switch (next->operation) {
            case BRA:
                w->place[lane] = next->operands[0].index;
                break;
            case RET:
                w->place[lane] = -1;
                break;
            case LD:
                is_good = load(w, next, lane);
                break;
            case ST:
                is_good = store(w, next, lane);
                break;
            case MOV:
                is_good = move(w, next, lane);
                break;
            default:
                is_good = compute(w, next, lane);
                break;
            }
            if (!is_good)
                return false;
        }
    }
}

static uint32_t next_random(uint32_t *seed) { return *seed = *seed * 1664525u + 1013904223u; }

static void shuffle(unsigned *order, unsigned count, uint32_t *seed) {
    for (unsigned i = 0; i < count; i++)
        order[i] = i;
    for (unsigned i = count; i > 1; i--) {
        unsigned j = (next_random(seed) >> 8) % i, kept = order[i - 1];
        order[i - 1] = order[j];
        order[j] = kept;
    }
}

bool ptx_run(const ptx_kernel *kernel, unsigned teams, unsigned threads, const uint8_t *parameters, ptx_memory memory,
             uint32_t seed, char error[PTX_ERROR_BYTES]) {
    error[0] = 0;
    unsigned warps = threads / PTX_LANES;
    unsigned *team_order = malloc(teams * sizeof *team_order), *warp_order = malloc(warps * sizeof *warp_order);
    warp w = {.kernel = kernel,
              .memory = memory,
              .parameters = parameters,
              .threads = threads,
              .teams = teams,
              .error = error};
    size_t count = (size_t)kernel->register_count;
    w.registers = malloc(count * sizeof *w.registers);
    w.is_written = malloc(count * sizeof *w.is_written);
    w.shared = malloc(kernel->module->shared_bytes + 1);
    w.shared_is_written = malloc(kernel->module->shared_bytes + 1);
    bool is_good = true;
    shuffle(team_order, teams, &seed);
    for (unsigned i = 0; is_good && i < teams; i++) {
        w.team = team_order[i];
        memset(w.shared_is_written, 0, kernel->module->shared_bytes);
        shuffle(warp_order, warps, &seed);
        for (unsigned j = 0; is_good && j < warps; j++) {
            w.first_thread = warp_order[j] * PTX_LANES;
            memset(w.is_written, 0, count * sizeof *w.is_written);
            memset(w.place, 0, sizeof w.place);
            is_good = run_warp(&w);
        }
    }
    free(team_order);
    free(warp_order);
    free(w.registers);
    free(w.is_written);
    free(w.shared);
    free(w.shared_is_written);
    return is_good;
}
