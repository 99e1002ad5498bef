/* rounding="best": blocks whose values, as they will be read, have less weighted square error than ggml's.
 *
 * Every uniform block type says x ~ d * scale[sub] * point - dmin * min[sub]: float16 units d and dmin, small integers
 * for each sub-block, and for each value the nearest point of a grid. A search moves from what ggml chose: integers
 * within reach that lower the sub-block's error at the units as stored, then the units that suit the points by least
 * squares, rounded to float16, and again. One block per lane; every error is that of stored parameters.
 *
 * Searches are free to be wrong (floats, ties, overflow): convert.c compares their blocks with ggml's and keeps the
 * better. */
#ifndef MF_REFINE_H
#define MF_REFINE_H

#include "../half.h"
#include "../level.h"
#include "iq4_grid.h"

#include <math.h>

#define REFINE_INLINE static inline __attribute__((always_inline)) /* so that a rule is known inside */

enum { REFINE_MAX_SUBS = 16, REFINE_PASSES = 4 };

typedef enum { GRID_INTEGERS, GRID_IQ4, GRID_E2M1, GRID_SIGNS } refine_grid;

/* All of it is known at compile time where it is used. */
typedef struct {
    refine_grid grid;
    float low, high;                          /* ends of the grid */
    size_t n_subs, n;                         /* sub-blocks, values of each */
    float scale_low, scale_high, scale_reach; /* integers that scales may be; how far one looks at first */
    bool either_sign;                         /* a scale may also change its sign */
    float min_high, min_reach;                /* the same of minima, from 0 on; 0: there are none */
} refine_rule;

/* Parameters of a block in each lane; scales and minima are integers. */
typedef struct {
    vf d, dmin;
    vf scale[REFINE_MAX_SUBS], min[REFINE_MAX_SUBS];
} refine_state;

/* The nearest of 0, 1, 2, 3, 4, 6, 8, 12 and their negatives to |v| <= 12. */
REFINE_INLINE vf refine_e2m1(vf v) {
    const vf size = vf_abs(v);
    const vf twos = 2.0f * vf_round_small(0.5f * size), fours = 4.0f * vf_round_small(0.25f * size);
    const vf high = vf_select(vf_lt(size, vf_set1(8.0f)), twos, fours);
    return vf_copysign(vf_select(vf_lt(size, vf_set1(4.0f)), vf_round_small(size), high), v);
}

/* The point of the grid that is nearest to v. */
REFINE_INLINE vf refine_point(const refine_rule rule, vf v) {
    if (rule.grid == GRID_SIGNS) return vf_select(vf_lt(v, vf_set1(0.0f)), vf_set1(-1.0f), vf_set1(1.0f));
    v = vf_min(vf_max(v, vf_set1(rule.low)), vf_set1(rule.high));
    if (rule.grid == GRID_IQ4) return iq4_nearest(v);
    return rule.grid == GRID_E2M1 ? refine_e2m1(v) : vf_round_small(v);
}

/* 1 / step, or 0 where there is no step: all values are then the point nearest to 0. */
REFINE_INLINE vf refine_inverse(vf step) { return vf_select(vf_eq(step, vf_set1(0.0f)), vf_set1(0.0f), 1.0f / step); }

/* sum w (x - (step * point - offset))^2 */
REFINE_INLINE vf refine_error(const refine_rule rule, const vf *x, const vf *w, vf step, vf inverse, vf offset) {
    vf error = vf_set1(0.0f);
    for (size_t j = 0; j < rule.n; j++) {
        const vf y = rule.min_high > 0.0f ? x[j] + offset : x[j];
        const vf off = y - step * refine_point(rule, y * inverse);
        error += w[j] * (off * off);
    }
    return error;
}

/* The integers of one sub-block that have the least error within reach. Returns that error. */
REFINE_INLINE vf refine_sub_block(const refine_rule rule, const vf *x, const vf *w, vf d, vf dmin, vf *scale, vf *min) {
    const vf zero = vf_set1(0.0f), from_scale = *scale, from_min = *min;
    vf least = vf_set1(INFINITY);
    for (int sign = 0; sign <= (int)rule.either_sign; sign++) {
        for (float k = -rule.scale_reach; k <= rule.scale_reach; k += 1.0f) {
            const vf next = (sign ? vf_negate(from_scale) : from_scale) + k;
            const vf s = vf_min(vf_max(next, vf_set1(rule.scale_low)), vf_set1(rule.scale_high));
            const vf step = d * s, inverse = refine_inverse(step);
            for (float l = -rule.min_reach; l <= rule.min_reach; l += 1.0f) {
                const vf m = vf_min(vf_max(from_min + l, zero), vf_set1(rule.min_high));
                const vf error = refine_error(rule, x, w, step, inverse, dmin * m);
                const vm better = vf_lt(error, least);
                least = vf_select(better, error, least);
                *scale = vf_select(better, s, *scale);
                *min = vf_select(better, m, *min);
            }
        }
    }
    return least;
}

