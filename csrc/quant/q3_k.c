/* q3_k: x = d * (scale - 32) * (code - 4), scale 0..63, code 0..7.
 *
 * Without importance a sub-block's float scale comes from a coordinate descent over its levels (ggml make_q3_quants)
 * and the largest scale becomes -32. With importance the weights are importance * sqrt(2 * mean(x^2) + x^2), scales
 * come from sym_search, and so do d and the integer scales, weighted by the sum of their sub-block's weights.
 * Source: ggml quantize_row_q3_K_ref, quantize_row_q3_K_impl, dequantize_row_q3_K. */
#include "k_symmetric.h"
#include "refine.h"
#include "sixteen.h"

enum { LEVELS = 4, SCALE_LEVELS = 32, TOGETHER = 4 };

typedef struct {
    uint8_t high[QK_K / 8]; /* bit 2 of values l, 32 + l, ... 224 + l in byte l */
    uint8_t low[QK_K / 4];  /* in each half: values l, 32 + l, 64 + l, 96 + l in byte l, 0 <= l < 32 */
    uint8_t scales[12];     /* low 4 bits of scales j and 8 + j in byte j < 8; high 2 bits of j, 4 + j, .. in 8 + j */
    uint8_t d[2];           /* float16 */
} q3_k_block;

_Static_assert(sizeof(q3_k_block) == 110, "block_q3_K of ggml-common.h");

/* make_q3_quants for n groups at once (their chains of divisions overlap): take levels one by one to where the error
 * is least given all others, at most five times over. A pass that changes nothing in a lane never will again, so all
 * lanes of a group may go on until none changes. */
SYM_INLINE void q3_descend(k_batch *batch, size_t first, const size_t n) {
    const vf zero = vf_set1(0.0f);
    vf w[TOGETHER][SUB], wx[TOGETHER][SUB], l[TOGETHER][SUB], sum_lx[TOGETHER], sum_l2[TOGETHER];
    vm nothing[TOGETHER];
    for (size_t g = 0; g < n; g++) {
        const vf *x = batch->x[first + g];
        const vf peak = sym_peak(x, SUB), inverse = -(float)LEVELS / peak;
        nothing[g] = vf_lt(vf_abs(peak), vf_set1(SYM_NOTHING));
        sum_lx[g] = sum_l2[g] = zero;
        for (size_t j = 0; j < SUB; j++) {
            w[g][j] = x[j] * x[j];
            wx[g][j] = w[g][j] * x[j];
            l[g][j] = sym_level(inverse * x[j], LEVELS) - SYM_BIAS;
            sum_lx[g] = sum_lx[g] + wx[g][j] * l[g][j];
            sum_l2[g] = sum_l2[g] + w[g][j] * l[g][j] * l[g][j];
        }
    }
    bool is_changing[TOGETHER] = {false};
    for (size_t g = 0; g < n; g++) is_changing[g] = true;
    for (int pass = 0; pass < 5; pass++) {
        vm changed[TOGETHER];
        for (size_t g = 0; g < n; g++) changed[g] = vf_lt(zero, zero);
        for (size_t j = 0; j < SUB; j++)
            for (size_t g = 0; g < n; g++) {
                if (!is_changing[g]) continue;
                const vf old = l[g][j];
                vf lx = sum_lx[g] - wx[g][j] * old, l2 = sum_l2[g] - w[g][j] * old * old;
                const vf new = sym_level_of_any(batch->x[first + g][j] * l2 / lx, LEVELS) - SYM_BIAS;
                vm take = vf_gt(lx, zero);
                lx = lx + wx[g][j] * new;
                l2 = l2 + w[g][j] * new * new;
                take = vm_and(take, vm_and(vm_not(vf_eq(new, old)), vf_gt(l2, zero)));
                take = vm_and(take, vf_gt(lx * lx * sum_l2[g], sum_lx[g] * sum_lx[g] * l2));
                l[g][j] = vf_select(take, new, old);
                sum_lx[g] = vf_select(take, lx, sum_lx[g]);
                sum_l2[g] = vf_select(take, l2, sum_l2[g]);
                changed[g] = vm_or(changed[g], take);
            }
        bool any = false;
        for (size_t g = 0; g < n; g++) any |= is_changing[g] = vm_any(changed[g]);
        if (!any) break;
    }
    for (size_t g = 0; g < n; g++) {
        const vm none = vm_or(nothing[g], vm_not(vf_gt(sum_l2[g], zero)));
        vf_store(&batch->scale[0][0] + (first + g) * VF_LANES, vf_select(none, zero, sum_lx[g] / sum_l2[g]));
        for (size_t j = 0; j < SUB; j += 4) {
            const vf biased[4] = {l[g][j] + SYM_BIAS, l[g][j + 1] + SYM_BIAS, l[g][j + 2] + SYM_BIAS,
                                  l[g][j + 3] + SYM_BIAS};
            batch->codes[first + g][j / 4] = vi_select(nothing[g], vi_set1(0), sym_pack4(biased, LEVELS));
        }
    }
}

