/* The search behind IQ2 and IQ3: every 16 or 32 values get a scale and the points of a lattice. One such sub-block per
 * lane, a batch is VF_LANES super-blocks.
 *
 * For each of a row of scales the magnitudes are rounded to levels (2 * level + 1 times the scale); where the levels
 * are no point of the lattice, its best neighbour takes over; the scale with the least weighted square error is kept.
 * Source: ggml-quants.c quantize_row_iq2_xxs_impl, _iq2_xs_, _iq2_s_, _iq3_xxs_, _iq3_s_impl, make_qp_quants. */
#ifndef MF_LATTICE_SEARCH_H
#define MF_LATTICE_SEARCH_H

#include "neighbour.h"

enum { QK_K = 256, MAX_SUB = 32, MAX_SUBS = 16, MAX_GROUPS = 64 };

/* Which points are chosen once more, at the scale that was found: */
typedef enum { EVERY, THOSE_OFF, EVERY_IF_ONE_OFF } refit_rule; /* off: where levels were no point of the lattice */

typedef struct {
    lattice_id id;
    int dims, levels;
    size_t n;           /* values of a sub-block */
    int last_try;       /* tries: the largest value at 2 * levels - 1 + step * try, |try| <= last_try */
    float step;         /* of the level */
    float sigma_factor; /* of the mean square, in the weights */
    float nothing;      /* a sub-block with no larger value is all zeros */
    refit_rule refit;
    bool even_signs;    /* a sign costs 7/8 bit: the least important value of eight is flipped if need be */
    bool first_guess;   /* the tries are around the scale of make_qp_quants */
    float flat, square; /* without importance the weights are flat * sigma2 + square * x^2 */
} search_rule;

/* What is found for a batch of super-blocks. */
typedef struct {
    size_t n_blocks;
    float sigma2[VF_LANES];
    float scale[VF_LANES * MAX_SUBS];
    uint16_t point[VF_LANES * MAX_GROUPS];
    uint8_t signs[VF_LANES * QK_K / 8];
    bool is_nothing[VF_LANES * MAX_SUBS];
} search_batch;

/* A sub-block in each lane. */
typedef struct {
    vf x[MAX_SUB], w[MAX_SUB], wx[MAX_SUB]; /* x: magnitudes, but negative where a sign had to flip */
    float x_rows[VF_LANES * MAX_SUB + 8], root_rows[VF_LANES * MAX_SUB + 8]; /* lane by lane: x, sqrt(w) */
    vi signs[MAX_SUB / 8];
    vf max, largest; /* of x, of |x| */
    vm is_nothing;
} search_lanes;

INLINE int code_bits(const search_rule rule) { return rule.levels == 3 ? 2 : 3; }
INLINE size_t n_groups(const search_rule rule) { return rule.n / (size_t)rule.dims; }

INLINE void search_sigma2(const search_rule rule, search_batch *batch, const float *x) {
    vf sum = vf_set1(0.0f), v[MAX_SUB];
    for (size_t at = 0; at < QK_K; at += MAX_SUB) {
        blocks_load_f32(x + at, QK_K, batch->n_blocks, MAX_SUB, v);
        for (size_t j = 0; j < MAX_SUB; j++) sum = sum + v[j] * v[j];
    }
    vf_store(batch->sigma2, rule.sigma_factor * sum / (float)QK_K);
}

/* The weights of VF_LANES sub-blocks, of which the first is at column `column`. */
INLINE void search_weights(const search_rule rule, search_lanes *s, const float *importance, size_t column,
                           size_t n_cols, size_t n_lanes, vf sigma2) {
    if (!importance) {
        for (size_t j = 0; j < rule.n; j++) {
            const vf square = s->x[j] * s->x[j];
            s->w[j] = rule.flat == 0.0f ? square : rule.flat * sigma2 + square;
        }
        return;
    }
    if (column + n_lanes * rule.n <= n_cols) {
        blocks_load_f32(importance + column, rule.n, n_lanes, rule.n, s->w);
    } else {
        float rows[VF_LANES * MAX_SUB];
        for (size_t k = 0; k < n_lanes; k++, column += rule.n)
            memcpy(rows + k * rule.n, importance + column % n_cols, rule.n * sizeof *rows);
        blocks_load_f32(rows, rule.n, n_lanes, rule.n, s->w);
    }
    for (size_t j = 0; j < rule.n; j++) s->w[j] = s->w[j] * vf_sqrt(sigma2 + s->x[j] * s->x[j]);
}

