/* The 16 unevenly spaced numbers of IQ4_NL and IQ4_XS, and the nearest of them.
 *
 * ggml's best_index_int8 compares the distances to two neighbours; next to the middle between them, where it counts,
 * those differences are exact, so its answer is the number of middles that are <= v, 15 for NaN. Three ways to count
 * them, for the shuffles that an instruction set has. */
#ifndef MF_IQ4_GRID_H
#define MF_IQ4_GRID_H

#include "table16.h"

static const float iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/* Code i begins at iq4_middles[i]; that of code 0 is not used. */
static const float iq4_middles[16] = {0,     -115.5f, -93.5f, -74.0f, -57.0f, -42.0f, -28.5f, -16.0f,
                                      -4.5f, 7.0f,    19.0f,  31.5f,  45.5f,  61.0f,  79.0f,  101.0f};

/* The code of the number nearest to any v, infinite and NaN included. */
static inline vi iq4_code(vf v) {
#if VF_LANES == 4
    vi code = vi_set1(15);
    for (size_t i = 1; i < 16; i++) code += (vi)vf_lt(v, vf_set1(iq4_middles[i]));
    return code;
#else
    const table16 middles = table16_of(iq4_middles);
    vi code = vi_set1(0);
    for (int step = 8; step; step /= 2) {
        const vi next = code | step;
        code = vi_select(vf_lt(v, table16_at(middles, next)), code, next);
    }
    return code;
#endif
}

/* The number nearest to v, |v| < 135. */
#if VF_LANES == 16
/* Cells of 1 / 0.11 around the multiples of it: none holds more than one middle, no middle is near an edge. A cell's
 * number counts from 0 up, then from -16 up: the low five bits of the rounded quotient. */
static const float iq4_cell_middle[32] = {-4.5f,  7, 19,     31.5f, 0,      45.5f,  0, 61,     0,       79, 0,
                                          101,    0, 0,      0,     0,      0,      0, 0,      -115.5f, 0,  0,
                                          -93.5f, 0, -74.0f, 0,     -57.0f, -42.0f, 0, -28.5f, -16,     0};
static const float iq4_cell_below[32] = {-10,  1,   13,  25,  38,  38,   53,   53,   69,   69,   89,
                                         89,   113, 113, 113, 113, -127, -127, -127, -127, -104, -104,
                                         -104, -83, -83, -65, -65, -49,  -35,  -35,  -22,  -10};
static const float iq4_cell_above[32] = {1,   13,  25,  38,  38,  53,   53,   69,   69,   89,   89,
                                         113, 113, 113, 113, 113, -127, -127, -127, -104, -104, -104,
                                         -83, -83, -65, -65, -49, -35,  -35,  -22,  -10,  -10};

static inline vf iq4_nearest(vf v) {
    const __m512i cell = (__m512i)(v * 0.11f + 12582912.0f);
    const __m512 middle =
        _mm512_permutex2var_ps(_mm512_loadu_ps(iq4_cell_middle), cell, _mm512_loadu_ps(iq4_cell_middle + 16));
    const __m512 below =
        _mm512_permutex2var_ps(_mm512_loadu_ps(iq4_cell_below), cell, _mm512_loadu_ps(iq4_cell_below + 16));
    const __m512 above =
        _mm512_permutex2var_ps(_mm512_loadu_ps(iq4_cell_above), cell, _mm512_loadu_ps(iq4_cell_above + 16));
    return vf_select(vf_lt(v, (vf)middle), (vf)below, (vf)above);
}
#elif VF_LANES == 8
static const float iq4_even_values[8] = {-127, -83, -49, -22, 1, 25, 53, 89};
static const float iq4_odd_values[8] = {-104, -65, -35, -10, 13, 38, 69, 113};
static const float iq4_odd_middles[8] = {-115.5f, -74.0f, -42.0f, -16.0f, 7.0f, 31.5f, 61.0f, 101.0f};

static inline vf iq4_nearest(vf v) {
    const vm in_low_half = vf_lt(v, vf_set1(-4.5f)); /* four questions, four bits of the code */
    const vm in_low_quarter = vf_lt(v, vf_select(in_low_half, vf_set1(-57.0f), vf_set1(45.5f)));
    const vf low = vf_select(in_low_quarter, vf_set1(-93.5f), vf_set1(-28.5f));
    const vf high = vf_select(in_low_quarter, vf_set1(19.0f), vf_set1(79.0f));
    const vm in_low_eighth = vf_lt(v, vf_select(in_low_half, low, high));
    const __m256i eighth = (__m256i)(7 - (in_low_half & 4) - (in_low_quarter & 2) - (in_low_eighth & 1));
    const __m256 middle = _mm256_permutevar8x32_ps(_mm256_loadu_ps(iq4_odd_middles), eighth);
    const __m256 even = _mm256_permutevar8x32_ps(_mm256_loadu_ps(iq4_even_values), eighth);
    const __m256 odd = _mm256_permutevar8x32_ps(_mm256_loadu_ps(iq4_odd_values), eighth);
    return vf_select(vf_lt(v, (vf)middle), (vf)even, (vf)odd);
}
#else
static inline vf iq4_nearest(vf v) { return vf_lookup(iq4_values, iq4_code(v)); }
#endif

#endif
