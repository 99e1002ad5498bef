/* Ternary blocks of 256: x = d * (trit - 1), d the largest magnitude. tq2_0 gives a trit two bits; tq1_0 packs five
 * into a byte as the fraction q / 243, rounded up to 256ths, so that the next trit is the integer part of 3 times the
 * rest. Where 1 / d overflows (a subnormal d) every trit is 1. Source: ggml quantize_row_tq1_0_ref,
 * quantize_row_tq2_0_ref and their inverses. */
#include "../half.h"
#include "../level.h"
#include "largest.h"
#include "refine.h"

enum { QK_K = 256, TQ1_LONG = 32, TQ1_SHORT = 16, TQ1_LAST = 4 };

typedef struct {
    uint8_t trits[TQ1_LONG + TQ1_SHORT]; /* byte j: values j + 32 n, n < 5; then 160 + j + 16 n, n < 5 */
    uint8_t last[TQ1_LAST];              /* byte j: values 240 + j + 4 n, n < 4 */
    uint8_t d[2];                        /* float16 */
} tq1_0_block;

typedef struct {
    uint8_t codes[QK_K / 4]; /* in each half: byte j, bits 2 n: value j + 32 n */
    uint8_t d[2];            /* float16 */
} tq2_0_block;

_Static_assert(sizeof(tq1_0_block) == 54, "block_tq1_0 of ggml-common.h");
_Static_assert(sizeof(tq2_0_block) == 66, "block_tq2_0 of ggml-common.h");

static inline vi trits_of(const float *x, vf inverse) { return vi_round_away(vf_load(x) * inverse) + 1; }

/* Five trits as a byte: q * 256 / 243, rounded up. 69043 / 2^24 divides every 16-bit number by 243 exactly. */
static inline vi trits_to_byte(vi q) { return vi_shift_right_logical(((q & 255) * 256 + 242) * 69043, 24); }

static inline void trits_store(const float *x, size_t n_bytes, vf inverse, uint8_t *bytes) {
    for (size_t j = 0; j < n_bytes; j += VF_LANES) {
        vi q = trits_of(x + j, inverse);
        for (size_t n = 1; n < 5; n++) q = q * 3 + trits_of(x + j + n * n_bytes, inverse);
        vi_store_u8(bytes + j, trits_to_byte(q));
    }
}

/* The last 16 values, four to a byte, in a vector of their own: lane j of trit n. */
static inline void trits_store_last(const float *x, vf inverse, uint8_t *bytes) {
    int32_t trits[16], q[VF_LANES] = {0};
    for (size_t j = 0; j < 16; j += VF_LANES) vi_store(trits + j, trits_of(x + j, inverse));
    for (size_t j = 0; j < TQ1_LAST; j++)
        q[j] = (((trits[j] * 3 + trits[j + 4]) * 3 + trits[j + 8]) * 3 + trits[j + 12]) * 3;
    uint8_t all[VF_LANES];
    vi_store_u8(all, trits_to_byte(vi_load(q)));
    memcpy(bytes, all, TQ1_LAST);
}

static void tq1_0_write(const float *x, float inverse, tq1_0_block *block) {
    const vf factor = vf_set1(inverse);
    trits_store(x, TQ1_LONG, factor, block->trits);
    trits_store(x + 5 * TQ1_LONG, TQ1_SHORT, factor, block->trits + TQ1_LONG);
    trits_store_last(x + 5 * (TQ1_LONG + TQ1_SHORT), factor, block->last);
}

static void tq2_0_write(const float *x, float inverse, tq2_0_block *block) {
    const vf factor = vf_set1(inverse);
    for (size_t half = 0; half < 2; half++)
        for (size_t j = 0; j < 32; j += VF_LANES) {
            vi q = vi_set1(0);
            for (size_t n = 0; n < 4; n++) q |= (trits_of(x + 128 * half + 32 * n + j, factor) & 3) << (int)(2 * n);
            vi_store_u8(block->codes + 32 * half + j, q);
        }
}

