/* One and two bits: q1_0, x = +d or -d; q2_0, x = d * (code - 1), code 0..3. A block per lane.
 * Source: ggml quantize_row_q1_0_ref, quantize_row_q2_0_ref and their inverses. */
#include "../half.h"
#include "../level.h"
#include "refine.h"

enum { QK1_0 = 128, QK2_0 = 64 };

typedef struct {
    uint8_t d[2]; /* float16 */
    uint8_t signs[QK1_0 / 8];
} q1_0_block;

typedef struct {
    uint8_t d[2]; /* float16 */
    uint8_t codes[QK2_0 / 4];
} q2_0_block;

_Static_assert(sizeof(q1_0_block) == 18, "block_q1_0 of ggml-common.h");
_Static_assert(sizeof(q2_0_block) == 18, "block_q2_0 of ggml-common.h");

/* d is the mean magnitude, summed element after element. */
void MF_LEVEL(q1_0_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    (void)importance;
    const size_t n_blocks = n_rows * n_cols / QK1_0;
    for (size_t at = 0; at < n_blocks; at += VF_LANES) {
        const size_t n = n_blocks - at < VF_LANES ? n_blocks - at : VF_LANES;
        q1_0_block *block = (q1_0_block *)(void *)y + at;
        vf sum = vf_set1(0.0f);
        vi word[4];
        for (size_t part = 0; part < 4; part++) {
            vf v[32];
            blocks_load_f32(x + at * QK1_0 + 32 * part, QK1_0, n, 32, v);
            word[part] = vi_set1(0);
            for (size_t j = 0; j < 32; j++) {
                sum += vf_abs(v[j]);
                const vi bit = vi_set1((int32_t)(1u << j));
                word[part] |= vi_select(vf_ge(v[j], vf_set1(0.0f)), bit, vi_set1(0));
            }
        }
        blocks_store_2(vi_f16_from_vf(sum / (float)QK1_0), block->d, sizeof *block, n);
        blocks_store_16(word, block->signs, sizeof *block, n);
    }
}

/* Signs cannot be bettered, d can. */
void MF_LEVEL(q1_0_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {
    const refine_rule rule = {.grid = GRID_SIGNS, .n_subs = 1, .n = QK1_0};
    q1_0_block *block = (q1_0_block *)(void *)y;
    vf v[QK1_0], w[QK1_0];
    refine_state state = {.d = vf_from_f16(blocks_load_2(block->d, sizeof *block, n))};
    blocks_load_f32(x, QK1_0, n, QK1_0, v);
    blocks_load_f32(weights, QK1_0, n, QK1_0, w);
    refine_units(rule, v, w, &state);
    blocks_store_2(vi_f16_from_vf(state.d), block->d, sizeof *block, n);
}

void MF_LEVEL(q1_0_dequantize)(const uint8_t *y, float *x, size_t n) {
    static const int32_t bit_of_lane[16] = {1,   2,   4,    8,    16,   32,   64,    128,
                                            256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
    const vi bits = vi_load(bit_of_lane);
    const q1_0_block *block = (const q1_0_block *)(const void *)y;
    for (size_t i = 0; i < n / QK1_0; i++, block++) {
        const vf d = vf_set1(mf_load_f16(block->d)), minus_d = vf_negate(d);
        for (size_t j = 0; j < QK1_0; j += VF_LANES) {
            uint16_t signs;
            memcpy(&signs, block->signs + j / 16 * 2, 2);
            const vm is_zero = vi_eq(vi_set1(signs >> j % 16) & bits, vi_set1(0));
            vf_store(x + i * QK1_0 + j, vf_select(is_zero, minus_d, d));
        }
    }
}

/* d is the largest magnitude; codes of what 1 / d cannot express, a subnormal d, are 0. */
void MF_LEVEL(q2_0_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    (void)importance;
    const size_t n_blocks = n_rows * n_cols / QK2_0;
    for (size_t at = 0; at < n_blocks; at += VF_LANES) {
        const size_t n = n_blocks - at < VF_LANES ? n_blocks - at : VF_LANES;
        q2_0_block *block = (q2_0_block *)(void *)y + at;
        vf v[QK2_0];
        blocks_load_f32(x + at * QK2_0, QK2_0, n, QK2_0, v);
        const vf zero = vf_set1(0.0f);
        vf d = zero;
        for (size_t j = 0; j < QK2_0; j++) d = vf_max(d, vf_abs(v[j]));
        const vf inverse = vf_select(vf_gt(d, zero), 1.0f / d, zero);
        vi word[4];
        for (size_t j = 0; j < QK2_0; j++) {
            const vi code = vi_min(vi_max(vi_round_away(v[j] * inverse) + 1, vi_set1(0)), vi_set1(3));
            word[j / 16] = j % 16 ? word[j / 16] | code << (int)(2 * (j % 16)) : code;
        }
        blocks_store_2(vi_f16_from_vf(d), block->d, sizeof *block, n);
        blocks_store_16(word, block->codes, sizeof *block, n);
    }
}

/* Code 3, twice d, is what makes the difference. */
void MF_LEVEL(q2_0_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {
    const refine_rule rule = {.low = -1, .high = 2, .n_subs = 1, .n = QK2_0, .either_sign = true};
    q2_0_block *block = (q2_0_block *)(void *)y;
    uint8_t codes[VF_LANES * QK2_0];
    vf v[QK2_0], w[QK2_0];
    refine_state state = {.d = vf_from_f16(blocks_load_2(block->d, sizeof *block, n))};
    blocks_load_f32(x, QK2_0, n, QK2_0, v);
    blocks_load_f32(weights, QK2_0, n, QK2_0, w);
    refine_unit(rule, 1.0f, 0.125f, 24, v, w, &state);
    state.scale[0] = vf_set1(1.0f);
    refine_codes(rule, v, &state, codes);
    blocks_store_2(vi_f16_from_vf(state.d), block->d, sizeof *block, n);
    for (size_t k = 0; k < n; k++)
        for (size_t j = 0; j < QK2_0 / 4; j++) {
            const uint8_t *q = codes + k * QK2_0 + 4 * j;
            block[k].codes[j] = (uint8_t)(q[0] | q[1] << 2 | q[2] << 4 | q[3] << 6);
        }
}

void MF_LEVEL(q2_0_dequantize)(const uint8_t *y, float *x, size_t n) {
    const q2_0_block *block = (const q2_0_block *)(const void *)y;
    for (size_t i = 0; i < n / QK2_0; i++, block++) {
        const float d = mf_load_f16(block->d);
        uint8_t codes[QK2_0];
        for (size_t j = 0; j < QK2_0 / 4; j++) { /* four codes of a byte to four bytes */
            const uint32_t byte = block->codes[j];
            const uint32_t four = (byte | byte << 6 | byte << 12 | byte << 18) & 0x03030303;
            memcpy(codes + 4 * j, &four, sizeof four);
        }
        for (size_t j = 0; j < QK2_0; j += VF_LANES)
            vf_store(x + i * QK2_0 + j, vf_from_vi(vi_load_u8(codes + j) - 1) * d);
    }
}
