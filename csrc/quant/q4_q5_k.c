/* Q4_K and Q5_K: super-blocks of 256, eight sub-blocks of 32, a 6-bit scale and a 6-bit minimum each, float16 units for
 * both: x = d * scale * code - dmin * minimum. Source: ggml block_q4_K, block_q5_K and their quantize_row_*_ref and
 * _impl (with importance), dequantize_row_*. */
#include "k_fit.h"
#include "refine.h"

enum { N_SUB = 8, SUB = QK_K / N_SUB };

typedef struct {
    uint8_t d[2], dmin[2]; /* float16 */
    uint8_t scales[12];    /* see pack_scales */
} k6_header;

typedef struct {
    k6_header header;
    uint8_t low[4][SUB]; /* byte j of part c: element 64 c + j in the low half, 64 c + 32 + j in the high half */
} q4_k_block;

typedef struct {
    k6_header header;
    uint8_t high[SUB]; /* bit i of byte j: bit 4 of the code of element 32 i + j */
    uint8_t low[4][SUB];
} q5_k_block;

_Static_assert(sizeof(q4_k_block) == 144, "block_q4_K of ggml-common.h");
_Static_assert(sizeof(q5_k_block) == 176, "block_q5_K of ggml-common.h");

/* The tries that ggml makes for each type, without and with importance. */
static const k_rule q4_plain = {.n = SUB, .levels = 15, .first = -1.0f, .delta = 0.1f, .last_step = 20};
static const k_rule q5_plain = {.n = SUB, .levels = 31, .first = -0.5f, .delta = 0.1f, .last_step = 15};
static const k_rule q4_weighted = {SUB, 15, -0.9f, 0.05f, 36, false, true};
static const k_rule q5_weighted = {SUB, 31, -0.9f, 0.05f, 36, false, true};

/* Codes 0..63 in units of max / 63, one super-block per lane; the byte wraps before it is clamped, as ggml's does. */
static vf plain_scales(const vf *x, vi *codes) {
    const vf zero = vf_set1(0.0f);
    vf max = zero;
    for (size_t j = 0; j < N_SUB; j++) max = vf_max(x[j], max);
    const vf inverse = vf_select(vf_gt(max, zero), 63.0f / max, zero);
    for (size_t j = 0; j < N_SUB; j++) codes[j] = vi_min(vi_round_magic(inverse * x[j]) & 255, vi_set1(63));
    return max / 63.0f;
}

/* 16 codes of 6 bits as three little-endian words: the low 6 bits of bytes 0..3 are scales 0..3, of bytes 4..7 minima
 * 0..3; bytes 8..11 are the low halves of scales 4..7 and minima 4..7, whose high bits sit atop bytes 0..7. */
static void pack_scales(const vi *ls, const vi *lm, vi words[3]) {
#define ATOP(l, j) (l[j] | l[(j) + 4] >> 4 << 6)
#define HALVES(j) ((ls[j] & 15) | (lm[j] & 15) << 4)
    words[0] = vi_pack4(ATOP(ls, 0), ATOP(ls, 1), ATOP(ls, 2), ATOP(ls, 3));
    words[1] = vi_pack4(ATOP(lm, 0), ATOP(lm, 1), ATOP(lm, 2), ATOP(lm, 3));
    words[2] = vi_pack4(HALVES(4), HALVES(5), HALVES(6), HALVES(7));
#undef ATOP
#undef HALVES
}

static void unpack_scales(const vi words[3], vi *ls, vi *lm) {
    for (size_t j = 0; j < 4; j++) {
        const vi s = words[0] >> (int)(8 * j), m = words[1] >> (int)(8 * j), halves = words[2] >> (int)(8 * j);
        ls[j] = s & 63;
        lm[j] = m & 63;
        ls[j + 4] = (halves & 15) | (s >> 6 & 3) << 4;
        lm[j + 4] = (halves >> 4 & 15) | (m >> 6 & 3) << 4;
    }
}

