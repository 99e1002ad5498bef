/* 8 lanes: AVX2, F16C. */
#include <immintrin.h>

#include "wide_masks.h"

static inline vf vf_set1(float c) { return (vf)_mm256_set1_ps(c); }
static inline vi vi_set1(int32_t c) { return (vi)_mm256_set1_epi32(c); }

static inline bool vm_any(vm a) { return _mm256_movemask_ps((__m256)a) != 0; }
static inline bool vm_all(vm a) { return _mm256_movemask_ps((__m256)a) == 0xff; }
static inline vf vf_select(vm m, vf a, vf b) { return (vf)_mm256_blendv_ps(b, a, (__m256)m); }
static inline vi vi_select(vm m, vi a, vi b) { return (vi)_mm256_blendv_epi8((__m256i)b, (__m256i)a, (__m256i)m); }

#define VF_HAS_ROUND
static inline vf vf_round_small(vf x) { return (vf)_mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vf vf_sqrt(vf x) { return (vf)_mm256_sqrt_ps(x); }
static inline vf vf_from_vi(vi i) { return (vf)_mm256_cvtepi32_ps((__m256i)i); }
static inline vi vi_trunc(vf x) { return (vi)_mm256_cvttps_epi32(x); }
static inline vi vi_round_even(vf x) { return (vi)_mm256_cvtps_epi32(x); }

static inline vi vi_load_u8(const uint8_t *p) {
    return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}
static inline vi vi_load_u16(const void *p) { return (vi)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)); }
static inline void vi_widen_u8(vb b, vi *v) {
    v[0] = (vi)_mm256_cvtepu8_epi32((__m128i)b);
    v[1] = (vi)_mm256_cvtepu8_epi32(_mm_unpackhi_epi64((__m128i)b, (__m128i)b));
}
static inline void vi_widen_i8(vb b, vi *v) {
    v[0] = (vi)_mm256_cvtepi8_epi32((__m128i)b);
    v[1] = (vi)_mm256_cvtepi8_epi32(_mm_unpackhi_epi64((__m128i)b, (__m128i)b));
}

/* The low 16 bits of each lane. */
static inline __m128i vi_narrow_16(vi v) {
    __m256i low = _mm256_and_si256((__m256i)v, _mm256_set1_epi32(0xffff));
    return _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
}
static inline void vi_store_u16(void *p, vi v) { _mm_storeu_si128((__m128i *)p, vi_narrow_16(v)); }
static inline void vi_store_u8(uint8_t *p, vi v) {
    __m128i low = vi_narrow_16((vi)_mm256_and_si256((__m256i)v, _mm256_set1_epi32(0xff)));
    _mm_storel_epi64((__m128i *)(void *)p, _mm_packus_epi16(low, low));
}
static inline vi vi_f16_from_vf(vf x) {
    return (vi)_mm256_cvtepu16_epi32(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
static inline vf vf_from_f16(vi h) { return (vf)_mm256_cvtph_ps(vi_narrow_16(h)); }
static inline vf vf_lookup(const float *table, vi i) { return (vf)_mm256_i32gather_ps(table, (__m256i)i, 4); }
static inline vi vi_lookup(const int32_t *table, vi i) { return (vi)_mm256_i32gather_epi32(table, (__m256i)i, 4); }

/* Two 4 x 4 transposes, one in each 128-bit part. */
static inline void vi_quad_transpose(__m256i a[4]) {
    __m256i t0 = _mm256_unpacklo_epi32(a[0], a[1]), t1 = _mm256_unpacklo_epi32(a[2], a[3]);
    __m256i t2 = _mm256_unpackhi_epi32(a[0], a[1]), t3 = _mm256_unpackhi_epi32(a[2], a[3]);
    a[0] = _mm256_unpacklo_epi64(t0, t1);
    a[1] = _mm256_unpackhi_epi64(t0, t1);
    a[2] = _mm256_unpacklo_epi64(t2, t3);
    a[3] = _mm256_unpackhi_epi64(t2, t3);
}

static inline void vi_quad_load(const uint8_t *y, size_t stride, size_t n, vi w[4]) {
#define ROW(k) _mm_loadu_si128((const __m128i *)(const void *)(y + ((k) < n ? (k) : n - 1) * stride))
    __m256i a[4];
    for (size_t r = 0; r < 4; r++) a[r] = _mm256_inserti128_si256(_mm256_castsi128_si256(ROW(r)), ROW(r + 4), 1);
#undef ROW
    vi_quad_transpose(a);
    for (size_t r = 0; r < 4; r++) w[r] = (vi)a[r];
}

static inline void vi_quad_store(const vi w[4], uint8_t *y, size_t stride) {
    __m256i a[4] = {(__m256i)w[0], (__m256i)w[1], (__m256i)w[2], (__m256i)w[3]};
    vi_quad_transpose(a);
    for (size_t r = 0; r < 4; r++) {
        _mm_storeu_si128((__m128i *)(void *)(y + r * stride), _mm256_castsi256_si128(a[r]));
        _mm_storeu_si128((__m128i *)(void *)(y + (r + 4) * stride), _mm256_extracti128_si256(a[r], 1));
    }
}
