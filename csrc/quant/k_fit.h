/* The fits of ggml's "minimum and scale" K-quants (Q2_K, Q4_K, Q5_K), over lanes.
 *
 * A super-block of 256 values is cut into sub-blocks of 16 or 32. Three steps, each with its own use of the lanes:
 *   1. k_fit_sub_blocks: x ~ scale * code + min in every sub-block, one sub-block per lane, WAYS vectors side by side
 *      so that the sums, which must run element after element, have company while an addition is under way;
 *   2. the scales and minima of a super-block become small integers times two float16, one super-block per lane;
 *   3. k_codes: the final codes, from what was stored, in memory order.
 * Every lane does the reference's float operations in the reference's order. The codes of a fit are not kept: the few
 * that ggml stores (k_codes) are found again from code_scale and code_min.
 * Source: ggml-quants.c, make_qkx2_quants, make_qkx3_quants, make_qp_quants. */
#ifndef MF_K_FIT_H
#define MF_K_FIT_H

#include "../half.h"
#include "../level.h"

#include <math.h>

#define INLINE static inline __attribute__((always_inline))

enum {
    QK_K = 256,
    WAYS = 4,
    BATCH = VF_LANES, /* super-blocks per step 2 */
    MAX_SUB_BLOCKS = QK_K / 16,
    MAX_SUB_ELEMENTS = 32,
};

/* How sub-blocks are fitted. All of it is known at compile time where it is used. */
typedef struct {
    size_t n;           /* elements of a sub-block */
    int levels;         /* the largest code */
    float first, delta; /* tries: code = round((levels + first + delta * step) * (x - min) / (max - min)) */
    int last_step;
    bool is_absolute; /* the error is |difference|, not its square */
    bool is_weighted; /* with importance: make_qkx3_quants, which clamps before it rounds */
} k_rule;

/* What step 1 knows of the sub-blocks of a batch, in memory order. */
typedef struct {
    float scale[BATCH * MAX_SUB_BLOCKS], min[BATCH * MAX_SUB_BLOCKS];           /* x ~ scale * code - min, min >= 0 */
    float weight[BATCH * MAX_SUB_BLOCKS];                                       /* sum of the weights */
    float code_scale[BATCH * MAX_SUB_BLOCKS], code_min[BATCH * MAX_SUB_BLOCKS]; /* code ~ code_scale * (x - code_min) */
} k_fits;

typedef struct {
    vf v[WAYS];
} vfs;

#define EACH_WAY _Pragma("GCC unroll 8") for (size_t u = 0; u < WAYS; u++)

/* Clamped to 0..levels, then rounded; NaN gives 0. The same as rounding first wherever that is exact, |v| < 2^22. */
INLINE vf k_round(vf v, int levels) { return vf_round_small(vf_min(vf_max(v, vf_set1(0.0f)), vf_set1((float)levels))); }

/* ggml's rounding where it is not exact: the bits that a float of 2^22 or more, an infinity or NaN happens to have. A
 * try gets there where the fit so far put the minimum at the maximum (values a few ulps apart). */
INLINE vf k_round_wild(vf v, int levels) {
    return vf_from_vi(vi_max(vi_min(vi_round_magic(v), vi_set1(levels)), vi_set1(0)));
}

INLINE vm k_is_tame(vf v) { return vf_lt(vf_abs(v), vf_set1(0x1p22f)); }

/* sum w l, sum w l l, sum w l x of the codes that one try gives. */
INLINE void k_sums(const k_rule rule, bool wild, const vfs *x, const vfs *w, vfs min, vfs inverse, vfs *codes, vfs *l,
                   vfs *l2, vfs *xl) {
    vfs sum_l = {0}, sum_l2 = {0}, sum_xl = {0};
    for (size_t i = 0; i < rule.n; i++) {
        EACH_WAY {
            const vf scaled = inverse.v[u] * (x[i].v[u] - min.v[u]);
            const vf code = wild ? k_round_wild(scaled, rule.levels) : k_round(scaled, rule.levels);
            const vf wl = w[i].v[u] * code;
            codes[i].v[u] = code;
            sum_l.v[u] += wl;
            sum_l2.v[u] += wl * code;
            sum_xl.v[u] += wl * x[i].v[u];
        }
    }
    *l = sum_l, *l2 = sum_l2, *xl = sum_xl;
}

