/* The search behind IQ1: values are split, in ascending order, into those that become -1, 0 and 1 (each with 1/8 more
 * or less); every split is tried, the one with the least weighted square error is kept, then put onto the lattice. A
 * sub-block per lane. iq1_s has one sign of the 1/8 for its 32 values, iq1_m one for each half of its 16.
 * Source: ggml-quants.c quantize_row_iq1_s_impl, quantize_row_iq1_m_impl, iq1_find_best_neighbour2. */
#ifndef MF_TERNARY_SPLIT_H
#define MF_TERNARY_SPLIT_H

#include "lattice_search.h"

static const float iq1_plus[3] = {-0.875f, 0.125f, 1.125f}, iq1_minus[3] = {-1.125f, -0.125f, 0.875f};

typedef struct {
    vm is_used; /* else the sub-block is all zeros */
    vf scale;
    int32_t code[4][VF_LANES];
    uint32_t minus[4]; /* per point, a bit for each lane */
    vf q0[4];          /* the value of level 0 */
} split;

/* The value that level j of point g stands for. */
INLINE vf split_level(const split *found, size_t g, size_t j) {
    return vf_from_vi(vi_load(found->code[g]) >> (int)(2 * j) & 3) + found->q0[g];
}

/* How many values sort before each, equal ones in their order. */
INLINE void split_ranks(const vf *x, size_t n, vi *rank) {
    for (size_t j = 0; j < n; j++) rank[j] = vi_set1((int32_t)j);
    for (size_t i = 0; i < n; i++)
        for (size_t j = i + 1; j < n; j++) {
            const vi before = vi_select(vf_lt(x[j], x[i]), vi_set1(1), vi_set1(0));
            rank[i] = rank[i] + before;
            rank[j] = rank[j] - before;
        }
}

/* Sums over the first 0..n of the sorted values, of those from first to last. */
INLINE void split_sums(const vf *v, const vi *rank, size_t n, size_t first, size_t last, vf *sums) {
    float sorted[MAX_SUB][VF_LANES];
    memset(sorted, 0, sizeof sorted);
    for (size_t j = first; j < last; j++) {
        float value[VF_LANES];
        int32_t to[VF_LANES];
        vf_store(value, v[j]);
        vi_store(to, rank[j]);
        for (size_t k = 0; k < VF_LANES; k++) sorted[to[k]][k] = value[k];
    }
    sums[0] = vf_set1(0.0f);
    for (size_t j = 0; j < n; j++) sums[j + 1] = sums[j] + vf_load(sorted[j]);
}

typedef struct {
    vf scale, score;
    vi at; /* (first * 64 + second) * 4 + signs; -1: none. signs: bit 0 of the second half, bit 1 of the first */
} split_best;

INLINE void split_try(split_best *best, vf qx, vf q2, int32_t at) {
    const vm better = vm_and(vf_gt(q2, vf_set1(0.0f)), vf_gt(qx * qx, best->score * q2));
    if (!vm_any(better)) return;
    const vf scale = qx / q2;
    best->scale = vf_select(better, scale, best->scale);
    best->score = vf_select(better, scale * qx, best->score);
    best->at = vi_select(better, vi_set1(at), best->at);
}

INLINE void split_one_sign(const search_lanes *s, const vi *rank, size_t n, split_best *best) {
    vf x[MAX_SUB + 1], w[MAX_SUB + 1], last_x[2][MAX_SUB + 1], last_w[2][MAX_SUB + 1];
    const float *const values[2] = {iq1_plus, iq1_minus};
    split_sums(s->wx, rank, n, 0, n, x);
    split_sums(s->w, rank, n, 0, n, w);
    for (size_t u = 0; u < 2; u++)
        for (size_t i = 0; i <= n; i++) {
            last_x[u][i] = (x[n] - x[i]) * values[u][2];
            last_w[u][i] = (w[n] - w[i]) * values[u][2] * values[u][2];
        }
    for (size_t i = 0; i <= n; i++) {
        vf first_x[2], first_w[2];
        for (size_t u = 0; u < 2; u++) {
            first_x[u] = x[i] * values[u][0];
            first_w[u] = w[i] * values[u][0] * values[u][0];
        }
        for (size_t j = i; j <= n; j++)
            for (size_t u = 0; u < 2; u++) {
                const float middle = values[u][1];
                const vf qx = first_x[u] + (x[j] - x[i]) * middle + last_x[u][j];
                const vf q2 = first_w[u] + (w[j] - w[i]) * middle * middle + last_w[u][j];
                split_try(best, qx, q2, (int32_t)((i * 64 + j) * 4 + u * 3));
            }
    }
}

