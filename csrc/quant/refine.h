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

enum { REFINE_MAX_SUBS = 16, REFINE_MAX_ELEMENTS = 256 };

typedef enum { GRID_INTEGERS, GRID_IQ4, GRID_SIGNS } refine_grid;

/* All of it is known at compile time where it is used. */
typedef struct {
    refine_grid grid;
    float low, high;                          /* ends of the grid */
    size_t n_subs, n;                         /* sub-blocks, values of each */
    float scale_low, scale_high, scale_reach; /* integers that scales may be, how far one may move in a pass */
    bool either_sign;                         /* a scale may also change its sign */
    float min_high, min_reach;                /* the same of minima, from 0 on; 0: there are none */
    int n_passes;
} refine_rule;

/* Parameters of a block in each lane; scales and minima are integers. */
typedef struct {
    vf d, dmin;
    vf scale[REFINE_MAX_SUBS], min[REFINE_MAX_SUBS];
} refine_state;

/* The point of the grid that is nearest to v. */
REFINE_INLINE vf refine_point(const refine_rule rule, vf v) {
    if (rule.grid == GRID_SIGNS) return vf_select(vf_lt(v, vf_set1(0.0f)), vf_set1(-1.0f), vf_set1(1.0f));
    v = vf_min(vf_max(v, vf_set1(rule.low)), vf_set1(rule.high));
    return rule.grid == GRID_IQ4 ? iq4_nearest(v) : vf_round_small(v);
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

/* From ggml's parameters to better ones. x, w: n_subs * n values, a block per lane. */
REFINE_INLINE void refine_search(const refine_rule rule, const vf *x, const vf *w, refine_state *state) {
    refine_state next = *state;
    vf least = vf_set1(INFINITY);
    for (int pass = 0; pass < rule.n_passes; pass++) {
        vf error = vf_set1(0.0f);
        for (size_t sub = 0; sub < rule.n_subs; sub++)
            error += refine_sub_block(rule, x + sub * rule.n, w + sub * rule.n, next.d, next.dmin, &next.scale[sub],
                                      &next.min[sub]);
        const vm better = vf_lt(error, least);
        if (!vm_any(better)) break;
        least = vf_select(better, error, least);
        refine_take(rule, better, &next, state);
        if (pass + 1 < rule.n_passes) refine_units(rule, x, w, &next);
    }
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
