/* iq1_s, iq1_m: x = d * (2 * scale + 1) * (-1, 0 or 1, and 1/8 more or less), scale 0..7; eight of the ternary levels
 * at a time are a point of a lattice of 2048. iq1_s has one scale and one sign of the 1/8 for 32 values, iq1_m a scale
 * for 16 and a sign for 8.
 *
 * Source: ggml quantize_row_iq1_s_impl, quantize_row_iq1_m_impl, dequantize_row_iq1_s, dequantize_row_iq1_m. */
#include "lattice_decode.h"
#include "lattice_refine.h"
#include "ternary_split.h"

enum { SUB = 32, N_SUBS = QK_K / SUB };

typedef struct {
    uint8_t d[2];             /* float16 */
    uint8_t points[QK_K / 8]; /* low 8 bits */
    uint8_t words[N_SUBS][2]; /* 3 high bits of each point from bit 0 on, the scale from bit 12 on, minus in bit 15 */
} iq1_s_block;

typedef struct {
    uint8_t points[QK_K / 8]; /* low 8 bits */
    uint8_t high[QK_K / 16];  /* for each point 3 high bits, then minus */
    uint8_t words[4][2];      /* four scales of 3 bits from bit 0 on, four bits of the float16 d from bit 12 on */
} iq1_m_block;

_Static_assert(sizeof(iq1_s_block) == 50, "block_iq1_s of ggml-common.h");
_Static_assert(sizeof(iq1_m_block) == 56, "block_iq1_m of ggml-common.h");

static const search_rule iq1_s_rule = {.dims = 8, .levels = 3, .n = 32, .sigma_factor = 2.0f, .nothing = 1e-12f};
static const search_rule iq1_m_rule = {.dims = 8, .levels = 3, .n = 16, .sigma_factor = 2.0f, .nothing = 1e-7f};

typedef struct {
    search_batch found;
    uint8_t minus[VF_LANES * MAX_SUBS];           /* a bit for every point */
    float w[VF_LANES * QK_K], q[VF_LANES * QK_K]; /* iq1_m only: weights, levels */
} iq1_batch;

/* Sub-blocks from `sub` on, each in a lane, go into the batch. */
INLINE void iq1_keep(const search_rule rule, const neighbour_table *table, iq1_batch *batch, size_t sub,
                     const search_lanes *s, const split *found) {
    uint32_t used = vm_bits(found->is_used);
    vf_store(batch->found.scale + sub, vf_select(found->is_used, found->scale, vf_set1(0.0f)));
    for (size_t k = 0; k < VF_LANES; k++) {
        batch->minus[sub + k] = 0;
        for (size_t g = 0; g < rule.n / 8; g++) {
            const bool is_used = used >> k & 1;
            batch->found.point[(sub + k) * rule.n / 8 + g] =
                is_used ? (uint16_t)(table->where[found->code[g][k]] >> 8) : 0;
            if (is_used) batch->minus[sub + k] |= (uint8_t)((found->minus[g] >> k & 1) << g);
        }
    }
    if (rule.n == 32) return;
    vf q[16];
    for (size_t g = 0; g < 2; g++)
        for (size_t j = 0; j < 8; j++)
            q[8 * g + j] = vf_select(found->is_used, split_level(found, g, j), vf_set1(-0.875f));
    blocks_store_f32(q, 16, batch->q + sub * 16, 16, VF_LANES);
    blocks_store_f32(s->w, 16, batch->w + sub * 16, 16, VF_LANES);
}

INLINE void iq1_blocks(const search_rule rule, const neighbour_table *table, iq1_batch *batch, const float *x,
                       size_t at, size_t n_cols, const float *importance) {
    const size_t n_subs = QK_K / rule.n * batch->found.n_blocks;
    x += at * QK_K;
    search_sigma2(rule, &batch->found, x);
    for (size_t sub = 0; sub < n_subs; sub += VF_LANES) {
        const size_t n_lanes = n_subs - sub < VF_LANES ? n_subs - sub : VF_LANES;
        float sigma2[VF_LANES];
        for (size_t k = 0; k < VF_LANES; k++) sigma2[k] = batch->found.sigma2[(sub + k) * rule.n / QK_K % VF_LANES];
        search_lanes s;
        split found;
        blocks_load_f32(x + sub * rule.n, rule.n, n_lanes, rule.n, s.x);
        search_weights(rule, &s, importance, (at * QK_K + sub * rule.n) % n_cols, n_cols, n_lanes, vf_load(sigma2));
        split_search(rule, table, &s, n_lanes, &found);
        iq1_keep(rule, table, batch, sub, &s, &found);
    }
}

