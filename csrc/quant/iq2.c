/* iq2_xxs, iq2_xs, iq2_s: x = +-(d * (scale + 1/2) / 4) * (8, 25 or 43), scale 0..15 for 32 (xxs) or 16 values; eight
 * magnitudes at a time are a point of a lattice of 256, 512 or 1024.
 *
 * Source: ggml quantize_row_iq2_xxs_impl, quantize_row_iq2_xs_impl, quantize_row_iq2_s_impl, dequantize_row_iq2_xxs ...
 */
#include "lattice_decode.h"
#include "lattice_refine.h"

enum { SUB = 32, N_SUBS = QK_K / SUB };

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

static const search_rule iq2_xxs_rule = {.id = LATTICE_2XXS,
                                         .dims = 8,
                                         .levels = 3,
                                         .n = 32,
                                         .last_try = 6,
                                         .step = 0.1f,
                                         .sigma_factor = 1.0f,
                                         .nothing = 1e-15f,
                                         .refit = EVERY,
                                         .even_signs = true,
                                         .first_guess = true};
static const search_rule iq2_xs_rule = {.id = LATTICE_2XS,
                                        .dims = 8,
                                        .levels = 3,
                                        .n = 16,
                                        .last_try = 9,
                                        .step = 0.1f,
                                        .sigma_factor = 1.0f,
                                        .nothing = 1e-15f,
                                        .refit = THOSE_OFF,
                                        .even_signs = true};
static const search_rule iq2_s_rule = {.id = LATTICE_2S,
                                       .dims = 8,
                                       .levels = 3,
                                       .n = 16,
                                       .last_try = 9,
                                       .step = 0.1f,
                                       .sigma_factor = 2.0f,
                                       .nothing = 1e-8f,
                                       .refit = THOSE_OFF,
                                       .flat = 0.25f};

static void iq2_xxs_pack(const search_batch *batch, const search_stored *stored, size_t k, iq2_xxs_block *block) {
    memset(block, 0, sizeof *block);
    memcpy(block->d, &stored->d[k], 2);
    if (stored->is_nothing[k]) return;
    for (size_t sub = 0; sub < N_SUBS; sub++) {
        uint32_t signs = (uint32_t)stored->scales[k][sub] << 28;
        for (size_t l = 0; l < 4; l++) {
            block->words[sub][l] = (uint8_t)batch->point[k * QK_K / 8 + 4 * sub + l];
            signs |= (uint32_t)batch->signs[k * QK_K / 8 + 4 * sub + l] << 7 * l;
        }
        memcpy(block->words[sub] + 4, &signs, sizeof signs);
    }
}

static void iq2_xs_pack(const search_batch *batch, const search_stored *stored, size_t k, iq2_xs_block *block) {
    memset(block, 0, sizeof *block);
    memcpy(block->d, &stored->d[k], 2);
    if (stored->is_nothing[k]) return;
    for (size_t g = 0; g < QK_K / 8; g++) {
        const int word = batch->point[k * QK_K / 8 + g] | batch->signs[k * QK_K / 8 + g] << 9;
        block->words[g][0] = (uint8_t)word;
        block->words[g][1] = (uint8_t)(word >> 8);
    }
    for (size_t sub = 0; sub < N_SUBS; sub++)
        block->scales[sub] = (uint8_t)(stored->scales[k][2 * sub] | stored->scales[k][2 * sub + 1] << 4);
}

/* Points and signs stay where all scales are 0. */
static void iq2_s_pack(const search_batch *batch, const search_stored *stored, size_t k, iq2_s_block *block) {
    memcpy(block->d, &stored->d[k], 2);
    memcpy(block->signs, batch->signs + k * QK_K / 8, sizeof block->signs);
    for (size_t sub = 0; sub < N_SUBS; sub++) {
        const uint16_t *point = batch->point + k * QK_K / 8 + 4 * sub;
        for (size_t l = 0; l < 4; l++) block->points[4 * sub + l] = (uint8_t)point[l];
        block->high[sub] = (uint8_t)(point[0] >> 8 | point[1] >> 8 << 2 | point[2] >> 8 << 4 | point[3] >> 8 << 6);
        block->scales[sub] = (uint8_t)(stored->scales[k][2 * sub] | stored->scales[k][2 * sub + 1] << 4);
    }
}

SEARCH_QUANTIZE(iq2_xxs, 1.0f)
SEARCH_QUANTIZE(iq2_xs, 1.0f)
SEARCH_QUANTIZE(iq2_s, 0.9875f)

