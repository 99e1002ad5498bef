/* Four-bit floats (E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives) under small scales.
 * mxfp4: 32 values, one E8M0 scale. nvfp4: 64 values, a UE4M3 scale for every 16. The tables hold twice the value and
 * the scales half of it, as in ggml. Source: ggml quantize_row_mxfp4_ref, quantize_row_nvfp4_ref and their inverses;
 * OCP Microscaling Formats (MX) 1.0. */
#include "../level.h"
#include "refine.h"
#include "table16.h"

enum { QK_MXFP4 = 32, QK_NVFP4 = 64, NVFP4_SUB = 16, NVFP4_SUBS = QK_NVFP4 / NVFP4_SUB };

typedef struct {
    uint8_t e;
    uint8_t codes[QK_MXFP4 / 2]; /* byte j: values j and j + 16 */
} mxfp4_block;

typedef struct {
    uint8_t d[NVFP4_SUBS];
    uint8_t codes[QK_NVFP4 / 2]; /* of every sub-block, byte j: values j and j + 8 */
} nvfp4_block;

_Static_assert(sizeof(mxfp4_block) == 17, "block_mxfp4 of ggml-common.h");
_Static_assert(sizeof(nvfp4_block) == 36, "block_nvfp4 of ggml-common.h");

static const float e2m1_doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* 2^(e - 128), which for e < 2 is subnormal. */
static inline vf half_of_e8m0(vi e) { return (vf)vi_select(vi_lt(e, vi_set1(2)), (e + 1) << 21, (e - 1) << 23); }

/* Half of an E4M3 number without sign; 0x7f, its NaN, reads as 0. */
static inline vf half_of_ue4m3(vi code) {
    const vi exponent = code >> 3 & 15, mantissa = code & 7;
    const vf normal = (vf)((exponent + (127 - 8)) << 23 | mantissa << 20);
    const vf value = vf_select(vi_eq(exponent, vi_set1(0)), vf_from_vi(mantissa) * 0x1p-10f, normal);
    return vf_select(vi_eq(code, vi_set1(0x7f)), vf_set1(0.0f), value);
}

/* The first of the table's magnitudes that is nearest to |x| / d, with x's sign; 0 has none. That is what the
 * reference's search over all 16 numbers finds. d has at most four significant bits, so where x / d is small the
 * differences are exact as far as they decide, and counting the middles that |x| passes comes to the same. */
static inline vi e2m1_nearest(vf x, const vf *middles) {
    const vf size = vf_abs(x);
    vi code = vi_set1(0);
    for (size_t i = 0; i < 7; i++) code = vi_select(vf_gt(size, middles[i]), vi_set1((int32_t)i + 1), code);
    const vi sign = vi_shift_right_logical((vi)x, 31) << 3;
    return vi_select(vi_eq(code, vi_set1(0)), code, code | sign);
}

/* The same for every x and d: differences round, overflow, or are all alike where d is 0. */
static inline vi e2m1_nearest_wild(vf x, vf d) {
    const vf size = vf_abs(x);
    vf least = size;
    vi code = vi_set1(0);
    for (int i = 1; i < 8; i++) {
        const vf off = vf_abs(d * e2m1_doubled[i] - size);
        const vm better = vf_lt(off, least);
        code = vi_select(better, vi_set1(i), code);
        least = vf_select(better, off, least);
    }
    const vi sign = vi_shift_right_logical((vi)x, 31) << 3;
    return vi_select(vi_eq(code, vi_set1(0)), code, code | sign);
}

/* The first half of n values into the low nibbles of n / 2 bytes, four to a word, the second into the high ones. */
static inline void e2m1_pack(const vf *x, size_t n, vf d, bool wild, vi *words) {
    static const float middle[7] = {0.5f, 1.5f, 2.5f, 3.5f, 5.0f, 7.0f, 10.0f};
    vf middles[7];
    for (size_t i = 0; i < 7; i++) middles[i] = d * middle[i];
    for (size_t w = 0; w < n / 8; w++) {
        const vf *low = x + 4 * w, *high = low + n / 2;
        vi code[4];
        for (size_t k = 0; k < 4; k++)
            code[k] = wild ? e2m1_nearest_wild(low[k], d) | e2m1_nearest_wild(high[k], d) << 4
                           : e2m1_nearest(low[k], middles) | e2m1_nearest(high[k], middles) << 4;
        words[w] = vi_pack4(code[0], code[1], code[2], code[3]);
    }
}

static inline void e2m1_encode(const vf *x, size_t n, vf largest, vf d, vi *words) {
    const vm is_tame = vm_and(vf_lt(largest, d * 32.0f), vf_lt(d * 12.0f, vf_set1(__builtin_inff())));
    if (vm_all(is_tame))
        e2m1_pack(x, n, d, false, words);
    else
        e2m1_pack(x, n, d, true, words);
}

static inline vf largest_of(const vf *x, size_t n) {
    vf largest = vf_set1(0.0f);
    for (size_t j = 0; j < n; j++) largest = vf_max(largest, vf_abs(x[j]));
    return largest;
}