/* The units that suit the integers and the points they lead to, as they will be stored. */
REFINE_INLINE void refine_units(const refine_rule rule, const vf *x, const vf *w, refine_state *state) {
    const vf zero = vf_set1(0.0f);
    vf aa = zero, ab = zero, bb = zero, ax = zero, bx = zero; /* x ~ d * a - dmin * b */
    for (size_t sub = 0; sub < rule.n_subs; sub++, x += rule.n, w += rule.n) {
        const vf s = state->scale[sub], m = state->min[sub], step = state->d * s, inverse = refine_inverse(step);
        const vf offset = state->dmin * m;
        vf sum_p = zero, sum_pp = zero, sum_px = zero, sum_w = zero, sum_x = zero;
        for (size_t j = 0; j < rule.n; j++) {
            const vf y = rule.min_high > 0.0f ? x[j] + offset : x[j], p = refine_point(rule, y * inverse),
                     wp = w[j] * p;
            sum_pp += wp * p;
            sum_px += wp * x[j];
            if (rule.min_high > 0.0f) {
                sum_p += wp;
                sum_w += w[j];
                sum_x += w[j] * x[j];
            }
        }
        aa += s * s * sum_pp;
        ax += s * sum_px;
        ab += s * m * sum_p;
        bb += m * m * sum_w;
        bx += m * sum_x;
    }
    const vf determinant = aa * bb - ab * ab;
    const vm both = vf_gt(determinant, zero);
    const vf d = vf_select(both, (ax * bb - ab * bx) / determinant, ax / aa);
    const vf dmin = vf_select(both, (ab * ax - aa * bx) / determinant, state->dmin);
    state->d = vf_select(vf_lt(vf_abs(d), vf_set1(65504.0f)), vf_round_f16(d), state->d);
    state->dmin = vf_select(vf_lt(vf_abs(dmin), vf_set1(65504.0f)), vf_round_f16(dmin), state->dmin);
}

REFINE_INLINE void refine_take(const refine_rule rule, vm better, const refine_state *from, refine_state *to) {
    to->d = vf_select(better, from->d, to->d);
    to->dmin = vf_select(better, from->dmin, to->dmin);
    for (size_t sub = 0; sub < rule.n_subs; sub++) {
        to->scale[sub] = vf_select(better, from->scale[sub], to->scale[sub]);
        to->min[sub] = vf_select(better, from->min[sub], to->min[sub]);
    }
}

/* For grids of few points: weights that favour large values as ggml's do, w * sqrt(mean square of the block + x^2). The
 * least plain error would shrink those towards zero, which costs a model more than it saves (docs/rounding.md). */
REFINE_INLINE void refine_favour_large(const refine_rule rule, const vf *x, vf *w) {
    const size_t n_values = rule.n_subs * rule.n;
    vf sum = vf_set1(0.0f);
    for (size_t j = 0; j < n_values; j++) sum += x[j] * x[j];
    sum = sum * (1.0f / (float)n_values);
    for (size_t j = 0; j < n_values; j++) w[j] = w[j] * vf_sqrt(sum + x[j] * x[j]);
}

/* From ggml's parameters to better ones: far around them first, then close by, each lane for as long as it gains,
 * whatever the others do: which blocks are its neighbours depends on the level. x, w: n_subs * n values, a block per
 * lane. */
REFINE_INLINE void refine_search(const refine_rule rule, const vf *x, const vf *w, refine_state *state) {
    refine_rule closer = rule;
    closer.scale_reach = fminf(2.0f, rule.scale_reach);
    closer.min_reach = fminf(1.0f, rule.min_reach);
    refine_state next = *state;
    vf least = vf_set1(INFINITY);
    vm gains = vm_first(VF_LANES);
    for (int pass = 0; pass < REFINE_PASSES; pass++) {
        vf error = vf_set1(0.0f);
        for (size_t sub = 0; sub < rule.n_subs; sub++) {
            const vf *here = x + sub * rule.n, *weights = w + sub * rule.n;
            error += pass == 0
                         ? refine_sub_block(rule, here, weights, next.d, next.dmin, &next.scale[sub], &next.min[sub])
                         : refine_sub_block(closer, here, weights, next.d, next.dmin, &next.scale[sub], &next.min[sub]);
        }
        gains = vm_and(gains, vf_lt(error, least));
        if (!vm_any(gains)) break;
        least = vf_select(gains, error, least);
        refine_take(rule, gains, &next, state);
        refine_units(rule, x, w, &next);
    }
}

/* Blocks without sub-blocks: one start of a search. It leads to the units that suit its points; *state and *least
 * become those of the better. */
