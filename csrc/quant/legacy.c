/* The first generation of ggml's block types: 32 values, a float16 scale d, in the _1 types a float16 minimum m.
 *
 * q4_0  x = d * (code - 8)     q5_0  x = d * (code - 16)
 * q4_1  x = d * code + m       q5_1  the same          q8_0  x = d * code, code int8
 *
 * Source: ggml quantize_row_q4_0_ref ... quantize_row_q8_0_ref, quantize_row_q4_0_impl ... quantize_row_q5_1_impl,
 * dequantize_row_q4_0 ... dequantize_row_q8_0. */
#include "../level.h"
#include "k_fit.h"
#include "refine.h"
#include "sixteen.h"
#include "symmetric.h"

enum { QK = 32 };

/* How the first four are laid out: d, m if there is one, the fifth bits of the 32 codes if they have five, and the low
 * four bits, of values j and 16 + j in byte j. */
typedef struct {
    int n_bits;
    bool has_min;
} legacy;

#define AT_MIN 2
#define AT_HIGH(has_min) ((has_min) ? 4 : 2)
#define AT_LOW(n_bits, has_min) (AT_HIGH(has_min) + ((n_bits) == 5 ? 4 : 0))
#define BLOCK_BYTES(n_bits, has_min) (AT_LOW(n_bits, has_min) + QK / 2)

INLINE size_t legacy_bytes(const legacy type) { return (size_t)BLOCK_BYTES(type.n_bits, type.has_min); }

/* Four codes to a word. A code may be INT32_MIN, what vi_trunc makes of infinity and NaN: it counts as 0, and its one
 * bit falls outside of what legacy_store keeps. */
INLINE vi legacy_pack4(const vi code[4]) { return code[0] | code[1] << 8 | code[2] << 16 | code[3] << 24; }

/* n blocks of 32 codes, four to a word. */
INLINE void legacy_store(const legacy type, const vi codes[QK / 4], vf d, vf m, uint8_t *y, size_t n) {
    const size_t stride = legacy_bytes(type);
    vi low[4], high = vi_set1(0);
    for (size_t j = 0; j < 4; j++) low[j] = (codes[j] & 0x0f0f0f0f) | (codes[j + 4] & 0x0f0f0f0f) << 4;
    blocks_store_2(vi_f16_of_scale(d), y, stride, n);
    if (type.has_min) blocks_store_2(vi_f16_of_scale(m), y + AT_MIN, stride, n);
    blocks_store_16(low, y + AT_LOW(type.n_bits, type.has_min), stride, n);
    if (type.n_bits == 4) return;
    for (size_t j = 0; j < QK / 4; j++) {
        vi bits = vi_shift_right_logical(codes[j], 4) & 0x01010101; /* gather bits 0, 8, 16, 24 in 0..3 */
        bits = bits | vi_shift_right_logical(bits, 7);
        bits = bits | vi_shift_right_logical(bits, 14);
        high = high | (bits & 15) << (int)(4 * j);
    }
    blocks_store_4(high, y + AT_HIGH(type.has_min), stride, n);
}

INLINE vf legacy_inverse(vf d) {
    const vf zero = vf_set1(0.0f);
    return vf_select(vf_eq(d, zero), zero, 1.0f / d);
}

/* _0 types: d puts the value of the largest magnitude at the lowest code. */
INLINE void legacy_round_0(const legacy type, const vf x[QK], uint8_t *y, size_t n) {
    const int middle = 1 << (type.n_bits - 1);
    const vf d = sym_peak(x, QK) / -(float)middle, inverse = legacy_inverse(d);
    vi words[QK / 4];
    for (size_t j = 0; j < QK; j += 4) {
        vi code[4];
        for (size_t k = 0; k < 4; k++)
            code[k] = vi_min(vi_trunc(x[j + k] * inverse + ((float)middle + 0.5f)), vi_set1(2 * middle - 1));
        words[j / 4] = legacy_pack4(code);
    }
    legacy_store(type, words, d, d, y, n);
}