/* Twice the mean square of every super-block. */
static void q3_k_sigma2(const float *x, size_t n, float *sigma2) {
    vf sum = vf_set1(0.0f), v[SUB];
    for (size_t at = 0; at < QK_K; at += SUB) {
        blocks_load_f32(x + at, QK_K, n, SUB, v);
        for (size_t j = 0; j < SUB; j++) sum = sum + v[j] * v[j];
    }
    vf_store(sigma2, 2.0f * sum / (float)QK_K);
}

static void q3_k_search(k_batch *batch, size_t g, const float *importance, float sigma2) {
    const vf *x = batch->x[g];
    vf w[SUB], sum = vf_set1(0.0f);
    blocks_load_f32(importance, SUB, VF_LANES, SUB, w);
    for (size_t j = 0; j < SUB; j++) {
        w[j] = w[j] * vf_sqrt(sigma2 + x[j] * x[j]);
        sum = sum + w[j];
    }
    const sym_fit fit = sym_search(x, w, SUB, LEVELS, false);
    vf_store(&batch->scale[0][0] + g * VF_LANES, fit.scale);
    vf_store(&batch->weight[0][0] + g * VF_LANES, sum);
    sym_codes(x, &fit, SUB, LEVELS, false, batch->codes[g]);
}

/* d (a float16) and the scales 0..63 of n blocks. */
static void q3_k_store_scales(const vi q[N_SUBS], vi d, q3_k_block *block, size_t n) {
    vi low[8], high[4];
    for (size_t j = 0; j < 8; j++) low[j] = (q[j] & 15) | (q[j + 8] & 15) << 4;
    for (size_t j = 0; j < 4; j++) high[j] = q[j] >> 4 | q[j + 4] >> 4 << 2 | q[j + 8] >> 4 << 4 | q[j + 12] >> 4 << 6;
    blocks_store_4(vi_pack4(low[0], low[1], low[2], low[3]), block->scales, sizeof *block, n);
    blocks_store_4(vi_pack4(low[4], low[5], low[6], low[7]), block->scales + 4, sizeof *block, n);
    blocks_store_4(vi_pack4(high[0], high[1], high[2], high[3]), block->scales + 8, sizeof *block, n);
    blocks_store_2(d, block->d, sizeof *block, n);
}

/* d and the integer scales. */
static void q3_k_scales(k_batch *batch, bool is_weighted, q3_k_block *block) {
    vf scale[N_SUBS], stored[N_SUBS], d;
    vi q[N_SUBS];
    const size_t n = batch->n_blocks;
    blocks_load_f32(batch->scale[0], N_SUBS, n, N_SUBS, scale);
    if (is_weighted) {
        vf weight[N_SUBS];
        blocks_load_f32(batch->weight[0], N_SUBS, n, N_SUBS, weight);
        const sym_fit fit = sym_search(scale, weight, N_SUBS, SCALE_LEVELS, true);
        d = fit.scale;
        for (size_t j = 0; j < N_SUBS; j++) {
            const vf level = sym_level_of_any(fit.inverse * scale[j], SCALE_LEVELS);
            q[j] = vi_select(fit.nothing, vi_set1(0), (vi)level - (SYM_BIAS_BITS - SCALE_LEVELS));
        }
    } else {
        const vf peak = sym_peak(scale, N_SUBS), inverse = -(float)SCALE_LEVELS / peak;
        const vm nothing = vf_eq(peak, vf_set1(0.0f));
        d = vf_select(nothing, vf_set1(0.0f), 1.0f / inverse);
        for (size_t j = 0; j < N_SUBS; j++) {
            const vf level = sym_level_of_any(inverse * scale[j], SCALE_LEVELS);
            q[j] = vi_select(nothing, vi_set1(0), (vi)level - (SYM_BIAS_BITS - SCALE_LEVELS));
        }
    }
    const vi half = vi_f16_of_scale(d);
    for (size_t j = 0; j < N_SUBS; j++) stored[j] = vf_from_f16(half) * vf_from_vi(q[j] - SCALE_LEVELS);
    blocks_store_f32(stored, N_SUBS, batch->stored[0], N_SUBS, n);
    q3_k_store_scales(q, half, block, n);
}
static void q3_k_pack(const uint8_t *codes, q3_k_block *block) {
    const uint64_t low = 0x0303030303030303, high = 0x0404040404040404;
    uint64_t q[32], l[8], h[4];
    memcpy(q, codes, sizeof q);
    for (size_t i = 0; i < 4; i++) {
        l[i] = (q[i] & low) | (q[i + 4] & low) << 2 | (q[i + 8] & low) << 4 | (q[i + 12] & low) << 6;
        l[i + 4] = (q[i + 16] & low) | (q[i + 20] & low) << 2 | (q[i + 24] & low) << 4 | (q[i + 28] & low) << 6;
        h[i] = (q[i] & high) >> 2 | (q[i + 4] & high) >> 1 | (q[i + 8] & high) | (q[i + 12] & high) << 1 |
               (q[i + 16] & high) << 2 | (q[i + 20] & high) << 3 | (q[i + 24] & high) << 4 | (q[i + 28] & high) << 5;
    }
    memcpy(block->low, l, sizeof l);
    memcpy(block->high, h, sizeof h);
}

