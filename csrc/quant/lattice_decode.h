/* What the dequantizers of IQ1, IQ2 and IQ3 share: levels in bytes, signs in bits, to values. */
#ifndef MF_LATTICE_DECODE_H
#define MF_LATTICE_DECODE_H

#include "../half.h"
#include "lattice.h"

/* Seven signs are stored, the eighth makes the number of minuses even. */
static inline uint32_t even_signs(uint32_t seven) {
    uint32_t odd = seven ^ seven >> 4;
    odd ^= odd >> 2;
    return seven | ((odd ^ odd >> 1) & 1) << 7;
}

static inline uint32_t even_signs_4(uint32_t stored) {
    uint32_t signs = 0;
    for (int l = 0; l < 4; l++) signs |= even_signs(stored >> 7 * l & 127) << 8 * l;
    return signs;
}

static inline vi lane_numbers(void) {
    static const int32_t order[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return vi_load(order);
}

/* x[j] = +-(scale * values[j]), minus where bit j of signs is set. n: 16 or 32. */
static inline void store_signed(float scale, const int8_t *values, uint32_t signs, size_t n, float *x) {
    const vi to_top = 31 - lane_numbers();
    for (size_t j = 0; j < n; j += VF_LANES) {
        const vi minus = (vi_set1((int32_t)(signs >> j)) << to_top) & INT32_MIN;
        vf_store(x + j, (vf)((vi)(vf_set1(scale) * vf_from_vi(vi_load_i8(values + j))) ^ minus));
    }
}

#endif
