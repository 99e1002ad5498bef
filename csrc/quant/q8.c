/* The 8-bit blocks that ggml multiplies with, not meant for files: q8_1, 32 values with a float16 scale and its product
 * with the sum of the codes; q8_k, 256 values with a float32 scale and the sums of 16 codes each.
 * Source: ggml quantize_row_q8_1_ref, quantize_row_q8_K_ref, dequantize_row_q8_K. */
#include "../level.h"
#include "largest.h"
#include "sixteen.h"

enum { QK8_1 = 32, QK_K = 256, Q8_K_SUM = 16 };

typedef struct {
    uint8_t d[2]; /* float16 */
    uint8_t s[2]; /* float16, d * (sum of the codes) */
    int8_t codes[QK8_1];
} q8_1_block;

typedef struct {
    uint8_t d[4]; /* float32 */
    int8_t codes[QK_K];
    uint8_t sums[QK_K / Q8_K_SUM][2]; /* int16 */
} q8_k_block;

_Static_assert(sizeof(q8_1_block) == 36, "block_q8_1 of ggml-common.h");
_Static_assert(sizeof(q8_k_block) == 292, "block_q8_K of ggml-common.h");

/* As q8_0: d = absmax / 127, code = roundf(x * (1 / d)), both from the d that has not been rounded to float16. */
void MF_LEVEL(q8_1_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    (void)importance;
    const size_t n_blocks = n_rows * n_cols / QK8_1;
    for (size_t at = 0; at < n_blocks; at += VF_LANES) {
        const size_t n = n_blocks - at < VF_LANES ? n_blocks - at : VF_LANES;
        q8_1_block *block = (q8_1_block *)(void *)y + at;
        vf v[QK8_1];
        blocks_load_f32(x + at * QK8_1, QK8_1, n, QK8_1, v);
        const vf zero = vf_set1(0.0f);
        vf largest = zero;
        for (size_t j = 0; j < QK8_1; j++) largest = vf_max(largest, vf_abs(v[j]));
        const vf d = largest / 127.0f, inverse = vf_select(vf_eq(d, zero), zero, 1.0f / d);
        vi word[QK8_1 / 4], sum = vi_set1(0);
        for (size_t w = 0; w < QK8_1 / 4; w++) {
            vi code[4];
            for (size_t k = 0; k < 4; k++) {
                code[k] = vi_round_away(v[4 * w + k] * inverse);
                sum += (code[k] << 24) >> 24; /* the code as stored: 0 where 1 / d is infinite */
            }
            word[w] = vi_pack4(code[0], code[1], code[2], code[3]);
        }
        blocks_store_2(vi_f16_from_vf(d), block->d, sizeof *block, n);
        blocks_store_2(vi_f16_from_vf(vf_from_vi(sum) * d), block->s, sizeof *block, n);
        blocks_store_16(word, (uint8_t *)block->codes, sizeof *block, n);
        blocks_store_16(word + 4, (uint8_t *)block->codes + 16, sizeof *block, n);
    }
}

void MF_LEVEL(q8_1_dequantize)(const uint8_t *y, float *x, size_t n) {
    const q8_1_block *block = (const q8_1_block *)(const void *)y;
    for (size_t i = 0; i < n / QK8_1; i++) {
        const float d = mf_load_f16(block[i].d);
        for (size_t j = 0; j < QK8_1; j += 16) store_scaled(d, vb_load(block[i].codes + j), x + i * QK8_1 + j);
    }
}

/* The largest magnitude, the first of equals, becomes -127. A block of zeros is all zero bytes, its sums too, which the
 * reference leaves as they were. */
void MF_LEVEL(q8_k_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    (void)importance;
    q8_k_block *block = (q8_k_block *)(void *)y;
    for (size_t i = 0; i < n_rows * n_cols / QK_K; i++, block++, x += QK_K) {
        const float largest = largest_magnitude(x, QK_K);
        memset(block, 0, sizeof *block);
        if (largest == 0.0f) continue;
        size_t first = 0;
        while (!vm_any(vf_eq(vf_abs(vf_load(x + first)), vf_set1(largest)))) first += VF_LANES;
        while (x[first] != largest && x[first] != -largest) first++;

        const float inverse = -127.0f / x[first], d = 1.0f / inverse;
        for (size_t j = 0; j < QK_K; j += VF_LANES)
            vi_store_u8((uint8_t *)block->codes + j,
                        vi_min(vi_round_magic(inverse * vf_load(x + j)), vi_set1(127)) & 255);
        for (size_t g = 0; g < QK_K / Q8_K_SUM; g++) {
            int16_t sum = 0;
            for (size_t j = 0; j < Q8_K_SUM; j++) sum = (int16_t)(sum + block->codes[g * Q8_K_SUM + j]);
            memcpy(block->sums[g], &sum, sizeof sum);
        }
        memcpy(block->d, &d, sizeof d);
    }
}

void MF_LEVEL(q8_k_dequantize)(const uint8_t *y, float *x, size_t n) {
    const q8_k_block *block = (const q8_k_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++) {
        float d;
        memcpy(&d, block[i].d, sizeof d);
        for (size_t j = 0; j < QK_K; j += 16) store_scaled(d, vb_load(block[i].codes + j), x + i * QK_K + j);
    }
}
