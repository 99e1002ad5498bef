/* q6_k: x = d * scale * (code - 32), scale int8, code 0..63.
 *
 * Every sub-block's float scale comes from sym_search, weighted with x^2 or the given importance; the largest of them
 * (by magnitude, signed) becomes -128, d is its float16. A super-block of (nearly) nothing is 210 zero bytes.
 * Source: ggml quantize_row_q6_K_ref, quantize_row_q6_K_impl, dequantize_row_q6_K. */
#include "k_symmetric.h"
#include "refine.h"
#include "sixteen.h"

enum { LEVELS = 32 };

typedef struct {
    uint8_t low[QK_K / 2];  /* in each half: values l and 64 + l in byte l, 0 <= l < 64 */
    uint8_t high[QK_K / 4]; /* in each half: values l, 32 + l, 64 + l, 96 + l in byte l, 0 <= l < 32 */
    int8_t scales[N_SUBS];
    uint8_t d[2]; /* float16 */
} q6_k_block;

_Static_assert(sizeof(q6_k_block) == 210, "block_q6_K of ggml-common.h");

static void q6_k_search(k_batch *batch, size_t g, const float *importance) {
    const vf *x = batch->x[g];
    vf w[SUB];
    if (importance)
        blocks_load_f32(importance, SUB, VF_LANES, SUB, w);
    else
        for (size_t j = 0; j < SUB; j++) w[j] = x[j] * x[j];
    const sym_fit fit = sym_search(x, w, SUB, LEVELS, false);
    vf_store(&batch->scale[0][0] + g * VF_LANES, fit.scale);
    sym_codes(x, &fit, SUB, LEVELS, false, batch->codes[g]);
}

/* d and the integer scales. Returns one truth value per lane in `nothing`: blocks that are all zero bytes. */
static void q6_k_scales(k_batch *batch, q6_k_block *block, int32_t *nothing) {
    vf scale[N_SUBS], stored[N_SUBS];
    vi words[N_SUBS / 4], q[N_SUBS];
    const size_t n = batch->n_blocks;
    blocks_load_f32(batch->scale[0], N_SUBS, n, N_SUBS, scale);
    const vf peak = sym_peak(scale, N_SUBS), inverse = -128.0f / peak;
    const vm is_nothing = vf_lt(vf_abs(peak), vf_set1(SYM_NOTHING));
    const vi d = vi_f16_of_scale(1.0f / inverse);
    for (size_t j = 0; j < N_SUBS; j++) {
        q[j] = vi_min(vi_round_magic(inverse * scale[j]), vi_set1(127));
        stored[j] = vf_from_f16(d) * vf_from_vi(q[j]);
    }
    for (size_t j = 0; j < N_SUBS / 4; j++) words[j] = vi_pack4(q[4 * j], q[4 * j + 1], q[4 * j + 2], q[4 * j + 3]);
    vi_store(nothing, vi_select(is_nothing, vi_set1(1), vi_set1(0)));
    blocks_store_f32(stored, N_SUBS, batch->stored[0], N_SUBS, n);
    blocks_store_16(words, (uint8_t *)block->scales, sizeof *block, n);
    blocks_store_2(d, block->d, sizeof *block, n);
}

static void q6_k_pack(const uint8_t *codes, q6_k_block *block) {
    const uint64_t low = 0x0f0f0f0f0f0f0f0f, high = 0x3030303030303030;
    for (size_t half = 0; half < 2; half++) {
        uint64_t q[16], l[8], h[4];
        memcpy(q, codes + 128 * half, sizeof q);
        for (size_t i = 0; i < 8; i++) l[i] = (q[i] & low) | (q[i + 8] & low) << 4;
        for (size_t i = 0; i < 4; i++)
            h[i] = (q[i] & high) >> 4 | (q[i + 4] & high) >> 2 | (q[i + 8] & high) | (q[i + 12] & high) << 2;
        memcpy(block->low + 64 * half, l, sizeof l);
        memcpy(block->high + 32 * half, h, sizeof h);
    }
}

void MF_LEVEL(q6_k_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    const size_t n_blocks = n_rows * n_cols / QK_K;
    for (size_t at = 0; at < n_blocks; at += VF_LANES) {
        q6_k_block *block = (q6_k_block *)(void *)y + at;
        k_batch batch;
        k_batch_load(&batch, x + at * QK_K, n_blocks - at < VF_LANES ? n_blocks - at : VF_LANES);
        for (size_t g = 0; g < batch.n_groups; g++) {
            const size_t column = (at * QK_K + g * VF_LANES * SUB) % n_cols;
            q6_k_search(&batch, g, importance ? importance + column : NULL);
        }
        int32_t nothing[VF_LANES];
        q6_k_scales(&batch, block, nothing);
        for (size_t i = 0; i < batch.n_blocks; i++) {
            uint8_t codes[QK_K];
            k_batch_round(&batch, i, LEVELS, codes);
            q6_k_pack(codes, block + i);
            if (nothing[i]) memset(block + i, 0, sizeof *block);
        }
    }
}

static const refine_rule better = {GRID_INTEGERS, -LEVELS, LEVELS - 1, N_SUBS, SUB, -128, 127, 24, false, 0, 0};

void MF_LEVEL(q6_k_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {
    q6_k_block *block = (q6_k_block *)(void *)y;
    uint8_t codes[VF_LANES * QK_K];
    vf v[QK_K], w[QK_K];
    vi words[N_SUBS / 4];
    refine_state state = {0};
    blocks_load_f32(x, QK_K, n, QK_K, v);
    blocks_load_f32(weights, QK_K, n, QK_K, w);
    blocks_load_16((const uint8_t *)block->scales, sizeof *block, n, words);
    for (size_t j = 0; j < N_SUBS; j++) state.scale[j] = vf_from_vi(words[j / 4] << (int)(24 - j % 4 * 8) >> 24);
    state.d = vf_from_f16(blocks_load_2(block->d, sizeof *block, n));
    refine_search(better, v, w, &state);

    refine_codes(better, v, &state, codes);
    for (size_t j = 0; j < N_SUBS; j += 4)
        words[j / 4] = vi_pack4(vi_trunc(state.scale[j]), vi_trunc(state.scale[j + 1]), vi_trunc(state.scale[j + 2]),
                                vi_trunc(state.scale[j + 3]));
    blocks_store_16(words, (uint8_t *)block->scales, sizeof *block, n);
    blocks_store_2(vi_f16_from_vf(state.d), block->d, sizeof *block, n);
    for (size_t k = 0; k < n; k++) q6_k_pack(codes + k * QK_K, block + k);
}

void MF_LEVEL(q6_k_dequantize)(const uint8_t *y, float *x, size_t n) {
    const q6_k_block *block = (const q6_k_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        float scale[N_SUBS];
        store_scaled(mf_load_f16(block->d), vb_load(block->scales), scale);
        for (size_t half = 0; half < 2; half++)
            for (int quarter = 0; quarter < 4; quarter++)
                for (size_t odd = 0; odd < 2; odd++, x += SUB) {
                    const uint8_t *low = block->low + 64 * half + 32 * (quarter % 2) + 16 * odd;
                    const uint8_t *high = block->high + 32 * half + 16 * odd;
                    const vb l = vb_bits(vb_load(low), 4 * (quarter / 2), 15),
                             h = vb_bits(vb_load(high), 2 * quarter, 3);
                    store_scaled(scale[8 * half + 2 * (size_t)quarter + odd], (l | h << 4) - LEVELS, x);
                }
    }
}
