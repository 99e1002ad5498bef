/* Of all points of a lattice the one with the least weighted square error at a scale, for rounding="best".
 *
 * At scale s a point of levels q changes the error, sum w x^2 without a point, by  sum (s^2 w q^2 - 2 s w x q).  That
 * is a sum over the two halves of the point, and there are only 81 (64) halves: their sums are worked out, and a point
 * then costs one operation. Where the number of minuses must be even and is not, the sign is flipped that costs the
 * least, 4 s w x q; it is in one half or in the other, so a point costs one operation more. A super-block per lane. */
#ifndef MF_LATTICE_POINTS_H
#define MF_LATTICE_POINTS_H

#include "lattice_search.h"

#include <math.h>

/* What a block says besides scales and points: */
typedef enum {
    SIGN_EACH,   /* a sign for each value */
    SIGN_EVEN,   /* signs, of which an even number of eight is minus */
    SHIFT_SUB,   /* levels have signs themselves, and those of a sub-block are 1/8 more or less */
    SHIFT_POINT, /* or those of a point */
} sign_rule;

/* All of it is known at compile time where it is used. */
typedef struct {
    lattice_id id;
    size_t dims, levels;
    size_t n;        /* values of a sub-block */
    size_t n_scales; /* a scale is d * (scale_first + scale_step * integer), integer < n_scales */
    float scale_first, scale_step;
    sign_rule signs;
    float values[8]; /* of the levels, without the shift */
    float rms;       /* of x where the scale is 1, about */
    size_t n_near;   /* integers that are tried in the first pass, a multiple of AT_ONCE; later AT_ONCE */
    int n_steps;     /* passes in which integers are tried */
    int n_passes;
} points_rule;

enum { AT_ONCE = 3 }; /* scales that are tried together */

/* A super-block in each lane. */
typedef struct {
    lattice_halves points;
    vf w[QK_K], wx[QK_K]; /* wx: 2 w |x|, 2 w x where levels have signs */
    vi signs[QK_K / 8];   /* of x */
    vm is_odd[QK_K / 8];  /* the number of minuses */
    vf sum_w[MAX_SUBS], sum_wxx[MAX_SUBS];
} points_lanes;

/* What each half changes the error by, for each scale and half; and with that sign flipped for which it is least. */
typedef struct {
    vf plain[2][AT_ONCE][MAX_HALVES], flipped[2][AT_ONCE][MAX_HALVES];
} half_errors;

INLINE bool is_shifted(const points_rule rule) { return rule.signs == SHIFT_SUB || rule.signs == SHIFT_POINT; }
INLINE bool is_even(const points_rule rule) { return rule.signs == SIGN_EVEN; }
INLINE vi vi_bit(vm m, int bit) { return vi_select(m, vi_set1(1 << bit), vi_set1(0)); }
INLINE vm vm_of_bit(vi v, int bit) { return vi_eq((v >> bit) & 1, vi_set1(1)); }

/* Weights that favour large values, as ggml's own do: the least squared error alone would shrink them. */
INLINE void points_favour_large(const vf *x, vf *w) {
    vf sum = vf_set1(0.0f);
    for (size_t j = 0; j < QK_K; j++) sum = sum + x[j] * x[j];
    const vf sigma2 = 2.0f * sum / (float)QK_K;
    for (size_t j = 0; j < QK_K; j++) w[j] = w[j] * vf_sqrt(sigma2 + x[j] * x[j]);
}

INLINE void points_load(const points_rule rule, points_lanes *lanes, const float *x, const float *weights, size_t n) {
    const vf zero = vf_set1(0.0f);
    lanes->points = MF_LEVEL(lattice_halves)(rule.id);
    blocks_load_f32(x, QK_K, n, QK_K, lanes->wx);
    blocks_load_f32(weights, QK_K, n, QK_K, lanes->w);
    points_favour_large(lanes->wx, lanes->w);
    for (size_t sub = 0; sub < QK_K / rule.n; sub++) lanes->sum_w[sub] = lanes->sum_wxx[sub] = zero;
    for (size_t g = 0; g < QK_K / 8; g++) {
        const size_t sub = 8 * g / rule.n;
        vi signs = vi_set1(0), n_minus = signs;
        for (size_t i = 0; i < 8; i++) {
            vf *wx = &lanes->wx[8 * g + i];
            const vf v = *wx, w = lanes->w[8 * g + i], product = w * v;
            const vm is_minus = vf_lt(v, zero);
            signs = signs | vi_bit(is_minus, (int)i);
            n_minus = n_minus + vi_bit(is_minus, 0);
            *wx = 2.0f * (is_shifted(rule) ? product : vf_abs(product));
            lanes->sum_w[sub] = lanes->sum_w[sub] + w;
            lanes->sum_wxx[sub] = lanes->sum_wxx[sub] + product * v;
        }
        lanes->signs[g] = signs;
        lanes->is_odd[g] = vm_of_bit(n_minus, 0);
    }
}

