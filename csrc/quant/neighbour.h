/* The nearest of a point's neighbours: the first with the least sum of w * (scale * q - x)^2 over the dimensions, where
 * level l stands for q = slope * l + q0 (exactly).
 *
 * Neighbours are in the lanes, so every distance is summed in the reference's order. What a dimension adds has only as
 * many values as there are levels, 32 for all dimensions: they are worked out first and looked up by each neighbour, a
 * nibble of its lookup for every dimension. Source: ggml-quants.c iq2_find_best_neighbour and its kin. */
#ifndef MF_NEIGHBOUR_H
#define MF_NEIGHBOUR_H

#include "lattice.h"

#include <float.h>

#define INLINE static inline __attribute__((always_inline))

/* dims * levels of the lookups: 8 * 4 or 4 * 8. */
enum { N_TERMS = 32 };

typedef struct {
    float slope, q0;
} level_values;

#if VF_LANES >= 8
typedef struct {
    vf at[N_TERMS / VF_LANES];
} terms;

/* Eight floats at p, each `levels` times over, from term `begin` on. */
INLINE vf terms_spread(const float *p, int levels, int begin) {
    int32_t index[VF_LANES];
    for (int k = 0; k < VF_LANES; k++) index[k] = (begin + k) / levels;
#if VF_LANES == 16
    return (vf)_mm512_permutexvar_ps((__m512i)vi_load(index), _mm512_castps256_ps512(_mm256_loadu_ps(p)));
#else
    return (vf)_mm256_permutevar8x32_ps(_mm256_loadu_ps(p), (__m256i)vi_load(index));
#endif
}

INLINE terms terms_of(int levels, level_values values, const float *x, const float *w, float scale) {
    terms t;
    float q[VF_LANES];
    for (int k = 0; k < VF_LANES; k++) q[k] = values.slope * (float)(k % levels) + values.q0;
    const vf scaled = vf_set1(scale) * vf_load(q);
    for (int r = 0; r < N_TERMS / VF_LANES; r++) {
        const vf diff = scaled - terms_spread(x, levels, r * VF_LANES);
        t.at[r] = terms_spread(w, levels, r * VF_LANES) * diff * diff;
    }
    return t;
}

INLINE vf terms_distance(const terms *t, int levels, vi lookups) {
    vf sum = vf_set1(0.0f);
    for (int i = 0; i < N_TERMS / levels; i++) {
        const vf table = t->at[i * levels / VF_LANES];
        const vi index = vi_shift_right_logical(lookups, 4 * i);
#if VF_LANES == 16
        const vf term = (vf)_mm512_permutexvar_ps((__m512i)index, table);
#else
        const vf term = (vf)_mm256_permutevar8x32_ps(table, (__m256i)index);
#endif
        sum = i == 0 ? term : sum + term;
    }
    return sum;
}
#else
typedef struct {
    level_values values;
    const float *x, *w;
    float scale;
} terms;

INLINE terms terms_of(int levels, level_values values, const float *x, const float *w, float scale) {
    (void)levels;
    return (terms){values, x, w, scale};
}

INLINE vf terms_distance(const terms *t, int levels, vi lookups) {
    vf sum = vf_set1(0.0f);
    for (int i = 0; i < N_TERMS / levels; i++) {
        const vf q = vf_from_vi((lookups >> 4 * i) & (levels - 1)) * t->values.slope + t->values.q0;
        const vf diff = q * t->scale - t->x[i];
        sum = sum + t->w[i] * diff * diff;
    }
    return sum;
}
#endif

INLINE float lanes_least(vf v) {
#if VF_LANES == 16
    return _mm512_reduce_min_ps(v);
#else
    float least = v[0];
    for (int k = 1; k < VF_LANES; k++) least = v[k] < least ? v[k] : least;
    return least;
#endif
}

/* A bit for every lane. */
INLINE uint32_t vm_bits(vm m) {
#if VF_LANES == 16
    return m;
#elif VF_LANES == 8
    return (uint32_t)_mm256_movemask_ps((__m256)m);
#else
    uint32_t bits = 0;
    for (int k = 0; k < VF_LANES; k++) bits |= (uint32_t)(m[k] & 1) << k;
    return bits;
#endif
}

/* The code of the neighbour, for a code of which `where` says that it is not in the lattice. levels: 4 or 8; x and w:
 * one for each dimension, and room to read eight. */
INLINE unsigned find_neighbour(const neighbour_table *table, uint32_t where, int levels, level_values values,
                               const float *x, const float *w, float scale) {
    const size_t first = (where >> 8) * (size_t)VF_LANES, n = where & 255;
    const terms t = terms_of(levels, values, x, w, scale);
    vf best = terms_distance(&t, levels, vi_load(table->lookups + first));
    vi best_at = vi_set1(0);
    best = vf_select(vf_lt(best, vf_set1(FLT_MAX)), best, vf_set1(FLT_MAX));
    for (size_t v = 1; v < n; v++) {
        const vf distance = terms_distance(&t, levels, vi_load(table->lookups + first + v * VF_LANES));
        best_at = vi_select(vf_lt(distance, best), vi_set1((int32_t)v), best_at);
        best = vf_min(distance, best);
    }
    uint32_t lanes = vm_bits(vf_eq(best, vf_set1(lanes_least(best))));
    size_t found = (size_t)__builtin_ctz(lanes);
    if (n > 1) {
        int32_t at[VF_LANES];
        vi_store(at, best_at);
        found += (size_t)at[found] * VF_LANES;
        while (lanes &= lanes - 1) {
            const size_t lane = (size_t)__builtin_ctz(lanes), other = (size_t)at[lane] * VF_LANES + lane;
            found = other < found ? other : found;
        }
    }
    return table->codes[first + found];
}

#endif