INLINE void split_two_signs(const search_lanes *s, const vi *rank, size_t n, split_best *best) {
    vf x[2][MAX_SUB + 1], w[2][MAX_SUB + 1];
    const float *const values[2] = {iq1_plus, iq1_minus};
    for (size_t h = 0; h < 2; h++) {
        split_sums(s->wx, rank, n, h * n / 2, (h + 1) * n / 2, x[h]);
        split_sums(s->w, rank, n, h * n / 2, (h + 1) * n / 2, w[h]);
    }
    for (size_t i = 0; i <= n; i++)
        for (size_t j = i; j <= n; j++) {
            vf qx[2][2], q2[2][2];
            for (size_t h = 0; h < 2; h++) {
                const vf both = x[h][i] + x[h][j];
                for (size_t u = 0; u < 2; u++) {
                    const float *v = values[u];
                    const float lower = v[0] * v[0] - v[1] * v[1], upper = v[1] * v[1] - v[2] * v[2];
                    qx[h][u] = x[h][n] * v[2] - both;
                    q2[h][u] = w[h][n] * v[2] * v[2] + w[h][i] * lower + w[h][j] * upper;
                }
            }
            for (size_t k = 0; k < 4; k++)
                split_try(best, qx[0][k >> 1] + qx[1][k & 1], q2[0][k >> 1] + q2[1][k & 1],
                          (int32_t)((i * 64 + j) * 4 + k));
        }
}

/* Onto the lattice; then the scale that suits, of the lanes where that changed something. */
INLINE void split_snap(const search_rule rule, const neighbour_table *table, search_lanes *s, uint32_t lanes,
                       split *found) {
    float scale[VF_LANES];
    uint32_t off = 0;
    blocks_store_f32(s->x, rule.n, s->x_rows, rule.n, VF_LANES);
    blocks_store_f32(s->w, rule.n, s->root_rows, rule.n, VF_LANES);
    vf_store(scale, found->scale);
    for (size_t g = 0; g < rule.n / 8; g++)
        for (uint32_t left = lanes; left; left &= left - 1) {
            const size_t k = (size_t)__builtin_ctz(left), begin = k * rule.n + 8 * g;
            const uint32_t where = table->where[found->code[g][k]];
            if (!(where & 255)) continue;
            const level_values values = {1.0f, found->minus[g] >> k & 1 ? iq1_minus[0] : iq1_plus[0]};
            found->code[g][k] =
                (int32_t)find_neighbour(table, where, 4, values, s->x_rows + begin, s->root_rows + begin, scale[k]);
            off |= 1u << k;
        }
    if (!off) return;
    const vf zero = vf_set1(0.0f);
    vf qx = zero, q2 = zero;
    for (size_t g = 0; g < rule.n / 8; g++)
        for (size_t j = 0; j < 8; j++) {
            const vf q = split_level(found, g, j), wq = s->w[8 * g + j] * q;
            qx = qx + wq * s->x[8 * g + j];
            q2 = q2 + wq * q;
        }
    int32_t is_off[VF_LANES];
    for (size_t k = 0; k < VF_LANES; k++) is_off[k] = off >> k & 1;
    const vm taken = vm_and(vi_eq(vi_load(is_off), vi_set1(1)), vm_and(vf_gt(qx, zero), vf_gt(q2, zero)));
    found->scale = vf_select(taken, qx / q2, found->scale);
}

/* s->x and s->w of n_lanes sub-blocks to scales and points. */
INLINE void split_search(const search_rule rule, const neighbour_table *table, search_lanes *s, size_t n_lanes,
                         split *found) {
    const vf zero = vf_set1(0.0f);
    vf max = zero;
    vi rank[MAX_SUB];
    for (size_t j = 0; j < rule.n; j++) {
        max = vf_max(max, vf_abs(s->x[j]));
        s->wx[j] = s->w[j] * s->x[j];
    }
    split_ranks(s->x, rule.n, rank);
    split_best best = {max, vf_set1(-FLT_MAX), vi_set1(-1)};
    if (rule.n == 32)
        split_one_sign(s, rank, rule.n, &best);
    else
        split_two_signs(s, rank, rule.n, &best);

    found->is_used = vm_and(vm_not(vf_lt(max, vf_set1(rule.nothing))), vi_gt(best.at, vi_set1(-1)));
    const vm negative = vf_lt(best.scale, zero);
    found->scale = vf_select(negative, vf_negate(best.scale), best.scale);
    const vi first = best.at >> 8, second = best.at >> 2 & 63;
    const vi signs = best.at ^ vi_select(negative, vi_set1(3), vi_set1(0));
    for (size_t g = 0; g < rule.n / 8; g++) {
        vi code = vi_set1(0);
        for (size_t j = 0; j < 8; j++) {
            const vi at = rank[8 * g + j];
            vi level = vi_select(vi_lt(at, second), vi_set1(1), vi_set1(2));
            level = vi_select(vi_lt(at, first), vi_set1(0), level);
            level = vi_select(negative, 2 - level, level);
            code = code | level << (int)(2 * j);
        }
        const int bit = g == 0 ? 2 : 1;
        const vm minus = vi_eq(signs & bit, vi_set1(bit));
        vi_store(found->code[g], code);
        found->minus[g] = vm_bits(minus);
        found->q0[g] = vf_select(minus, vf_set1(iq1_minus[0]), vf_set1(iq1_plus[0]));
    }
    const uint32_t lanes = vm_bits(found->is_used) & (uint32_t)((1ull << n_lanes) - 1);
    split_snap(rule, table, s, lanes, found);
}

#endif
