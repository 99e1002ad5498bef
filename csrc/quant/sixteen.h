/* Sixteen codes of a byte each, from registers to values: what dequantizers end with. */
#ifndef MF_SIXTEEN_H
#define MF_SIXTEEN_H

#include "../half.h"

/* x[j] = scale * codes[j], codes int8. */
static inline void store_scaled(float scale, vb codes, float *x) {
    vi code[VI_PER_VB];
    vi_widen_i8(codes, code);
    for (size_t k = 0; k < VI_PER_VB; k++) vf_store(x + k * VF_LANES, vf_set1(scale) * vf_from_vi(code[k]));
}

/* Each byte's bits from `from` on that are in mask; mask <= 255 >> from. */
static inline vb vb_bits(vb b, int from, uint8_t mask) {
    typedef uint16_t words __attribute__((vector_size(16))); /* SSE and AVX shift no bytes */
    return (vb)((words)b >> (uint16_t)from) & mask;
}

static inline uint64_t load_8(const void *p) {
    uint64_t eight;
    memcpy(&eight, p, sizeof eight);
    return eight;
}

static inline uint32_t load_4(const void *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return four;
}

#endif
