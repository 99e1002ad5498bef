/* iq3_xxs, iq3_s: scales for 32 values; four magnitudes at a time are a point of a lattice of 256 or 512.
 *
 * iq3_xxs  x = +-(d * (scale + 1/2) / 2) * (4, 12, ..., 52 or 62)     iq3_s  x = +-d * (1 + 2 * scale) * (1, 3, ...,
 * 15)
 *
 * Source: ggml quantize_row_iq3_xxs_impl, quantize_row_iq3_s_impl, dequantize_row_iq3_xxs, dequantize_row_iq3_s. */
#include "lattice_decode.h"
#include "lattice_refine.h"

enum { SUB = 32, N_SUBS = QK_K / SUB };

typedef struct {
    uint8_t d[2]; /* float16 */
    uint8_t points[QK_K / 4];
    uint8_t words[N_SUBS][4]; /* 7 signs of each 8 values from bit 0 on, the scale from bit 28 on */
} iq3_xxs_block;

typedef struct {
    uint8_t d[2];
    uint8_t points[QK_K / 4]; /* low 8 bits */
    uint8_t high[N_SUBS];     /* a bit for each point */
    uint8_t signs[QK_K / 8];
    uint8_t scales[N_SUBS / 2]; /* two each, the first low */
} iq3_s_block;

_Static_assert(sizeof(iq3_xxs_block) == 98, "block_iq3_xxs of ggml-common.h");
_Static_assert(sizeof(iq3_s_block) == 110, "block_iq3_s of ggml-common.h");

static const search_rule iq3_xxs_rule = {.id = LATTICE_3XXS,
                                         .dims = 4,
                                         .levels = 8,
                                         .n = 32,
                                         .last_try = 15,
                                         .step = 0.2f,
                                         .sigma_factor = 2.0f,
                                         .nothing = 1e-8f,
                                         .refit = THOSE_OFF,
                                         .even_signs = true};
static const search_rule iq3_s_rule = {.id = LATTICE_3S,
                                       .dims = 4,
                                       .levels = 8,
                                       .n = 32,
                                       .last_try = 9,
                                       .step = 0.2f,
                                       .sigma_factor = 2.0f,
                                       .nothing = 0x1p-149f,
                                       .refit = EVERY_IF_ONE_OFF};

static void iq3_xxs_pack(const search_batch *batch, const search_stored *stored, size_t k, iq3_xxs_block *block) {
    memset(block, 0, sizeof *block);
    memcpy(block->d, &stored->d[k], 2);
    if (stored->is_nothing[k]) return;
    for (size_t g = 0; g < QK_K / 4; g++) block->points[g] = (uint8_t)batch->point[k * QK_K / 4 + g];
    for (size_t sub = 0; sub < N_SUBS; sub++) {
        uint32_t signs = (uint32_t)stored->scales[k][sub] << 28;
        for (size_t l = 0; l < 4; l++) signs |= (uint32_t)batch->signs[k * QK_K / 8 + 4 * sub + l] << 7 * l;
        memcpy(block->words[sub], &signs, sizeof signs);
    }
}

/* As ggml has it, points and signs of a sub-block that follows zeros move up into the place of the zeros, but not the
 * high bits; and they stay where all scales are 0. */
static void iq3_s_pack(const search_batch *batch, const search_stored *stored, size_t k, iq3_s_block *block) {
    memset(block, 0, sizeof *block);
    memcpy(block->d, &stored->d[k], 2);
    for (size_t sub = 0, to = 0; sub < N_SUBS; sub++) {
        if (batch->is_nothing[k * N_SUBS + sub]) continue;
        const uint16_t *point = batch->point + k * QK_K / 4 + 8 * sub;
        int high = 0;
        for (size_t l = 0; l < 8; l++) {
            block->points[8 * to + l] = (uint8_t)point[l];
            high |= point[l] >> 8 << l;
        }
        block->high[sub] = (uint8_t)high;
        memcpy(block->signs + 4 * to++, batch->signs + k * QK_K / 8 + 4 * sub, 4);
    }
    for (size_t j = 0; j < N_SUBS / 2; j++)
        block->scales[j] = (uint8_t)(stored->scales[k][2 * j] | stored->scales[k][2 * j + 1] << 4);
}