/* _1 types: the minimum is code 0, the maximum the largest. */
INLINE void legacy_round_1(const legacy type, const vf x[QK], uint8_t *y, size_t n) {
    vf min = x[0], max = x[0];
    for (size_t j = 1; j < QK; j++) {
        min = vf_min(x[j], min);
        max = vf_max(x[j], max);
    }
    const vf d = (max - min) / (float)((1 << type.n_bits) - 1), inverse = legacy_inverse(d);
    vi words[QK / 4];
    for (size_t j = 0; j < QK; j += 4) {
        vi code[4];
        for (size_t k = 0; k < 4; k++) code[k] = vi_trunc((x[j + k] - min) * inverse + 0.5f);
        words[j / 4] = legacy_pack4(code);
    }
    legacy_store(type, words, d, min, y, n);
}

/* The mean square of up to VF_LANES rows, each summed from left to right: a row is a lane. */
static void legacy_sigma2(const float *x, size_t n_rows, size_t n_cols, float sigma2[VF_LANES]) {
    vf sum = vf_set1(0.0f), v[QK];
    for (size_t at = 0; at < n_cols; at += QK) {
        blocks_load_f32(x + at, n_cols, n_rows, QK, v);
        for (size_t j = 0; j < QK; j++) sum = sum + v[j] * v[j];
    }
    vf_store(sigma2, sum / (float)n_cols);
}

/* With importance, _0: sym_search, weighted with importance * sqrt(sigma2 + x^2). */
INLINE void legacy_fit_0(const legacy type, const float *x, uint8_t *y, size_t n_blocks, const float *importance,
                         float sigma2) {
    const int middle = 1 << (type.n_bits - 1);
    for (size_t at = 0; at < n_blocks; at += VF_LANES) {
        const size_t n = n_blocks - at < VF_LANES ? n_blocks - at : VF_LANES;
        vf v[QK], w[QK];
        vi words[QK / 4];
        blocks_load_f32(x + at * QK, QK, n, QK, v);
        blocks_load_f32(importance + at * QK, QK, n, QK, w);
        for (size_t j = 0; j < QK; j++) w[j] = w[j] * vf_sqrt(sigma2 + v[j] * v[j]);
        const sym_fit fit = sym_search(v, w, QK, middle, false);
        sym_codes(v, &fit, QK, middle, false, words);
        legacy_store(type, words, fit.scale, fit.scale, y + at * legacy_bytes(type), n);
    }
}

/* With importance, _1: the fit of the K-quants' sub-blocks, with the same weights. */
INLINE void legacy_fit_1(const legacy type, const float *x, uint8_t *y, size_t n_blocks, const float *importance,
                         float sigma2) {
    const k_rule rule = {.n = QK,
                         .levels = (1 << type.n_bits) - 1,
                         .first = -0.9f,
                         .delta = 0.05f,
                         .last_step = 36,
                         .is_weighted = true};
    for (size_t at = 0; at < n_blocks; at += WAYS * VF_LANES) {
        vfs v[QK], w[QK];
        k_fits fits;
        k_load(rule, x, at, n_blocks, v);
        k_load(rule, importance, at, n_blocks, w);
        for (size_t j = 0; j < QK; j++) EACH_WAY w[j].v[u] = w[j].v[u] * vf_sqrt(sigma2 + v[j].v[u] * v[j].v[u]);
        k_fit(rule, v, w, &fits, 0);
        for (size_t u = 0; u < WAYS && at + u * VF_LANES < n_blocks; u++) {
            const size_t here = at + u * VF_LANES, left = n_blocks - here;
            const vf scale = vf_load(fits.code_scale + u * VF_LANES), min = vf_load(fits.code_min + u * VF_LANES);
            vi words[QK / 4];
            for (size_t j = 0; j < QK; j += 4) {
                vi code[4];
                for (size_t k = 0; k < 4; k++) code[k] = vi_trunc(k_round(scale * (v[j + k].v[u] - min), rule.levels));
                words[j / 4] = legacy_pack4(code);
            }
            legacy_store(type, words, vf_load(fits.scale + u * VF_LANES), vf_negate(vf_load(fits.min + u * VF_LANES)),
                         y + here * legacy_bytes(type), left < VF_LANES ? left : VF_LANES);
        }
    }
}