INLINE vfs k_error(const k_rule rule, const vfs *x, const vfs *w, const vfs *codes, vfs scale, vfs min) {
    vfs error = {0};
    for (size_t i = 0; i < rule.n; i++) {
        EACH_WAY {
            const vf off = scale.v[u] * codes[i].v[u] + min.v[u] - x[i].v[u];
            error.v[u] += w[i].v[u] * (rule.is_absolute ? vf_abs(off) : off * off);
        }
    }
    return error;
}

/* WAYS * VF_LANES sub-blocks; the results go to elements at.. of `fits`. */
INLINE void k_fit(const k_rule rule, const vfs *x, const vfs *w, k_fits *fits, size_t at) {
    const vf zero = vf_set1(0.0f);
    const float levels = (float)rule.levels;
    vfs min, max, lowest, sum_w, sum_x, scale, code_scale, code_min, codes[MAX_SUB_ELEMENTS];
    vm alive[WAYS];

    EACH_WAY {
        min.v[u] = max.v[u] = x[0].v[u];
        sum_w.v[u] = w[0].v[u];
        sum_x.v[u] = w[0].v[u] * x[0].v[u];
    }
    for (size_t i = 1; i < rule.n; i++) {
        EACH_WAY {
            min.v[u] = vf_min(x[i].v[u], min.v[u]);
            max.v[u] = vf_max(x[i].v[u], max.v[u]);
            sum_w.v[u] += w[i].v[u];
            sum_x.v[u] += w[i].v[u] * x[i].v[u];
        }
    }
    lowest = min;
    EACH_WAY {
        min.v[u] = vf_min(zero, min.v[u]);
        alive[u] = vf_gt(max.v[u], min.v[u]);
        const vf inverse = levels / vf_select(alive[u], max.v[u] - min.v[u], vf_set1(1.0f));
        scale.v[u] = 1.0f / inverse;
        /* an infinite inverse makes every code infinity or NaN, which ggml's rounding turns into 0 */
        code_scale.v[u] = vf_select(vf_lt(inverse, vf_set1(INFINITY)), inverse, zero);
        code_min.v[u] = min.v[u];
    }
    for (size_t i = 0; i < rule.n; i++)
        EACH_WAY codes[i].v[u] = k_round(code_scale.v[u] * (x[i].v[u] - min.v[u]), rule.levels);
    vfs best = k_error(rule, x, w, codes, scale, min);

    for (int step = 0; step <= rule.last_step; step++) {
        const float numerator = rule.first + rule.delta * (float)step + levels;
        vfs inverse, l, l2, xl, next_scale, next_min;
        vm tame = vm_first(VF_LANES), solvable[WAYS], any = vm_not(tame), above = any;
        EACH_WAY {
            inverse.v[u] = numerator / vf_select(alive[u], max.v[u] - min.v[u], vf_set1(1.0f));
            tame = vm_and(tame, k_is_tame(inverse.v[u] * (lowest.v[u] - min.v[u])));
            tame = vm_and(tame, k_is_tame(inverse.v[u] * (max.v[u] - min.v[u])));
        }
        if (rule.is_weighted || vm_all(tame))
            k_sums(rule, false, x, w, min, inverse, codes, &l, &l2, &xl);
        else
            k_sums(rule, true, x, w, min, inverse, codes, &l, &l2, &xl);
        EACH_WAY {
            const vf determinant = sum_w.v[u] * l2.v[u] - l.v[u] * l.v[u];
            solvable[u] = vf_gt(determinant, zero);
            next_scale.v[u] = (sum_w.v[u] * xl.v[u] - sum_x.v[u] * l.v[u]) / determinant;
            next_min.v[u] = (l2.v[u] * sum_x.v[u] - l.v[u] * xl.v[u]) / determinant;
            any = vm_or(any, solvable[u]);
            above = vm_or(above, vf_gt(next_min.v[u], zero));
        }
        if (!vm_any(any)) continue;
        if (vm_any(above)) {
            EACH_WAY {
                const vm positive = vf_gt(next_min.v[u], zero);
                next_scale.v[u] = vf_select(positive, xl.v[u] / l2.v[u], next_scale.v[u]);
                next_min.v[u] = vf_select(positive, zero, next_min.v[u]);
            }
        }
        const vfs error = k_error(rule, x, w, codes, next_scale, next_min);
        EACH_WAY {
            const vm better = vm_and(solvable[u], vf_lt(error.v[u], best.v[u]));
            best.v[u] = vf_select(better, error.v[u], best.v[u]);
            scale.v[u] = vf_select(better, next_scale.v[u], scale.v[u]);
            code_scale.v[u] = vf_select(better, inverse.v[u], code_scale.v[u]);
            code_min.v[u] = vf_select(better, min.v[u], code_min.v[u]);
            min.v[u] = vf_select(better, next_min.v[u], min.v[u]);
        }
    }
    EACH_WAY {
        const size_t k = at + u * VF_LANES;
        vf_store(fits->scale + k, vf_select(alive[u], scale.v[u], zero));
        vf_store(fits->min + k, vf_negate(min.v[u]));
        vf_store(fits->weight + k, sum_w.v[u]);
        vf_store(fits->code_scale + k, vf_select(alive[u], code_scale.v[u], zero));
        vf_store(fits->code_min + k, code_min.v[u]);
    }
}

