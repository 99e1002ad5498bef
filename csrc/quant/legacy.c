/* The first generation of ggml's block types: 32 values, one float16 scale. */
#include "../half.h"
#include "../level.h"

enum { QK8_0 = 32 };

typedef struct {
    uint8_t d[2]; /* float16 */
    int8_t codes[QK8_0];
} q8_0_block;

_Static_assert(sizeof(q8_0_block) == 34, "block_q8_0 of ggml-common.h");

/* q8_0: d = absmax / 127 in float32, code = roundf(x * (1 / d)), halves away from zero; d is stored as float16, so the
 * codes belong to the unrounded d. x = d * code. Source: ggml quantize_row_q8_0_ref, dequantize_row_q8_0. */
void MF_LEVEL(q8_0_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    (void)importance;
    const size_t n_blocks = n_rows * n_cols / QK8_0;
    for (size_t at = 0; at < n_blocks; at += VF_LANES) {
        const size_t n = n_blocks - at < VF_LANES ? n_blocks - at : VF_LANES;
        q8_0_block *block = (q8_0_block *)(void *)(y + at * sizeof *block);
        vf v[QK8_0];
        blocks_load_f32(x + at * QK8_0, QK8_0, n, QK8_0, v);

        vf largest = vf_set1(0.0f);
        for (size_t j = 0; j < QK8_0; j++) largest = vf_max(largest, vf_abs(v[j]));
        const vf d = largest / 127.0f;
        const vf zero = vf_set1(0.0f);
        const vf inverse = vf_select(vf_eq(d, zero), zero, 1.0f / d);

        vi word[QK8_0 / 4];
        for (size_t j = 0; j < QK8_0 / 4; j++) {
            const vf *four = v + 4 * j;
            word[j] = vi_pack4(vi_round_away(four[0] * inverse), vi_round_away(four[1] * inverse),
                               vi_round_away(four[2] * inverse), vi_round_away(four[3] * inverse));
        }
        blocks_store_2(vi_f16_from_vf(d), block->d, sizeof *block, n);
        blocks_store_16(word, (uint8_t *)block->codes, sizeof *block, n);
        blocks_store_16(word + 4, (uint8_t *)block->codes + 16, sizeof *block, n);
    }
}

void MF_LEVEL(q8_0_dequantize)(const uint8_t *y, float *x, size_t n) {
    const q8_0_block *block = (const q8_0_block *)(const void *)y;
    for (size_t i = 0; i < n / QK8_0; i++) {
        const vf d = vf_set1(mf_load_f16(block[i].d));
        for (size_t j = 0; j < QK8_0; j += VF_LANES)
            vf_store(x + i * QK8_0 + j, d * vf_from_vi(vi_load_i8(block[i].codes + j)));
    }
}
