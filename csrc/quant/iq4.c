/* iq4_nl: 32 values, x = d * value[code], value a fixed table of 16. iq4_xs: 256 values in 8 sub-blocks of 32, x = d *
 * (scale - 32) * value[code], scale 0..63.
 *
 * A (sub-)block's float scale is the one with the least weighted square error, refitted, of 16 that put the largest
 * magnitude near the table's ends. Weights are x^2, or importance * sqrt(twice the block's mean square + x^2).
 * A lane is a block (iq4_nl) or a sub-block; where iq4_xs chooses d, a super-block.
 * Source: ggml quantize_row_iq4_nl_impl with 7 tries, dequantize_row_iq4_nl, dequantize_row_iq4_xs. */
#include "../half.h"
#include "iq4_grid.h"
#include "refine.h"
#include "symmetric.h"

enum { QK_K = 256, SUB = 32, N_SUBS = QK_K / SUB, SUB_BYTES = SUB / 2, TRIES = 16, WAYS = 4 };

typedef struct {
    uint8_t d[2]; /* float16 */
    uint8_t codes[SUB_BYTES];
} iq4_nl_block;

typedef struct {
    uint8_t d[2]; /* float16 */
    uint8_t scales_high[2];
    uint8_t scales_low[N_SUBS / 2];
    uint8_t codes[N_SUBS][SUB_BYTES]; /* byte j: values j and j + 16 */
} iq4_xs_block;

_Static_assert(sizeof(iq4_nl_block) == 18, "block_iq4_nl of ggml-common.h");
_Static_assert(sizeof(iq4_xs_block) == 136, "block_iq4_xs of ggml-common.h");

/* The sums of w q x and w q q for WAYS scales, given by their inverses. */
SYM_INLINE void iq4_sums(const vf *x, const vf *w, const vf *inverse, vf *qx, vf *qq) {
    vf sum_qx[WAYS] = {0}, sum_qq[WAYS] = {0};
    for (size_t j = 0; j < SUB; j++)
        for (size_t u = 0; u < WAYS; u++) {
            const vf q = iq4_nearest(inverse[u] * x[j]), wq = w[j] * q;
            sum_qx[u] += wq * x[j];
            sum_qq[u] += wq * q;
        }
    for (size_t u = 0; u < WAYS; u++) qx[u] = sum_qx[u], qq[u] = sum_qq[u];
}

/* The best scale of 32 values; 0 where there is (nearly) nothing to scale. */
static vf iq4_scale(const vf *x, const vf *w) {
    const vf zero = vf_set1(0.0f), peak = sym_peak(x, SUB);
    vf scale = zero, best = zero;
    for (int try = 0; try < TRIES; try += WAYS) {
        vf inverse[WAYS], qx[WAYS], qq[WAYS];
        for (int u = 0; u < WAYS; u++)
            inverse[u] = try + u == 0 ? 1.0f / (peak / 127.0f) : vf_set1((float)(try + u - 8 - 127)) / peak;
        iq4_sums(x, w, inverse, qx, qq);
        for (int u = 0; u < WAYS; u++) {
            vm better = vf_gt(qq[u], zero);
            if (try + u > 0) better = vm_and(better, vf_gt(qx[u] * qx[u], best * qq[u]));
            scale = vf_select(better, qx[u] / qq[u], scale);
            best = try + u > 0 ? vf_select(better, scale * qx[u], best) : scale * qx[u];
        }
    }
    return vf_select(vf_lt(vf_abs(peak), vf_set1(SYM_NOTHING)), zero, scale);
}

/* Codes of 32 values, as the 16 bytes of a sub-block. */
SYM_INLINE void iq4_codes(const vf *x, vf scale, vi words[4]) {
    const vf zero = vf_set1(0.0f), inverse = vf_select(vf_eq(scale, zero), zero, 1.0f / scale);
    for (size_t i = 0; i < 4; i++) {
        words[i] = vi_set1(0);
        for (size_t k = 0; k < 4; k++) {
            const vi low = iq4_code(inverse * x[4 * i + k]), high = iq4_code(inverse * x[SUB_BYTES + 4 * i + k]);
            words[i] |= (low | high << 4) << (int)(8 * k);
        }
    }
}

SYM_INLINE vf iq4_square_sum(vf sum, const vf *x, size_t n) {
    for (size_t j = 0; j < n; j++) sum += x[j] * x[j];
    return sum;
}

/* The weights of VF_LANES sub-blocks, the first of which is number `sub` of the rows. sigma2: see above, twice the
 * mean. */
