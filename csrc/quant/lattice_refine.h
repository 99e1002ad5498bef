/* rounding="best" for IQ1, IQ2 and IQ3: scales, points and signs that are chosen together, as they will be stored.
 *
 * Each sub-block's error is worked out at six scales around the one to be expected; a parabola says which scale would
 * be best and what missing it costs. The unit d is the one for which the integer scales miss the least. Then, a few
 * times, the integers nearby are tried, points and signs are chosen, all exactly for this d (lattice_points.h), and d
 * is fitted to them by least squares and rounded to float16. The best of the passes counts.
 *
 * A super-block per lane. What overflows or ties may be wrong: convert.c keeps the better of two blocks. */
#ifndef MF_LATTICE_REFINE_H
#define MF_LATTICE_REFINE_H

#include "lattice_points.h"

/* What a block says. `other` as points_errors has it; signs: bit 7 not yet dropped. */
typedef struct {
    vf d, integer[MAX_SUBS];
    vi other[MAX_SUBS], point[MAX_GROUPS], signs[QK_K / 8];
} points_found;

/* A sub-block's best scale, were it any number, and what the error grows by with the square of the distance from it. */
typedef struct {
    vf scale, growth;
} points_vertex;

enum { N_SAMPLES = 2 * AT_ONCE };

/* Every other sample says which shifts are best, the rest are worked out with those. */
INLINE points_vertex points_sample(const points_rule rule, const points_lanes *lanes, size_t sub, vi *shifts) {
    static const float log_step = 0.2f, steps[N_SAMPLES] = {0.60653066f, 0.74081822f, 0.90483742f,
                                                            1.1051709f,  1.3498588f,  1.6487213f}; /* exp(0.2 k) */
    const vf expected = vf_sqrt(lanes->sum_wxx[sub] / lanes->sum_w[sub]) / rule.rms;
    vf error[N_SAMPLES], scale[AT_ONCE], least[AT_ONCE];
    vi other[AT_ONCE];
    for (size_t begin = 0; begin < 2; begin++) {
        for (size_t t = 0; t < AT_ONCE; t++) scale[t] = expected * steps[begin + 2 * t];
        points_errors(rule, lanes, sub, scale, begin ? shifts : NULL, least, other);
        for (size_t t = 0; t < AT_ONCE; t++) error[begin + 2 * t] = least[t];
        if (begin) break;
        *shifts = vi_select(vf_lt(least[0], least[1]), other[0], other[1]);
        *shifts = vi_select(vf_lt(least[2], vf_min(least[0], least[1])), other[2], *shifts);
    }
    vf middle = error[1], left = error[0], right = error[2], around = expected * steps[1];
    for (size_t t = 2; t + 1 < N_SAMPLES; t++) {
        const vm better = vf_lt(error[t], middle);
        left = vf_select(better, error[t - 1], left);
        right = vf_select(better, error[t + 1], right);
        around = vf_select(better, expected * steps[t], around);
        middle = vf_min(error[t], middle);
    }
    const vf most = vf_set1(1.5f), zero = vf_set1(0.0f), bend = left - middle + (right - middle);
    const vf away = vf_max(vf_min(0.5f * ((left - right) / bend), most), vf_negate(most)) * log_step;
    const vf best = around * (1.0f + away + 0.5f * (away * away)); /* exp(away), nearly */
    const vm is_bent = vf_gt(bend, zero);
    return (points_vertex){vf_select(is_bent, best, around), vf_select(is_bent, bend / (around * around), zero)};
}

INLINE vf points_scale(const points_rule rule, vf d, vf integer) {
    return d * (rule.scale_first + rule.scale_step * integer);
}

/* The integer whose scale is nearest. */
INLINE vf points_integer(const points_rule rule, vf scale, vf d) {
    const vf integer = (scale / d - rule.scale_first) / rule.scale_step;
    return vf_round_small(vf_min(vf_max(integer, vf_set1(0.0f)), vf_set1((float)(rule.n_scales - 1))));
}

