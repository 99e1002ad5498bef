/* The searches behind ggml's symmetric block types, where x = scale * level with -n <= level < n and a signed scale.
 *
 * One block per lane: every lane does the reference's operations in the reference's order. A level is kept *biased*, as
 * the float 12582912 + level: adding that constant rounds to an integer (ggml's nearest_int), the low bits of its
 * representation are the integer, and subtracting it again is exact. Codes are level + n, four to a word.
 * Source: ggml-quants.c make_qx_quants (rmse type 1), make_q3_quants. */
#ifndef MF_SYMMETRIC_H
#define MF_SYMMETRIC_H

#include "../level.h"
#include "../vec.h"

#define SYM_INLINE static inline __attribute__((always_inline)) /* so that n and n_levels are constants inside */
#define SYM_BIAS 12582912.0f                                    /* 1.5 * 2^23 */
#define SYM_NOTHING 1e-15f                                      /* GROUP_MAX_EPS: a block this small is all zeros */

enum { SYM_BIAS_BITS = 0x4b400000 };

/* The value of the largest magnitude, the first of equals; 0 where all are 0. NaN is larger than nothing. */
SYM_INLINE vf sym_peak(const vf *x, size_t n) {
    vf peak = vf_set1(0.0f), size = peak;
    for (size_t j = 0; j < n; j++) {
        const vf a = vf_abs(x[j]);
        peak = vf_select(vf_gt(a, size), x[j], peak);
        size = vf_max(a, size);
    }
    return peak;
}

SYM_INLINE vf sym_clamp(vf biased, float n_levels) {
    return vf_min(vf_max(biased, vf_set1(SYM_BIAS - n_levels)), vf_set1(SYM_BIAS + n_levels - 1.0f));
}

/* nearest_int(v) for |v| < 2^22, clamped, biased. */
SYM_INLINE vf sym_level(vf v, float n_levels) {
    return sym_clamp(v + SYM_BIAS, n_levels);
}

/* The same for every v, with nearest_int's wrapping beyond 2^22 and its 0 for NaN. */
SYM_INLINE vf sym_level_of_any(vf v, float n_levels) {
    return sym_clamp((vf)(((vi)(v + SYM_BIAS) & 0x007fffff) | 0x4b000000), n_levels);
}

/* Four biased levels to four codes in one word. The four biases add up to one constant. */
SYM_INLINE vi sym_pack4(const vf biased[4], int n_levels) {
    const uint32_t bias = (uint32_t)(SYM_BIAS_BITS - n_levels) * 0x01010101u;
    const vu sum = (vu)biased[0] + ((vu)biased[1] << 8) + ((vu)biased[2] << 16) + ((vu)biased[3] << 24);
    return (vi)(sum - bias);
}

typedef struct {
    vf scale;
    vf inverse; /* the levels are those of inverse * x */
    vm nothing; /* where the block counts as all zeros: scale 0, codes 0 */
} sym_fit;

SYM_INLINE void sym_sums(const vf *x, const vf *wx, const vf *w, vf inverse, size_t n, int n_levels, bool any_value,
                         vf *sum_lx, vf *sum_l2) {
    vf lx = vf_set1(0.0f), l2 = lx;
    for (size_t j = 0; j < n; j++) {
        const vf v = inverse * x[j];
        const vf l = (any_value ? sym_level_of_any(v, (float)n_levels) : sym_level(v, (float)n_levels)) - SYM_BIAS;
        lx = lx + wx[j] * l;
        l2 = l2 + w[j] * l * l;
    }
    *sum_lx = lx;
    *sum_l2 = l2;
}

/* make_qx_quants: of 19 scales around the one that puts the peak at -n_levels, the one with the least weighted square
 * error after a least-squares refit. x are finite, or else any_value. n <= 32. */
SYM_INLINE sym_fit sym_search(const vf *x, const vf *w, size_t n, int n_levels, bool any_value) {
    const vf zero = vf_set1(0.0f), peak = sym_peak(x, n);
    vf wx[32], sum_lx, sum_l2;
    for (size_t j = 0; j < n; j++) wx[j] = w[j] * x[j];

    sym_fit fit = {.inverse = -(float)n_levels / peak, .nothing = vf_lt(vf_abs(peak), vf_set1(SYM_NOTHING))};
    sym_sums(x, wx, w, fit.inverse, n, n_levels, any_value, &sum_lx, &sum_l2);
    fit.scale = vf_select(vf_eq(sum_l2, zero), zero, sum_lx / sum_l2);
    vf best = fit.scale * sum_lx;
    for (int step = -9; step <= 9; step++) {
        if (step == 0) continue;
        const vf inverse = -((float)n_levels + 0.1f * (float)step) / peak;
        sym_sums(x, wx, w, inverse, n, n_levels, any_value, &sum_lx, &sum_l2);
        const vm better = vm_and(vf_gt(sum_l2, zero), vf_gt(sum_lx * sum_lx, best * sum_l2));
        const vf scale = sum_lx / sum_l2;
        fit.scale = vf_select(better, scale, fit.scale);
        best = vf_select(better, scale * sum_lx, best);
        fit.inverse = vf_select(better, inverse, fit.inverse);
    }
    fit.scale = vf_select(fit.nothing, zero, fit.scale);
    return fit;
}

/* The codes that belong to a fit: n / 4 words. */
SYM_INLINE void sym_codes(const vf *x, const sym_fit *fit, size_t n, int n_levels, bool any_value, vi *words) {
    for (size_t j = 0; j < n; j += 4) {
        vf l[4];
        for (size_t k = 0; k < 4; k++) {
            const vf v = fit->inverse * x[j + k];
            l[k] = any_value ? sym_level_of_any(v, (float)n_levels) : sym_level(v, (float)n_levels);
        }
        words[j / 4] = vi_select(fit->nothing, vi_set1(0), sym_pack4(l, n_levels));
    }
}

#endif