/* What a level stands for; is_minus: lanes in which it is 1/8 less. */
INLINE vf points_value(const points_rule rule, vf value, vm is_minus) {
    if (!is_shifted(rule)) return value;
    return value + vf_select(is_minus, vf_set1(-0.125f), vf_set1(0.125f));
}

/* All halves of group g of the super-blocks, at n scales. */
INLINE void points_halves(const points_rule rule, const points_lanes *lanes, size_t g, vm is_minus, const vf *scale,
                          size_t n, half_errors *errors) {
    for (size_t h = 0; h < 2; h++) {
        size_t j = g * rule.dims + h * rule.dims / 2, n_halves = 1;
        for (size_t t = 0; t < n; t++) {
            errors->plain[h][t][0] = vf_set1(0.0f);
            errors->flipped[h][t][0] = vf_set1(INFINITY);
        }
        for (const size_t end = j + rule.dims / 2; j < end; j++, n_halves *= rule.levels)
            for (size_t l = rule.levels; l-- > 0;) {
                const vf q = points_value(rule, vf_set1(rule.values[l]), is_minus);
                const vf wqq = lanes->w[j] * (q * q), wxq = lanes->wx[j] * q;
                for (size_t t = 0; t < n; t++) {
                    const vf error = scale[t] * (scale[t] * wqq - wxq), flip = 2.0f * scale[t] * wxq;
                    vf *plain = errors->plain[h][t], *flipped = errors->flipped[h][t];
                    for (size_t k = 0; k < n_halves; k++) {
                        plain[l * n_halves + k] = plain[k] + error;
                        if (is_even(rule)) flipped[l * n_halves + k] = vf_min(flip, flipped[k]);
                    }
                }
            }
        for (size_t t = 0; is_even(rule) && t < n; t++)
            for (size_t k = 0; k < n_halves; k++)
                errors->flipped[h][t][k] = errors->flipped[h][t][k] + errors->plain[h][t][k];
    }
}

INLINE vf at_offset(const vf *table, size_t bytes) { return *(const vf *)(const void *)((const char *)table + bytes); }

/* The least errors of the points that have second half h. Two points at a time, so that one need not wait for the
 * other. */
INLINE void points_of_second(const points_rule rule, const lattice_halves *points, const half_errors *errors, size_t h,
                             size_t n, vf *plain, vf *flipped) {
    vf first[2][AT_ONCE], first_flipped[2][AT_ONCE];
    for (size_t t = 0; t < n; t++) {
        first[0][t] = first[1][t] = vf_set1(INFINITY);
        first_flipped[0][t] = first_flipped[1][t] = vf_set1(INFINITY);
    }
    for (size_t p = points->begins[h]; p < points->begins[h + 1]; p += 2)
        for (size_t way = 0; way < 2; way++) {
            const size_t f = points->first[p + way];
            for (size_t t = 0; t < n; t++) {
                first[way][t] = vf_min(first[way][t], at_offset(errors->plain[0][t], f));
                if (is_even(rule))
                    first_flipped[way][t] = vf_min(first_flipped[way][t], at_offset(errors->flipped[0][t], f));
            }
        }
    for (size_t t = 0; t < n; t++) {
        const vf second = errors->plain[1][t][h], least = vf_min(first[0][t], first[1][t]);
        plain[t] = least + second;
        if (is_even(rule))
            flipped[t] =
                vf_min(vf_min(first_flipped[0][t], first_flipped[1][t]) + second, least + errors->flipped[1][t][h]);
    }
}

INLINE size_t n_seconds(const points_rule rule) { return rule.levels == 3 ? 81 : 64; }

/* The least errors of all points at AT_ONCE scales. */
INLINE void points_least(const points_rule rule, const lattice_halves *points, const half_errors *errors, vf *plain,
                         vf *flipped) {
    vf least[AT_ONCE], least_flipped[AT_ONCE];
    for (size_t t = 0; t < AT_ONCE; t++) least[t] = least_flipped[t] = vf_set1(INFINITY);
    for (size_t h = 0; h < n_seconds(rule); h++) {
        vf error[AT_ONCE], error_flipped[AT_ONCE];
        points_of_second(rule, points, errors, h, AT_ONCE, error, error_flipped);
        for (size_t t = 0; t < AT_ONCE; t++) {
            least[t] = vf_min(error[t], least[t]);
            if (is_even(rule)) least_flipped[t] = vf_min(error_flipped[t], least_flipped[t]);
        }
    }
    for (size_t t = 0; t < AT_ONCE; t++) plain[t] = least[t], flipped[t] = least_flipped[t];
}

