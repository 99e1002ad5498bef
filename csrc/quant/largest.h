/* The largest magnitude of a row of values, for block types whose blocks are long enough to be worked along the row. */
#ifndef MF_LARGEST_H
#define MF_LARGEST_H

#include "../vec.h"

/* n: a multiple of 4 * VF_LANES. Finite values: the order in which a maximum is taken does not matter. */
static inline float largest_magnitude(const float *x, size_t n) {
    vf largest[4];
    for (size_t u = 0; u < 4; u++) largest[u] = vf_set1(0.0f);
    for (size_t j = 0; j < n; j += 4 * VF_LANES)
        for (size_t u = 0; u < 4; u++) largest[u] = vf_max(largest[u], vf_abs(vf_load(x + j + u * VF_LANES)));
    float lanes[VF_LANES];
    vf_store(lanes, vf_max(vf_max(largest[0], largest[1]), vf_max(largest[2], largest[3])));
    for (size_t half = VF_LANES / 2; half; half /= 2)
        for (size_t k = 0; k < half; k++) lanes[k] = lanes[k] > lanes[k + half] ? lanes[k] : lanes[k + half];
    return lanes[0];
}

#endif
