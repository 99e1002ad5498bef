/* 4 lanes in plain C, for CPUs we have no other file for: the compiler's vectors, and loops over the lanes. */
#include <math.h>

#include "wide_masks.h"

static inline vf vf_set1(float c) { return (vf){c, c, c, c}; }
static inline vi vi_set1(int32_t c) { return (vi){c, c, c, c}; }

static inline bool vm_any(vm a) { return (a[0] | a[1] | a[2] | a[3]) != 0; }
static inline bool vm_all(vm a) { return (a[0] & a[1] & a[2] & a[3]) != 0; }
static inline vi vi_select(vm m, vi a, vi b) { return (m & a) | (~m & b); }
static inline vf vf_select(vm m, vf a, vf b) { return (vf)vi_select(m, (vi)a, (vi)b); }

static inline int32_t int_if_it_fits(float x) { return x >= -0x1p31f && x < 0x1p31f ? (int32_t)x : INT32_MIN; }

#define EACH_LANE(type, expression)                                                                                    \
    type out;                                                                                                          \
    for (size_t k = 0; k < VF_LANES; k++) out[k] = expression;                                                         \
    return out

static inline vf vf_sqrt(vf x) { EACH_LANE(vf, sqrtf(x[k])); }
static inline vf vf_from_vi(vi i) { EACH_LANE(vf, (float)i[k]); }
static inline vi vi_trunc(vf x) { EACH_LANE(vi, int_if_it_fits(x[k])); }
static inline vi vi_round_even(vf x) { EACH_LANE(vi, int_if_it_fits(rintf(x[k]))); }
static inline vi vi_load_u8(const uint8_t *p) { EACH_LANE(vi, p[k]); }
static inline vf vf_lookup(const float *table, vi i) { EACH_LANE(vf, table[i[k]]); }
static inline vi vi_lookup(const int32_t *table, vi i) { EACH_LANE(vi, table[i[k]]); }
static inline vi vi_load_u16(const void *p) {
    uint16_t h[VF_LANES];
    memcpy(h, p, sizeof h);
    EACH_LANE(vi, h[k]);
}
#undef EACH_LANE

static inline void vi_widen_u8(vb b, vi *v) {
    for (size_t k = 0; k < 16; k++) v[k / VF_LANES][k % VF_LANES] = b[k];
}
static inline void vi_widen_i8(vb b, vi *v) {
    for (size_t k = 0; k < 16; k++) v[k / VF_LANES][k % VF_LANES] = (int8_t)b[k];
}
static inline void vi_store_u16(void *p, vi v) {
    const uint16_t h[VF_LANES] = {(uint16_t)v[0], (uint16_t)v[1], (uint16_t)v[2], (uint16_t)v[3]};
    memcpy(p, h, sizeof h);
}
static inline void vi_store_u8(uint8_t *p, vi v) {
    for (size_t k = 0; k < VF_LANES; k++) p[k] = (uint8_t)v[k];
}

#include "soft_f16.h"

static inline void vi_quad_load(const uint8_t *y, size_t stride, size_t n, vi w[4]) {
    int32_t row[4];
    for (size_t k = 0; k < VF_LANES; k++) {
        memcpy(row, y + (k < n ? k : n - 1) * stride, sizeof row);
        for (size_t j = 0; j < 4; j++) w[j][k] = row[j];
    }
}

static inline void vi_quad_store(const vi w[4], uint8_t *y, size_t stride) {
    for (size_t k = 0; k < VF_LANES; k++) {
        const int32_t row[4] = {w[0][k], w[1][k], w[2][k], w[3][k]};
        memcpy(y + k * stride, row, sizeof row);
    }
}
