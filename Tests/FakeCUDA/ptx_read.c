// Makes a module of its text.
#define _DEFAULT_SOURCE
#include "ptx_parts.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const comparison_names[] = {"eq",  "ne",  "lt",  "le",  "gt",  "ge",  "equ",
                                               "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};

static const char *const special_names[] = {"%tid.x", "%ntid.x", "%ctaid.x", "%nctaid.x", "%laneid"};

typedef struct reader {
    const char *place;
    int line;
    char *error;
} reader;

__attribute__((format(printf, 2, 3))) static bool wrong(reader *in, const char *format, ...) {
    if (in->error[0])
        return false;
    int start = snprintf(in->error, PTX_ERROR_BYTES, "line %d: ", in->line);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(in->error + start, (size_t)(PTX_ERROR_BYTES - start), format, arguments);
    va_end(arguments);
    return false;
}

static void skip(reader *in) {
    for (;;) {
        while (isspace((unsigned char)*in->place))
            in->line += *in->place++ == '\n';
        if (in->place[0] != '/' || in->place[1] != '/')
            return;
        while (*in->place && *in->place != '\n')
            in->place++;
    }
}

// The next character, if it is that.
static bool take(reader *in, char wanted) {
    skip(in);
    if (*in->place != wanted)
        return false;
    in->place++;
    return true;
}

static bool expect(reader *in, char wanted) {
    return take(in, wanted) || wrong(in, "'%c' expected before '%.12s'", wanted, in->place);
}

// A word of letters, digits, and what names, numbers and mnemonics have in them.
static bool word(reader *in, char *out, size_t capacity) {
    skip(in);
    size_t count = strspn(in->place, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.%$-");
    if (count == 0 || count >= capacity)
        return wrong(in, "a word expected before '%.12s'", in->place);
    memcpy(out, in->place, count);
    out[count] = 0;
    in->place += count;
    return true;
}

static bool type_named(const char *name, type *out) {
    static const struct {
        const char *name;
        type type;
    } types[] = {{"u8", {UNSIGNED, 1}}, {"u16", {UNSIGNED, 2}}, {"u32", {UNSIGNED, 4}},  {"u64", {UNSIGNED, 8}},
                 {"s8", {SIGNED, 1}},   {"s16", {SIGNED, 2}},   {"s32", {SIGNED, 4}},    {"s64", {SIGNED, 8}},
                 {"b8", {BITS, 1}},     {"b16", {BITS, 2}},     {"b32", {BITS, 4}},      {"b64", {BITS, 8}},
                 {"f32", {FLOAT, 4}},   {"f64", {FLOAT, 8}},    {"pred", {PREDICATE, 0}}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, name) == 0) {
            *out = types[i].type;
            return true;
        }
    return false;
}

static bool number(const char *text, uint64_t *out) {
    char *end;
    errno = 0;
    if (text[0] == '0' && (text[1] == 'f' || text[1] == 'd'))
        *out = strtoull(text + 2, &end, 16);
    else
        *out = text[0] == '-' ? (uint64_t)strtoll(text, &end, 10) : strtoull(text, &end, 10);
    return end != text && *end == 0 && errno == 0;
}

static const variable *variable_named(const ptx_module *module, const char *name) {
    for (int i = 0; i < module->variable_count; i++)
        if (strcmp(module->variables[i].name, name) == 0)
            return &module->variables[i];
    return NULL;
}

static int register_named(const ptx_kernel *kernel, const char *name) {
    size_t prefix = strcspn(name, "0123456789");
    for (int i = 0; i < kernel->class_count; i++) {
        const register_class *class = &kernel->classes[i];
        if (strlen(class->prefix) == prefix && strncmp(class->prefix, name, prefix) == 0) {
            int index = atoi(name + prefix);
            return index < class->count ? class->first + index : -1;
        }
    }
    return -1;
}

// A name or a number by itself, or the base of an address.
static bool simple_operand(reader *in, const ptx_kernel *kernel, operand *out) {
    char text[NAME_BYTES];
    if (!word(in, text, sizeof text))
        return false;
    if (text[0] == '%') {
        for (int i = 0; i < SPECIAL_COUNT; i++)
            if (strcmp(text, special_names[i]) == 0) {
                *out = (operand){SPECIAL, i, 0};
                return true;
            }
        int index = register_named(kernel, text);
        *out = (operand){REGISTER, index, 0};
        return index >= 0 || wrong(in, "no register %s", text);
    }
    *out = (operand){IMMEDIATE, -1, 0};
    if (number(text, &out->value))
        return true;
    const variable *found = variable_named(kernel->module, text);
    if (found) {
        out->value = found->place;
        return true;
    }
    for (int i = 0; i < kernel->parameter_count; i++)
        if (strcmp(kernel->parameters[i].name, text) == 0) {
            out->value = kernel->parameters[i].place;
            return true;
        }
    return wrong(in, "what is %s?", text);
}