/* The sub-blocks' scales as integers 0..7. Returns the unit they are in. */
INLINE vf iq1_scales(const search_rule rule, const iq1_batch *batch, vi integers[MAX_SUBS], vm *is_nothing) {
    const size_t n = QK_K / rule.n;
    vf scale[MAX_SUBS], largest = vf_set1(0.0f);
    blocks_load_f32(batch->found.scale, n, VF_LANES, n, scale);
    for (size_t j = 0; j < n; j++) largest = vf_max(largest, scale[j]);
    *is_nothing = vf_eq(largest, vf_set1(0.0f));
    const vf d = largest / 15.0f, inverse = 1.0f / d;
    for (size_t j = 0; j < n; j++)
        integers[j] = vi_max(vi_min(vi_round_magic(0.5f * (inverse * scale[j] - 1.0f)), vi_set1(7)), vi_set1(0));
    return d;
}

static void iq1_s_pack(const iq1_batch *batch, size_t k, const int32_t *d, int32_t scales[][VF_LANES],
                       iq1_s_block *block) {
    memcpy(block->d, &d[k], 2);
    for (size_t sub = 0; sub < N_SUBS; sub++) {
        const uint16_t *point = batch->found.point + (k * N_SUBS + sub) * 4;
        int word = scales[sub][k] << 12;
        for (size_t l = 0; l < 4; l++) {
            block->points[4 * sub + l] = (uint8_t)point[l];
            word |= point[l] >> 8 << 3 * l;
        }
        block->words[sub][0] = (uint8_t)word;
        block->words[sub][1] = (uint8_t)(word >> 8);
    }
}

void MF_LEVEL(iq1_s_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    const size_t n_blocks = n_rows * n_cols / QK_K;
    const neighbour_table table = MF_LEVEL(lattice_neighbours)(LATTICE_1);
    iq1_s_block *block = (iq1_s_block *)(void *)y;
    for (size_t at = 0; at < n_blocks; at += VF_LANES) {
        iq1_batch batch;
        batch.found = (search_batch){.n_blocks = n_blocks - at < VF_LANES ? n_blocks - at : VF_LANES};
        iq1_blocks(iq1_s_rule, &table, &batch, x, at, n_cols, importance);

        vi integers[MAX_SUBS];
        vm is_nothing;
        int32_t d[VF_LANES], scales[N_SUBS][VF_LANES];
        const vf unit = iq1_scales(iq1_s_rule, &batch, integers, &is_nothing);
        vi_store(d, vi_select(is_nothing, vi_set1(0), vi_f16_of_scale(unit * 1.125f)));
        for (size_t sub = 0; sub < N_SUBS; sub++) {
            int32_t minus[VF_LANES];
            for (size_t k = 0; k < VF_LANES; k++) minus[k] = (batch.minus[k * N_SUBS + sub] & 1) << 3;
            vi_store(scales[sub], vi_select(is_nothing, vi_set1(0), integers[sub] | vi_load(minus)));
        }
        for (size_t k = 0; k < batch.found.n_blocks; k++) iq1_s_pack(&batch, k, d, scales, block + at + k);
    }
}

/* The d that suits the levels and the integer scales, one super-block per lane. */
static vf iq1_m_refit(const iq1_batch *batch, const float *x, const vi *integers, vf unit) {
    vf sum_qx = vf_set1(0.0f), sum_q2 = sum_qx;
    for (size_t sub = 0; sub < MAX_SUBS; sub++) {
        vf v[16], w[16], q[16];
        const vf scale = vf_from_vi(2 * integers[sub] + 1);
        blocks_load_f32(x + 16 * sub, QK_K, batch->found.n_blocks, 16, v);
        blocks_load_f32(batch->w + 16 * sub, QK_K, VF_LANES, 16, w);
        blocks_load_f32(batch->q + 16 * sub, QK_K, VF_LANES, 16, q);
        for (size_t j = 0; j < 16; j++) {
            const vf level = q[j] * scale;
            sum_qx = sum_qx + w[j] * level * v[j];
            sum_q2 = sum_q2 + w[j] * level * level;
        }
    }
    return vf_select(vf_gt(sum_q2, vf_set1(0.0f)), sum_qx / sum_q2, unit);
}