/* The unit for which the integers miss the vertices the least. The largest vertex is tried at every quarter of an
 * integer from 1.5 beyond the last to 5.75 below it. */
INLINE vf points_unit(const points_rule rule, const points_vertex *vertices) {
    vf largest = vf_set1(0.0f), least = vf_set1(INFINITY), best = vf_set1(0x1p-24f);
    for (size_t sub = 0; sub < QK_K / rule.n; sub++) largest = vf_max(largest, vertices[sub].scale);
    for (int quarters = -23; quarters <= 6; quarters++) {
        const float integer = (float)(rule.n_scales - 1) + 0.25f * (float)quarters;
        vf d = largest / (rule.scale_first + rule.scale_step * integer);
        d = vf_round_f16(vf_min(vf_max(d, vf_set1(0x1p-24f)), vf_set1(65504.0f)));
        vf missed = vf_set1(0.0f);
        for (size_t sub = 0; sub < QK_K / rule.n; sub++) {
            const points_vertex vertex = vertices[sub];
            const vf off = points_scale(rule, d, points_integer(rule, vertex.scale, d)) - vertex.scale;
            missed = missed + vertex.growth * (off * off);
        }
        best = vf_select(vf_lt(missed, least), d, best);
        least = vf_min(missed, least);
    }
    return best;
}

/* The best of n integers around the one that sub-block `sub` has. */
INLINE void points_step(const points_rule rule, const points_lanes *lanes, size_t sub, size_t n, points_found *found) {
    const vf top = vf_set1((float)(rule.n_scales - n));
    const vf low = vf_min(vf_max(found->integer[sub] - (float)(n / 2), vf_set1(0.0f)), top);
    vf least = vf_set1(INFINITY);
    for (size_t at = 0; at < n; at += AT_ONCE) {
        vf error[AT_ONCE], scale[AT_ONCE];
        vi other[AT_ONCE];
        for (size_t t = 0; t < AT_ONCE; t++) scale[t] = points_scale(rule, found->d, low + (float)(at + t));
        points_errors(rule, lanes, sub, scale, NULL, error, other);
        for (size_t t = 0; t < AT_ONCE; t++) {
            const vm better = vf_lt(error[t], least);
            least = vf_min(error[t], least);
            found->integer[sub] = vf_select(better, low + (float)(at + t), found->integer[sub]);
            found->other[sub] = vi_select(better, other[t], found->other[sub]);
        }
    }
}

/* Adds  sum w q^2  and  2 sum w x q  of a group's levels as they are stored; signs get the flip, in lanes is_other. */
INLINE void points_add(const points_rule rule, const points_lanes *lanes, size_t g, vi levels, vm is_other, vf *square,
                       vf *cross, vi *signs) {
    const size_t begin = g * rule.dims;
    vf least = vf_set1(INFINITY);
    vi at = vi_set1(0);
    for (size_t i = 0; i < rule.dims; i++) {
        const vf q = points_value(rule, vf_lookup(rule.values, (levels >> (int)(4 * i)) & 7), is_other);
        const vf wxq = lanes->wx[begin + i] * q;
        *square = *square + lanes->w[begin + i] * (q * q);
        *cross = *cross + wxq;
        if (!is_even(rule)) continue;
        at = vi_select(vf_lt(wxq, least), vi_set1(1 << (begin + i) % 8), at);
        least = vf_min(wxq, least);
    }
    if (!is_even(rule)) return;
    *cross = *cross - vf_select(is_other, 2.0f * least, vf_set1(0.0f));
    *signs = *signs ^ vi_select(is_other, at, vi_set1(0));
}