REFINE_INLINE void refine_start(const refine_rule rule, const vf *x, const vf *w, vf d, vf dmin, refine_state *state,
                                vf *least) {
    refine_state next = {.d = d, .dmin = dmin, .scale = {vf_set1(1.0f)}, .min = {vf_set1(1.0f)}};
    refine_units(rule, x, w, &next);
    const vf error = refine_error(rule, x, w, next.d, refine_inverse(next.d), next.dmin);
    const vm better = vf_lt(error, *least);
    *least = vf_select(better, error, *least);
    refine_take(rule, better, &next, state);
}

/* The float16 numbers next to the units of *state. */
REFINE_INLINE void refine_neighbours(const refine_rule rule, const vf *x, const vf *w, int reach, refine_state *state,
                                     vf *least) {
    const vi d16 = vi_f16_from_vf(state->d), dmin16 = vi_f16_from_vf(state->dmin);
    const int min_reach = rule.min_high > 0.0f ? 1 : 0;
    for (int k = -reach; k <= reach; k++)
        for (int l = -min_reach; l <= min_reach; l++) {
            refine_state next = *state;
            next.d = vf_from_f16((d16 + k) & 0xffff);
            next.dmin = vf_from_f16((dmin16 + l) & 0xffff);
            const vf error = refine_error(rule, x, w, next.d, refine_inverse(next.d), next.dmin);
            const vm better = vf_lt(error, *least);
            *least = vf_select(better, error, *least);
            refine_take(rule, better, &next, state);
        }
}

/* The value of the largest magnitude; 0 where all are 0. */
REFINE_INLINE vf refine_peak(const refine_rule rule, const vf *x) {
    vf peak = vf_set1(0.0f);
    for (size_t j = 0; j < rule.n; j++) peak = vf_select(vf_gt(vf_abs(x[j]), vf_abs(peak)), x[j], peak);
    return peak;
}

/* One unit for the block: starts that put the peak at `first`, and on in steps of delta, of either sign if need be. */
REFINE_INLINE void refine_unit(const refine_rule rule, float first, float delta, int n_tries, const vf *x, const vf *w,
                               refine_state *state) {
    const vf peak = refine_peak(rule, x), zero = vf_set1(0.0f);
    vf least = vf_set1(INFINITY);
    refine_start(rule, x, w, state->d, zero, state, &least);
    for (int sign = 0; sign <= (int)rule.either_sign; sign++)
        for (int k = 0; k < n_tries; k++) {
            const float at = first + delta * (float)k;
            refine_start(rule, x, w, peak / (sign ? -at : at), zero, state, &least);
        }
    refine_neighbours(rule, x, w, 2, state, &least);
}

/* A unit and a minimum: starts whose points reach from a little beside the least value to a little beside the largest.
 */
REFINE_INLINE void refine_unit_and_min(const refine_rule rule, float reach, int n_tries, int n_shifts, const vf *x,
                                       const vf *w, refine_state *state) {
    vf min = x[0], max = x[0], least = vf_set1(INFINITY);
    for (size_t j = 1; j < rule.n; j++) {
        min = vf_min(x[j], min);
        max = vf_max(x[j], max);
    }
    refine_start(rule, x, w, state->d, state->dmin, state, &least);
    for (int k = 0; k < n_tries; k++) {
        const float stretch = reach * (2.0f * (float)k / (float)(n_tries - 1) - 1.0f);
        const vf step = (max - min) / (rule.high + stretch);
        for (int l = 0; l < n_shifts; l++) {
            const float shift = n_shifts > 1 ? (float)l / (float)(n_shifts - 1) - 0.5f : 0.0f;
            refine_start(rule, x, w, step, step * (-0.5f * stretch + shift) - min, state, &least);
        }
    }
    refine_neighbours(rule, x, w, 1, state, &least);
}

/* The codes of the points that a state leads to, counted from the low end: n_subs * n bytes for every lane. */
REFINE_INLINE void refine_codes(const refine_rule rule, const vf *x, const refine_state *state, uint8_t *codes) {
    const size_t n_values = rule.n_subs * rule.n;
    for (size_t at = 0; at < n_values; at += 16) {
        const vf step = state->d * state->scale[at / rule.n], inverse = refine_inverse(step);
        const vf offset = state->dmin * state->min[at / rule.n];
        vi words[4], code[16];
        for (size_t j = 0; j < 16; j++) {
            const vf y = (rule.min_high > 0.0f ? x[at + j] + offset : x[at + j]) * inverse;
            code[j] = rule.grid == GRID_IQ4 ? iq4_code(y) : vi_trunc(refine_point(rule, y) - rule.low);
        }
        for (size_t k = 0; k < 4; k++)
            words[k] = vi_pack4(code[4 * k], code[4 * k + 1], code[4 * k + 2], code[4 * k + 3]);
        blocks_store_16(words, codes + at, n_values, VF_LANES);
    }
}

#endif
