/* 4 lanes: SSE2, the x86-64 baseline. */
#include <emmintrin.h>

#include "wide_masks.h"

static inline vf vf_set1(float c) { return (vf)_mm_set1_ps(c); }
static inline vi vi_set1(int32_t c) { return (vi)_mm_set1_epi32(c); }

static inline bool vm_any(vm a) { return _mm_movemask_ps((__m128)a) != 0; }
static inline bool vm_all(vm a) { return _mm_movemask_ps((__m128)a) == 0xf; }
static inline vi vi_select(vm m, vi a, vi b) { return (m & a) | (~m & b); }
static inline vf vf_select(vm m, vf a, vf b) { return (vf)vi_select(m, (vi)a, (vi)b); }

#define VF_HAS_MIN_MAX
static inline vf vf_min(vf a, vf b) { return (vf)_mm_min_ps(a, b); }
static inline vf vf_max(vf a, vf b) { return (vf)_mm_max_ps(a, b); }
static inline vf vf_sqrt(vf x) { return (vf)_mm_sqrt_ps(x); }
static inline vf vf_from_vi(vi i) { return (vf)_mm_cvtepi32_ps((__m128i)i); }
static inline vi vi_trunc(vf x) { return (vi)_mm_cvttps_epi32(x); }
static inline vi vi_round_even(vf x) { return (vi)_mm_cvtps_epi32(x); }

static inline vi vi_load_u16(const void *p) {
    return (vi)_mm_unpacklo_epi16(_mm_loadl_epi64((const __m128i *)p), _mm_setzero_si128());
}
static inline vi vi_load_u8(const uint8_t *p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    __m128i bytes = _mm_unpacklo_epi8(_mm_cvtsi32_si128(four), _mm_setzero_si128());
    return (vi)_mm_unpacklo_epi16(bytes, _mm_setzero_si128());
}
static inline void vi_widen_u8(vb b, vi *v) {
    const __m128i zero = _mm_setzero_si128();
    const __m128i low = _mm_unpacklo_epi8((__m128i)b, zero), high = _mm_unpackhi_epi8((__m128i)b, zero);
    v[0] = (vi)_mm_unpacklo_epi16(low, zero);
    v[1] = (vi)_mm_unpackhi_epi16(low, zero);
    v[2] = (vi)_mm_unpacklo_epi16(high, zero);
    v[3] = (vi)_mm_unpackhi_epi16(high, zero);
}
static inline void vi_widen_i8(vb b, vi *v) {
    const __m128i low = _mm_unpacklo_epi8((__m128i)b, (__m128i)b), high = _mm_unpackhi_epi8((__m128i)b, (__m128i)b);
    v[0] = (vi)_mm_unpacklo_epi16(low, low) >> 24;
    v[1] = (vi)_mm_unpackhi_epi16(low, low) >> 24;
    v[2] = (vi)_mm_unpacklo_epi16(high, high) >> 24;
    v[3] = (vi)_mm_unpackhi_epi16(high, high) >> 24;
}
static inline void vi_store_u16(void *p, vi v) {
    __m128i low = (__m128i)((v << 16) >> 16);
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi32(low, low));
}
static inline void vi_store_u8(uint8_t *p, vi v) {
    __m128i low = _mm_packs_epi32((__m128i)(v & 255), _mm_setzero_si128());
    int32_t four = _mm_cvtsi128_si32(_mm_packus_epi16(low, low));
    __builtin_memcpy(p, &four, 4);
}
static inline vf vf_lookup(const float *table, vi i) {
    return (vf){table[i[0]], table[i[1]], table[i[2]], table[i[3]]};
}
static inline vi vi_lookup(const int32_t *table, vi i) {
    return (vi){table[i[0]], table[i[1]], table[i[2]], table[i[3]]};
}

#include "soft_f16.h"

static inline void vi_quad_transpose(__m128i a[4]) {
    __m128i t0 = _mm_unpacklo_epi32(a[0], a[1]), t1 = _mm_unpacklo_epi32(a[2], a[3]);
    __m128i t2 = _mm_unpackhi_epi32(a[0], a[1]), t3 = _mm_unpackhi_epi32(a[2], a[3]);
    a[0] = _mm_unpacklo_epi64(t0, t1);
    a[1] = _mm_unpackhi_epi64(t0, t1);
    a[2] = _mm_unpacklo_epi64(t2, t3);
    a[3] = _mm_unpackhi_epi64(t2, t3);
}

static inline void vi_quad_load(const uint8_t *y, size_t stride, size_t n, vi w[4]) {
    __m128i a[4];
    for (size_t r = 0; r < 4; r++)
        a[r] = _mm_loadu_si128((const __m128i *)(const void *)(y + (r < n ? r : n - 1) * stride));
    vi_quad_transpose(a);
    for (size_t r = 0; r < 4; r++) w[r] = (vi)a[r];
}

static inline void vi_quad_store(const vi w[4], uint8_t *y, size_t stride) {
    __m128i a[4] = {(__m128i)w[0], (__m128i)w[1], (__m128i)w[2], (__m128i)w[3]};
    vi_quad_transpose(a);
    for (size_t r = 0; r < 4; r++) _mm_storeu_si128((__m128i *)(void *)(y + r * stride), a[r]);
}