/* Points and signs at the scales there are. Returns the error less sum w x^2; next_d gets the d that suits them. */
INLINE vf points_choose(const points_rule rule, const points_lanes *lanes, points_found *found, vf *next_d) {
    const vf zero = vf_set1(0.0f);
    vf sum_error = zero, sum_square = zero, sum_cross = zero;
    for (size_t g = 0; g < QK_K / 8; g++) found->signs[g] = lanes->signs[g];
    for (size_t sub = 0; sub < QK_K / rule.n; sub++) {
        const vf scale = points_scale(rule, found->d, found->integer[sub]);
        const vf times = points_scale(rule, vf_set1(1.0f), found->integer[sub]);
        vf square = zero, cross = zero;
        for (size_t l = 0; l < rule.n / rule.dims; l++) {
            const size_t g = sub * rule.n / rule.dims + l;
            const vm is_other = vm_of_bit(found->other[sub], (int)l);
            half_errors halves;
            points_halves(rule, lanes, g, is_other, &scale, 1, &halves);
            const vi nearest = points_nearest(rule, &lanes->points, &halves, is_other);
            found->point[g] = vi_lookup(lanes->points.points, nearest);
            points_add(rule, lanes, g, vi_lookup(lanes->points.levels, nearest), is_other, &square, &cross,
                       &found->signs[g * rule.dims / 8]);
        }
        sum_error = sum_error + scale * (scale * square - cross);
        sum_square = sum_square + times * times * square;
        sum_cross = sum_cross + times * cross;
    }
    const vf fit = 0.5f * (sum_cross / sum_square);
    const vm fits = vm_and(vf_gt(fit, zero), vf_lt(fit, vf_set1(65504.0f)));
    *next_d = vf_select(fits, vf_round_f16(fit), found->d);
    return sum_error;
}

INLINE void points_take(const points_rule rule, vm better, const points_found *from, points_found *to) {
    to->d = vf_select(better, from->d, to->d);
    for (size_t sub = 0; sub < QK_K / rule.n; sub++) {
        to->integer[sub] = vf_select(better, from->integer[sub], to->integer[sub]);
        to->other[sub] = vi_select(better, from->other[sub], to->other[sub]);
    }
    for (size_t g = 0; g < QK_K / rule.dims; g++) to->point[g] = vi_select(better, from->point[g], to->point[g]);
    for (size_t g = 0; g < QK_K / 8; g++) to->signs[g] = vi_select(better, from->signs[g], to->signs[g]);
}

/* Each lane goes on for as long as it gains, whatever the others do: which blocks those are depends on the level. */
INLINE void points_search(const points_rule rule, const float *x, const float *weights, size_t n, points_found *found) {
    const size_t n_subs = QK_K / rule.n;
    points_lanes lanes;
    points_vertex vertices[MAX_SUBS];
    points_found next = {0};
    vf least = vf_set1(INFINITY), next_d;
    vm gains = vm_first(VF_LANES);
    points_load(rule, &lanes, x, weights, n);
    for (size_t sub = 0; sub < n_subs; sub++) vertices[sub] = points_sample(rule, &lanes, sub, &next.other[sub]);
    next.d = points_unit(rule, vertices);
    for (size_t sub = 0; sub < n_subs; sub++) next.integer[sub] = points_integer(rule, vertices[sub].scale, next.d);
    *found = next;
    for (int pass = 0; pass < rule.n_passes; pass++, next.d = next_d) {
        if (pass == 0)
            for (size_t sub = 0; sub < n_subs; sub++) points_step(rule, &lanes, sub, rule.n_near, &next);
        else if (pass < rule.n_steps)
            for (size_t sub = 0; sub < n_subs; sub++) points_step(rule, &lanes, sub, AT_ONCE, &next);
        const vf error = points_choose(rule, &lanes, &next, &next_d);
        gains = vm_and(gains, vf_lt(error, least));
        if (!vm_any(gains)) break;
        least = vf_select(gains, error, least);
        points_take(rule, gains, &next, found);
    }
}