/* floorf(log2f(x)), x > 0, where log2f rounds: just below 2^k, to k. The float numbers that do are the nearest 44 for
 * |k| of 64 and more, half as many for every halving of |k|: log2f has an ulp of |k| to miss, x an ulp of x. */
static inline vi floor_log2f(vf x) {
    const vm is_subnormal = vf_lt(x, vf_set1(0x1p-126f));
    const vi bits = (vi)vf_select(is_subnormal, x * 0x1p23f, x);
    const vi next = (bits >> 23) - 126 - vi_select(is_subnormal, vi_set1(23), vi_set1(0));
    const vi distance = vi_select(vi_gt(next, vi_set1(0)), next - 1, vi_set1(0) - next);
    const vi reach = vi_trunc((vf)((vi)vf_from_vi(distance) & 0x7f800000) * 0.6875f);
    return next - 1 + ((bits + reach) >> 23) - (bits >> 23);
}

/* The scale is the power of two that brings the largest magnitude to [4, 8): 6 is the largest number there is. Below
 * 2^-125 the exponent leaves the byte and wraps, as the reference's does on x86; all codes are 0 then. */
void MF_LEVEL(mxfp4_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    (void)importance;
    const size_t n_blocks = n_rows * n_cols / QK_MXFP4;
    for (size_t at = 0; at < n_blocks; at += VF_LANES) {
        const size_t n = n_blocks - at < VF_LANES ? n_blocks - at : VF_LANES;
        mxfp4_block *block = (mxfp4_block *)(void *)y + at;
        vf v[QK_MXFP4];
        blocks_load_f32(x + at * QK_MXFP4, QK_MXFP4, n, QK_MXFP4, v);
        const vf largest = largest_of(v, QK_MXFP4);
        const vi e = vi_select(vf_gt(largest, vf_set1(0.0f)), (floor_log2f(largest) + 125) & 255, vi_set1(0));
        vi words[QK_MXFP4 / 8];
        e2m1_encode(v, QK_MXFP4, largest, half_of_e8m0(e), words);
        blocks_store_1(e, &block->e, sizeof *block, n);
        blocks_store_16(words, block->codes, sizeof *block, n);
    }
}

/* Codes of the points that suit a step, packed as e2m1_pack does. */
static inline void e2m1_pack_points(const refine_rule rule, const vf *x, vf step, vi *words) {
    const vf inverse = refine_inverse(step);
    for (size_t w = 0; w < rule.n / 8; w++) {
        vi code[4];
        for (size_t k = 0; k < 8; k++) {
            const vf point = refine_point(rule, x[4 * w + k % 4 + k / 4 * (rule.n / 2)] * inverse);
            const vi size = vi_trunc(vf_abs(point)),
                     sign = vi_select(vf_lt(point, vf_set1(0.0f)), vi_set1(8), vi_set1(0));
            const vi large = vi_select(vi_gt(size, vi_set1(8)), vi_set1(7), (size >> 1) + 2); /* 6, 8, 12: 5, 6, 7 */
            const vi nibble = vi_select(vi_gt(size, vi_set1(4)), large, size) | sign;
            code[k % 4] = k < 4 ? nibble : code[k % 4] | nibble << 4;
        }
        words[w] = vi_pack4(code[0], code[1], code[2], code[3]);
    }
}

/* Of the scales around `code`, up to `highest`, the one with the least error. */
#define REFINE_SCALE(rule, code, reach, highest, step_of, x, w)                                                        \
    do {                                                                                                               \
        const vi from = code;                                                                                          \
        vf least = vf_set1(INFINITY);                                                                                  \
        for (int k = -(reach); k <= (reach); k++) {                                                                    \
            const vi next = vi_min(vi_max(from + k, vi_set1(0)), vi_set1(highest));                                    \
            const vf step = step_of(next), error = refine_error(rule, x, w, step, refine_inverse(step), step);         \
            const vm better = vf_lt(error, least);                                                                     \
            least = vf_select(better, error, least);                                                                   \
            code = vi_select(better, next, code);                                                                      \
        }                                                                                                              \
    } while (0)

static const refine_rule mxfp4_better = {.grid = GRID_E2M1, .low = -12, .high = 12, .n_subs = 1, .n = QK_MXFP4};
static const refine_rule nvfp4_better = {.grid = GRID_E2M1, .low = -12, .high = 12, .n_subs = 1, .n = NVFP4_SUB};

