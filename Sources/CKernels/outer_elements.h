// What an outer step does with single elements. Compiled into the loops of processors (outer.c), and once for devices
// (Sources/CCUDA/kernels), so that both give the same bits. The file that includes this one has included elements.h.
//
// Every product, sum and quotient is rounded by itself. What arithmetic makes of a NaN differs from processor to
// processor and from those to devices, and peers compare what they hold by its bits: so a NaN is the usual one.

#ifndef PCCL_KERNEL_OUTER_ELEMENTS_H
#define PCCL_KERNEL_OUTER_ELEMENTS_H

// A fused multiply-add rounds once where others round twice.
#pragma STDC FP_CONTRACT OFF

static inline float f32_of_f64(double x) { return canonical_f32((float)x); }
static inline double f64_of_f32(float x) { return canonical_f64((double)x); }

static inline float outer_loaded(float local) { return canonical_f32(local); }
static inline float outer_difference(float outer, float local, float weight) {
    return canonical_f32(weight * (outer - local));
}
static inline float outer_quotient(float value, float divisor) { return canonical_f32(value / divisor); }
static inline float outer_descended(float outer, float gradient, float rate) {
    return canonical_f32(outer - rate * gradient);
}
static inline float outer_accumulated(float momentum, float gradient, float factor) {
    return canonical_f32(factor * momentum + gradient);
}
static inline float outer_descended_ahead(float outer, float momentum, float gradient, float rate, float factor) {
    return canonical_f32(outer - rate * (gradient + factor * momentum));
}
// `rest` is 1 - mixing.
static inline float outer_mixed(float local, float outer, float mixing, float rest) {
    return canonical_f32(mixing * local + rest * outer);
}

// Sums of squares are added up in the order of their lanes, one for each remainder of an element's number.
#define OUTER_LANES 8
static inline double outer_square_added(double sum, double difference) { return sum + difference * difference; }

#endif
