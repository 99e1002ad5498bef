/* Values to rows of grids: for each group a scale that is found first and rounded to the type that it is stored in,
 * then each value to the nearest code. mf_rounded (grid.h) is a row of a table of grids: integers, symmetric or with a
 * zero or an offset of their own, 8-bit floats, and codebooks, after which the schemes differ by numbers alone.
 *
 * Every step is one operation in float32, in the order that the schemes' own programs have, so that the codes are
 * theirs. Sources: compressed-tensors 0.20 quantization/utils/helpers.py (calculate_qparams), mxfp_utils.py and
 * lifecycle/forward_helpers.py; mlx 0.32 backend/cpu/quantized.cpp and ops.cpp (fp_quantize); bitsandbytes 0.50
 * backends/default/ops.py; BlockwiseQuantizer in onnxruntime/core/mlas/lib/q4_dq.cpp (1.32). */
#include "../grid_level.h"
#include "../half.h"

#include <math.h>

enum { SLACK = 16 }; /* floats that may be read behind a group */

/* The ends of a group's range, and its largest magnitude. */
typedef struct span {
    float low, high, largest;
} span;

/* A rule, and what of it is the same for all groups. */
typedef struct ready {
    const mf_rounded *how;
    vf thresholds[MF_THRESHOLDS];
    vi steps[MF_THRESHOLDS];
} ready;

/* A group's own numbers. v = (x - before) times or by factor + after, then clipped. */
typedef struct line {
    float before, factor, after, low, high;
    int32_t shift;
    bool divide;
} line;

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Folds the lanes of a vector, as an array, into the first. */
#define FOLD(lanes, better)                                                                                            \
    for (size_t half = VF_LANES / 2; half; half /= 2)                                                                  \
        for (size_t l = 0; l < half; l++) lanes[l] = lanes[l] better lanes[l + half] ? lanes[l] : lanes[l + half];

/* The largest magnitude of n values, as bits, and of what was seen before: of NaN and infinity the largest bits. */
static uint32_t largest_bits(uint32_t seen, const float *x, size_t n) {
    vi most = vi_set1((int32_t)seen);
    size_t j = 0;
    for (; j + VF_LANES <= n; j += VF_LANES) most = vi_max(most, (vi)vf_load(x + j) & 0x7fffffff);
    int32_t all[VF_LANES];
    vi_store(all, most);
    FOLD(all, >)
    seen = (uint32_t)all[0];
    for (; j < n; j++) seen = (to_bits(x[j]) & 0x7fffffff) > seen ? to_bits(x[j]) & 0x7fffffff : seen;
    return seen;
}

/* Smallest and largest of n finite values, and of what was seen before. Zeros of either sign are the same here. */
static void widen(float *lowest, float *highest, const float *x, size_t n) {
    vf low = vf_set1(*lowest), high = vf_set1(*highest);
    size_t j = 0;
    for (; j + VF_LANES <= n; j += VF_LANES) {
        low = vf_min(vf_load(x + j), low);
        high = vf_max(vf_load(x + j), high);
    }
    float lows[VF_LANES], highs[VF_LANES];
    vf_store(lows, low);
    vf_store(highs, high);
    FOLD(lows, <)
    FOLD(highs, >)
    *lowest = lows[0];
    *highest = highs[0];
    for (; j < n; j++) {
        *lowest = x[j] < *lowest ? x[j] : *lowest;
        *highest = x[j] > *highest ? x[j] : *highest;
    }
}

#undef FOLD

/* E4M3 (no infinity) of |v| <= 448, nearest even. Below 2^-6 its numbers are multiples of 2^-9, and 2^-6 is the eighth
 * of these, where the codes of both kinds meet. */
static inline vi e4m3_code(vf v) {
    const vi sign = vi_shift_right_logical((vi)v, 31) << 7, bits = (vi)v & 0x7fffffff;
    const vi normal = vi_shift_right_logical(bits + 0x7ffff + (vi_shift_right_logical(bits, 20) & 1), 20) - (120 << 3);
    const vi tiny = vi_round_even((vf)bits * 512.0f);
    return vi_select(vi_lt(bits, vi_set1(121 << 23)), tiny, normal) | sign;
}

static float e4m3_nearest(float v) {
    v = v < 448.0f ? v : 448.0f;
    if (v < 0x1p-6f) return rintf(v * 512.0f) / 512.0f;
    const uint32_t bits = to_bits(v);
    return from_bits((bits + 0x7ffff + (bits >> 20 & 1)) & 0xfff00000);
}

static float bf16_nearest(float v) {
    const uint32_t bits = to_bits(v); /* of no NaN */
    return from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
}