/* ggml's weights where there is no importance: |x|, or |x| + sqrt(mean of x^2) over the sub-block. */
INLINE void k_plain_weights(const k_rule rule, const vfs *x, vfs *w) {
    vfs base = {0};
    if (!rule.is_absolute) {
        for (size_t i = 0; i < rule.n; i++) EACH_WAY base.v[u] += x[i].v[u] * x[i].v[u];
        EACH_WAY base.v[u] = vf_sqrt(base.v[u] / (float)rule.n);
    }
    for (size_t i = 0; i < rule.n; i++)
        EACH_WAY w[i].v[u] = rule.is_absolute ? vf_abs(x[i].v[u]) : base.v[u] + vf_abs(x[i].v[u]);
}

/* Sub-blocks at.. of the batch, one per lane; beyond the last one, that one again. */
INLINE void k_load(const k_rule rule, const float *x, size_t at, size_t n_sub_blocks, vfs *out) {
    EACH_WAY {
        const size_t here = at + u * VF_LANES < n_sub_blocks ? at + u * VF_LANES : n_sub_blocks - 1;
        vf column[MAX_SUB_ELEMENTS];
        blocks_load_f32(x + here * rule.n, rule.n, n_sub_blocks - here, rule.n, column);
        for (size_t i = 0; i < rule.n; i++) out[i].v[u] = column[i];
    }
}

/* weights: one for every element of the batch, or NULL for ggml's own. */
INLINE void k_fit_sub_blocks(const k_rule rule, const float *x, const float *weights, size_t n_blocks, k_fits *fits) {
    const size_t n_sub_blocks = n_blocks * (QK_K / rule.n);
    for (size_t at = 0; at < n_sub_blocks; at += WAYS * VF_LANES) {
        vfs columns[MAX_SUB_ELEMENTS], w[MAX_SUB_ELEMENTS];
        k_load(rule, x, at, n_sub_blocks, columns);
        if (rule.is_weighted)
            k_load(rule, weights, at, n_sub_blocks, w);
        else
            k_plain_weights(rule, columns, w);
        k_fit(rule, columns, w, fits, at);
    }
}

/* importance * sqrt(sigma2 + x^2), in memory order, where sigma2 = spread * mean of x^2 over a super-block. Super-block
 * b of the batch stands at block (first + b) % row_blocks of its row. */
INLINE void k_importance_weights(const float *x, const float *importance, size_t first, size_t row_blocks,
                                 size_t n_blocks, float spread, float *weights) {
    vf sum = vf_set1(0.0f);
    for (size_t i = 0; i < QK_K; i += 32) {
        vf column[32];
        blocks_load_f32(x + i, QK_K, n_blocks, 32, column);
        for (size_t j = 0; j < 32; j++) sum += column[j] * column[j];
    }
    float sigma2[VF_LANES];
    vf_store(sigma2, spread * sum / (float)QK_K);
    for (size_t b = 0; b < n_blocks; b++) {
        const float *block = x + b * QK_K, *factor = importance + (first + b) % row_blocks * QK_K;
        for (size_t i = 0; i < QK_K; i += VF_LANES) {
            const vf v = vf_load(block + i);
            vf_store(weights + b * QK_K + i, vf_load(factor + i) * vf_sqrt(sigma2[b] + v * v));
        }
    }
}

/* make_qp_quants: the scale, and codes 0..levels times it for x[n], of least weighted squared error; one super-block
 * per lane. The reference keeps a code in a byte, so one that a negative x drove below zero comes back large: `& 255`.
 */