INLINE void legacy_quantize(const legacy type, const float *x, uint8_t *y, size_t n_rows, size_t n_cols,
                            const float *importance) {
    const size_t row_blocks = n_cols / QK, n_blocks = n_rows * row_blocks, bytes = legacy_bytes(type);
    if (!importance) {
        for (size_t at = 0; at < n_blocks; at += VF_LANES) {
            const size_t n = n_blocks - at < VF_LANES ? n_blocks - at : VF_LANES;
            vf v[QK];
            blocks_load_f32(x + at * QK, QK, n, QK, v);
            (type.has_min ? legacy_round_1 : legacy_round_0)(type, v, y + at * bytes, n);
        }
        return;
    }
    float sigma2[VF_LANES];
    for (size_t row = 0; row < n_rows; row++) {
        const float *here = x + row * n_cols;
        if (row % VF_LANES == 0) legacy_sigma2(here, n_rows - row < VF_LANES ? n_rows - row : VF_LANES, n_cols, sigma2);
        (type.has_min ? legacy_fit_1 : legacy_fit_0)(type, here, y + row * row_blocks * bytes, row_blocks, importance,
                                                     sigma2[row % VF_LANES]);
    }
}

/* Codes of 32 values as legacy_store wants them. */
INLINE void legacy_words(const refine_rule rule, const vf *x, const refine_state *state, vi words[QK / 4]) {
    const vf inverse = refine_inverse(state->d);
    for (size_t j = 0; j < QK; j += 4) {
        vi code[4];
        for (size_t k = 0; k < 4; k++)
            code[k] = vi_trunc(refine_point(rule, (x[j + k] + state->dmin) * inverse) - rule.low) & 255;
        words[j / 4] = vi_pack4(code[0], code[1], code[2], code[3]);
    }
}

INLINE void legacy_refine(const legacy type, const float *x, const float *weights, uint8_t *y, size_t n) {
    const float middle = type.has_min ? 0.0f : (float)(1 << (type.n_bits - 1)), top = (float)((1 << type.n_bits) - 1);
    const refine_rule rule = {.low = -middle,
                              .high = top - middle,
                              .n_subs = 1,
                              .n = QK,
                              .either_sign = true,
                              .min_high = type.has_min ? 1.0f : 0.0f};
    const size_t stride = legacy_bytes(type);
    vf v[QK], w[QK];
    vi words[QK / 4];
    refine_state state = {.d = vf_from_f16(blocks_load_2(y, stride, n))};
    if (type.has_min) state.dmin = vf_negate(vf_from_f16(blocks_load_2(y + AT_MIN, stride, n)));
    blocks_load_f32(x, QK, n, QK, v);
    blocks_load_f32(weights, QK, n, QK, w);
    if (type.has_min)
        refine_unit_and_min(rule, 2.0f, 20, 5, v, w, &state);
    else
        refine_unit(rule, middle * 0.75f, 0.25f, middle == 8 ? 36 : 44, v, w, &state);
    legacy_words(rule, v, &state, words);
    legacy_store(type, words, state.d, vf_negate(state.dmin), y, n);
}

INLINE void legacy_dequantize(const legacy type, const uint8_t *y, float *x, size_t n) {
    int32_t bit[QK];
    for (size_t j = 0; j < QK; j++) bit[j] = (int32_t)(1u << j);
    for (size_t i = 0; i < n; i += QK, y += legacy_bytes(type)) {
        const vf d = vf_set1(mf_load_f16(y)), m = vf_set1(type.has_min ? mf_load_f16(y + AT_MIN) : 0.0f);
        int32_t high = 0;
        if (type.n_bits == 5) memcpy(&high, y + AT_HIGH(type.has_min), sizeof high);
        for (size_t j = 0; j < QK; j += VF_LANES) {
            vi code = vi_load_u8(y + AT_LOW(type.n_bits, type.has_min) + j % (QK / 2));
            code = j < QK / 2 ? code & 15 : code >> 4;
            if (type.n_bits == 5) {
                const vi mine = vi_load(bit + j);
                code = code | vi_select(vi_eq(vi_set1(high) & mine, mine), vi_set1(16), vi_set1(0));
            }
            const vf value = vf_from_vi(type.has_min ? code : code - (1 << (type.n_bits - 1))) * d;
            vf_store(x + i + j, type.has_min ? value + m : value);
        }
    }
}

