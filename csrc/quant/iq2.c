/* iq2_xxs, iq2_xs, iq2_s: x = +-(d * (scale + 1/2) / 4) * (8, 25 or 43), scale 0..15 for 32 (xxs) or 16 values; eight
 * magnitudes at a time are a point of a lattice of 256, 512 or 1024.
 *
 * Source: ggml quantize_row_iq2_xxs_impl, quantize_row_iq2_xs_impl, quantize_row_iq2_s_impl, dequantize_row_iq2_xxs ...
 */
#include "lattice_decode.h"

enum { QK_K = 256, SUB = 32, N_SUBS = QK_K / SUB };

typedef struct {
    uint8_t d[2];             /* float16 */
    uint8_t words[N_SUBS][8]; /* four points; 7 signs of each from bit 0 on, the scale from bit 28 on */
} iq2_xxs_block;

typedef struct {
    uint8_t d[2];
    uint8_t words[QK_K / 8][2]; /* a point, 7 signs from bit 9 on */
    uint8_t scales[N_SUBS];     /* of the first 16 values low, of the others high */
} iq2_xs_block;

typedef struct {
    uint8_t d[2];
    uint8_t points[QK_K / 8]; /* low 8 bits */
    uint8_t signs[QK_K / 8];
    uint8_t high[N_SUBS]; /* 2 bits for each point */
    uint8_t scales[N_SUBS];
} iq2_s_block;

_Static_assert(sizeof(iq2_xxs_block) == 66, "block_iq2_xxs of ggml-common.h");
_Static_assert(sizeof(iq2_xs_block) == 74, "block_iq2_xs of ggml-common.h");
_Static_assert(sizeof(iq2_s_block) == 82, "block_iq2_s of ggml-common.h");

static inline float iq2_scale(float d, int scale) { return d * (0.5f + (float)scale) * 0.25f; }

void MF_LEVEL(iq2_xxs_dequantize)(const uint8_t *y, float *x, size_t n) {
    const int8_t *lattice = MF_LEVEL(lattice_values)(LATTICE_2XXS);
    const iq2_xxs_block *block = (const iq2_xxs_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        const float d = mf_load_f16(block->d);
        for (size_t sub = 0; sub < N_SUBS; sub++, x += SUB) {
            uint32_t signs;
            int8_t values[SUB];
            memcpy(&signs, block->words[sub] + 4, sizeof signs);
            for (size_t l = 0; l < 4; l++) memcpy(values + 8 * l, lattice + 8 * block->words[sub][l], 8);
            store_signed(iq2_scale(d, (int)(signs >> 28)), values, even_signs_4(signs), SUB, x);
        }
    }
}

void MF_LEVEL(iq2_xs_dequantize)(const uint8_t *y, float *x, size_t n) {
    const int8_t *lattice = MF_LEVEL(lattice_values)(LATTICE_2XS);
    const iq2_xs_block *block = (const iq2_xs_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        const float d = mf_load_f16(block->d);
        for (size_t sub = 0; sub < N_SUBS; sub++, x += SUB) {
            uint32_t signs = 0;
            int8_t values[SUB];
            for (size_t l = 0; l < 4; l++) {
                const uint8_t *word = block->words[4 * sub + l];
                memcpy(values + 8 * l, lattice + 8 * (word[0] | (word[1] & 1) << 8), 8);
                signs |= even_signs(word[1] >> 1) << 8 * l;
            }
            store_signed(iq2_scale(d, block->scales[sub] & 15), values, signs, SUB / 2, x);
            store_signed(iq2_scale(d, block->scales[sub] >> 4), values + SUB / 2, signs >> 16, SUB / 2, x + SUB / 2);
        }
    }
}

void MF_LEVEL(iq2_s_dequantize)(const uint8_t *y, float *x, size_t n) {
    const int8_t *lattice = MF_LEVEL(lattice_values)(LATTICE_2S);
    const iq2_s_block *block = (const iq2_s_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        const float d = mf_load_f16(block->d);
        for (size_t sub = 0; sub < N_SUBS; sub++, x += SUB) {
            uint32_t signs;
            int8_t values[SUB];
            memcpy(&signs, block->signs + 4 * sub, sizeof signs);
            for (size_t l = 0; l < 4; l++) {
                const int point = block->points[4 * sub + l] | (block->high[sub] >> 2 * l & 3) << 8;
                memcpy(values + 8 * l, lattice + 8 * point, 8);
            }
            store_signed(iq2_scale(d, block->scales[sub] & 15), values, signs, SUB / 2, x);
            store_signed(iq2_scale(d, block->scales[sub] >> 4), values + SUB / 2, signs >> 16, SUB / 2, x + SUB / 2);
        }
    }
}