static void iq1_m_pack(const iq1_batch *batch, size_t k, const int32_t *d, int32_t scales[][VF_LANES], bool is_nothing,
                       iq1_m_block *block) {
    int words[4];
    for (int i = 0; i < 4; i++) words[i] = (d[k] >> 4 * i & 15) << 12;
    for (size_t sub = 0; sub < MAX_SUBS; sub++) {
        const uint16_t *point = batch->found.point + (k * MAX_SUBS + sub) * 2;
        const int minus = is_nothing ? 0 : batch->minus[k * MAX_SUBS + sub];
        block->points[2 * sub] = (uint8_t)point[0];
        block->points[2 * sub + 1] = (uint8_t)point[1];
        block->high[sub] = (uint8_t)(point[0] >> 8 | point[1] >> 8 << 4 | (minus & 1) << 3 | (minus & 2) << 6);
        words[sub / 4] |= scales[sub][k] << 3 * (sub % 4);
    }
    for (int i = 0; i < 4; i++) {
        block->words[i][0] = (uint8_t)words[i];
        block->words[i][1] = (uint8_t)(words[i] >> 8);
    }
}

void MF_LEVEL(iq1_m_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    const size_t n_blocks = n_rows * n_cols / QK_K;
    const neighbour_table table = MF_LEVEL(lattice_neighbours)(LATTICE_1);
    iq1_m_block *block = (iq1_m_block *)(void *)y;
    iq1_batch batch = {0};
    for (size_t at = 0; at < n_blocks; at += VF_LANES) {
        batch.found.n_blocks = n_blocks - at < VF_LANES ? n_blocks - at : VF_LANES;
        iq1_blocks(iq1_m_rule, &table, &batch, x, at, n_cols, importance);

        vi integers[MAX_SUBS];
        vm is_nothing;
        int32_t d[VF_LANES], scales[MAX_SUBS][VF_LANES];
        vf unit = iq1_scales(iq1_m_rule, &batch, integers, &is_nothing);
        unit = iq1_m_refit(&batch, x + at * QK_K, integers, unit);
        vi_store(d, vi_select(is_nothing, vi_set1(0), vi_f16_of_scale(unit * 1.1125f)));
        for (size_t sub = 0; sub < MAX_SUBS; sub++)
            vi_store(scales[sub], vi_select(is_nothing, vi_set1(0), integers[sub]));
        const uint32_t nothing = vm_bits(is_nothing);
        for (size_t k = 0; k < batch.found.n_blocks; k++)
            iq1_m_pack(&batch, k, d, scales, nothing >> k & 1, block + at + k);
    }
}

static const points_rule iq1_s_points = {.id = LATTICE_1,
                                         .dims = 8,
                                         .levels = 3,
                                         .n = 32,
                                         .n_scales = 8,
                                         .scale_first = 1.0f,
                                         .scale_step = 2.0f,
                                         .signs = SHIFT_SUB,
                                         .values = {-1.0f, 0.0f, 1.0f},
                                         .rms = 0.64f,
                                         .n_near = 3,
                                         .n_steps = 1,
                                         .n_passes = 2};
static const points_rule iq1_m_points = {.id = LATTICE_1,
                                         .dims = 8,
                                         .levels = 3,
                                         .n = 16,
                                         .n_scales = 8,
                                         .scale_first = 1.0f,
                                         .scale_step = 2.0f,
                                         .signs = SHIFT_POINT,
                                         .values = {-1.0f, 0.0f, 1.0f},
                                         .rms = 0.64f,
                                         .n_near = 3,
                                         .n_steps = 1,
                                         .n_passes = 2};

/* What was found, as the packers want it. */
INLINE void iq1_take(const points_rule rule, const points_found *found, iq1_batch *batch, int32_t *d,
                     int32_t scales[][VF_LANES]) {
    const size_t n_subs = QK_K / rule.n;
    vi_store(d, vi_f16_from_vf(found->d));
    for (size_t sub = 0; sub < n_subs; sub++) {
        int32_t minus[VF_LANES];
        const vi high = rule.signs == SHIFT_SUB ? (found->other[sub] & 1) << 3 : vi_set1(0);
        vi_store(scales[sub], vi_trunc(found->integer[sub]) | high);
        vi_store(minus, found->other[sub]);
        for (size_t k = 0; k < VF_LANES; k++) batch->minus[k * n_subs + sub] = (uint8_t)minus[k];
    }
    points_numbers(rule, found, &batch->found);
}