static float as_type(float scale, mf_kept kept) {
    switch (kept) {
    case MF_KEPT_F16:
        return mf_f16_to_f32(mf_f32_to_f16(scale));
    case MF_KEPT_BF16:
        return bf16_nearest(scale);
    case MF_KEPT_E4M3:
        return e4m3_nearest(scale);
    case MF_KEPT_POWER: /* the power of two below, or above what is 1.75 times one */
        return fmaxf(from_bits((to_bits(scale) + 0x200000) & 0x7f800000), 0x1p-127f);
    case MF_KEPT_POWER_ABOVE:
        return fmaxf(from_bits((to_bits(scale) + 0x7fffff) & 0x7f800000), 0x1p-127f);
    default:
        return scale;
    }
}

static float clipped(float v, float low, float high) {
    v = v > low ? v : low;
    return v < high ? v : high;
}

/* MLX's: the end of the range that is farther from zero is a number of the grid. Codes are chosen before scale and
 * offset are rounded. */
static line line_of_edge(const mf_rounded *how, span seen, mf_record *record) {
    const bool negative = fabsf(seen.low) > fabsf(seen.high);
    float scale = (seen.high - seen.low) / how->reach;
    scale = scale > how->least ? scale : how->least;
    scale = negative ? scale : -scale;
    float edge = negative ? seen.low : seen.high;
    const float steps = rintf(edge / scale);
    if (steps != 0.0f)
        scale = edge / steps;
    else
        edge = 0.0f;
    *record = (mf_record){as_type(scale, how->via), as_type(edge, how->via), 0.0};
    return (line){edge, scale, 0.0f, 0.0f, (float)how->limit, 0, true};
}

static line line_of(const mf_rounded *how, span seen, mf_record *record) {
    const float shift = (float)how->shift;
    const float bottom = -how->top, middle = (float)((how->limit + 1) / 2) - shift;
    line made = {0.0f, 0.0f, -0.0f, bottom, how->top, (int32_t)how->shift, how->divide};
    const bool integer = how->codes == MF_CODES_EVEN || how->codes == MF_CODES_AWAY;
    float scale;
    if (integer) {
        made.low = -shift;
        made.high = (float)how->limit - shift;
        made.after = middle;
    }
    if (how->found == MF_FOUND_RANGE) {
        const float low = seen.low < 0.0f ? seen.low : 0.0f, high = seen.high > 0.0f ? seen.high : 0.0f;
        scale = (high - low) / how->reach;
        const float zero = clipped(scale != 0.0f ? -shift - low / scale : -shift, made.low, made.high);
        made.after = how->codes == MF_CODES_AWAY ? roundf(zero) : scale != 0.0f ? rintf(zero) : 0.0f;
    } else if (how->found == MF_FOUND_FARTHEST) {
        scale = (fabsf(seen.high) > fabsf(seen.low) ? seen.high : seen.low) / -how->reach;
    } else {
        scale = how->times * (seen.largest / how->reach);
    }
    scale = as_type(scale, how->via);
    if (scale != 0.0f) scale = as_type(scale, how->stored);
    if (scale == 0.0f && how->least != 0.0f) scale = how->least;
    *record = (mf_record){scale, 0.0, integer ? (double)made.after + shift : 0.0};
    if (scale == 0.0f) { /* nothing is all that there is */
        made.divide = false;
        return made;
    }
    if (fabsf(scale) < how->floor) scale = how->floor;
    made.factor = how->divide ? scale / how->over : how->over * (1.0f / scale);
    return made;
}

static inline vf placed(const float *x, line l, bool divide) {
    const vf off = vf_load(x) - l.before;
    const vf v = (divide ? off / l.factor : off * l.factor) + l.after;
    return vf_min(vf_max(v, vf_set1(l.low)), vf_set1(l.high));
}

/* The code of each v: how many thresholds it is above says which. */
static inline vi table_code(vf v, const vf *thresholds, const vi *steps, vi first) {
    vi code = first;
    for (size_t i = 0; i < MF_THRESHOLDS; i++) code = code + vi_select(vf_gt(v, thresholds[i]), steps[i], vi_set1(0));
    return code;
}

#define CODES(name, code)                                                                                              \
    static inline void name(const float *x, size_t n, line l, bool divide, uint8_t *codes) {                           \
        const vi shift = vi_set1(l.shift);                                                                             \
        size_t j = 0;                                                                                                  \
        for (; j + VF_LANES <= n; j += VF_LANES) {                                                                     \
            const vf v = placed(x + j, l, divide);                                                                     \
            vi_store_u8(codes + j, code);                                                                              \
        }                                                                                                              \
        if (j < n) {                                                                                                   \
            uint8_t rest[VF_LANES];                                                                                    \
            const vf v = placed(x + j, l, divide);                                                                     \
            vi_store_u8(rest, code);                                                                                   \
            memcpy(codes + j, rest, n - j);                                                                            \
        }                                                                                                              \
    }
CODES(even_codes, vi_round_even(v) + shift)
CODES(away_codes, vi_round_away(v) + shift)
CODES(float_codes, e4m3_code(v) + shift)
#undef CODES

