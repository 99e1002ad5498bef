/* A table of 16 floats that lanes look into: one shuffle where the instruction set has it. Indices are 0..15. */
#ifndef MF_TABLE16_H
#define MF_TABLE16_H

#include "../vec.h"

#if VF_LANES == 16
typedef vf table16;
static inline table16 table16_of(const float *values) { return vf_load(values); }
static inline vf table16_at(table16 table, vi i) { return (vf)_mm512_permutexvar_ps((__m512i)i, (__m512)table); }
#elif VF_LANES == 8
typedef struct {
    vf low, high;
} table16;
static inline table16 table16_of(const float *values) { return (table16){vf_load(values), vf_load(values + 8)}; }
static inline vf table16_at(table16 table, vi i) {
    const __m256 low = _mm256_permutevar8x32_ps((__m256)table.low, (__m256i)i);
    const __m256 high = _mm256_permutevar8x32_ps((__m256)table.high, (__m256i)i);
    return (vf)_mm256_blendv_ps(low, high, (__m256)(i << 28));
}
#else
typedef const float *table16;
static inline table16 table16_of(const float *values) { return values; }
static inline vf table16_at(table16 table, vi i) { return vf_lookup(table, i); }
#endif

/* x[j] = scale * table[codes[j]] for 16 values. */
static inline void table16_scaled(table16 table, vf scale, vb codes, float *x) {
    vi code[VI_PER_VB];
    vi_widen_u8(codes, code);
    for (size_t k = 0; k < VI_PER_VB; k++) vf_store(x + k * VF_LANES, table16_at(table, code[k]) * scale);
}

/* 32 values in the halves of 16 bytes: the low ones, then the high ones. */
static inline void table16_scaled_nibbles(table16 table, vf scale, const uint8_t *bytes, float *x) {
    const vb both = vb_load(bytes);
    table16_scaled(table, scale, both & 15, x);
    table16_scaled(table, scale, both >> 4, x + 16);
}

#endif