/* Splits x into signs and magnitudes. */
INLINE void search_signs(const search_rule rule, search_lanes *s) {
    const vf zero = vf_set1(0.0f);
    for (size_t g = 0; g < rule.n / 8; g++) {
        vf *x = s->x + 8 * g, least = x[0];
        const vf *w = s->w + 8 * g;
        vi signs = vi_set1(0), n_minus = signs, at = signs;
        for (int i = 0; i < 8; i++) {
            const vm minus = vf_lt(x[i], zero);
            signs = signs | vi_select(minus, vi_set1(1 << i), vi_set1(0));
            if (!rule.even_signs) continue;
            const vf cost = w[i] * x[i] * x[i];
            n_minus = n_minus ^ vi_select(minus, vi_set1(1), vi_set1(0));
            if (i == 0) {
                least = cost;
            } else {
                at = vi_select(vf_lt(cost, least), vi_set1(i), at);
                least = vf_min(cost, least);
            }
        }
        for (int i = 0; i < 8; i++) x[i] = vf_abs(x[i]);
        if (rule.even_signs) {
            at = vi_select(vi_eq(n_minus, vi_set1(1)), at, vi_set1(8));
            for (int i = 0; i < 8; i++) {
                const vm flip = vi_eq(at, vi_set1(i));
                x[i] = vf_select(flip, vf_negate(x[i]), x[i]);
                signs = signs ^ vi_select(flip, vi_set1(1 << i), vi_set1(0));
            }
            signs = signs & 127;
        }
        s->signs[g] = signs;
    }
}

/* Everything about a sub-block that does not change from try to try. x: n_lanes sub-blocks. */
INLINE void search_load(const search_rule rule, search_lanes *s, const float *x, size_t n_lanes, vf sigma2,
                        const float *importance, size_t column, size_t n_cols) {
    blocks_load_f32(x, rule.n, n_lanes, rule.n, s->x);
    search_weights(rule, s, importance, column, n_cols, n_lanes, sigma2);
    search_signs(rule, s);
    vf root[MAX_SUB];
    s->max = s->x[0];
    s->largest = vf_set1(0.0f);
    for (size_t j = 0; j < rule.n; j++) {
        s->max = vf_max(s->max, s->x[j]);
        s->largest = vf_max(s->largest, vf_abs(s->x[j]));
        s->wx[j] = s->w[j] * s->x[j];
        root[j] = vf_sqrt(s->w[j]);
    }
    blocks_store_f32(s->x, rule.n, s->x_rows, rule.n, VF_LANES);
    blocks_store_f32(root, rule.n, s->root_rows, rule.n, VF_LANES);
    s->is_nothing = vf_lt(s->max, vf_set1(rule.nothing));
}

/* The levels of x at one inverse scale, as codes: nearest_int((inverse * x - 1) / 2), clamped. */
INLINE void search_round(const search_rule rule, const search_lanes *s, vf inverse, bool is_tame,
                         int32_t code[][VF_LANES]) {
    const int bits = code_bits(rule);
    const vf zero = vf_set1(0.0f), top = vf_set1(2.0f * (float)(rule.levels - 1));
    for (size_t g = 0; g < n_groups(rule); g++) {
        vi sum = vi_set1(0);
        uint32_t bias = 0;
        for (int i = 0; i < rule.dims; i++) {
            const vf y = inverse * s->x[g * (size_t)rule.dims + (size_t)i] - 1.0f;
            if (is_tame) { /* 1.5 * 2^24: the last bit of the sum is worth 2 */
                const vf level = vf_min(vf_max(y, zero), top) + 25165824.0f;
                sum = sum + ((vi)level << bits * i);
                bias += 0x4bc00000u << bits * i;
            } else {
                const vi level = vi_max(vi_min(vi_round_magic(0.5f * y), vi_set1(rule.levels - 1)), vi_set1(0));
                sum = sum | level << bits * i;
            }
        }
        vi_store(code[g], sum - (int32_t)bias);
    }
}

/* Puts the codes of the lanes in `lanes` onto the lattice. Returns the lanes that were not on it. */
INLINE uint32_t search_snap(const search_rule rule, const neighbour_table *table, const search_lanes *s, size_t g,
                            const float scale[VF_LANES], uint32_t lanes, int32_t code[VF_LANES]) {
    const int levels = rule.dims == 8 ? 4 : 8;
    int32_t where[VF_LANES];
    const vi at = vi_lookup((const int32_t *)(const void *)table->where, vi_load(code));
    const uint32_t off = vm_bits(vm_not(vi_eq(at & 255, vi_set1(0)))) & lanes;
    vi_store(where, at);
    for (uint32_t left = off; left; left &= left - 1) {
        const size_t k = (size_t)__builtin_ctz(left), begin = k * rule.n + g * (size_t)rule.dims;
        code[k] = (int32_t)find_neighbour(table, (uint32_t)where[k], levels, (level_values){2.0f, 1.0f},
                                          s->x_rows + begin, s->root_rows + begin, scale[k]);
    }
    return off;
}