static bool address_operand(reader *in, const ptx_kernel *kernel, operand *out) {
    if (!simple_operand(in, kernel, out))
        return false;
    if (take(in, '+')) {
        char text[NAME_BYTES];
        uint64_t added;
        if (!word(in, text, sizeof text))
            return false;
        if (!number(text, &added))
            return wrong(in, "no number: %s", text);
        out->value += added;
    }
    out->index = out->kind == REGISTER ? out->index : -1;
    out->kind = MEMORY;
    return expect(in, ']');
}

static int label_of(ptx_kernel *kernel, const char *name) {
    for (int i = 0; i < kernel->label_count; i++)
        if (strcmp(kernel->labels[i].name, name) == 0)
            return i;
    if (kernel->label_count == kernel->label_capacity) {
        kernel->label_capacity = kernel->label_capacity * 2 + 16;
        kernel->labels = realloc(kernel->labels, (size_t)kernel->label_capacity * sizeof *kernel->labels);
    }
    struct label *added = &kernel->labels[kernel->label_count];
    snprintf(added->name, sizeof added->name, "%s", name);
    added->place = -1;
    return kernel->label_count++;
}

// Divides "ld.global.v4.u32" at its points and understands each part.
static bool mnemonic(reader *in, char *text, instruction *out) {
    static const struct {
        const char *name;
        int operands;
    } operations[] = {
#define X(name, text, operands) {text, operands},
        OPERATIONS(X)
#undef X
    };
    char *rest = text, *part = strsep(&rest, ".");
    int found = 0;
    while (found < OPERATION_COUNT && strcmp(operations[found].name, part) != 0)
        found++;
    if (found == OPERATION_COUNT)
        return wrong(in, "unknown instruction %s", part);
    out->operation = (operation)found;
    out->count = operations[found].operands;
    bool has_type = false, is_known = true;
    while (is_known && (part = strsep(&rest, "."))) {
        type named;
        if (type_named(part, &named)) {
            // The first one of cvt is that of the result.
            *(has_type ? &out->from : &out->type) = named;
            has_type = true;
            continue;
        }
        is_known = false;
        if (found == SETP)
            for (int i = 0; i < COMPARISON_COUNT; i++)
                if (strcmp(comparison_names[i], part) == 0) {
                    out->comparison = (comparison)i;
                    is_known = true;
                }
        if (found == MUL && (strcmp(part, "lo") == 0 || strcmp(part, "wide") == 0)) {
            out->wide = part[0] == 'w';
            is_known = true;
        }
        bool is_memory = found == LD || found == ST || found == CVTA;
        if (is_memory && strcmp(part, "global") == 0)
            out->space = GLOBAL, is_known = true;
        if (is_memory && strcmp(part, "shared") == 0)
            out->space = SHARED, is_known = true;
        if (found == LD && strcmp(part, "const") == 0)
            out->space = CONSTANT, is_known = true;
        if (found == LD && strcmp(part, "param") == 0)
            out->space = PARAMETER, is_known = true;
        if (found == CVTA && strcmp(part, "to") == 0)
            is_known = true;
        if (strcmp(part, "rn") == 0)
            out->rounding = TO_NEAREST, is_known = true;
        if (found == CVT && strcmp(part, "rzi") == 0)
            out->rounding = TO_ZERO, is_known = true;
        if (found == CVT && strcmp(part, "rni") == 0)
            out->rounding = TO_NEAREST_INTEGER, is_known = true;
        if ((found == LD || found == ST) && (strcmp(part, "v2") == 0 || strcmp(part, "v4") == 0))
            out->parts = part[1] - '0', is_known = true;
        if ((found == BRA && strcmp(part, "uni") == 0) || (found == SHFL && strcmp(part, "sync") == 0) ||
            (found == SHFL && strcmp(part, "bfly") == 0) || (found == BAR && strcmp(part, "warp") == 0) ||
            (found == BAR && strcmp(part, "sync") == 0))
            is_known = true;
    }
    if (!is_known)
        return wrong(in, "unknown suffix .%s of %s", part, operations[found].name);
    bool is_inexact = found == ADD || found == SUB || found == MUL || found == DIV || found == RCP;
    if (is_inexact && out->type.kind == FLOAT && out->rounding != TO_NEAREST)
        return wrong(in, "%s of floats without .rn: it may be fused", operations[found].name);
    return true;
}

