/* Half precision for the scales of a block: the same bits as vi_f16_from_vf and vf_from_f16, one number at a time. */
#ifndef MF_HALF_H
#define MF_HALF_H

#include "vec.h"

static inline uint16_t mf_f32_to_f16(float x) {
#if defined(__F16C__)
    return (uint16_t)_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT));
#else
    return (uint16_t)vi_f16_from_vf(vf_set1(x))[0];
#endif
}

static inline float mf_f16_to_f32(uint16_t h) {
#if defined(__F16C__)
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
#else
    return vf_from_f16(vi_set1(h))[0];
#endif
}

/* Scales to store. A NaN, which only overflow makes, gets the sign it has on x86; other CPUs would make it positive. */
static inline vi vi_f16_of_scale(vf x) { return vi_select(vf_eq(x, x), vi_f16_from_vf(x), vi_set1(0xfe00)); }

/* The half stored at p, of any alignment. */
static inline float mf_load_f16(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return mf_f16_to_f32(h);
}

#endif