void MF_LEVEL(q3_k_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    const size_t n_blocks = n_rows * n_cols / QK_K;
    for (size_t at = 0; at < n_blocks; at += VF_LANES) {
        q3_k_block *block = (q3_k_block *)(void *)y + at;
        float sigma2[VF_LANES];
        k_batch batch;
        k_batch_load(&batch, x + at * QK_K, n_blocks - at < VF_LANES ? n_blocks - at : VF_LANES);
        size_t g = 0;
        if (importance) {
            q3_k_sigma2(x + at * QK_K, batch.n_blocks, sigma2);
            for (; g < batch.n_groups; g++) {
                const size_t value = g * VF_LANES * SUB;
                q3_k_search(&batch, g, importance + (at * QK_K + value) % n_cols, sigma2[value / QK_K]);
            }
        } else {
            for (; g + TOGETHER <= batch.n_groups; g += TOGETHER) q3_descend(&batch, g, TOGETHER);
            for (; g < batch.n_groups; g++) q3_descend(&batch, g, 1);
        }
        q3_k_scales(&batch, importance != NULL, block);
        for (size_t i = 0; i < batch.n_blocks; i++) {
            uint8_t codes[QK_K];
            k_batch_round(&batch, i, LEVELS, codes);
            q3_k_pack(codes, block + i);
        }
    }
}

/* Scale j, 0..63. */
static int q3_k_scale(const q3_k_block *block, size_t j) {
    const int low = block->scales[j % 8] >> (j < 8 ? 0 : 4) & 15, high = block->scales[8 + j % 4] >> (2 * (j / 4)) & 3;
    return low | high << 4;
}

static const refine_rule better = {GRID_INTEGERS, -LEVELS, LEVELS - 1, N_SUBS, SUB, -32, 31, 6, true, 0, 0};

void MF_LEVEL(q3_k_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {
    q3_k_block *block = (q3_k_block *)(void *)y;
    float scales[VF_LANES * N_SUBS];
    uint8_t codes[VF_LANES * QK_K];
    vf v[QK_K], w[QK_K];
    vi q[N_SUBS];
    refine_state state = {0};
    for (size_t k = 0; k < VF_LANES; k++)
        for (size_t j = 0; j < N_SUBS; j++)
            scales[k * N_SUBS + j] = (float)(q3_k_scale(block + blocks_at(k, n), j) - SCALE_LEVELS);
    blocks_load_f32(scales, N_SUBS, VF_LANES, N_SUBS, state.scale);
    blocks_load_f32(x, QK_K, n, QK_K, v);
    blocks_load_f32(weights, QK_K, n, QK_K, w);
    state.d = vf_from_f16(blocks_load_2(block->d, sizeof *block, n));
    refine_favour_large(better, v, w);
    refine_search(better, v, w, &state);

    refine_codes(better, v, &state, codes);
    for (size_t j = 0; j < N_SUBS; j++) q[j] = vi_trunc(state.scale[j]) + SCALE_LEVELS;
    q3_k_store_scales(q, vi_f16_from_vf(state.d), block, n);
    for (size_t k = 0; k < n; k++) q3_k_pack(codes + k * QK_K, block + k);
}

void MF_LEVEL(q3_k_dequantize)(const uint8_t *y, float *x, size_t n) {
    const q3_k_block *block = (const q3_k_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        float scale[N_SUBS];
        const uint64_t low4 = load_8(block->scales);
        const uint32_t high2 = load_4(block->scales + 8);
        const vb low = vb_pair(low4, low4 >> 4) & 15, high = vb_quad(high2, high2 >> 2, high2 >> 4, high2 >> 6) & 3;
        store_scaled(mf_load_f16(block->d), (low | high << 4) - SCALE_LEVELS, scale);
        for (size_t half = 0; half < 2; half++)
            for (int quarter = 0; quarter < 4; quarter++)
                for (size_t odd = 0; odd < 2; odd++, x += SUB) {
                    const vb l = vb_bits(vb_load(block->low + 32 * half + 16 * odd), 2 * quarter, 3);
                    const vb h = vb_bits(vb_load(block->high + 16 * odd), 4 * (int)half + quarter, 1);
                    store_scaled(scale[8 * half + 2 * (size_t)quarter + odd], (l | h << 2) - LEVELS, x);
                }
    }
}
