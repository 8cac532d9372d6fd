#include "CKernels.h"

#include <string.h>

#define FLOAT16_CONVERTS_IN_HARDWARE 0
#include "elements.h"

#include "outer_elements.h"

// Bound by memory: what vectors a level would add is lost in the wait for it, so there is one of each.

void pccl_kernel_outer_load(float *restrict out, const float *restrict local, size_t count) {
    for (size_t i = 0; i < count; i++) {
        out[i] = outer_loaded(local[i]);
    }
}

void pccl_kernel_outer_widen(float *restrict out, const void *restrict local, size_t count) {
    for (size_t i = 0; i < count; i++) {
        double value;
        memcpy(&value, (const char *)local + i * sizeof value, sizeof value);
        out[i] = f32_of_f64(value);
    }
}

void pccl_kernel_outer_narrow(void *restrict local, const float *restrict values, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const double value = f64_of_f32(values[i]);
        memcpy((char *)local + i * sizeof value, &value, sizeof value);
    }
}

void pccl_kernel_outer_difference(float *restrict out, const float *restrict outer, const float *restrict local,
                                  float weight, size_t count) {
    for (size_t i = 0; i < count; i++) {
        out[i] = outer_difference(outer[i], local[i], weight);
    }
}

void pccl_kernel_outer_divide(float *values, float divisor, size_t count) {
    for (size_t i = 0; i < count; i++) {
        values[i] = outer_quotient(values[i], divisor);
    }
}

void pccl_kernel_outer_descend(float *restrict outer, const float *restrict gradient, float rate, size_t count) {
    for (size_t i = 0; i < count; i++) {
        outer[i] = outer_descended(outer[i], gradient[i], rate);
    }
}

void pccl_kernel_outer_accumulate(float *restrict momentum, const float *restrict gradient, float factor,
                                  size_t count) {
    for (size_t i = 0; i < count; i++) {
        momentum[i] = outer_accumulated(momentum[i], gradient[i], factor);
    }
}

void pccl_kernel_outer_descend_ahead(float *restrict outer, const float *restrict momentum,
                                     const float *restrict gradient, float rate, float factor, size_t count) {
    for (size_t i = 0; i < count; i++) {
        outer[i] = outer_descended_ahead(outer[i], momentum[i], gradient[i], rate, factor);
    }
}

void pccl_kernel_outer_mix(float *restrict local, const float *restrict outer, float mixing, size_t count) {
    const float rest = 1 - mixing;
    for (size_t i = 0; i < count; i++) {
        local[i] = outer_mixed(local[i], outer[i], mixing, rest);
    }
}

double pccl_kernel_outer_squares(const float *a, const float *b, size_t count) {
    double lanes[OUTER_LANES] = {0};
    size_t i = 0;
    for (; i + OUTER_LANES <= count; i += OUTER_LANES) {
        for (size_t lane = 0; lane < OUTER_LANES; lane++) {
            lanes[lane] =
                outer_square_added(lanes[lane], b ? (double)a[i + lane] - (double)b[i + lane] : (double)a[i + lane]);
        }
    }
    for (; i < count; i++) {
        lanes[i % OUTER_LANES] =
            outer_square_added(lanes[i % OUTER_LANES], b ? (double)a[i] - (double)b[i] : (double)a[i]);
    }
    return pccl_kernel_outer_squares_of_lanes(lanes);
}

double pccl_kernel_outer_squares_of_lanes(const double lanes[OUTER_LANES]) {
    double sum = 0;
    for (size_t lane = 0; lane < OUTER_LANES; lane++) {
        sum += lanes[lane];
    }
    return sum;
}
