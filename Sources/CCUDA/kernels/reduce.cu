// Reductions, with the functions that processors compute them with (Sources/CKernels), so that the bits are the same.
// scripts/device-kernels makes reduce.ptx of it, which is what the library has in it; `make lint` tells whether they
// belong together.
//
// No kernel waits for anything but the end of its own work. Counts are of elements; pointers are aligned as their
// elements are, codes have any alignment. A grid may have any number of teams of THREADS_OF_TEAM threads.

#include "device.h"

// Elements in a pack, by words and shifts: of an array in between the compiler makes memory.
template <int bytes> struct Bits;
template <> struct Bits<1> { typedef uint8_t type; };
template <> struct Bits<2> { typedef uint16_t type; };
template <> struct Bits<4> { typedef uint32_t type; };
template <> struct Bits<8> { typedef uint64_t type; };

template <class Element> static __device__ inline Element element(const pack_16 &pack, int j) {
    enum { IN_WORD = sizeof(Element) < 4 ? 4 / sizeof(Element) : 1 };
    uint64_t bits = sizeof(Element) == 8 ? (uint64_t)pack[2 * j + 1] << 32 | pack[2 * j]
                                         : pack[j / IN_WORD] >> (8 * sizeof(Element) * (j % IN_WORD));
    typename Bits<sizeof(Element)>::type narrow = (typename Bits<sizeof(Element)>::type)bits;
    Element x;
    memcpy(&x, &narrow, sizeof x);
    return x;
}

template <class Element> static __device__ inline void put(pack_16 &pack, int j, Element x) {
    enum { IN_WORD = sizeof(Element) < 4 ? 4 / sizeof(Element) : 1 };
    typename Bits<sizeof(Element)>::type bits;
    memcpy(&bits, &x, sizeof x);
    if (sizeof(Element) == 8) {
        pack[2 * j] = (uint32_t)bits;
        pack[2 * j + 1] = (uint32_t)((uint64_t)bits >> 32);
    } else {
        pack[j / IN_WORD] |= (uint32_t)bits << (8 * sizeof(Element) * (j % IN_WORD));
    }
}

// out[i] = finished(inputs[0][i] ∘ … ∘ inputs[input_count - 1][i]), from left to right; `out` may be one of the inputs.
// `inputs` is memory of the device too. Sixteen bytes at a time where all pointers allow it.
template <class Element, class Accumulator, class Reduction>
static __device__ inline void reduce(void *out, const void *const *inputs, uint32_t input_count, size_t count,
                                     uint32_t world_size) {
    const divisor d = divisor_of(world_size);
    const bool is_quick = Reduction::is_quick(world_size);
    enum { AT_ONCE = sizeof(pack_16) / sizeof(Element) };
    uint64_t places = (uint64_t)out;
#pragma unroll 1
    for (uint32_t k = 0; k < input_count; k++)
        places |= (uint64_t)inputs[k];
    const size_t packs = places % sizeof(pack_16) == 0 ? count / AT_ONCE : 0;
    for (size_t i = thread_of_grid(); i < packs; i += threads_of_grid()) {
        Accumulator sums[AT_ONCE];
        pack_16 pack = ((const GLOBAL pack_16 *)inputs[0])[i];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
            sums[j] = Reduction::widened(element<Element>(pack, j));
#pragma unroll 1
        for (uint32_t k = 1; k < input_count; k++) {
            pack = ((const GLOBAL pack_16 *)inputs[k])[i];
#pragma unroll
            for (int j = 0; j < AT_ONCE; j++)
                sums[j] = Reduction::combined(sums[j], Reduction::widened(element<Element>(pack, j)));
        }
        pack = (pack_16){0, 0, 0, 0};
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
            put(pack, j, Reduction::finished(sums[j], d, is_quick));
        ((GLOBAL pack_16 *)out)[i] = pack;
    }
    for (size_t i = packs * AT_ONCE + thread_of_grid(); i < count; i += threads_of_grid()) {
        Accumulator sum = Reduction::widened(((const GLOBAL Element *)inputs[0])[i]);
#pragma unroll 1
        for (uint32_t k = 1; k < input_count; k++)
            sum = Reduction::combined(sum, Reduction::widened(((const GLOBAL Element *)inputs[k])[i]));
        ((GLOBAL Element *)out)[i] = Reduction::finished(sum, d, is_quick);
    }
}

#define REDUCTION(name, LOOP, element, accumulator, widen, combine, finisher)                                          \
    struct name {                                                                                                      \
        static __device__ bool is_quick(uint32_t world_size) { return finisher##_is_quick(world_size); }               \
        static __device__ accumulator widened(element x) { return (accumulator)widen(x); }                             \
        static __device__ accumulator combined(accumulator a, accumulator b) { return (accumulator)combine(a, b); }    \
        static __device__ element finished(accumulator x, const divisor &d, bool is_quick) {                           \
            return (element)(is_quick ? finisher##_quick(x, d) : finisher##_any(x, d));                                \
        }                                                                                                              \
    };                                                                                                                 \
    KERNEL reduce_##name(void *out, const void *const *inputs, uint32_t input_count, size_t count,                     \
                         uint32_t world_size) {                                                                        \
        reduce<element, accumulator, name>(out, inputs, input_count, count, world_size);                               \
    }

REDUCTIONS(REDUCTION)
