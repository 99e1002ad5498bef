/* Rows of any type to rows of any type: dequantize into scratch, check, quantize, a cache-sized piece at a time.
 *
 * Without importance every block stands alone (mf_quantize_fn), so rows are one run of elements and pieces may end
 * anywhere that is a multiple of both blocks; with importance the pieces are whole rows, since some quantizers take a
 * statistic over the row. */
#include "level.h"
#include "vec.h"

#include <math.h>
#include <string.h>

enum { PIECE = MF_PIECE };

_Static_assert(PIECE % MF_MAX_BLOCK_ELEMENTS == 0, "a piece must hold whole blocks of every type");

mf_status MF_LEVEL(convert)(const mf_type *src_type, const void *src, const mf_type *dst_type, void *dst, size_t n_rows,
                            size_t n_cols, const float *importance, mf_rounding rounding, float *scratch,
                            mf_fault *fault);
mf_error_sums MF_LEVEL(error_sums)(const mf_type *a_type, const void *a, const mf_type *b_type, const void *b, size_t n,
                                   float *scratch);

static size_t bytes_of(const mf_type *type, size_t n) { return n / type->block_elements * type->block_bytes; }

static bool is_aligned(const void *p) { return (uintptr_t)p % _Alignof(float) == 0; }

/* Index of the first NaN or infinity, n if there is none. */
static size_t first_not_finite(const float *x, size_t n) {
    size_t i = 0;
    const vi exponent = vi_set1(0x7f800000);
    for (; i + 4 * VF_LANES <= n; i += 4 * VF_LANES) {
        vm bad = vi_eq((vi)vf_load(x + i) & exponent, exponent);
        for (size_t k = 1; k < 4; k++) bad = vm_or(bad, vi_eq((vi)vf_load(x + i + k * VF_LANES) & exponent, exponent));
        if (vm_any(bad)) break;
    }
    while (i < n && isfinite(x[i])) i++;
    return i;
}

static mf_status check_importance(const mf_type *dst_type, const float *importance, size_t n_cols, mf_fault *fault) {
    if (!importance) return dst_type->flags & MF_FLAG_NEEDS_IMPORTANCE ? MF_NEEDS_IMPORTANCE : MF_OK;
    for (size_t c = 0; c < n_cols; c++)
        if (!(importance[c] >= 0.0f && isfinite(importance[c]))) {
            *fault = (mf_fault){0, c};
            return MF_BAD_IMPORTANCE;
        }
    return MF_OK;
}

/* float64 to float32, rounded to odd: a second rounding, to f16 or bf16, then equals one rounding from float64. */
static void f64_to_odd_f32(const uint8_t *src, float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double wide;
        memcpy(&wide, src + i * sizeof wide, sizeof wide);
        float narrow = (float)wide;
        uint32_t bits;
        memcpy(&bits, &narrow, sizeof bits);
        if (isfinite(wide) && (double)narrow != wide && (bits & 1) == 0) {
            bits += fabs((double)narrow) > fabs(wide) ? (uint32_t)-1 : 1; /* infinity steps back to the largest float */
            memcpy(&narrow, &bits, sizeof bits);
        }
        x[i] = narrow;
    }
}

enum { MAX_BLOCK_BYTES = 256 };

/* The sum of weights * (x - value)^2 over a block. Sixteen partial sums, added in one fixed tree. */
static double block_error(const mf_type *type, const uint8_t *block, const float *x, const float *weights) {
    float value[MF_MAX_BLOCK_ELEMENTS];
    double sum[16] = {0};
    type->dequantize(block, value, type->block_elements);
    for (size_t i = 0; i < type->block_elements; i += 16)
        for (size_t k = 0; k < 16; k++) {
            const double off = (double)x[i + k] - (double)value[i + k];
            sum[k] += (double)weights[i + k] * (off * off);
        }
    for (size_t half = 8; half; half /= 2)
        for (size_t k = 0; k < half; k++) sum[k] += sum[k + half];
    return sum[0];
}

/* Blocks that are better than those that quantize wrote, where the search finds such. */
static void refine_blocks(const mf_type *type, const float *x, uint8_t *blocks, size_t n, size_t n_cols,
                          const float *importance) {
    float weights[VF_LANES * MF_MAX_BLOCK_ELEMENTS];
    uint8_t found[VF_LANES * MAX_BLOCK_BYTES];
    const size_t elements = type->block_elements, bytes = type->block_bytes, n_blocks = n / elements;
    for (size_t i = 0; i < VF_LANES * elements; i++) weights[i] = 1.0f;
    for (size_t at = 0; at < n_blocks; at += VF_LANES) {
        const size_t count = n_blocks - at < VF_LANES ? n_blocks - at : VF_LANES;
        for (size_t i = 0; importance && i < count; i++)
            memcpy(weights + i * elements, importance + (at + i) * elements % n_cols, elements * sizeof(float));
        memcpy(found, blocks + at * bytes, count * bytes);
        type->refine(x + at * elements, weights, found, count);
        for (size_t i = 0; i < count; i++) {
            const float *values = x + (at + i) * elements, *w = weights + i * elements;
            uint8_t *block = blocks + (at + i) * bytes;
            const double before = block_error(type, block, values, w);
            const double after = block_error(type, found + i * bytes, values, w);
            if (after < before || (isnan(before) && !isnan(after))) memcpy(block, found + i * bytes, bytes);
        }
    }
}

