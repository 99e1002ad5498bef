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
SYM_INLINE vf sym_level(vf v, float n_levels) { return sym_clamp(v + SYM_BIAS, n_levels); }

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

enum { SYM_WAYS = 2 }; /* tries side by side: their sums, which must run element after element, overlap */

typedef struct {
    vf inverse[SYM_WAYS], lx[SYM_WAYS], l2[SYM_WAYS];
} sym_tries;

#define SYM_EACH_WAY _Pragma("GCC unroll 4") for (size_t u = 0; u < n_ways; u++)

/* The sums of w x l and w l l for each of the tries. */
SYM_INLINE void sym_sums(const vf *x, const vf *wx, const vf *w, size_t n, int n_levels, bool any_value, bool clamp_low,
                         bool clamp_high, size_t n_ways, sym_tries *tries) {
    const vf low = vf_set1(-(float)n_levels), high = vf_set1((float)n_levels - 1.0f);
    vf lx[SYM_WAYS] = {0}, l2[SYM_WAYS] = {0};
    for (size_t j = 0; j < n; j++) {
        SYM_EACH_WAY {
            vf v = tries->inverse[u] * x[j], l;
            if (any_value)
                l = sym_level_of_any(v, (float)n_levels) - SYM_BIAS;
            else {
                if (clamp_low) v = vf_max(v, low);
                if (clamp_high) v = vf_min(v, high);
                l = vf_round_small(v);
            }
            lx[u] = lx[u] + wx[j] * l;
            l2[u] = l2[u] + w[j] * l * l;
        }
    }
    SYM_EACH_WAY {
        tries->lx[u] = lx[u];
        tries->l2[u] = l2[u];
    }
}

/* make_qx_quants: of 19 scales around the one that puts the peak at -n_levels, the one with the least weighted square
 * error after a least-squares refit. x are finite, or else any_value. n <= 32. */
SYM_INLINE sym_fit sym_search(const vf *x, const vf *w, size_t n, int n_levels, bool any_value) {
    const vf zero = vf_set1(0.0f), peak = sym_peak(x, n);
    vf wx[32];
    for (size_t j = 0; j < n; j++) wx[j] = w[j] * x[j];

    sym_tries tries;
    sym_fit fit = {.inverse = -(float)n_levels / peak, .nothing = vf_lt(vf_abs(peak), vf_set1(SYM_NOTHING))};
    tries.inverse[0] = fit.inverse;
    sym_sums(x, wx, w, n, n_levels, any_value, true, true, 1, &tries);
    fit.scale = vf_select(vf_eq(tries.l2[0], zero), zero, tries.lx[0] / tries.l2[0]);
    vf best = fit.scale * tries.lx[0];
    for (int try = 0; try < 18; try += SYM_WAYS) {
        for (int u = 0; u < SYM_WAYS; u++) {
            const int step = try
                +u - 9 + (try + u >= 9);
            tries.inverse[u] = -((float)n_levels + 0.1f * (float)step) / peak;
        }
        if (try < 3)
            sym_sums(x, wx, w, n, n_levels, any_value, false, false, SYM_WAYS, &tries);
        else if (try < 12)
            sym_sums(x, wx, w, n, n_levels, any_value, false, true, SYM_WAYS, &tries);
        else
            sym_sums(x, wx, w, n, n_levels, any_value, true, true, SYM_WAYS, &tries);
        for (size_t u = 0; u < SYM_WAYS; u++) {
            const vf lx = tries.lx[u], l2 = tries.l2[u], scale = lx / l2;
            const vm better = vm_and(vf_gt(l2, zero), vf_gt(lx * lx, best * l2));
            fit.scale = vf_select(better, scale, fit.scale);
            best = vf_select(better, scale * lx, best);
            fit.inverse = vf_select(better, tries.inverse[u], fit.inverse);
        }
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