static bool read_instruction(reader *in, ptx_kernel *kernel) {
    instruction read;
    memset(&read, 0, sizeof read);
    read.guard = -1;
    read.line = in->line;
    char text[NAME_BYTES];
    if (take(in, '@')) {
        read.guard_is_not = take(in, '!');
        operand guard;
        if (!simple_operand(in, kernel, &guard))
            return false;
        read.guard = guard.index;
    }
    if (!word(in, text, sizeof text) || !mnemonic(in, text, &read))
        return false;
    int wanted = read.count, place = 0;
    for (int i = 0; i < wanted; i++) {
        if (i > 0 && !expect(in, ','))
            return false;
        if (read.operation == BRA) {
            if (!word(in, text, sizeof text))
                return false;
            read.operands[place++] = (operand){LABEL, label_of(kernel, text), 0};
        } else if (take(in, '{')) {
            read.parts = 0;
            read.parts_come_last = i > 0;
            do {
                if (read.parts == MOST_PARTS || !simple_operand(in, kernel, &read.operands[place++]))
                    return wrong(in, "too many parts");
                read.parts++;
            } while (take(in, ','));
            if (!expect(in, '}'))
                return false;
        } else if (take(in, '[')) {
            if (!address_operand(in, kernel, &read.operands[place++]))
                return false;
        } else if (!simple_operand(in, kernel, &read.operands[place++])) {
            return false;
        }
    }
    read.count = place;
    if (kernel->code_count == kernel->code_capacity) {
        kernel->code_capacity = kernel->code_capacity * 2 + 64;
        kernel->code = realloc(kernel->code, (size_t)kernel->code_capacity * sizeof *kernel->code);
    }
    kernel->code[kernel->code_count++] = read;
    return expect(in, ';');
}

static bool read_registers(reader *in, ptx_kernel *kernel) {
    char text[NAME_BYTES];
    type named;
    if (!word(in, text, sizeof text) || !type_named(text + 1, &named))
        return wrong(in, "a type expected");
    if (kernel->class_count == MOST_CLASSES)
        return wrong(in, "too many kinds of registers");
    register_class *class = &kernel->classes[kernel->class_count++];
    if (!word(in, class->prefix, sizeof class->prefix) || !expect(in, '<') || !word(in, text, sizeof text))
        return false;
    class->first = kernel->register_count;
    class->count = atoi(text);
    class->bytes = named.bytes;
    kernel->register_count += class->count;
    kernel->register_bytes = realloc(kernel->register_bytes, (size_t)kernel->register_count);
    memset(kernel->register_bytes + class->first, named.bytes, (size_t) class->count);
    return expect(in, '>') && expect(in, ';');
}

static bool read_body(reader *in, ptx_kernel *kernel) {
    char text[NAME_BYTES];
    while (!take(in, '}')) {
        if (*in->place == '@') {
            if (!read_instruction(in, kernel))
                return false;
            continue;
        }
        const char *start = in->place;
        int line = in->line;
        if (!word(in, text, sizeof text))
            return false;
        if (strcmp(text, ".reg") == 0) {
            if (!read_registers(in, kernel))
                return false;
        } else if (strcmp(text, ".pragma") == 0) {
            in->place += strcspn(in->place, ";");
            if (!expect(in, ';'))
                return false;
        } else if (take(in, ':')) {
            int label = label_of(kernel, text); // Which may move the labels.
            kernel->labels[label].place = kernel->code_count;
        } else {
            in->place = start;
            in->line = line;
            if (!read_instruction(in, kernel))
                return false;
        }
    }
    for (int i = 0; i < kernel->code_count; i++) {
        instruction *each = &kernel->code[i];
        if (each->operation != BRA)
            continue;
        const struct label *label = &kernel->labels[each->operands[0].index];
        if (label->place < 0)
            return wrong(in, "no label %s", label->name);
        each->operands[0].index = label->place;
    }
    if (kernel->code_count == 0 || kernel->code[kernel->code_count - 1].operation != RET)
        return wrong(in, "%s does not end with ret", kernel->name);
    return true;
}

static bool read_kernel(reader *in, ptx_module *module) {
    if (module->kernel_count == MOST_KERNELS)
        return wrong(in, "too many kernels");
    ptx_kernel *kernel = calloc(1, sizeof *kernel);
    module->kernels[module->kernel_count++] = kernel;
    kernel->module = module;
    char text[NAME_BYTES];
    if (!word(in, kernel->name, sizeof kernel->name) || !expect(in, '('))
        return false;
    while (!take(in, ')')) {
        type named;
        if (kernel->parameter_count == MOST_PARAMETERS)
            return wrong(in, "too many parameters");
        parameter *each = &kernel->parameters[kernel->parameter_count++];
        if (!word(in, text, sizeof text) || strcmp(text, ".param") != 0 || !word(in, text, sizeof text) ||
            !type_named(text + 1, &named) || !word(in, each->name, sizeof each->name))
            return wrong(in, "a parameter expected");
        each->bytes = named.bytes;
        each->place = (kernel->parameter_bytes + each->bytes - 1) / each->bytes * each->bytes;
        kernel->parameter_bytes = each->place + each->bytes;
        take(in, ',');
    }
    while (!take(in, '{')) {
        if (!word(in, text, sizeof text))
            return false;
        if (strcmp(text, ".maxntid") != 0)
            return wrong(in, "unknown directive %s", text);
        if (!word(in, text, sizeof text))
            return false;
        kernel->most_threads = (unsigned)atoi(text);
        while (take(in, ','))
            if (!word(in, text, sizeof text) || strcmp(text, "1") != 0)
                return wrong(in, "teams of one dimension only");
    }
    return read_body(in, kernel);
}