mf_status MF_LEVEL(convert)(const mf_type *src_type, const void *src, const mf_type *dst_type, void *dst, size_t n_rows,
                            size_t n_cols, const float *importance, mf_rounding rounding, float *scratch,
                            mf_fault *fault) {
    if (n_cols % src_type->block_elements || n_cols % dst_type->block_elements) return MF_BAD_SIZE;
    size_t n = n_rows * n_cols;
    if (n == 0) return MF_OK;
    if (src_type == dst_type) {
        memcpy(dst, src, bytes_of(src_type, n));
        return MF_OK;
    }
    if (!src_type->dequantize || !dst_type->quantize) return MF_UNSUPPORTED;
    mf_status status = check_importance(dst_type, importance, n_cols, fault);
    if (status != MF_OK) return status;

    const bool is_block = dst_type->block_elements > 1;
    const bool from_floats = src_type->id == MF_F32 && is_aligned(src);
    const bool to_floats = dst_type->id == MF_F32 && is_aligned(dst);
    const mf_dequantize_fn dequantize = src_type->id == MF_F64 && (dst_type->id == MF_F16 || dst_type->id == MF_BF16)
                                            ? f64_to_odd_f32
                                            : src_type->dequantize;
    size_t piece = PIECE;
    if (importance) piece = n_cols >= PIECE ? n_cols : PIECE / n_cols * n_cols;
    for (size_t at = 0; at < n; at += piece) {
        size_t m = n - at < piece ? n - at : piece;
        const uint8_t *in = (const uint8_t *)src + bytes_of(src_type, at);
        uint8_t *out = (uint8_t *)dst + bytes_of(dst_type, at);
        const float *x = scratch;
        if (to_floats) {
            dequantize(in, (float *)(void *)out, m);
            continue;
        }
        if (from_floats)
            x = (const float *)(const void *)in;
        else
            dequantize(in, scratch, m);
        if (is_block) {
            size_t bad = first_not_finite(x, m);
            if (bad < m) {
                *fault = (mf_fault){(at + bad) / n_cols, (at + bad) % n_cols};
                return MF_BAD_VALUE;
            }
        }
        if (importance)
            dst_type->quantize(x, out, m / n_cols, n_cols, importance);
        else
            dst_type->quantize(x, out, 1, m, NULL);
        if (rounding == MF_ROUNDING_BEST && dst_type->refine) refine_blocks(dst_type, x, out, m, n_cols, importance);
    }
    return MF_OK;
}

/* Sixteen partial sums, element i into sum i % 16, added in one fixed tree: the same doubles at every level. */
mf_error_sums MF_LEVEL(error_sums)(const mf_type *a_type, const void *a, const mf_type *b_type, const void *b, size_t n,
                                   float *scratch) {
    enum { WAYS = 16 };
    double diff[WAYS] = {0}, square[WAYS] = {0}, largest[WAYS] = {0};
    float *x = scratch, *y = scratch + PIECE / 2;
    for (size_t at = 0; at < n; at += PIECE / 2) {
        size_t m = n - at < PIECE / 2 ? n - at : PIECE / 2;
        a_type->dequantize((const uint8_t *)a + bytes_of(a_type, at), x, m);
        b_type->dequantize((const uint8_t *)b + bytes_of(b_type, at), y, m);
        for (size_t i = m; i < (m + WAYS - 1) / WAYS * WAYS; i++) x[i] = y[i] = 0.0f;
        for (size_t i = 0; i < m; i += WAYS)
            for (size_t k = 0; k < WAYS; k++) {
                double value = (double)x[i + k], off = value - (double)y[i + k], size = fabs(off);
                diff[k] += off * off;
                square[k] += value * value;
                largest[k] = size > largest[k] ? size : largest[k];
            }
    }
    for (size_t half = WAYS / 2; half; half /= 2)
        for (size_t k = 0; k < half; k++) {
            diff[k] += diff[k + half];
            square[k] += square[k + half];
            largest[k] = largest[k + half] > largest[k] ? largest[k + half] : largest[k];
        }
    return (mf_error_sums){diff[0], square[0], largest[0]};
}
