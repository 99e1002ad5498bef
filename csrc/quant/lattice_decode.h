/* What the dequantizers of IQ1, IQ2 and IQ3 share: points of a lattice, sixteen levels at a time, to values. */
#ifndef MF_LATTICE_DECODE_H
#define MF_LATTICE_DECODE_H

#include "lattice.h"
#include "sixteen.h"

/* x[j] = +-(scale * values[j]), minus where signs, two of lattice_signs, are all ones. No value is 0. */
static inline void store_signed(float scale, vb values, uint64_t first_signs, uint64_t second_signs, float *x) {
    const vb signs = vb_pair(first_signs, second_signs);
    store_scaled(scale, (values ^ signs) - signs, x);
}

#endif