static const points_rule iq2_xxs_points = {.id = LATTICE_2XXS,
                                           .dims = 8,
                                           .levels = 3,
                                           .n = 32,
                                           .n_scales = 16,
                                           .scale_first = 0.125f,
                                           .scale_step = 0.25f,
                                           .signs = SIGN_EVEN,
                                           .values = {8.0f, 25.0f, 43.0f},
                                           .rms = 20.0f,
                                           .n_near = 3,
                                           .n_steps = 2,
                                           .n_passes = 3};
static const points_rule iq2_xs_points = {.id = LATTICE_2XS,
                                          .dims = 8,
                                          .levels = 3,
                                          .n = 16,
                                          .n_scales = 16,
                                          .scale_first = 0.125f,
                                          .scale_step = 0.25f,
                                          .signs = SIGN_EVEN,
                                          .values = {8.0f, 25.0f, 43.0f},
                                          .rms = 22.0f,
                                          .n_near = 3,
                                          .n_steps = 2,
                                          .n_passes = 3};
static const points_rule iq2_s_points = {.id = LATTICE_2S,
                                         .dims = 8,
                                         .levels = 3,
                                         .n = 16,
                                         .n_scales = 16,
                                         .scale_first = 0.125f,
                                         .scale_step = 0.25f,
                                         .signs = SIGN_EACH,
                                         .values = {8.0f, 25.0f, 43.0f},
                                         .rms = 22.0f,
                                         .n_near = 3,
                                         .n_steps = 2,
                                         .n_passes = 3};

POINTS_REFINE(iq2_xxs)
POINTS_REFINE(iq2_xs)
POINTS_REFINE(iq2_s)

static inline float iq2_scale(float d, int scale) { return d * (0.5f + (float)scale) * 0.25f; }

void MF_LEVEL(iq2_xxs_dequantize)(const uint8_t *y, float *x, size_t n) {
    const int8_t *lattice = MF_LEVEL(lattice_values)(LATTICE_2XXS);
    const uint64_t *minus = MF_LEVEL(lattice_signs)()->seven;
    const iq2_xxs_block *block = (const iq2_xxs_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        const float d = mf_load_f16(block->d);
        for (size_t sub = 0; sub < N_SUBS; sub++) {
            const uint8_t *points = block->words[sub];
            const uint32_t word = load_4(points + 4);
            const float scale = iq2_scale(d, (int)(word >> 28));
            for (size_t l = 0; l < 4; l += 2, x += 16) {
                const vb values = vb_pair(load_8(lattice + 8 * points[l]), load_8(lattice + 8 * points[l + 1]));
                store_signed(scale, values, minus[word >> 7 * l & 127], minus[word >> (7 * l + 7) & 127], x);
            }
        }
    }
}

void MF_LEVEL(iq2_xs_dequantize)(const uint8_t *y, float *x, size_t n) {
    const int8_t *lattice = MF_LEVEL(lattice_values)(LATTICE_2XS);
    const uint64_t *minus = MF_LEVEL(lattice_signs)()->seven;
    const iq2_xs_block *block = (const iq2_xs_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        const float d = mf_load_f16(block->d);
        for (size_t sub = 0; sub < N_SUBS; sub++) {
            for (int half = 0; half < 2; half++, x += 16) {
                const uint32_t words = load_4(block->words[4 * sub + 2 * (size_t)half]);
                const uint64_t first = load_8(lattice + 8 * (words & 511)),
                               second = load_8(lattice + 8 * (words >> 16 & 511));
                store_signed(iq2_scale(d, block->scales[sub] >> 4 * half & 15), vb_pair(first, second),
                             minus[words >> 9 & 127], minus[words >> 25], x);
            }
        }
    }
}

void MF_LEVEL(iq2_s_dequantize)(const uint8_t *y, float *x, size_t n) {
    const int8_t *lattice = MF_LEVEL(lattice_values)(LATTICE_2S);
    const uint64_t *minus = MF_LEVEL(lattice_signs)()->eight;
    const iq2_s_block *block = (const iq2_s_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        const float d = mf_load_f16(block->d);
        for (size_t sub = 0; sub < N_SUBS; sub++) {
            for (int half = 0; half < 2; half++, x += 16) {
                const uint8_t *points = block->points + 4 * sub + 2 * half, *signs = block->signs + 4 * sub + 2 * half;
                const int high = block->high[sub] >> 4 * half;
                const uint64_t first = load_8(lattice + 8 * (points[0] | (high & 3) << 8)),
                               second = load_8(lattice + 8 * (points[1] | (high & 12) << 6));
                store_signed(iq2_scale(d, block->scales[sub] >> 4 * half & 15), vb_pair(first, second), minus[signs[0]],
                             minus[signs[1]], x);
            }
        }
    }
}
