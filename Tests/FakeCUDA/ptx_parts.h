// What a module of PTX consists of, once it has been read.
#ifndef PTX_PARTS_H
#define PTX_PARTS_H

#include "ptx.h"

typedef enum kind { BITS, UNSIGNED, SIGNED, FLOAT, PREDICATE } kind;

typedef struct type {
    uint8_t kind;
    uint8_t bytes;
} type;

// The mnemonics, the number of their operands, and how they are spelled.
#define OPERATIONS(X)                                                                                                  \
    X(ADD, "add", 3)                                                                                                   \
    X(SUB, "sub", 3)                                                                                                   \
    X(MUL, "mul", 3)                                                                                                   \
    X(DIV, "div", 3)                                                                                                   \
    X(REM, "rem", 3)                                                                                                   \
    X(RCP, "rcp", 2)                                                                                                   \
    X(NEG, "neg", 2)                                                                                                   \
    X(MIN, "min", 3)                                                                                                   \
    X(MAX, "max", 3)                                                                                                   \
    X(AND, "and", 3)                                                                                                   \
    X(OR, "or", 3)                                                                                                     \
    X(XOR, "xor", 3)                                                                                                   \
    X(NOT, "not", 2)                                                                                                   \
    X(SHL, "shl", 3)                                                                                                   \
    X(SHR, "shr", 3)                                                                                                   \
    X(BFE, "bfe", 4)                                                                                                   \
    X(POPC, "popc", 2)                                                                                                 \
    X(SELP, "selp", 4)                                                                                                 \
    X(SETP, "setp", 3)                                                                                                 \
    X(MOV, "mov", 2)                                                                                                   \
    X(CVT, "cvt", 2)                                                                                                   \
    X(CVTA, "cvta", 2)                                                                                                 \
    X(LD, "ld", 2)                                                                                                     \
    X(ST, "st", 2)                                                                                                     \
    X(BRA, "bra", 1)                                                                                                   \
    X(RET, "ret", 0)                                                                                                   \
    X(SHFL, "shfl", 5)                                                                                                 \
    X(BAR, "bar", 1)

typedef enum operation {
#define X(name, text, operands) name,
    OPERATIONS(X)
#undef X
        OPERATION_COUNT
} operation;

typedef enum comparison {
    EQ,
    NE,
    LT,
    LE,
    GT,
    GE,
    EQU,
    NEU,
    LTU,
    LEU,
    GTU,
    GEU,
    NUM,
    NAN_,
    COMPARISON_COUNT
} comparison;
typedef enum space { NO_SPACE, GLOBAL, SHARED, CONSTANT, PARAMETER } space;
typedef enum rounding { NO_ROUNDING, TO_NEAREST, TO_ZERO, TO_NEAREST_INTEGER } rounding;
typedef enum special { TID, NTID, CTAID, NCTAID, LANEID, SPECIAL_COUNT } special;
typedef enum operand_kind { NOTHING, REGISTER, IMMEDIATE, SPECIAL, MEMORY, LABEL } operand_kind;

typedef struct operand {
    operand_kind kind;
    int index;      // Of a register or special; of a MEMORY's base, or -1. Of a LABEL its instruction.
    uint64_t value; // An immediate's, or what is added to the base.
} operand;

enum { MOST_OPERANDS = 6, MOST_PARTS = 4, NAME_BYTES = 96 };

typedef struct instruction {
    operation operation;
    type type, from; // `from` is cvt's.
    comparison comparison;
    space space;
    rounding rounding;
    bool wide;
    int guard; // A register, or -1.
    bool guard_is_not;
    int count, parts; // Operands in all; of them so many at the beginning, or at the end of a store, in braces.
    bool parts_come_last;
    operand operands[MOST_OPERANDS + MOST_PARTS];
    int line;
} instruction;

typedef struct parameter {
    char name[NAME_BYTES];
    size_t place, bytes;
} parameter;

typedef struct register_class {
    char prefix[8];
    int first, count;
    uint8_t bytes; // 0: a predicate's.
} register_class;

enum { MOST_PARAMETERS = 16, MOST_CLASSES = 8, MOST_VARIABLES = 16, MOST_KERNELS = 256 };

struct ptx_kernel {
    char name[NAME_BYTES];
    const ptx_module *module;
    parameter parameters[MOST_PARAMETERS];
    int parameter_count;
    size_t parameter_bytes;
    unsigned most_threads;
    register_class classes[MOST_CLASSES];
    int class_count, register_count;
    uint8_t *register_bytes; // Of each register.
    instruction *code;
    int code_count, code_capacity;
    struct label {
        char name[32];
        int place;
    } * labels;
    int label_count, label_capacity;
};

typedef struct variable {
    char name[NAME_BYTES];
    space space;
    size_t place, bytes;
} variable;

struct ptx_module {
    ptx_kernel *kernels[MOST_KERNELS];
    int kernel_count;
    variable variables[MOST_VARIABLES];
    int variable_count;
    size_t shared_bytes, constant_bytes;
    uint8_t *constants;
};

#endif
