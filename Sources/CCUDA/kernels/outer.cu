// Outer steps, with the functions that processors compute them with (Sources/CKernels), so that the bits are the same.
// scripts/device-kernels makes outer.ptx of it, which is what the library has in it; `make lint` tells whether they
// belong together.
//
// No kernel waits for anything but the end of its own work. Counts are of elements; pointers are aligned as their
// elements are; buffers do not overlap. A grid may have any number of teams of THREADS_OF_TEAM threads.

#include "device.h"

#pragma clang force_cuda_host_device begin
#include "../../CKernels/outer_elements.h"
#pragma clang force_cuda_host_device end

#define FOR_ELEMENTS for (size_t i = thread_of_grid(); i < count; i += threads_of_grid())

KERNEL outer_fill(float *out, float value, size_t count) {
    FOR_ELEMENTS
    out[i] = value;
}

KERNEL outer_divide(float *values, float divisor, size_t count) {
    FOR_ELEMENTS
    values[i] = outer_quotient(values[i], divisor);
}

KERNEL outer_descend(float *outer, const float *gradient, float rate, size_t count) {
    FOR_ELEMENTS
    outer[i] = outer_descended(outer[i], gradient[i], rate);
}

KERNEL outer_accumulate(float *momentum, const float *gradient, float factor, size_t count) {
    FOR_ELEMENTS
    momentum[i] = outer_accumulated(momentum[i], gradient[i], factor);
}

KERNEL outer_descend_ahead(float *outer, const float *momentum, const float *gradient, float rate, float factor,
                           size_t count) {
    FOR_ELEMENTS
    outer[i] = outer_descended_ahead(outer[i], momentum[i], gradient[i], rate, factor);
}

// ---- Parameters, of each type of float -------------------------------------------------------------

#define PARAMETERS(name, type, widened, narrowed)                                                                      \
    KERNEL outer_load_##name(float *out, const type *local, size_t count) {                                            \
        FOR_ELEMENTS                                                                                                   \
        out[i] = outer_loaded(widened(local[i]));                                                                      \
    }                                                                                                                  \
    KERNEL outer_difference_##name(float *out, const float *outer, const type *local, float weight, size_t count) {    \
        FOR_ELEMENTS                                                                                                   \
        out[i] = outer_difference(outer[i], widened(local[i]), weight);                                                \
    }                                                                                                                  \
    KERNEL outer_replace_##name(type *local, const float *outer, size_t count) {                                       \
        FOR_ELEMENTS                                                                                                   \
        local[i] = narrowed(outer[i]);                                                                                 \
    }                                                                                                                  \
    KERNEL outer_mix_##name(type *local, const float *outer, float mixing, size_t count) {                             \
        const float rest = 1 - mixing;                                                                                 \
        FOR_ELEMENTS                                                                                                   \
        local[i] = narrowed(outer_mixed(widened(local[i]), outer[i], mixing, rest));                                   \
    }

PARAMETERS(f16, uint16_t, f32_of_f16, f16_of_f32)
PARAMETERS(bf16, uint16_t, f32_of_bf16, bf16_of_f32)
PARAMETERS(f32, float, same, same)
PARAMETERS(f64, double, f32_of_f64, f64_of_f32)

// ---- Sums of squares -------------------------------------------------------------------------------

// sums[OUTER_LANES × p + l] is lane l of piece p, of so many elements, a multiple of OUTER_LANES:
// pccl_kernel_outer_squares_of_lanes makes the sum of them. A thread has one lane of one piece, so that it adds in the
// order that a processor adds in; those of all pieces are side by side.
template <bool is_between>
static __device__ inline void squares(double *sums, const float *a, const float *b, size_t count, size_t piece) {
    for (size_t t = thread_of_grid(); t / OUTER_LANES * piece < count; t += threads_of_grid()) {
        const size_t start = t / OUTER_LANES * piece, end = count - start < piece ? count : start + piece;
        double sum = 0;
#pragma unroll 8
        for (size_t i = start + t % OUTER_LANES; i < end; i += OUTER_LANES)
            sum = outer_square_added(sum, is_between ? (double)a[i] - (double)b[i] : (double)a[i]);
        sums[t] = sum;
    }
}

KERNEL outer_squares(double *sums, const float *a, size_t count, size_t piece) {
    squares<false>(sums, a, a, count, piece);
}

KERNEL outer_squares_between(double *sums, const float *a, const float *b, size_t count, size_t piece) {
    squares<true>(sums, a, b, count, piece);
}
