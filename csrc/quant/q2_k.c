/* Q2_K: super-blocks of 256, sixteen sub-blocks of 16, a 4-bit scale and a 4-bit minimum each, float16 units for both:
 * x = d * scale * code - dmin * minimum. Source: ggml block_q2_K, quantize_row_q2_K_ref and _impl (with importance),
 * dequantize_row_q2_K. */
#include "k_fit.h"
#include "refine.h"
#include "sixteen.h"

enum { N_SUB = 16, SUB = QK_K / N_SUB };

typedef struct {
    uint8_t scales[N_SUB]; /* scale in the low half, minimum in the high half */
    uint8_t codes[2][32];  /* byte j of part c: elements 128 c + j + 0, 32, 64, 96, two bits each from the lowest */
    uint8_t d[2], dmin[2]; /* float16 */
} q2_k_block;

_Static_assert(sizeof(q2_k_block) == 84, "block_q2_K of ggml-common.h");

static const k_rule plain = {SUB, 3, -0.5f, 0.1f, 15, .is_absolute = true};
static const k_rule weighted = {SUB, 3, -0.9f, 0.05f, 36, .is_weighted = true};

/* Codes 0..15 in units of max / 15, one super-block per lane; not clamped, as in ggml: a negative scale wraps. */
static vf plain_scales(const vf *x, vi *codes) {
    const vf zero = vf_set1(0.0f);
    vf max = zero;
    for (size_t j = 0; j < N_SUB; j++) max = vf_max(x[j], max);
    const vm some = vf_gt(max, zero);
    const vf inverse = 15.0f / max;
    for (size_t j = 0; j < N_SUB; j++) codes[j] = vi_select(some, vi_round_magic(inverse * x[j]), vi_set1(0));
    return vf_select(some, max / 15.0f, zero);
}

/* Step 2: scales and minima to headers, and what these will mean when they are read back. */
static void store_headers(const k_rule rule, const k_fits *fits, size_t n_blocks, uint8_t *y, k_steps *steps) {
    vf scale[N_SUB], min[N_SUB], weight[N_SUB], d, dmin;
    vi ls[N_SUB], lm[N_SUB], words[N_SUB / 4];
    blocks_load_f32(fits->scale, N_SUB, n_blocks, N_SUB, scale);
    blocks_load_f32(fits->min, N_SUB, n_blocks, N_SUB, min);
    if (rule.is_weighted) {
        blocks_load_f32(fits->weight, N_SUB, n_blocks, N_SUB, weight);
        d = k_fit_scales(N_SUB, 15, scale, weight, ls);
        dmin = k_fit_scales(N_SUB, 15, min, weight, lm);
    } else {
        d = plain_scales(scale, ls);
        dmin = plain_scales(min, lm);
    }
    const vi d16 = k_f16(d), dmin16 = k_f16(dmin);
    for (size_t j = 0; j < N_SUB; j++) {
        const vi both = ls[j] | lm[j] << 4;
        ls[j] = both;
        scale[j] = vf_from_f16(d16) * vf_from_vi(both & 15);
        min[j] = vf_from_f16(dmin16) * vf_from_vi(both >> 4 & 15);
    }
    for (size_t j = 0; j < N_SUB; j += 4) words[j / 4] = vi_pack4(ls[j], ls[j + 1], ls[j + 2], ls[j + 3]);
    blocks_store_16(words, y + offsetof(q2_k_block, scales), sizeof(q2_k_block), n_blocks);
    blocks_store_4(d16 | dmin16 << 16, y + offsetof(q2_k_block, d), sizeof(q2_k_block), n_blocks);
    blocks_store_f32(scale, N_SUB, steps->d, N_SUB, n_blocks);
    blocks_store_f32(min, N_SUB, steps->m, N_SUB, n_blocks);
}

/* Step 3, one super-block. */
INLINE void store_codes(const k_rule rule, const k_fits *fits, const k_steps *steps, size_t block, const float *x,
                        q2_k_block *out) {
    for (size_t c = 0; c < 2; c++) {
        for (size_t j = 0; j < 32; j += VF_LANES) {
            vi byte = vi_set1(0);
            for (size_t k = 0; k < 4; k++) {
                const size_t element = 128 * c + 32 * k + j;
                byte |= k_codes(rule, fits, steps, block * N_SUB + element / SUB, x + element) << (int)(2 * k);
            }
            vi_store_u8(out->codes[c] + j, byte);
        }
    }
}