/* The sums of w x q and w q q, q = 2 * level + 1. */
INLINE void search_sums(const search_rule rule, const search_lanes *s, int32_t code[][VF_LANES], vf *qx, vf *q2) {
    const int bits = code_bits(rule);
    vf sum_qx = vf_set1(0.0f), sum_q2 = sum_qx;
    for (size_t g = 0; g < n_groups(rule); g++) {
        const vi twice = vi_load(code[g]) << 1;
        for (int i = 0; i < rule.dims; i++) {
            const size_t j = g * (size_t)rule.dims + (size_t)i;
            const vf q = vf_from_vi(((twice >> bits * i) & ((2 << bits) - 2)) | 1);
            sum_qx = sum_qx + s->wx[j] * q;
            sum_q2 = sum_q2 + s->w[j] * q * q;
        }
    }
    *qx = sum_qx, *q2 = sum_q2;
}

/* make_qp_quants: a scale for levels 0..n_levels, zero included. Its levels are bytes, so a negative one wraps. */
INLINE vf search_first_scale(const search_rule rule, const search_lanes *s, vf max) {
    const int n_levels = rule.levels + 1;
    const vf zero = vf_set1(0.0f);
    const vi top = vi_set1(n_levels);
    vf best_inverse = (float)n_levels / max, least = zero;
    vi level[MAX_SUB];
    for (int step = -5; step <= 4; step++) {
        if (step == 0) continue;
        const bool is_first = step == -5;
        const vf inverse = is_first ? best_inverse : (0.1f * (float)step + (float)n_levels) / max;
        const vf scale = 1.0f / inverse;
        vf error = zero;
        for (size_t j = 0; j < rule.n; j++) {
            vi l = vi_round_magic(inverse * s->x[j]);
            l = is_first ? l & 255 : vi_min(l, top);
            const vf diff = s->x[j] - scale * vf_from_vi(l);
            error = error + s->w[j] * diff * diff;
        }
        const vm better = vf_lt(error, least);
        best_inverse = is_first ? best_inverse : vf_select(better, inverse, best_inverse);
        least = is_first ? error : vf_select(better, error, least);
    }
    vf sum_lx = zero, sum_l2 = zero;
    for (size_t j = 0; j < rule.n; j++) {
        const vi l = vi_min(vi_round_magic(best_inverse * s->x[j]), top);
        const vf f = vf_from_vi(l);
        level[j] = l & 255;
        sum_lx = sum_lx + s->wx[j] * f;
        sum_l2 = sum_l2 + s->w[j] * f * f;
    }
    bool changed = true;
    for (int round = 0; round < 5 && changed; round++) {
        changed = false;
        for (size_t j = 0; j < rule.n; j++) {
            const vf old = vf_from_vi(level[j]), lx = sum_lx - s->wx[j] * old, l2 = sum_l2 - s->w[j] * old * old;
            const vi l = vi_min(vi_round_magic(s->x[j] * l2 / lx), top);
            const vf f = vf_from_vi(l), new_lx = lx + s->wx[j] * f, new_l2 = l2 + s->w[j] * f * f;
            vm better = vm_and(vf_gt(lx, zero), vf_gt(l2, zero));
            better = vm_and(better, vm_not(vi_eq(l, level[j])));
            better = vm_and(better, vf_gt(new_lx * new_lx * sum_l2, sum_lx * sum_lx * new_l2));
            level[j] = vi_select(better, l & 255, level[j]);
            sum_lx = vf_select(better, new_lx, sum_lx);
            sum_l2 = vf_select(better, new_l2, sum_l2);
            changed = changed || vm_any(better);
        }
    }
    return vf_select(vf_gt(sum_l2, zero), sum_lx / sum_l2, zero);
}

/* `best` gets the codes of `lanes`, off[group] the lanes whose levels were no point. Returns the scale. Where no try is
 * better than nothing, the levels are 0. */