/* The points that were found, as quantizers leave them for packing. */
INLINE void points_numbers(const points_rule rule, const points_found *found, search_batch *batch) {
    for (size_t g = 0; g < QK_K / rule.dims; g++) {
        int32_t point[VF_LANES];
        vi_store(point, found->point[g]);
        for (size_t k = 0; k < VF_LANES; k++) batch->point[k * QK_K / rule.dims + g] = (uint16_t)point[k];
    }
}

/* All that was found, likewise. */
INLINE void points_store(const points_rule rule, const points_found *found, search_batch *batch,
                         search_stored *stored) {
    int32_t out[VF_LANES];
    points_numbers(rule, found, batch);
    vi_store(out, vi_f16_from_vf(found->d));
    for (size_t k = 0; k < VF_LANES; k++) stored->d[k] = (uint16_t)out[k];
    for (size_t sub = 0; sub < QK_K / rule.n; sub++) {
        vi_store(out, vi_trunc(found->integer[sub]));
        for (size_t k = 0; k < VF_LANES; k++) stored->scales[k][sub] = (uint8_t)out[k];
    }
    for (size_t g = 0; g < QK_K / 8; g++) {
        vi_store(out, found->signs[g] & (is_even(rule) ? 127 : 255));
        for (size_t k = 0; k < VF_LANES; k++) batch->signs[k * QK_K / 8 + g] = (uint8_t)out[k];
    }
}

/* A larger unit for a block that was found. Least squares shrinks: the block's part along x is 1 - error of x, and a
 * model of such layers says everything too softly, which costs it more than noise does (docs/rounding.md). So the unit
 * grows until that part is x itself, or as far as the error stays below ggml's. x, w, ggml, found: QK_K values. */
static inline uint16_t points_unshrunk(const float *x, const float *w, const float *ggml, const float *found,
                                       uint16_t unit) {
    double along = 0.0, square = 0.0, all = 0.0, error = 0.0;
    for (size_t i = 0; i < QK_K; i++) {
        const double weight = (double)w[i], value = (double)x[i], other = (double)found[i];
        const double off = value - (double)ggml[i];
        along += weight * value * other;
        square += weight * other * other;
        all += weight * value * value;
        error += weight * off * off;
    }
    const double best = along / square, room = best * best - (all - error) / square;
    if (!(along > 0.0) || !(square > 0.0) || !(room > 0.0)) return unit;
    const double most = best + 0.999 * sqrt(room), whole = all / along, factor = whole < most ? whole : most;
    const double wanted = factor * (double)mf_f16_to_f32(unit);
    if (!(wanted < 65504.0) || !(factor > 1.0)) return unit;
    const uint16_t half = mf_f32_to_f16((float)wanted);
    return (double)mf_f16_to_f32(half) > wanted ? (uint16_t)(half - 1) : half;
}

/* <name>_refine, from <name>_points, <name>_block, <name>_pack and <name>_dequantize. */
#define POINTS_REFINE(name)                                                                                            \
    void MF_LEVEL(name##_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {                         \
        name##_block *block = (name##_block *)(void *)y;                                                               \
        points_found found;                                                                                            \
        search_batch batch = {.n_blocks = n};                                                                          \
        search_stored stored = {0};                                                                                    \
        points_search(name##_points, x, weights, n, &found);                                                           \
        points_store(name##_points, &found, &batch, &stored);                                                          \
        for (size_t k = 0; k < n; k++) {                                                                               \
            float ggml[QK_K], now[QK_K];                                                                               \
            MF_LEVEL(name##_dequantize)((const uint8_t *)(block + k), ggml, QK_K);                                     \
            name##_pack(&batch, &stored, k, block + k);                                                                \
            MF_LEVEL(name##_dequantize)((const uint8_t *)(block + k), now, QK_K);                                      \
            stored.d[k] = points_unshrunk(x + k * QK_K, weights + k * QK_K, ggml, now, stored.d[k]);                   \
            name##_pack(&batch, &stored, k, block + k);                                                                \
        }                                                                                                              \
    }

#endif