INLINE vf k_fit_scales(size_t n, int levels, const vf *x, const vf *w, vi *codes) {
    const vf zero = vf_set1(0.0f);
    vf max = zero;
    for (size_t i = 0; i < n; i++) max = vf_max(max, x[i]);
    const vm alive = vm_not(vf_lt(max, vf_set1(1e-15f)));
    max = vf_select(alive, max, vf_set1(1.0f));

    vf inverse = (float)levels / max, scale = 1.0f / inverse, best = zero;
    for (size_t i = 0; i < n; i++) {
        const vf off = x[i] - scale * vf_from_vi(vi_round_magic(inverse * x[i]) & 255);
        best += w[i] * off * off;
    }
    for (int step = -4; step <= 4; step++) {
        if (step == 0) continue;
        const vf next = (0.1f * (float)step + (float)levels) / max;
        vf error = zero;
        scale = 1.0f / next;
        for (size_t i = 0; i < n; i++) {
            const vf off = x[i] - scale * vf_from_vi(vi_min(vi_round_magic(next * x[i]), vi_set1(levels)));
            error += w[i] * off * off;
        }
        const vm better = vf_lt(error, best);
        best = vf_select(better, error, best);
        inverse = vf_select(better, next, inverse);
    }

    vf sum_lx = zero, sum_l2 = zero;
    for (size_t i = 0; i < n; i++) {
        const vi code = vi_min(vi_round_magic(inverse * x[i]), vi_set1(levels));
        const vf l = vf_from_vi(code);
        codes[i] = code & 255;
        sum_lx += w[i] * x[i] * l;
        sum_l2 += w[i] * l * l;
    }
    for (int pass = 0; pass < 5; pass++) {
        vm changed = vm_not(vm_first(VF_LANES));
        for (size_t i = 0; i < n; i++) {
            const vf l = vf_from_vi(codes[i]), wx = w[i] * x[i];
            const vf lx = sum_lx - wx * l, l2 = sum_l2 - w[i] * l * l;
            const vi code = vi_min(vi_round_magic(x[i] * l2 / lx), vi_set1(levels));
            const vf next = vf_from_vi(code), next_lx = lx + wx * next, next_l2 = l2 + w[i] * next * next;
            vm better = vm_and(vf_gt(lx, zero), vf_gt(l2, zero));
            better = vm_and(better, vm_not(vi_eq(code, codes[i])));
            better = vm_and(better, vf_gt(next_lx * next_lx * sum_l2, sum_lx * sum_lx * next_l2));
            codes[i] = vi_select(better, code & 255, codes[i]);
            sum_lx = vf_select(better, next_lx, sum_lx);
            sum_l2 = vf_select(better, next_l2, sum_l2);
            changed = vm_or(changed, better);
        }
        if (!vm_any(changed)) break;
    }
    for (size_t i = 0; i < n; i++) codes[i] = vi_select(alive, codes[i], vi_set1(0));
    return vf_select(vm_and(alive, vf_gt(sum_l2, zero)), sum_lx / sum_l2, zero);
}

/* The bits of a stored float16. A NaN, which only overflow makes, has the sign x86 gives it. */
INLINE vi k_f16(vf x) { return vi_select(vf_eq(x, x), vi_f16_from_vf(x), vi_set1(0xfe00)); }

/* What a stored super-block means: x ~ d * code - m in every sub-block, in memory order. */
typedef struct {
    float d[BATCH * MAX_SUB_BLOCKS], m[BATCH * MAX_SUB_BLOCKS];
} k_steps;

/* Codes of the elements x[0..VF_LANES) of one sub-block. Where the stored d is zero, ggml leaves the codes that the fit
 * had found. */
INLINE vi k_codes(const k_rule rule, const k_fits *fits, const k_steps *steps, size_t sub_block, const float *x) {
    const vf v = vf_load(x);
    const float d = steps->d[sub_block];
    vi code;
    if (d != 0.0f) {
        code = vi_round_magic((v + steps->m[sub_block]) / d);
    } else {
        const vf scaled = fits->code_scale[sub_block] * (v - fits->code_min[sub_block]);
        code = rule.is_weighted ? vi_trunc(k_round(scaled, rule.levels)) : vi_round_magic(scaled);
    }
    return vi_max(vi_min(code, vi_set1(rule.levels)), vi_set1(0));
}

#endif