static void book_codes(const ready *by, const float *x, size_t n, line l, uint8_t *codes) {
    const vi first = vi_set1(by->how->book[0]);
    for (size_t j = 0; j < n; j += VF_LANES) {
        const vi code = table_code(placed(x + j, l, l.divide), by->thresholds, by->steps, first);
        uint8_t some[VF_LANES];
        vi_store_u8(some, code);
        memcpy(codes + j, some, n - j < VF_LANES ? n - j : VF_LANES);
    }
}

static void codes_of(const ready *by, const float *x, size_t n, line l, uint8_t *codes) {
    switch (by->how->codes) {
    case MF_CODES_EVEN:
        l.divide ? even_codes(x, n, l, true, codes) : even_codes(x, n, l, false, codes);
        break;
    case MF_CODES_AWAY:
        l.divide ? away_codes(x, n, l, true, codes) : away_codes(x, n, l, false, codes);
        break;
    case MF_CODES_FLOAT:
        l.divide ? float_codes(x, n, l, true, codes) : float_codes(x, n, l, false, codes);
        break;
    default:
        book_codes(by, x, n, l, codes);
    }
}

/* One group: `n` columns from `column` on of some rows, which share a scale. x: their values, `stride` apart. */
static mf_rounded_status group_round(const ready *by, mf_grid grid, mf_fault at, size_t n_rows, size_t n,
                                     const float *x, size_t stride, uint8_t *rows, mf_fault *fault) {
    const mf_rounded *how = by->how;
    uint32_t largest = 0;
    for (size_t r = 0; r < n_rows; r++) largest = largest_bits(largest, x + r * stride, n);
    *fault = at;
    for (size_t r = 0; r < n_rows && largest >= 0x7f800000; r++)
        for (size_t j = 0; j < n; j++)
            if (!isfinite(x[r * stride + j])) {
                *fault = (mf_fault){at.row + r, at.column + j};
                return MF_ROUNDED_BAD_VALUE;
            }
    span seen = {x[0], x[0], from_bits(largest)};
    for (size_t r = 0; r < n_rows && how->found != MF_FOUND_LARGEST; r++)
        widen(&seen.low, &seen.high, x + r * stride, n);
    mf_record record;
    const line l = how->found == MF_FOUND_EDGE ? line_of_edge(how, seen, &record) : line_of(how, seen, &record);
    if (!isfinite(record.scale) || !isfinite(record.offset)) return MF_ROUNDED_BAD_SCALE;
    const size_t head = mf_grid_head(grid), size = how->records ? head : head + grid.n_cols;
    for (size_t r = 0; r < n_rows; r++) {
        uint8_t *row = rows + (at.row + r) * size;
        for (size_t g = at.column / grid.group; g < (at.column + n) / grid.group; g++)
            record_store(row, g, record.scale, record.offset, record.zero);
        if (!how->records) codes_of(by, x + r * stride, n, l, row + head + at.column);
    }
    return MF_ROUNDED_OK;
}

/* Columns whose values are there at once: whole groups, as many as stay in the cache. */
static size_t columns_at_once(const mf_rounded *how) {
    const size_t many = MF_PIECE / (how->size * how->rows);
    return how->size * (many ? many : 1);
}

size_t MF_LEVEL(grid_round_scratch)(const mf_rounded *how) {
    return how->rows * (columns_at_once(how) + SLACK) * sizeof(float);
}

mf_rounded_status MF_LEVEL(grid_round)(const mf_rounded *how, mf_grid grid, const mf_type *type, const uint8_t *values,
                                       float *scratch, uint8_t *rows, mf_fault *fault) {
    const size_t wide = columns_at_once(how), stride = wide + SLACK;
    ready by = {.how = how};
    for (size_t i = 0; i < MF_THRESHOLDS; i++) {
        by.thresholds[i] = vf_set1(how->thresholds[i]);
        by.steps[i] = vi_set1((int32_t)how->book[i + 1] - (int32_t)how->book[i]);
    }
    memset(scratch, 0, MF_LEVEL(grid_round_scratch)(how));
    for (size_t r = 0; r < grid.n_rows; r += how->rows) {
        const size_t n_rows = grid.n_rows - r < how->rows ? grid.n_rows - r : how->rows;
        for (size_t c = 0; c < grid.n_cols; c += wide) {
            const size_t n = grid.n_cols - c < wide ? grid.n_cols - c : wide;
            for (size_t i = 0; i < n_rows; i++)
                type->dequantize(values + ((r + i) * grid.n_cols + c) * type->block_bytes, scratch + i * stride, n);
            for (size_t g = 0; g < n; g += how->size) {
                const size_t own = n - g < how->size ? n - g : how->size;
                const mf_rounded_status status =
                    group_round(&by, grid, (mf_fault){r, c + g}, n_rows, own, scratch + g, stride, rows, fault);
                if (status != MF_ROUNDED_OK) return status;
            }
        }
    }
    return MF_ROUNDED_OK;
}
