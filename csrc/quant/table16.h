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

/* n bytes, each two codes, as ggml lays them: the low halves of all bytes, then the high halves. n: a multiple of 8. */
static inline void split_nibbles(const uint8_t *bytes, size_t n, uint8_t *codes) {
    for (size_t j = 0; j < n; j += 8) {
        uint64_t both, low, high;
        memcpy(&both, bytes + j, 8);
        low = both & 0x0f0f0f0f0f0f0f0f, high = both >> 4 & 0x0f0f0f0f0f0f0f0f;
        memcpy(codes + j, &low, 8);
        memcpy(codes + n + j, &high, 8);
    }
}

/* x[j] = scale * table[codes[j]], n a multiple of 16. */
static inline void table16_scaled(table16 table, vf scale, const uint8_t *codes, size_t n, float *x) {
    for (size_t j = 0; j < n; j += VF_LANES) vf_store(x + j, table16_at(table, vi_load_u8(codes + j)) * scale);
}

#endif