/* The first point of second half h that has this error in lane k. */
INLINE int32_t points_with_error(const points_rule rule, const lattice_halves *points, const half_errors *errors,
                                 size_t h, size_t k, bool is_flipped, float error) {
    const float plain_second = errors->plain[1][0][h][k], flipped_second = errors->flipped[1][0][h][k];
    size_t p = points->begins[h];
    for (; p + 1 < points->begins[h + 1]; p++) {
        const size_t f = points->first[p] / sizeof(vf);
        const float plain = errors->plain[0][0][f][k];
        if (is_even(rule) && is_flipped) {
            if (errors->flipped[0][0][f][k] + plain_second == error || plain + flipped_second == error) break;
        } else if (plain + plain_second == error) {
            break;
        }
    }
    return (int32_t)p;
}

/* The place in `points` of the point that has the least error at one scale, with a sign flipped in some lanes. */
INLINE vi points_nearest(const points_rule rule, const lattice_halves *points, const half_errors *errors,
                         vm is_flipped) {
    vf least = vf_set1(INFINITY);
    vi second = vi_set1(0);
    for (size_t h = 0; h < n_seconds(rule); h++) {
        vf error, flipped;
        points_of_second(rule, points, errors, h, 1, &error, &flipped);
        if (is_even(rule)) error = vf_select(is_flipped, flipped, error);
        second = vi_select(vf_lt(error, least), vi_set1((int32_t)h), second);
        least = vf_min(error, least);
    }
    int32_t seconds[VF_LANES], nearest[VF_LANES];
    float error[VF_LANES];
    const uint32_t flips = vm_bits(is_flipped);
    vi_store(seconds, second);
    vf_store(error, least);
    for (size_t k = 0; k < VF_LANES; k++)
        nearest[k] = points_with_error(rule, points, errors, (size_t)seconds[k], k, flips >> k & 1, error[k]);
    return vi_load(nearest);
}

/* Both of two groups of four: if the number of minuses is odd, one of them has a sign flipped. Returns the error, adds
 * to `flips` which, at the first's bit or the next. */
INLINE vf points_pair(vm is_odd, const vf plain[2], const vf flipped[2], int bit, vi *flips) {
    const vf first = flipped[0] + plain[1], second = plain[0] + flipped[1];
    const vi which = vi_select(vf_lt(second, first), vi_set1(2 << bit), vi_set1(1 << bit));
    *flips = *flips | vi_select(is_odd, which, vi_set1(0));
    return vf_select(is_odd, vf_min(second, first), plain[0] + plain[1]);
}

/* The least errors of a sub-block at AT_ONCE scales. `other` gets for each scale a bit for every group: 1/8 less
 * instead of more, or a sign is flipped. known: the shifts are these. */
INLINE void points_errors(const points_rule rule, const points_lanes *lanes, size_t sub, const vf *scale,
                          const vi *known, vf *error, vi *other) {
    const size_t n_points = rule.n / rule.dims;
    const bool is_free = is_shifted(rule) && !known;
    const vm none = vm_first(0), all = vm_first(VF_LANES);
    vf plain[2][AT_ONCE], flipped[2][AT_ONCE], minus[AT_ONCE], unused[AT_ONCE], error_minus[AT_ONCE];
    half_errors halves;
    for (size_t t = 0; t < AT_ONCE; t++) {
        error[t] = error_minus[t] = vf_set1(0.0f);
        other[t] = is_shifted(rule) && known ? *known : vi_set1(0);
    }
    for (size_t g = sub * n_points, bit = 0; bit < n_points; g++, bit++) {
        const size_t at = rule.dims == 4 ? bit % 2 : 0;
        points_halves(rule, lanes, g, known ? vm_of_bit(*known, (int)bit) : none, scale, AT_ONCE, &halves);
        points_least(rule, &lanes->points, &halves, plain[at], flipped[at]);
        if (is_free) {
            points_halves(rule, lanes, g, all, scale, AT_ONCE, &halves);
            points_least(rule, &lanes->points, &halves, minus, unused);
        }
        for (size_t t = 0; t < AT_ONCE; t++) {
            vf least = plain[at][t];
            if (is_even(rule) && rule.dims == 8) {
                other[t] = other[t] | vi_bit(lanes->is_odd[g], (int)bit);
                least = vf_select(lanes->is_odd[g], flipped[0][t], least);
            } else if (is_even(rule)) {
                if (at == 0) continue;
                const vf both[2] = {plain[0][t], plain[1][t]}, both_flipped[2] = {flipped[0][t], flipped[1][t]};
                least = points_pair(lanes->is_odd[g / 2], both, both_flipped, (int)bit - 1, &other[t]);
            } else if (is_free && rule.signs == SHIFT_POINT) {
                other[t] = other[t] | vi_bit(vf_lt(minus[t], least), (int)bit);
                least = vf_min(minus[t], least);
            } else if (is_free) {
                error_minus[t] = error_minus[t] + minus[t];
            }
            error[t] = error[t] + least;
        }
    }
    for (size_t t = 0; is_free && rule.signs == SHIFT_SUB && t < AT_ONCE; t++) {
        other[t] = vi_select(vf_lt(error_minus[t], error[t]), vi_set1((1 << n_points) - 1), vi_set1(0));
        error[t] = vf_min(error_minus[t], error[t]);
    }
}

#endif