void MF_LEVEL(mxfp4_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {
    mxfp4_block *block = (mxfp4_block *)(void *)y;
    vf v[QK_MXFP4], w[QK_MXFP4];
    vi words[QK_MXFP4 / 8], e = blocks_load_1(&block->e, sizeof *block, n);
    blocks_load_f32(x, QK_MXFP4, n, QK_MXFP4, v);
    blocks_load_f32(weights, QK_MXFP4, n, QK_MXFP4, w);
    REFINE_SCALE(mxfp4_better, e, 2, 254, half_of_e8m0, v, w);
    e2m1_pack_points(mxfp4_better, v, half_of_e8m0(e), words);
    blocks_store_1(e, &block->e, sizeof *block, n);
    blocks_store_16(words, block->codes, sizeof *block, n);
}

void MF_LEVEL(mxfp4_dequantize)(const uint8_t *y, float *x, size_t n) {
    const table16 table = table16_of(e2m1_doubled);
    const mxfp4_block *block = (const mxfp4_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_MXFP4; i++, block++)
        table16_scaled_nibbles(table, half_of_e8m0(vi_set1(block->e)), block->codes, x + i * QK_MXFP4);
}

/* x >= 0 to the nearest UE4M3, halves up; what reaches 256 becomes 448, the largest, as in the reference. */
static inline vi ue4m3_from(vf x) {
    const vi rounded = (((vi)x + (1 << 19)) >> 20) - ((127 - 7) << 3);
    const vi normal = vi_select(vi_gt(rounded, vi_set1(0x77)), vi_set1(0x7e), rounded);
    const vi subnormal = vi_min(vi_trunc(vf_min(x, vf_set1(1.0f)) * 512.0f + 0.5f), vi_set1(7));
    return vi_select(vf_lt(x, vf_set1(0x1p-6f)), subnormal, normal);
}

/* Scales and codes of n sub-blocks. */
static inline void nvfp4_store(vi scale, const vi words[4], nvfp4_block *block, size_t n) {
    uint8_t scales[VF_LANES], codes[16 * VF_LANES];
    vi_store_u8(scales, scale);
    blocks_store_16(words, codes, 16, VF_LANES);
    for (size_t k = 0; k < n; k++) {
        block[k / NVFP4_SUBS].d[k % NVFP4_SUBS] = scales[k];
        memcpy(block[k / NVFP4_SUBS].codes + k % NVFP4_SUBS * NVFP4_SUB / 2, codes + 16 * k, NVFP4_SUB / 2);
    }
}

/* A sub-block per lane: its largest magnitude becomes 6. */
void MF_LEVEL(nvfp4_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    (void)importance;
    const size_t n_subs = n_rows * n_cols / NVFP4_SUB;
    for (size_t at = 0; at < n_subs; at += VF_LANES) { /* whole blocks: VF_LANES is a multiple of NVFP4_SUBS */
        const size_t n = n_subs - at < VF_LANES ? n_subs - at : VF_LANES;
        nvfp4_block *block = (nvfp4_block *)(void *)y + at / NVFP4_SUBS;
        vf v[NVFP4_SUB];
        blocks_load_f32(x + at * NVFP4_SUB, NVFP4_SUB, n, NVFP4_SUB, v);
        const vf largest = largest_of(v, NVFP4_SUB);
        const vi code = ue4m3_from(largest / 6.0f);
        vi words[4] = {0};
        e2m1_encode(v, NVFP4_SUB, largest, half_of_ue4m3(code), words);
        nvfp4_store(code, words, block, n);
    }
}

void MF_LEVEL(nvfp4_refine)(const float *x, const float *weights, uint8_t *y, size_t n) {
    const size_t n_subs = n * NVFP4_SUBS;
    for (size_t at = 0; at < n_subs; at += VF_LANES) {
        const size_t here = n_subs - at < VF_LANES ? n_subs - at : VF_LANES;
        nvfp4_block *block = (nvfp4_block *)(void *)y + at / NVFP4_SUBS;
        vf v[NVFP4_SUB], w[NVFP4_SUB];
        vi words[4] = {0}, code;
        uint8_t scales[VF_LANES];
        for (size_t k = 0; k < VF_LANES; k++) {
            const size_t sub = blocks_at(k, here);
            scales[k] = block[sub / NVFP4_SUBS].d[sub % NVFP4_SUBS];
        }
        code = vi_load_u8(scales);
        blocks_load_f32(x + at * NVFP4_SUB, NVFP4_SUB, here, NVFP4_SUB, v);
        blocks_load_f32(weights + at * NVFP4_SUB, NVFP4_SUB, here, NVFP4_SUB, w);
        REFINE_SCALE(nvfp4_better, code, 8, 126, half_of_ue4m3, v, w);
        e2m1_pack_points(nvfp4_better, v, half_of_ue4m3(code), words);
        nvfp4_store(code, words, block, here);
    }
}

void MF_LEVEL(nvfp4_dequantize)(const uint8_t *y, float *x, size_t n) {
    const table16 table = table16_of(e2m1_doubled);
    const nvfp4_block *block = (const nvfp4_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_NVFP4; i++, block++) {
        float d[VF_LANES]; /* the first NVFP4_SUBS of them */
        vf_store(d, half_of_ue4m3(vi_load_u8(block->d)));
        for (size_t sub = 0; sub < NVFP4_SUBS; sub++, x += NVFP4_SUB) {
            uint64_t both;
            memcpy(&both, block->codes + sub * sizeof both, sizeof both);
            table16_scaled(table, vf_set1(d[sub]), vb_pair(both, both >> 4) & 15, x);
        }
    }
}
