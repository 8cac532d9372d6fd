#include "CKernels.h"

// Bound by memory: what vectors a level would add is lost in the wait for it, so there is one of each. Every product,
// sum and quotient is rounded by itself, and sums of squares are added up in the order of their lanes: the same bits
// everywhere.
#pragma STDC FP_CONTRACT OFF

#define LANES 8

void pccl_kernel_outer_difference(float *restrict out, const float *restrict outer, const float *restrict local,
                                  float weight, size_t count) {
    for (size_t i = 0; i < count; i++) {
        out[i] = weight * (outer[i] - local[i]);
    }
}

void pccl_kernel_outer_divide(float *values, float divisor, size_t count) {
    for (size_t i = 0; i < count; i++) {
        values[i] = values[i] / divisor;
    }
}

void pccl_kernel_outer_descend(float *restrict outer, const float *restrict gradient, float rate, size_t count) {
    for (size_t i = 0; i < count; i++) {
        outer[i] = outer[i] - rate * gradient[i];
    }
}

void pccl_kernel_outer_accumulate(float *restrict momentum, const float *restrict gradient, float factor,
                                  size_t count) {
    for (size_t i = 0; i < count; i++) {
        momentum[i] = factor * momentum[i] + gradient[i];
    }
}

void pccl_kernel_outer_descend_ahead(float *restrict outer, const float *restrict momentum,
                                     const float *restrict gradient, float rate, float factor, size_t count) {
    for (size_t i = 0; i < count; i++) {
        outer[i] = outer[i] - rate * (gradient[i] + factor * momentum[i]);
    }
}

void pccl_kernel_outer_mix(float *restrict local, const float *restrict outer, float mixing, size_t count) {
    const float rest = 1 - mixing;
    for (size_t i = 0; i < count; i++) {
        local[i] = mixing * local[i] + rest * outer[i];
    }
}

double pccl_kernel_outer_squares(const float *a, const float *b, size_t count) {
    double lanes[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (size_t lane = 0; lane < LANES; lane++) {
            const double difference = b ? (double)a[i + lane] - (double)b[i + lane] : (double)a[i + lane];
            lanes[lane] += difference * difference;
        }
    }
    for (; i < count; i++) {
        const double difference = b ? (double)a[i] - (double)b[i] : (double)a[i];
        lanes[i % LANES] += difference * difference;
    }
    double sum = 0;
    for (size_t lane = 0; lane < LANES; lane++) {
        sum += lanes[lane];
    }
    return sum;
}