INLINE vf search_tries(const search_rule rule, const neighbour_table *table, const search_lanes *s, vf scale, vf span,
                       uint32_t lanes, int32_t best[][VF_LANES], uint32_t off[]) {
    const vf zero = vf_set1(0.0f);
    const vm is_tame = vm_and(vf_gt(span, vf_set1(1e-30f)), vf_lt(s->largest, span * 65536.0f));
    const bool all_tame = (~vm_bits(is_tame) & lanes) == 0;
    vf best_score = zero;
    for (size_t g = 0; g < n_groups(rule); g++) {
        vi_store(best[g], vi_set1(0));
        off[g] = rule.refit == EVERY_IF_ONE_OFF ? ~0u : 0;
    }
    for (int try = -rule.last_try; try <= rule.last_try; try ++) {
        const vf inverse = ((float)(2 * rule.levels - 1) + (float)try * rule.step) / span;
        float this_scale[VF_LANES];
        int32_t code[MAX_SUB / 4][VF_LANES];
        uint32_t now_off[MAX_SUB / 4];
        vf qx, q2;
        vf_store(this_scale, 1.0f / inverse);
        if (all_tame)
            search_round(rule, s, inverse, true, code);
        else
            search_round(rule, s, inverse, false, code);
        for (size_t g = 0; g < n_groups(rule); g++)
            now_off[g] = search_snap(rule, table, s, g, this_scale, lanes, code[g]);
        search_sums(rule, s, code, &qx, &q2);
        const vm better = vm_and(vf_gt(q2, zero), vf_gt(qx * qx, best_score * q2));
        const uint32_t bits = vm_bits(better);
        if (!bits) continue;
        scale = vf_select(better, qx / q2, scale);
        best_score = vf_select(better, scale * qx, best_score);
        for (size_t g = 0; g < n_groups(rule); g++) {
            vi_store(best[g], vi_select(better, vi_load(code[g]), vi_load(best[g])));
            off[g] = (off[g] & ~bits) | (now_off[g] & bits);
        }
    }
    return scale;
}

/* Chooses points again at the scale that the tries found. Returns the scale that suits them. */
INLINE vf search_refit(const search_rule rule, const neighbour_table *table, const search_lanes *s, vf scale,
                       uint32_t lanes, int32_t best[][VF_LANES], const uint32_t off[]) {
    const vf zero = vf_set1(0.0f);
    const vm is_positive = vf_gt(scale, zero);
    uint32_t any_off = 0;
    for (size_t g = 0; g < n_groups(rule); g++) any_off |= off[g];
    lanes &= vm_bits(is_positive);
    if (rule.refit != EVERY) lanes &= any_off;
    if (!lanes) return scale;

    float this_scale[VF_LANES];
    int32_t code[MAX_SUB / 4][VF_LANES], in_lane[VF_LANES];
    vf qx, q2;
    vf_store(this_scale, scale);
    search_round(rule, s, 1.0f / scale, false, code);
    for (size_t g = 0; g < n_groups(rule); g++) {
        const uint32_t again = rule.refit == THOSE_OFF ? lanes & off[g] : lanes;
        search_snap(rule, table, s, g, this_scale, again, code[g]);
        for (size_t k = 0; k < VF_LANES; k++)
            if (again >> k & 1) best[g][k] = code[g][k];
    }
    search_sums(rule, s, best, &qx, &q2);
    for (size_t k = 0; k < VF_LANES; k++) in_lane[k] = lanes >> k & 1;
    const vm taken = vm_and(vi_eq(vi_load(in_lane), vi_set1(1)), vf_gt(q2, zero));
    return vf_select(taken, qx / q2, scale);
}

/* n_lanes sub-blocks from sub-block `sub` of the batch on. */
INLINE void search_sub_blocks(const search_rule rule, const neighbour_table *table, search_batch *batch, size_t sub,
                              size_t n_lanes, search_lanes *s) {
    const vf zero = vf_set1(0.0f);
    vf scale = s->max / (float)(2 * rule.levels - 1), span = s->max;
    vm is_nothing = s->is_nothing;
    if (rule.first_guess) {
        scale = search_first_scale(rule, s, span);
        span = scale * (float)rule.levels;
        is_nothing = vm_or(is_nothing, vf_le(span, zero));
    }
    const uint32_t lanes = vm_bits(vm_not(is_nothing)) & (uint32_t)((1ull << n_lanes) - 1);
    int32_t code[MAX_SUB / 4][VF_LANES];
    uint32_t off[MAX_SUB / 4];
    scale = search_tries(rule, table, s, scale, span, lanes, code, off);
    scale = search_refit(rule, table, s, scale, lanes, code, off);

    const vm minus = vf_lt(scale, zero);
    for (size_t k = 0; k < VF_LANES; k++) batch->is_nothing[sub + k] = !(lanes >> k & 1);
    vf_store(batch->scale + sub, vf_select(is_nothing, zero, vf_select(minus, vf_negate(scale), scale)));
    for (size_t g = 0; g < rule.n / 8; g++) {
        const int all = rule.even_signs ? 127 : 255;
        const vi signs = s->signs[g] ^ vi_select(minus, vi_set1(all), vi_set1(0));
        int32_t out[VF_LANES];
        vi_store(out, vi_select(is_nothing, vi_set1(0), signs));
        for (size_t k = 0; k < VF_LANES; k++) batch->signs[(sub + k) * rule.n / 8 + g] = (uint8_t)out[k];
    }
    for (size_t g = 0; g < n_groups(rule); g++)
        for (size_t k = 0; k < VF_LANES; k++)
            batch->point[(sub + k) * n_groups(rule) + g] =
                lanes >> k & 1 ? (uint16_t)(table->where[code[g][k]] >> 8) : 0;
}