void MF_LEVEL(iq1_s_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {
    iq1_s_block *block = (iq1_s_block *)(void *)y;
    points_found found;
    iq1_batch batch;
    int32_t d[VF_LANES], scales[MAX_SUBS][VF_LANES];
    points_search(iq1_s_points, x, weights, n, &found);
    iq1_take(iq1_s_points, &found, &batch, d, scales);
    for (size_t k = 0; k < n; k++) {
        float ggml[QK_K], now[QK_K];
        MF_LEVEL(iq1_s_dequantize)((const uint8_t *)(block + k), ggml, QK_K);
        iq1_s_pack(&batch, k, d, scales, block + k);
        MF_LEVEL(iq1_s_dequantize)((const uint8_t *)(block + k), now, QK_K);
        d[k] = points_unshrunk(x + k * QK_K, weights + k * QK_K, ggml, now, (uint16_t)d[k]);
        iq1_s_pack(&batch, k, d, scales, block + k);
    }
}

void MF_LEVEL(iq1_m_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {
    iq1_m_block *block = (iq1_m_block *)(void *)y;
    points_found found;
    iq1_batch batch;
    int32_t d[VF_LANES], scales[MAX_SUBS][VF_LANES];
    points_search(iq1_m_points, x, weights, n, &found);
    iq1_take(iq1_m_points, &found, &batch, d, scales);
    for (size_t k = 0; k < n; k++) {
        float ggml[QK_K], now[QK_K];
        MF_LEVEL(iq1_m_dequantize)((const uint8_t *)(block + k), ggml, QK_K);
        iq1_m_pack(&batch, k, d, scales, false, block + k);
        MF_LEVEL(iq1_m_dequantize)((const uint8_t *)(block + k), now, QK_K);
        d[k] = points_unshrunk(x + k * QK_K, weights + k * QK_K, ggml, now, (uint16_t)d[k]);
        iq1_m_pack(&batch, k, d, scales, false, block + k);
    }
}

static inline int iq1_word(const uint8_t *bytes) { return bytes[0] | bytes[1] << 8; }

/* A quarter more, in the unit of lattice_values: less 1/8 becomes more 1/8. */
enum { IQ1_MORE = 2 };

void MF_LEVEL(iq1_s_dequantize)(const uint8_t *y, float *x, size_t n) {
    const int8_t *lattice = MF_LEVEL(lattice_values)(LATTICE_1);
    const iq1_s_block *block = (const iq1_s_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        const float d = mf_load_f16(block->d) * 0.125f;
        for (size_t sub = 0; sub < N_SUBS; sub++, x += SUB) {
            const int word = iq1_word(block->words[sub]);
            const float scale = d * (float)(2 * (word >> 12 & 7) + 1);
            const vb more = vb_set1(word >> 15 ? 0 : IQ1_MORE);
            uint64_t levels[4];
            for (size_t l = 0; l < 4; l++)
                levels[l] = load_8(lattice + 8 * (block->points[4 * sub + l] | (word >> 3 * l & 7) << 8));
            store_scaled(scale, vb_pair(levels[0], levels[1]) + more, x);
            store_scaled(scale, vb_pair(levels[2], levels[3]) + more, x + 16);
        }
    }
}

void MF_LEVEL(iq1_m_dequantize)(const uint8_t *y, float *x, size_t n) {
    static const uint64_t more[2] = {0x0101010101010101 * IQ1_MORE, 0};
    const int8_t *lattice = MF_LEVEL(lattice_values)(LATTICE_1);
    const iq1_m_block *block = (const iq1_m_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        uint16_t half = 0;
        for (int k = 0; k < 4; k++) half |= (uint16_t)(iq1_word(block->words[k]) >> 12 << 4 * k);
        const float d = mf_f16_to_f32(half) * 0.125f;
        for (size_t sub = 0; sub < QK_K / 16; sub++, x += 16) {
            const int high = block->high[sub], scale = iq1_word(block->words[sub / 4]) >> sub % 4 * 3 & 7;
            const uint64_t first = load_8(lattice + 8 * (block->points[2 * sub] | (high & 7) << 8));
            const uint64_t second = load_8(lattice + 8 * (block->points[2 * sub + 1] | (high >> 4 & 7) << 8));
            const vb levels = vb_pair(first, second) + vb_pair(more[high >> 3 & 1], more[high >> 7]);
            store_scaled(d * (float)(2 * scale + 1), levels, x);
        }
    }
}