SYM_INLINE void iq4_weights(const vf *x, const float *importance, size_t n_cols, size_t sub, vf sigma2, vf *w) {
    if (!importance) {
        for (size_t j = 0; j < SUB; j++) w[j] = x[j] * x[j];
        return;
    }
    float given[VF_LANES * SUB]; /* a lane may be in the next row */
    for (size_t k = 0; k < VF_LANES; k++)
        memcpy(given + k * SUB, importance + (sub + k) * SUB % n_cols, SUB * sizeof(float));
    blocks_load_f32(given, SUB, VF_LANES, SUB, w);
    for (size_t j = 0; j < SUB; j++) w[j] *= vf_sqrt(sigma2 + x[j] * x[j]);
}

void MF_LEVEL(iq4_nl_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    const size_t n_blocks = n_rows * n_cols / SUB;
    for (size_t at = 0; at < n_blocks; at += VF_LANES) {
        const size_t n = n_blocks - at < VF_LANES ? n_blocks - at : VF_LANES;
        iq4_nl_block *block = (iq4_nl_block *)(void *)y + at;
        vf v[SUB], w[SUB];
        vi words[4];
        blocks_load_f32(x + at * SUB, SUB, n, SUB, v);
        const vf sigma2 = iq4_square_sum(vf_set1(0.0f), v, SUB) * (2.0f / SUB);
        iq4_weights(v, importance, n_cols, at, sigma2, w);
        const vf scale = iq4_scale(v, w);
        iq4_codes(v, scale, words);
        blocks_store_2(vi_f16_of_scale(scale), block->d, sizeof *block, n);
        blocks_store_16(words, block->codes, sizeof *block, n);
    }
}

typedef struct {
    size_t n_blocks;                /* 1..VF_LANES super-blocks */
    vf x[N_SUBS][SUB];              /* values of every group, a lane is a sub-block */
    float scale[VF_LANES][N_SUBS];  /* of every sub-block: the search's, then the one that is stored */
    float sigma2[VF_LANES][N_SUBS]; /* of its super-block */
    uint8_t codes[VF_LANES][N_SUBS * SUB_BYTES];
} iq4_xs_batch;

static void iq4_xs_sigma2(iq4_xs_batch *batch, const float *x) {
    vf sum = vf_set1(0.0f), all[N_SUBS];
    for (size_t sub = 0; sub < N_SUBS; sub++) {
        vf v[SUB];
        blocks_load_f32(x + sub * SUB, QK_K, batch->n_blocks, SUB, v);
        sum = iq4_square_sum(sum, v, SUB);
    }
    for (size_t sub = 0; sub < N_SUBS; sub++) all[sub] = sum * (2.0f / QK_K);
    blocks_store_f32(all, N_SUBS, batch->sigma2[0], N_SUBS, VF_LANES);
}

/* d (a float16) and the integer scales -32..31 of n blocks. */
static void iq4_xs_store_scales(const vf *level, vi d, iq4_xs_block *block, size_t n) {
    vi low = vi_set1(0), high = low;
    for (size_t sub = 0; sub < N_SUBS; sub++) {
        const vi l = vi_trunc(level[sub]) + 32;
        low |= (l & 15) << (int)(4 * sub);
        high |= l >> 4 << (int)(2 * sub);
    }
    blocks_store_2(d, block->d, sizeof *block, n);
    blocks_store_2(high, block->scales_high, sizeof *block, n);
    blocks_store_4(low, block->scales_low, sizeof *block, n);
}

/* d and the integer scales: the largest scale, signed, becomes -32. */
static void iq4_xs_scales(iq4_xs_batch *batch, iq4_xs_block *block) {
    const vf zero = vf_set1(0.0f);
    vf scale[N_SUBS], level[N_SUBS];
    blocks_load_f32(batch->scale[0], N_SUBS, VF_LANES, N_SUBS, scale);
    const vf d = vf_negate(sym_peak(scale, N_SUBS)) / 32.0f, inverse = vf_select(vf_eq(d, zero), zero, 1.0f / d);
    for (size_t sub = 0; sub < N_SUBS; sub++) {
        level[sub] = vf_from_vi(vi_max(vi_min(vi_round_magic(inverse * scale[sub]), vi_set1(31)), vi_set1(-32)));
        scale[sub] = d * level[sub];
    }
    blocks_store_f32(scale, N_SUBS, batch->scale[0], N_SUBS, VF_LANES);
    iq4_xs_store_scales(level, vi_f16_from_vf(d), block, batch->n_blocks);
}