/* d and trits of less error. trits: -1, 0 and 1, QK_K for every lane. */
static void refine_trits(const float *x, const float *weights, vi d16, size_t n, uint16_t *d, float *trits) {
    const refine_rule rule = {.low = -1, .high = 1, .n_subs = 1, .n = QK_K};
    vf v[QK_K], w[QK_K];
    refine_state state = {.d = vf_from_f16(d16)};
    blocks_load_f32(x, QK_K, n, QK_K, v);
    blocks_load_f32(weights, QK_K, n, QK_K, w);
    refine_unit(rule, 1.0f, 0.25f, 24, v, w, &state);
    const vf inverse = refine_inverse(state.d);
    for (size_t j = 0; j < QK_K; j++) v[j] = refine_point(rule, v[j] * inverse);
    blocks_store_f32(v, QK_K, trits, QK_K, VF_LANES);
    vi_store_u16(d, vi_f16_from_vf(state.d));
}

#define TERNARY_TYPE(name)                                                                                             \
    void MF_LEVEL(name##_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols,                           \
                                   const float *importance) {                                                          \
        (void)importance;                                                                                              \
        name##_block *block = (name##_block *)(void *)y;                                                               \
        for (size_t i = 0; i < n_rows * n_cols / QK_K; i++, block++, x += QK_K) {                                      \
            const float d = largest_magnitude(x, QK_K);                                                                \
            const uint16_t half = mf_f32_to_f16(d);                                                                    \
            name##_write(x, d > 0.0f ? 1.0f / d : 0.0f, block);                                                        \
            memcpy(block->d, &half, sizeof half);                                                                      \
        }                                                                                                              \
    }                                                                                                                  \
    void MF_LEVEL(name##_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {                         \
        name##_block *block = (name##_block *)(void *)y;                                                               \
        uint16_t d[VF_LANES];                                                                                          \
        float trits[VF_LANES * QK_K];                                                                                  \
        refine_trits(x, weights, blocks_load_2(block->d, sizeof *block, n), n, d, trits);                              \
        for (size_t k = 0; k < n; k++, block++) {                                                                      \
            name##_write(trits + k * QK_K, 1.0f, block);                                                               \
            memcpy(block->d, d + k, sizeof block->d);                                                                  \
        }                                                                                                              \
    }

TERNARY_TYPE(tq1_0)
TERNARY_TYPE(tq2_0)

/* Trits n of n_bytes bytes. */
static inline void trits_load(const uint8_t *bytes, size_t n_bytes, int power, float d, float *x) {
    for (size_t j = 0; j < n_bytes; j += VF_LANES) {
        const vi trit = ((vi_load_u8(bytes + j) * power & 255) * 3) >> 8;
        vf_store(x + j, vf_from_vi(trit - 1) * d);
    }
}

void MF_LEVEL(tq1_0_dequantize)(const uint8_t *y, float *x, size_t n) {
    static const int power[5] = {1, 3, 9, 27, 81};
    const tq1_0_block *block = (const tq1_0_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        const float d = mf_load_f16(block->d);
        for (size_t k = 0; k < 5; k++, x += TQ1_LONG) trits_load(block->trits, TQ1_LONG, power[k], d, x);
        for (size_t k = 0; k < 5; k++, x += TQ1_SHORT) trits_load(block->trits + TQ1_LONG, TQ1_SHORT, power[k], d, x);
        for (size_t k = 0; k < 4; k++)
            for (size_t j = 0; j < TQ1_LAST; j++) *x++ = (float)(((block->last[j] * power[k] & 255) * 3 >> 8) - 1) * d;
    }
}

void MF_LEVEL(tq2_0_dequantize)(const uint8_t *y, float *x, size_t n) {
    const tq2_0_block *block = (const tq2_0_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        const float d = mf_load_f16(block->d);
        for (size_t half = 0; half < 2; half++)
            for (int k = 0; k < 4; k++, x += 32)
                for (size_t j = 0; j < 32; j += VF_LANES)
                    vf_store(x + j, vf_from_vi((vi_load_u8(block->codes + 32 * half + j) >> 2 * k & 3) - 1) * d);
    }
}