#define LEGACY_TYPE(name, bytes, ...)                                                                                  \
    _Static_assert(BLOCK_BYTES(__VA_ARGS__) == bytes, "block_" #name " of ggml-common.h");                             \
    void MF_LEVEL(name##_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols,                           \
                                   const float *importance) {                                                          \
        legacy_quantize((legacy){__VA_ARGS__}, x, y, n_rows, n_cols, importance);                                      \
    }                                                                                                                  \
    void MF_LEVEL(name##_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {                         \
        legacy_refine((legacy){__VA_ARGS__}, x, weights, y, n);                                                        \
    }                                                                                                                  \
    void MF_LEVEL(name##_dequantize)(const uint8_t *y, float *x, size_t n) {                                           \
        legacy_dequantize((legacy){__VA_ARGS__}, y, x, n);                                                             \
    }

LEGACY_TYPE(q4_0, 18, 4, false)
LEGACY_TYPE(q4_1, 20, 4, true)
LEGACY_TYPE(q5_0, 22, 5, false)
LEGACY_TYPE(q5_1, 24, 5, true)

typedef struct {
    uint8_t d[2]; /* float16 */
    int8_t codes[QK];
} q8_0_block;

_Static_assert(sizeof(q8_0_block) == 34, "block_q8_0 of ggml-common.h");

/* q8_0: d = absmax / 127 in float32, code = roundf(x * (1 / d)), halves away from zero; d is stored as float16, so the
 * codes belong to the unrounded d. */
void MF_LEVEL(q8_0_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    (void)importance;
    const size_t n_blocks = n_rows * n_cols / QK;
    for (size_t at = 0; at < n_blocks; at += VF_LANES) {
        const size_t n = n_blocks - at < VF_LANES ? n_blocks - at : VF_LANES;
        q8_0_block *block = (q8_0_block *)(void *)(y + at * sizeof *block);
        vf v[QK];
        blocks_load_f32(x + at * QK, QK, n, QK, v);

        vf largest = vf_set1(0.0f);
        for (size_t j = 0; j < QK; j++) largest = vf_max(largest, vf_abs(v[j]));
        const vf d = largest / 127.0f, inverse = legacy_inverse(d);

        vi word[QK / 4];
        for (size_t j = 0; j < QK / 4; j++) {
            const vf *four = v + 4 * j;
            word[j] = vi_pack4(vi_round_away(four[0] * inverse), vi_round_away(four[1] * inverse),
                               vi_round_away(four[2] * inverse), vi_round_away(four[3] * inverse));
        }
        blocks_store_2(vi_f16_of_scale(d), block->d, sizeof *block, n);
        blocks_store_16(word, (uint8_t *)block->codes, sizeof *block, n);
        blocks_store_16(word + 4, (uint8_t *)block->codes + 16, sizeof *block, n);
    }
}

void MF_LEVEL(q8_0_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {
    const refine_rule rule = {.low = -127, .high = 127, .n_subs = 1, .n = QK};
    q8_0_block *block = (q8_0_block *)(void *)y;
    vf v[QK], w[QK];
    vi words[QK / 4];
    refine_state state = {.d = vf_from_f16(blocks_load_2(block->d, sizeof *block, n))};
    blocks_load_f32(x, QK, n, QK, v);
    blocks_load_f32(weights, QK, n, QK, w);
    refine_unit(rule, 104.0f, 0.2f, 140, v, w, &state);
    const vf inverse = refine_inverse(state.d);
    for (size_t j = 0; j < QK; j += 4) {
        vi code[4];
        for (size_t k = 0; k < 4; k++) code[k] = vi_trunc(refine_point(rule, v[j + k] * inverse));
        words[j / 4] = vi_pack4(code[0], code[1], code[2], code[3]);
    }
    blocks_store_2(vi_f16_from_vf(state.d), block->d, sizeof *block, n);
    blocks_store_16(words, (uint8_t *)block->codes, sizeof *block, n);
    blocks_store_16(words + 4, (uint8_t *)block->codes + 16, sizeof *block, n);
}

void MF_LEVEL(q8_0_dequantize)(const uint8_t *y, float *x, size_t n) {
    const q8_0_block *block = (const q8_0_block *)(const void *)y;
    for (size_t i = 0; i < n / QK; i++) {
        const float d = mf_load_f16(block[i].d);
        for (size_t j = 0; j < QK; j += 16) store_scaled(d, vb_load(block[i].codes + j), x + i * QK + j);
    }
}