/* batch->n_blocks super-blocks from block `at` of the rows on. */
INLINE void search_blocks(const search_rule rule, const neighbour_table *table, search_batch *batch, const float *x,
                          size_t at, size_t n_cols, const float *importance) {
    const size_t n_subs = QK_K / rule.n * batch->n_blocks;
    x += at * QK_K;
    search_sigma2(rule, batch, x);
    for (size_t sub = 0; sub < n_subs; sub += VF_LANES) {
        const size_t n_lanes = n_subs - sub < VF_LANES ? n_subs - sub : VF_LANES;
        float sigma2[VF_LANES];
        for (size_t k = 0; k < VF_LANES; k++) sigma2[k] = batch->sigma2[(sub + k) * rule.n / QK_K % VF_LANES];
        search_lanes s;
        search_load(rule, &s, x + sub * rule.n, n_lanes, vf_load(sigma2), importance,
                    (at * QK_K + sub * rule.n) % n_cols, n_cols);
        search_sub_blocks(rule, table, batch, sub, n_lanes, &s);
    }
}

/* What a batch stores besides points and signs. */
typedef struct {
    uint16_t d[VF_LANES]; /* float16 */
    uint8_t scales[VF_LANES][MAX_SUBS];
    int32_t is_nothing[VF_LANES]; /* all scales are 0 */
} search_stored;

/* Sub-blocks' scales as integers 0..15: scale ~ d * (2 * integer + 1). `factor` is of the stored d. */
INLINE void search_scales(const search_rule rule, const search_batch *batch, float factor, search_stored *stored) {
    const size_t n = QK_K / rule.n;
    const vf zero = vf_set1(0.0f);
    vf scale[MAX_SUBS], largest = zero;
    blocks_load_f32(batch->scale, n, VF_LANES, n, scale);
    for (size_t j = 0; j < n; j++) largest = vf_max(largest, scale[j]);
    const vm is_nothing = vf_eq(largest, zero);
    const vf step = largest / 31.0f, inverse = 1.0f / step;
    int32_t out[VF_LANES];
    vi_store(stored->is_nothing, vi_select(is_nothing, vi_set1(1), vi_set1(0)));
    vi_store(out, vi_select(is_nothing, vi_set1(0), vi_f16_of_scale(step * factor)));
    for (size_t k = 0; k < VF_LANES; k++) stored->d[k] = (uint16_t)out[k];
    for (size_t j = 0; j < n; j++) {
        const vi l = vi_max(vi_min(vi_round_magic(0.5f * (inverse * scale[j] - 1.0f)), vi_set1(15)), vi_set1(0));
        vi_store(out, vi_select(is_nothing, vi_set1(0), l));
        for (size_t k = 0; k < VF_LANES; k++) stored->scales[k][j] = (uint8_t)out[k];
    }
}

/* <name>_quantize, from <name>_rule, <name>_block and <name>_pack. */
#define SEARCH_QUANTIZE(name, factor)                                                                                  \
    void MF_LEVEL(name##_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols,                           \
                                   const float *importance) {                                                          \
        const size_t n_blocks = n_rows * n_cols / QK_K;                                                                \
        const neighbour_table table = MF_LEVEL(lattice_neighbours)(name##_rule.id);                                    \
        name##_block *block = (name##_block *)(void *)y;                                                               \
        for (size_t at = 0; at < n_blocks; at += VF_LANES) {                                                           \
            search_batch batch = {.n_blocks = n_blocks - at < VF_LANES ? n_blocks - at : VF_LANES};                    \
            search_stored stored;                                                                                      \
            search_blocks(name##_rule, &table, &batch, x, at, n_cols, importance);                                     \
            search_scales(name##_rule, &batch, factor, &stored);                                                       \
            for (size_t k = 0; k < batch.n_blocks; k++) name##_pack(&batch, &stored, k, block + at + k);               \
        }                                                                                                              \
    }

#endif
