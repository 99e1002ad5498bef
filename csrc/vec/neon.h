/* 4 lanes: AArch64 NEON. Conversions to int saturate there; x86 answers INT32_MIN, and so do we. */
#include <arm_neon.h>

#include "wide_masks.h"

static inline vf vf_set1(float c) { return (vf)vdupq_n_f32(c); }
static inline vi vi_set1(int32_t c) { return (vi)vdupq_n_s32(c); }

static inline bool vm_any(vm a) { return vmaxvq_u32((uint32x4_t)a) != 0; }
static inline bool vm_all(vm a) { return vminvq_u32((uint32x4_t)a) != 0; }
static inline vf vf_select(vm m, vf a, vf b) { return (vf)vbslq_f32((uint32x4_t)m, (float32x4_t)a, (float32x4_t)b); }
static inline vi vi_select(vm m, vi a, vi b) { return (vi)vbslq_s32((uint32x4_t)m, (int32x4_t)a, (int32x4_t)b); }

static inline vf vf_sqrt(vf x) { return (vf)vsqrtq_f32((float32x4_t)x); }
static inline vf vf_from_vi(vi i) { return (vf)vcvtq_f32_s32((int32x4_t)i); }
static inline vi vi_if_it_fits(vf x, int32x4_t i) {
    vm fits = vm_and(vf_lt(x, vf_set1(0x1p31f)), vf_ge(x, vf_set1(-0x1p31f)));
    return vi_select(fits, (vi)i, vi_set1(INT32_MIN));
}
static inline vi vi_trunc(vf x) { return vi_if_it_fits(x, vcvtq_s32_f32((float32x4_t)x)); }
static inline vi vi_round_even(vf x) { return vi_if_it_fits(x, vcvtnq_s32_f32((float32x4_t)x)); }

static inline vi vi_load_u16(const void *p) {
    uint16x4_t h;
    __builtin_memcpy(&h, p, sizeof h);
    return (vi)vmovl_u16(h);
}
static inline vi vi_load_u8(const uint8_t *p) {
    uint32_t four;
    __builtin_memcpy(&four, p, 4);
    return (vi)vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four))));
}
static inline void vi_widen_u8(vb b, vi *v) {
    const uint16x8_t low = vmovl_u8(vget_low_u8((uint8x16_t)b)), high = vmovl_high_u8((uint8x16_t)b);
    v[0] = (vi)vmovl_u16(vget_low_u16(low));
    v[1] = (vi)vmovl_high_u16(low);
    v[2] = (vi)vmovl_u16(vget_low_u16(high));
    v[3] = (vi)vmovl_high_u16(high);
}
static inline void vi_widen_i8(vb b, vi *v) {
    const int16x8_t low = vmovl_s8(vget_low_s8((int8x16_t)b)), high = vmovl_high_s8((int8x16_t)b);
    v[0] = (vi)vmovl_s16(vget_low_s16(low));
    v[1] = (vi)vmovl_high_s16(low);
    v[2] = (vi)vmovl_s16(vget_low_s16(high));
    v[3] = (vi)vmovl_high_s16(high);
}
static inline void vi_store_u16(void *p, vi v) {
    uint16x4_t h = vmovn_u32((uint32x4_t)v);
    __builtin_memcpy(p, &h, sizeof h);
}
static inline void vi_store_u8(uint8_t *p, vi v) {
    uint16x4_t h = vmovn_u32((uint32x4_t)v);
    uint8x8_t b = vmovn_u16(vcombine_u16(h, h));
    __builtin_memcpy(p, &b, 4);
}
static inline vi vi_f16_from_vf(vf x) { return (vi)vmovl_u16(vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)x))); }
static inline vf vf_from_f16(vi h) { return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32((uint32x4_t)h))); }
static inline vf vf_lookup(const float *table, vi i) {
    return (vf){table[i[0]], table[i[1]], table[i[2]], table[i[3]]};
}
static inline vi vi_lookup(const int32_t *table, vi i) {
    return (vi){table[i[0]], table[i[1]], table[i[2]], table[i[3]]};
}

static inline int32x4_t vi_zip1_64(int32x4_t a, int32x4_t b) {
    return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}
static inline int32x4_t vi_zip2_64(int32x4_t a, int32x4_t b) {
    return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

static inline void vi_quad_transpose(int32x4_t a[4]) {
    int32x4_t t0 = vzip1q_s32(a[0], a[1]), t1 = vzip1q_s32(a[2], a[3]);
    int32x4_t t2 = vzip2q_s32(a[0], a[1]), t3 = vzip2q_s32(a[2], a[3]);
    a[0] = vi_zip1_64(t0, t1);
    a[1] = vi_zip2_64(t0, t1);
    a[2] = vi_zip1_64(t2, t3);
    a[3] = vi_zip2_64(t2, t3);
}

static inline void vi_quad_load(const uint8_t *y, size_t stride, size_t n, vi w[4]) {
    int32x4_t a[4];
    for (size_t r = 0; r < 4; r++) a[r] = vreinterpretq_s32_u8(vld1q_u8(y + (r < n ? r : n - 1) * stride));
    vi_quad_transpose(a);
    for (size_t r = 0; r < 4; r++) w[r] = (vi)a[r];
}

static inline void vi_quad_store(const vi w[4], uint8_t *y, size_t stride) {
    int32x4_t a[4] = {(int32x4_t)w[0], (int32x4_t)w[1], (int32x4_t)w[2], (int32x4_t)w[3]};
    vi_quad_transpose(a);
    for (size_t r = 0; r < 4; r++) vst1q_u8(y + r * stride, vreinterpretq_u8_s32(a[r]));
}