/* Step 2: scales and minima to headers, and what these will mean when they are read back. */
static void store_headers(const k_rule rule, const k_fits *fits, size_t n_blocks, uint8_t *y, size_t stride,
                          k_steps *steps) {
    vf scale[N_SUB], min[N_SUB], weight[N_SUB], d, dmin;
    vi ls[N_SUB], lm[N_SUB], words[4];
    blocks_load_f32(fits->scale, N_SUB, n_blocks, N_SUB, scale);
    blocks_load_f32(fits->min, N_SUB, n_blocks, N_SUB, min);
    if (rule.is_weighted) {
        blocks_load_f32(fits->weight, N_SUB, n_blocks, N_SUB, weight);
        d = k_fit_scales(N_SUB, 63, scale, weight, ls);
        dmin = k_fit_scales(N_SUB, 63, min, weight, lm);
        if (rule.levels == 31) { /* the one place where ggml's two types differ */
            for (size_t j = 0; j < N_SUB; j++) ls[j] = vi_min(ls[j], vi_set1(63)), lm[j] = vi_min(lm[j], vi_set1(63));
        }
    } else {
        d = plain_scales(scale, ls);
        dmin = plain_scales(min, lm);
    }
    const vi d16 = k_f16(d), dmin16 = k_f16(dmin);
    words[0] = d16 | dmin16 << 16;
    pack_scales(ls, lm, words + 1);
    blocks_store_16(words, y, stride, n_blocks);

    unpack_scales(words + 1, ls, lm);
    for (size_t j = 0; j < N_SUB; j++) {
        scale[j] = vf_from_f16(d16) * vf_from_vi(ls[j]);
        min[j] = vf_from_f16(dmin16) * vf_from_vi(lm[j]);
    }
    blocks_store_f32(scale, N_SUB, steps->d, N_SUB, n_blocks);
    blocks_store_f32(min, N_SUB, steps->m, N_SUB, n_blocks);
}

/* Step 3, one super-block: low halves of the codes, and the fifth bits where `high` is not NULL. */
INLINE void store_codes(const k_rule rule, const k_fits *fits, const k_steps *steps, size_t block, const float *x,
                        uint8_t (*low)[SUB], uint8_t *high) {
    for (size_t j = 0; j < SUB; j += VF_LANES) {
        vi fifth = vi_set1(0);
        for (size_t c = 0; c < 4; c++) {
            const vi a = k_codes(rule, fits, steps, block * N_SUB + 2 * c, x + 64 * c + j);
            const vi b = k_codes(rule, fits, steps, block * N_SUB + 2 * c + 1, x + 64 * c + SUB + j);
            vi_store_u8(low[c] + j, (a & 15) | (b & 15) << 4);
            fifth |= (a >> 4 | b >> 4 << 1) << (int)(2 * c);
        }
        if (high) vi_store_u8(high + j, fifth);
    }
}

INLINE void quantize(const k_rule rule, const float *x, uint8_t *y, size_t n_rows, size_t n_cols,
                     const float *importance) {
    const bool is_q4 = rule.levels == 15;
    const size_t stride = is_q4 ? sizeof(q4_k_block) : sizeof(q5_k_block);
    const size_t row_blocks = n_cols / QK_K, n_blocks = n_rows * row_blocks;
    k_fits fits;
    k_steps steps;
    float weights[BATCH * QK_K];
    for (size_t at = 0; at < n_blocks; at += BATCH, x += BATCH * QK_K, y += BATCH * stride) {
        const size_t n = n_blocks - at < BATCH ? n_blocks - at : BATCH;
        if (rule.is_weighted) k_importance_weights(x, importance, at, row_blocks, n, 2.0f, weights);
        k_fit_sub_blocks(rule, x, weights, n, &fits);
        store_headers(rule, &fits, n, y, stride, &steps);
        for (size_t b = 0; b < n; b++) {
            if (is_q4) {
                q4_k_block *block = (q4_k_block *)(void *)(y + b * stride);
                store_codes(rule, &fits, &steps, b, x + b * QK_K, block->low, NULL);
            } else {
                q5_k_block *block = (q5_k_block *)(void *)(y + b * stride);
                store_codes(rule, &fits, &steps, b, x + b * QK_K, block->low, block->high);
            }
        }
    }
}

void MF_LEVEL(q4_k_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    if (importance)
        quantize(q4_weighted, x, y, n_rows, n_cols, importance);
    else
        quantize(q4_plain, x, y, n_rows, n_cols, NULL);
}

void MF_LEVEL(q5_k_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    if (importance)
        quantize(q5_weighted, x, y, n_rows, n_cols, importance);
    else
        quantize(q5_plain, x, y, n_rows, n_cols, NULL);
}

static const refine_rule q4_refine = {GRID_INTEGERS, 0, 15, N_SUB, SUB, 0, 63, 8, false, 63, 4};
static const refine_rule q5_refine = {GRID_INTEGERS, 0, 31, N_SUB, SUB, 0, 63, 8, false, 63, 4};