// .shared or .const: .align N .b8 name[bytes] = {…};
static bool read_variable(reader *in, ptx_module *module, space space) {
    char text[NAME_BYTES];
    if (module->variable_count == MOST_VARIABLES)
        return wrong(in, "too many variables");
    variable *made = &module->variables[module->variable_count++];
    if (!word(in, text, sizeof text) || strcmp(text, ".align") != 0 || !word(in, text, sizeof text))
        return wrong(in, ".align expected");
    size_t aligned = (size_t)atoi(text);
    if (!word(in, text, sizeof text) || strcmp(text, ".b8") != 0)
        return wrong(in, "variables of .b8 only");
    if (!word(in, made->name, sizeof made->name) || !expect(in, '[') || !word(in, text, sizeof text) ||
        !expect(in, ']'))
        return false;
    made->space = space;
    made->bytes = (size_t)atoi(text);
    size_t *all = space == SHARED ? &module->shared_bytes : &module->constant_bytes;
    made->place = (*all + aligned - 1) / aligned * aligned;
    *all = made->place + made->bytes;
    if (space == CONSTANT) {
        module->constants = realloc(module->constants, *all);
        memset(module->constants + made->place, 0, made->bytes);
    }
    if (take(in, '=')) {
        if (space != CONSTANT || !expect(in, '{'))
            return wrong(in, "no initial value expected");
        for (size_t i = 0; i < made->bytes; i++) {
            if ((i > 0 && !expect(in, ',')) || !word(in, text, sizeof text))
                return false;
            module->constants[made->place + i] = (uint8_t)atoi(text);
        }
        if (!expect(in, '}'))
            return false;
    }
    return expect(in, ';');
}

static bool read_module(reader *in, ptx_module *module) {
    char text[NAME_BYTES];
    for (;;) {
        skip(in);
        if (!*in->place)
            return module->kernel_count > 0 || wrong(in, "no kernel");
        if (!word(in, text, sizeof text))
            return false;
        bool is_good = true;
        if (strcmp(text, ".version") == 0 || strcmp(text, ".target") == 0 || strcmp(text, ".address_size") == 0)
            is_good = word(in, text, sizeof text);
        else if (strcmp(text, ".shared") == 0 || strcmp(text, ".const") == 0)
            is_good = read_variable(in, module, text[1] == 's' ? SHARED : CONSTANT);
        else if (strcmp(text, ".entry") == 0)
            is_good = read_kernel(in, module);
        else if (strcmp(text, ".visible") != 0)
            return wrong(in, "unknown directive %s", text);
        if (!is_good)
            return false;
    }
}

ptx_module *ptx_load(const char *text, char error[PTX_ERROR_BYTES]) {
    error[0] = 0;
    reader in = {text, 1, error};
    ptx_module *module = calloc(1, sizeof *module);
    if (read_module(&in, module))
        return module;
    wrong(&in, "it cannot be read");
    ptx_unload(module);
    return NULL;
}

void ptx_unload(ptx_module *module) {
    for (int i = 0; i < module->kernel_count; i++) {
        ptx_kernel *each = module->kernels[i];
        free(each->register_bytes);
        free(each->code);
        free(each->labels);
        free(each);
    }
    free(module->constants);
    free(module);
}

ptx_kernel *ptx_find(ptx_module *module, const char *name) {
    for (int i = 0; i < module->kernel_count; i++)
        if (strcmp(module->kernels[i]->name, name) == 0)
            return module->kernels[i];
    return NULL;
}

int ptx_parameter_count(const ptx_kernel *kernel) { return kernel->parameter_count; }
size_t ptx_parameter_place(const ptx_kernel *kernel, int index, size_t *bytes) {
    *bytes = kernel->parameters[index].bytes;
    return kernel->parameters[index].place;
}
size_t ptx_parameter_bytes(const ptx_kernel *kernel) { return kernel->parameter_bytes; }
unsigned ptx_most_threads(const ptx_kernel *kernel) { return kernel->most_threads; }