INLINE void quantize(const k_rule rule, const float *x, q2_k_block *block, size_t n_rows, size_t n_cols,
                     const float *importance) {
    const size_t row_blocks = n_cols / QK_K, n_blocks = n_rows * row_blocks;
    k_fits fits;
    k_steps steps;
    float weights[BATCH * QK_K];
    for (size_t at = 0; at < n_blocks; at += BATCH, x += BATCH * QK_K, block += BATCH) {
        const size_t n = n_blocks - at < BATCH ? n_blocks - at : BATCH;
        if (rule.is_weighted) k_importance_weights(x, importance, at, row_blocks, n, 1.0f, weights);
        k_fit_sub_blocks(rule, x, weights, n, &fits);
        store_headers(rule, &fits, n, block->scales, &steps);
        for (size_t b = 0; b < n; b++) store_codes(rule, &fits, &steps, b, x + b * QK_K, block + b);
    }
}

void MF_LEVEL(q2_k_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    if (importance)
        quantize(weighted, x, (q2_k_block *)(void *)y, n_rows, n_cols, importance);
    else
        quantize(plain, x, (q2_k_block *)(void *)y, n_rows, n_cols, NULL);
}

static const refine_rule better = {GRID_INTEGERS, 0, 3, N_SUB, SUB, 0, 15, 4, false, 15, 3};

void MF_LEVEL(q2_k_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {
    q2_k_block *block = (q2_k_block *)(void *)y;
    vf v[QK_K], w[QK_K];
    vi words[N_SUB / 4], both[N_SUB];
    refine_state state = {0};
    blocks_load_f32(x, QK_K, n, QK_K, v);
    blocks_load_f32(weights, QK_K, n, QK_K, w);
    blocks_load_16(block->scales, sizeof *block, n, words);
    state.d = vf_from_f16(blocks_load_2(block->d, sizeof *block, n));
    state.dmin = vf_from_f16(blocks_load_2(block->dmin, sizeof *block, n));
    for (size_t j = 0; j < N_SUB; j++) {
        const vi byte = words[j / 4] >> (int)(j % 4 * 8);
        state.scale[j] = vf_from_vi(byte & 15);
        state.min[j] = vf_from_vi(byte >> 4 & 15);
    }
    refine_favour_large(better, v, w);
    refine_search(better, v, w, &state);

    uint8_t codes[VF_LANES * QK_K];
    refine_codes(better, v, &state, codes);
    for (size_t j = 0; j < N_SUB; j++) both[j] = vi_trunc(state.scale[j]) | vi_trunc(state.min[j]) << 4;
    for (size_t j = 0; j < N_SUB; j += 4) words[j / 4] = vi_pack4(both[j], both[j + 1], both[j + 2], both[j + 3]);
    blocks_store_16(words, block->scales, sizeof *block, n);
    blocks_store_2(vi_f16_from_vf(state.d), block->d, sizeof *block, n);
    blocks_store_2(vi_f16_from_vf(state.dmin), block->dmin, sizeof *block, n);
    for (size_t k = 0; k < n; k++)
        for (size_t c = 0; c < 2; c++)
            for (size_t j = 0; j < 32; j++) {
                const uint8_t *q = codes + k * QK_K + 128 * c + j;
                block[k].codes[c][j] = (uint8_t)(q[0] | q[32] << 2 | q[64] << 4 | q[96] << 6);
            }
}

void MF_LEVEL(q2_k_dequantize)(const uint8_t *y, float *x, size_t n) {
    const q2_k_block *block = (const q2_k_block *)(const void *)y;
    for (size_t b = 0; b < n / QK_K; b++, block++) {
        float scale[N_SUB], min[N_SUB];
        const vb both = vb_load(block->scales);
        store_scaled(mf_load_f16(block->d), both & 15, scale);
        store_scaled(mf_load_f16(block->dmin), both >> 4, min);
        for (size_t sub = 0; sub < N_SUB; sub++, x += SUB) {
            vi code[VI_PER_VB];
            vi_widen_u8(vb_bits(vb_load(block->codes[sub / 8] + sub % 2 * 16), (int)(sub % 8 / 2 * 2), 3), code);
            for (size_t k = 0; k < VI_PER_VB; k++)
                vf_store(x + k * VF_LANES, scale[sub] * vf_from_vi(code[k]) - min[sub]);
        }
    }
}