INLINE void refine(const refine_rule rule, const float *x, const float *weights, uint8_t *y, size_t n) {
    const size_t stride = rule.high == 15.0f ? sizeof(q4_k_block) : sizeof(q5_k_block);
    vf v[QK_K], w[QK_K];
    vi words[4], ls[N_SUB], lm[N_SUB];
    refine_state state = {0};
    blocks_load_f32(x, QK_K, n, QK_K, v);
    blocks_load_f32(weights, QK_K, n, QK_K, w);
    blocks_load_16(y, stride, n, words);
    unpack_scales(words + 1, ls, lm);
    state.d = vf_from_f16(words[0] & 0xffff);
    state.dmin = vf_from_f16(vi_shift_right_logical(words[0], 16));
    for (size_t j = 0; j < N_SUB; j++) {
        state.scale[j] = vf_from_vi(ls[j]);
        state.min[j] = vf_from_vi(lm[j]);
    }
    refine_search(rule, v, w, &state);

    uint8_t codes[VF_LANES * QK_K];
    refine_codes(rule, v, &state, codes);
    for (size_t j = 0; j < N_SUB; j++) {
        ls[j] = vi_trunc(state.scale[j]);
        lm[j] = vi_trunc(state.min[j]);
    }
    words[0] = vi_f16_from_vf(state.d) | vi_f16_from_vf(state.dmin) << 16;
    pack_scales(ls, lm, words + 1);
    blocks_store_16(words, y, stride, n);
    for (size_t k = 0; k < n; k++, y += stride) {
        uint8_t *low = y + stride - QK_K / 2, *high = y + sizeof(k6_header);
        const uint8_t *code = codes + k * QK_K;
        if (rule.high == 31.0f) memset(high, 0, SUB);
        for (size_t i = 0; i < QK_K; i++) {
            const size_t byte = i / 64 * SUB + i % SUB;
            if (i % 64 < SUB)
                low[byte] = code[i] & 15;
            else
                low[byte] |= (uint8_t)(code[i] << 4);
            if (rule.high == 31.0f) high[i % SUB] |= (uint8_t)(code[i] >> 4 << i / SUB);
        }
    }
}

void MF_LEVEL(q4_k_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {
    refine(q4_refine, x, weights, y, n);
}

void MF_LEVEL(q5_k_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {
    refine(q5_refine, x, weights, y, n);
}

/* d * scale and dmin * minimum of the eight sub-blocks. */
static void load_header(const k6_header *header, float *d, float *m) {
    const float unit = mf_load_f16(header->d), min_unit = mf_load_f16(header->dmin);
    const uint8_t *q = header->scales;
    for (size_t j = 0; j < 4; j++) {
        d[j] = unit * (float)(q[j] & 63);
        m[j] = min_unit * (float)(q[j + 4] & 63);
        d[j + 4] = unit * (float)((q[j + 8] & 15) | q[j] >> 6 << 4);
        m[j + 4] = min_unit * (float)(q[j + 8] >> 4 | q[j + 4] >> 6 << 4);
    }
}

INLINE void dequantize(const k6_header *header, const uint8_t (*low)[SUB], const uint8_t *high, float *x) {
    float d[N_SUB], m[N_SUB];
    load_header(header, d, m);
    for (size_t j = 0; j < SUB; j += VF_LANES) {
        const vi fifth = high ? vi_load_u8(high + j) : vi_set1(0);
        for (size_t c = 0; c < 4; c++) {
            const vi halves = vi_load_u8(low[c] + j), bits = fifth >> (int)(2 * c);
            const vi a = (halves & 15) | (bits & 1) << 4, b = halves >> 4 | (bits & 2) << 3;
            vf_store(x + 64 * c + j, d[2 * c] * vf_from_vi(a) - m[2 * c]);
            vf_store(x + 64 * c + SUB + j, d[2 * c + 1] * vf_from_vi(b) - m[2 * c + 1]);
        }
    }
}

void MF_LEVEL(q4_k_dequantize)(const uint8_t *y, float *x, size_t n) {
    const q4_k_block *block = (const q4_k_block *)(const void *)y;
    for (size_t b = 0; b < n / QK_K; b++) dequantize(&block[b].header, block[b].low, NULL, x + b * QK_K);
}

void MF_LEVEL(q5_k_dequantize)(const uint8_t *y, float *x, size_t n) {
    const q5_k_block *block = (const q5_k_block *)(const void *)y;
    for (size_t b = 0; b < n / QK_K; b++) dequantize(&block[b].header, block[b].low, block[b].high, x + b * QK_K);
}
