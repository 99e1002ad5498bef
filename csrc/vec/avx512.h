/* 16 lanes: AVX-512 F, BW, DQ, VL; truth values live in mask registers. */
#include <immintrin.h>

typedef __mmask16 vm;

static inline vf vf_set1(float c) { return (vf)_mm512_set1_ps(c); }
static inline vi vi_set1(int32_t c) { return (vi)_mm512_set1_epi32(c); }

static inline vm vf_lt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline vm vf_le(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
static inline vm vf_gt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
static inline vm vf_ge(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
static inline vm vf_eq(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
static inline vm vi_eq(vi a, vi b) { return _mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b); }
static inline vm vi_gt(vi a, vi b) { return _mm512_cmpgt_epi32_mask((__m512i)a, (__m512i)b); }
static inline vm vi_lt(vi a, vi b) { return _mm512_cmplt_epi32_mask((__m512i)a, (__m512i)b); }
static inline vm vm_and(vm a, vm b) { return a & b; }
static inline vm vm_or(vm a, vm b) { return a | b; }
static inline vm vm_not(vm a) { return (vm)~a; }
static inline bool vm_any(vm a) { return a != 0; }
static inline bool vm_all(vm a) { return a == 0xffff; }
static inline vf vf_select(vm m, vf a, vf b) { return (vf)_mm512_mask_blend_ps(m, b, a); }
static inline vi vi_select(vm m, vi a, vi b) { return (vi)_mm512_mask_blend_epi32(m, (__m512i)b, (__m512i)a); }

#define VF_HAS_MIN_MAX
static inline vf vf_min(vf a, vf b) { return (vf)_mm512_min_ps(a, b); }
static inline vf vf_max(vf a, vf b) { return (vf)_mm512_max_ps(a, b); }
#define VF_HAS_ROUND
static inline vf vf_round_small(vf x) {
    return (vf)_mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vf vf_sqrt(vf x) { return (vf)_mm512_sqrt_ps(x); }
static inline vf vf_from_vi(vi i) { return (vf)_mm512_cvtepi32_ps((__m512i)i); }
static inline vi vi_trunc(vf x) { return (vi)_mm512_cvttps_epi32(x); }
static inline vi vi_round_even(vf x) { return (vi)_mm512_cvtps_epi32(x); }
static inline vi vi_f16_from_vf(vf x) {
    return (vi)_mm512_cvtepu16_epi32(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline vf vf_from_f16(vi h) { return (vf)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)h)); }

static inline vi vi_load_u8(const uint8_t *p) {
    return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline vi vi_load_u16(const void *p) {
    return (vi)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
}
static inline void vi_widen_u8(vb b, vi *v) { v[0] = (vi)_mm512_cvtepu8_epi32((__m128i)b); }
static inline void vi_widen_i8(vb b, vi *v) { v[0] = (vi)_mm512_cvtepi8_epi32((__m128i)b); }
static inline void vi_store_u8(uint8_t *p, vi v) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8((__m512i)v));
}
static inline void vi_store_u16(void *p, vi v) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16((__m512i)v)); }
static inline vf vf_lookup(const float *table, vi i) { return (vf)_mm512_i32gather_ps((__m512i)i, table, 4); }
static inline vi vi_lookup(const int32_t *table, vi i) { return (vi)_mm512_i32gather_epi32((__m512i)i, table, 4); }

/* Four 4 x 4 transposes, one in each 128-bit part. */
static inline void vi_quad_transpose(__m512i a[4]) {
    __m512i t0 = _mm512_unpacklo_epi32(a[0], a[1]), t1 = _mm512_unpacklo_epi32(a[2], a[3]);
    __m512i t2 = _mm512_unpackhi_epi32(a[0], a[1]), t3 = _mm512_unpackhi_epi32(a[2], a[3]);
    a[0] = _mm512_unpacklo_epi64(t0, t1);
    a[1] = _mm512_unpackhi_epi64(t0, t1);
    a[2] = _mm512_unpacklo_epi64(t2, t3);
    a[3] = _mm512_unpackhi_epi64(t2, t3);
}

static inline void vi_quad_load(const uint8_t *y, size_t stride, size_t n, vi w[4]) {
#define ROW(k) _mm_loadu_si128((const __m128i *)(const void *)(y + ((k) < n ? (k) : n - 1) * stride))
    __m512i a[4];
    for (size_t r = 0; r < 4; r++) {
        a[r] = _mm512_castsi128_si512(ROW(r));
        a[r] = _mm512_inserti32x4(a[r], ROW(r + 4), 1);
        a[r] = _mm512_inserti32x4(a[r], ROW(r + 8), 2);
        a[r] = _mm512_inserti32x4(a[r], ROW(r + 12), 3);
    }
#undef ROW
    vi_quad_transpose(a);
    for (size_t r = 0; r < 4; r++) w[r] = (vi)a[r];
}

static inline void vi_quad_store(const vi w[4], uint8_t *y, size_t stride) {
    __m512i a[4] = {(__m512i)w[0], (__m512i)w[1], (__m512i)w[2], (__m512i)w[3]};
    vi_quad_transpose(a);
    for (size_t r = 0; r < 4; r++) {
        _mm_storeu_si128((__m128i *)(void *)(y + r * stride), _mm512_castsi512_si128(a[r]));
        _mm_storeu_si128((__m128i *)(void *)(y + (r + 4) * stride), _mm512_extracti32x4_epi32(a[r], 1));
        _mm_storeu_si128((__m128i *)(void *)(y + (r + 8) * stride), _mm512_extracti32x4_epi32(a[r], 2));
        _mm_storeu_si128((__m128i *)(void *)(y + (r + 12) * stride), _mm512_extracti32x4_epi32(a[r], 3));
    }
}
