/* What Q3_K and Q6_K share: super-blocks of 256 values in 16 sub-blocks of 16, one float16 scale d for all, an integer
 * scale for each. First every sub-block gets the float scale that suits it, then the super-block chooses d and the
 * integers, then the values are rounded once more, to the scale that was really stored.
 *
 * A batch is VF_LANES super-blocks, so always 16 groups of VF_LANES sub-blocks. In the first and last step a lane is a
 * sub-block and no lane is ever idle; in the middle a lane is a super-block. */
#ifndef MF_K_SYMMETRIC_H
#define MF_K_SYMMETRIC_H

#include "symmetric.h"

enum { QK_K = 256, SUB = 16, N_SUBS = QK_K / SUB, GROUPS = N_SUBS };

typedef struct {
    size_t n_blocks, n_groups;      /* 1..VF_LANES, n_blocks * N_SUBS / VF_LANES */
    vf x[GROUPS][SUB];              /* values, a lane is a sub-block */
    vi codes[GROUPS][SUB / 4];      /* those of the search, which stay where a stored scale is 0 */
    float scale[VF_LANES][N_SUBS];  /* of every sub-block: the search's, */
    float weight[VF_LANES][N_SUBS]; /* its importance (Q3_K only), */
    float stored[VF_LANES][N_SUBS]; /* and what the block will say */
} k_batch;

SYM_INLINE void k_batch_load(k_batch *batch, const float *x, size_t n_blocks) {
    batch->n_blocks = n_blocks;
    batch->n_groups = n_blocks * N_SUBS / VF_LANES;
    for (size_t g = 0; g < batch->n_groups; g++)
        blocks_load_f32(x + g * VF_LANES * SUB, SUB, VF_LANES, SUB, batch->x[g]);
}

/* Super-block `block` of the batch, rounded to its stored scales: 256 codes in order. */
SYM_INLINE void k_batch_round(const k_batch *batch, size_t block, int n_levels, uint8_t *codes) {
    for (size_t g = block * N_SUBS / VF_LANES; g < (block + 1) * N_SUBS / VF_LANES; g++) {
        const vf d = vf_load(&batch->stored[0][0] + g * VF_LANES);
        const vm keep = vf_eq(d, vf_set1(0.0f));
        vi words[SUB / 4];
        for (size_t j = 0; j < SUB; j += 4) {
            vf l[4];
            for (size_t k = 0; k < 4; k++) l[k] = sym_level_of_any(batch->x[g][j + k] / d, (float)n_levels);
            words[j / 4] = sym_pack4(l, n_levels);
        }
        if (vm_any(keep))
            for (size_t j = 0; j < SUB / 4; j++) words[j] = vi_select(keep, batch->codes[g][j], words[j]);
        blocks_store_16(words, codes, SUB, VF_LANES);
        codes += VF_LANES * SUB;
    }
}

#endif