void MF_LEVEL(iq4_xs_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    const size_t n_blocks = n_rows * n_cols / QK_K;
    iq4_xs_batch batch = {0};
    for (size_t at = 0; at < n_blocks; at += VF_LANES, x += VF_LANES * QK_K) {
        iq4_xs_block *block = (iq4_xs_block *)(void *)y + at;
        batch.n_blocks = n_blocks - at < VF_LANES ? n_blocks - at : VF_LANES;
        const size_t n_subs = batch.n_blocks * N_SUBS;
        if (importance) iq4_xs_sigma2(&batch, x);
        for (size_t sub = 0; sub < n_subs; sub += VF_LANES) {
            vf *v = batch.x[sub / VF_LANES], w[SUB];
            blocks_load_f32(x + sub * SUB, SUB, n_subs - sub < VF_LANES ? n_subs - sub : VF_LANES, SUB, v);
            iq4_weights(v, importance, n_cols, at * N_SUBS + sub, vf_load(batch.sigma2[0] + sub), w);
            vf_store(batch.scale[0] + sub, iq4_scale(v, w));
        }
        iq4_xs_scales(&batch, block);
        for (size_t sub = 0; sub < n_subs; sub += VF_LANES) {
            vi words[4];
            iq4_codes(batch.x[sub / VF_LANES], vf_load(batch.scale[0] + sub), words);
            blocks_store_16(words, batch.codes[0] + sub * SUB_BYTES, SUB_BYTES, VF_LANES);
        }
        for (size_t i = 0; i < batch.n_blocks; i++) memcpy(block[i].codes, batch.codes[i], sizeof batch.codes[i]);
    }
}

static const refine_rule nl_better = {
    .grid = GRID_IQ4, .low = -127, .high = 113, .n_subs = 1, .n = SUB, .either_sign = true};

void MF_LEVEL(iq4_nl_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {
    iq4_nl_block *block = (iq4_nl_block *)(void *)y;
    vf v[SUB], w[SUB];
    vi words[4];
    refine_state state = {.d = vf_from_f16(blocks_load_2(block->d, sizeof *block, n))};
    blocks_load_f32(x, SUB, n, SUB, v);
    blocks_load_f32(weights, SUB, n, SUB, w);
    refine_unit(nl_better, 90.0f, 4.0f, 20, v, w, &state);
    iq4_codes(v, state.d, words);
    blocks_store_2(vi_f16_from_vf(state.d), block->d, sizeof *block, n);
    blocks_store_16(words, block->codes, sizeof *block, n);
}

static const refine_rule xs_better = {GRID_IQ4, -127, 113, N_SUBS, SUB, -32, 31, 6, true, 0, 0};

/* Scale j, 0..63. */
static int iq4_xs_scale(const iq4_xs_block *block, size_t j) {
    return (block->scales_low[j / 2] >> j % 2 * 4 & 15) | (block->scales_high[j / 4] >> j % 4 * 2 & 3) << 4;
}

void MF_LEVEL(iq4_xs_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {
    iq4_xs_block *block = (iq4_xs_block *)(void *)y;
    float scales[VF_LANES * N_SUBS];
    uint8_t codes[VF_LANES * QK_K];
    vf v[QK_K], w[QK_K];
    refine_state state = {0};
    for (size_t k = 0; k < VF_LANES; k++)
        for (size_t j = 0; j < N_SUBS; j++)
            scales[k * N_SUBS + j] = (float)(iq4_xs_scale(block + blocks_at(k, n), j) - 32);
    blocks_load_f32(scales, N_SUBS, VF_LANES, N_SUBS, state.scale);
    blocks_load_f32(x, QK_K, n, QK_K, v);
    blocks_load_f32(weights, QK_K, n, QK_K, w);
    state.d = vf_from_f16(blocks_load_2(block->d, sizeof *block, n));
    refine_search(xs_better, v, w, &state);

    refine_codes(xs_better, v, &state, codes);
    iq4_xs_store_scales(state.scale, vi_f16_from_vf(state.d), block, n);
    for (size_t k = 0; k < n; k++)
        for (size_t sub = 0; sub < N_SUBS; sub++)
            for (size_t j = 0; j < SUB_BYTES; j++) {
                const uint8_t *q = codes + k * QK_K + sub * SUB + j;
                block[k].codes[sub][j] = (uint8_t)(q[0] | q[SUB_BYTES] << 4);
            }
}

void MF_LEVEL(iq4_nl_dequantize)(const uint8_t *y, float *x, size_t n) {
    const table16 table = table16_of(iq4_values);
    const iq4_nl_block *block = (const iq4_nl_block *)(const void *)y;
    for (size_t i = 0; i < n / SUB; i++, block++)
        table16_scaled_nibbles(table, vf_set1(mf_load_f16(block->d)), block->codes, x + i * SUB);
}

void MF_LEVEL(iq4_xs_dequantize)(const uint8_t *y, float *x, size_t n) {
    const table16 table = table16_of(iq4_values);
    const iq4_xs_block *block = (const iq4_xs_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        const float d = mf_load_f16(block->d);
        for (size_t sub = 0; sub < N_SUBS; sub++, x += SUB) {
            table16_scaled_nibbles(table, vf_set1(d * (float)(iq4_xs_scale(block, sub) - 32)), block->codes[sub], x);
        }
    }
}