SEARCH_QUANTIZE(iq3_xxs, 1.0125f)
SEARCH_QUANTIZE(iq3_s, 1.033f)

static const points_rule iq3_xxs_points = {.id = LATTICE_3XXS,
                                           .dims = 4,
                                           .levels = 8,
                                           .n = 32,
                                           .n_scales = 16,
                                           .scale_first = 0.25f,
                                           .scale_step = 0.5f,
                                           .signs = SIGN_EVEN,
                                           .values = {4.0f, 12.0f, 20.0f, 28.0f, 36.0f, 44.0f, 52.0f, 62.0f},
                                           .rms = 21.0f,
                                           .n_near = 9,
                                           .n_steps = 2,
                                           .n_passes = 3};
static const points_rule iq3_s_points = {.id = LATTICE_3S,
                                         .dims = 4,
                                         .levels = 8,
                                         .n = 32,
                                         .n_scales = 16,
                                         .scale_first = 1.0f,
                                         .scale_step = 2.0f,
                                         .signs = SIGN_EACH,
                                         .values = {1.0f, 3.0f, 5.0f, 7.0f, 9.0f, 11.0f, 13.0f, 15.0f},
                                         .rms = 5.0f,
                                         .n_near = 9,
                                         .n_steps = 2,
                                         .n_passes = 3};

POINTS_REFINE(iq3_xxs)
POINTS_REFINE(iq3_s)

static inline vb iq3_values(const int8_t *lattice, int a, int b, int c, int d) {
    return vb_quad(load_4(lattice + 4 * a), load_4(lattice + 4 * b), load_4(lattice + 4 * c), load_4(lattice + 4 * d));
}

void MF_LEVEL(iq3_xxs_dequantize)(const uint8_t *y, float *x, size_t n) {
    const int8_t *lattice = MF_LEVEL(lattice_values)(LATTICE_3XXS);
    const uint64_t *minus = MF_LEVEL(lattice_signs)()->seven;
    const iq3_xxs_block *block = (const iq3_xxs_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        const float d = mf_load_f16(block->d);
        for (size_t sub = 0; sub < N_SUBS; sub++) {
            const uint32_t word = load_4(block->words[sub]);
            const float scale = d * (0.5f + (float)(word >> 28)) * 0.5f;
            for (size_t l = 0; l < 4; l += 2, x += 16) {
                const uint8_t *p = block->points + 8 * sub + 2 * l;
                store_signed(scale, iq3_values(lattice, p[0], p[1], p[2], p[3]), minus[word >> 7 * l & 127],
                             minus[word >> (7 * l + 7) & 127], x);
            }
        }
    }
}

void MF_LEVEL(iq3_s_dequantize)(const uint8_t *y, float *x, size_t n) {
    const int8_t *lattice = MF_LEVEL(lattice_values)(LATTICE_3S);
    const uint64_t *minus = MF_LEVEL(lattice_signs)()->eight;
    const iq3_s_block *block = (const iq3_s_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        const float d = mf_load_f16(block->d);
        for (size_t sub = 0; sub < N_SUBS; sub++) {
            const float scale = d * (float)(1 + 2 * (block->scales[sub / 2] >> sub % 2 * 4 & 15));
            for (int half = 0; half < 2; half++, x += 16) {
                const uint8_t *p = block->points + 8 * sub + 4 * half, *signs = block->signs + 4 * sub + 2 * half;
                const int high = block->high[sub] >> 4 * half;
                const vb values = iq3_values(lattice, p[0] | (high & 1) << 8, p[1] | (high & 2) << 7,
                                             p[2] | (high & 4) << 6, p[3] | (high & 8) << 5);
                store_signed(scale, values, minus[signs[0]], minus[signs[1]], x);
            }
        }
    }
}
