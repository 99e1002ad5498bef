/* The lattices behind IQ1, IQ2 and IQ3: a block names points of a lattice, each 8 (4 for IQ3) small non-negative
 * levels.
 *
 * A lattice is a fixed choice of points out of all levels^dims, numbered in the order of their codes; a code is the
 * levels side by side, 2 (IQ3: 3) bits each, the first lowest. lattice.c has one bit for every possible point and makes
 * the tables below from that on first use, once, whatever thread asks.
 * Source: ggml-quants.c iq2xs_init_impl, iq3xs_init_impl. */
#ifndef MF_LATTICE_H
#define MF_LATTICE_H

#include "../level.h"
#include "../vec.h"

typedef enum { LATTICE_2XXS, LATTICE_2XS, LATTICE_2S, LATTICE_1, LATTICE_3XXS, LATTICE_3S, N_LATTICES } lattice_id;

/* The values of all points, as dequantize wants them: dims int8 for each; those of IQ1 eight times the levels less 1/8.
 */
const int8_t *MF_LEVEL(lattice_values)(lattice_id id);

/* Eight bytes for each combination of eight signs, a minus is 255, a plus 0. Where seven are stored the eighth makes
 * the number of minuses even: for those, the eight bytes of each seven. */
typedef struct {
    uint64_t eight[256], seven[128];
} lattice_sign_bytes;

const lattice_sign_bytes *MF_LEVEL(lattice_signs)(void);

/* What quantize wants. For the code of any possible point, where[code] is
 *   point << 8                the code's point is in the lattice, or
 *   first << 8 | n            it is not: its neighbours are the n vectors of VF_LANES from vector `first` on.
 * Neighbours are the points of the nearest one, two or three distances, by distance and then by number; the last vector
 * is filled up with the first neighbour. lookups has what find_neighbour needs of each, codes their codes. */
typedef struct {
    const uint32_t *where;
    const int32_t *lookups;
    const uint16_t *codes;
} neighbour_table;

neighbour_table MF_LEVEL(lattice_neighbours)(lattice_id id);

/* What a search over all points wants: those with second half h at begins[h] .. begins[h + 1] - 1, an even number of
 * them, the last one twice if need be. A half's number has its levels for digits, to the base of how many levels there
 * are, the first lowest. */
typedef struct {
    const uint16_t *begins; /* MAX_HALVES + 1 */
    const uint16_t *first;  /* the number of each one's first half, times sizeof(vf) */
    const int32_t *points;  /* the points themselves */
    const int32_t *levels;  /* their levels, a nibble for each dimension, the first lowest */
} lattice_halves;

enum { MAX_HALVES = 81 };

lattice_halves MF_LEVEL(lattice_halves)(lattice_id id);

#endif
