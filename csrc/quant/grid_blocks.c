/* Rows of grids to GGUF blocks, without a value in between: codes move, scales are rounded to the block's type.
 *
 * A block takes codes that lie in its range once its own zero is theirs; what rounding a scale or a minimum to float16
 * costs is measured against the largest magnitude that the block's grid reaches. Sources: ggml-common.h block structs;
 * docs/transcoding.md has the mathematics. */
#include "../grid_level.h"
#include "../half.h"

#include <math.h>

enum { NO_PLACE = -1 };

#define MOST 1024.0 /* beyond this no zero has codes beside it */

/* What a record means for a type without minimum: codes + shift, between 0 and top, under `scale`; or, where only that
 * fits, mirror - codes under -scale, as -8 .. 7 does for -7 .. 8. With a minimum, codes stay as they are. */
typedef struct {
    uint8_t shift, low, span; /* codes from low to low + span fit */
    uint8_t mirror, mirror_low, mirror_span;
    uint8_t scale[4], mirror_scale[2]; /* with a minimum: scale and minimum */
    bool fits, mirror_fits;
    double error; /* relative, the same both ways */
    double zero;  /* of a symmetric stage that rounds nothing: all else follows from it and a scale of float16 */
    bool any_scale;
} stage;

static double f16_of(double x, uint8_t *out) {
    const uint16_t half = mf_f32_to_f16((float)x);
    memcpy(out, &half, sizeof half);
    return (double)mf_f16_to_f32(half);
}

static inline double larger(double a, double b) { return a > b ? a : b; } /* fmax is a call */

static double reach_of(mf_record record, double limit) {
    const double low = record.offset - record.scale * record.zero;
    return larger(fabs(low), fabs(low + record.scale * limit));
}

static double relative(double error, double reach) { return error == 0.0 ? 0.0 : error / reach; }

/* The whole number nearest to the zero that says the same as zero and offset; rest: what it leaves of the offset. */
static double whole_zero(mf_record record, double *rest) {
    double zero = record.zero;
    *rest = 0.0;
    if (record.offset == 0.0 && fabs(zero) <= MOST && (double)(int)zero == zero) return zero;
    if (record.offset != 0.0 && record.scale != 0.0) zero -= record.offset / record.scale;
    zero = nearbyint(zero);
    *rest = fabs(record.offset - record.scale * (record.zero - zero));
    return zero;
}

/* Codes c with least <= c + shift <= top, as a range of bytes; false: none. */
static bool range_of(int first, int last, uint8_t *low, uint8_t *span) {
    if (first < 0) first = 0;
    if (last > 255) last = 255;
    if (first > last) return false;
    *low = (uint8_t)first;
    *span = (uint8_t)(last - first);
    return true;
}

/* Which codes have a place where `zero` of them is to be `middle`, plainly and mirrored. */
static inline void place_codes(stage *at, int zero, int middle, int top) {
    const int shift = middle - zero, mirror = middle + zero;
    at->shift = (uint8_t)shift;
    at->mirror = (uint8_t)mirror;
    at->fits = range_of(-shift, top - shift, &at->low, &at->span);
    at->mirror_fits = range_of(mirror - top, mirror, &at->mirror_low, &at->mirror_span);
}

static stage stage_symmetric(mf_record record, double limit, int middle, int top) {
    stage found = {0};
    double rest;
    const double zero = whole_zero(record, &rest);
    if (!(fabs(zero) <= MOST)) return found;
    const double stored = f16_of(record.scale, found.scale);
    if (!isfinite(stored)) return found;
    found.mirror_scale[0] = found.scale[0];
    found.mirror_scale[1] = found.scale[1] ^ 0x80;
    place_codes(&found, (int)zero, middle, top);
    found.zero = record.zero;
    found.any_scale = record.offset == 0.0 && rest == 0.0;
    if (stored == record.scale && rest == 0.0) return found;
    const double widest = larger(fabs(zero), fabs(limit - zero));
    found.error = relative(fabs(stored - record.scale) * widest + rest, reach_of(record, limit));
    return found;
}

/* A number as a float16, where it is a normal one. */
static inline bool normal_half(double x, uint16_t *half) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint64_t exponent = (bits >> 52 & 0x7ff) - (1023 - 15), lost = bits << (64 - 42);
    *half = (uint16_t)((bits >> 48 & 0x8000) | exponent << 10 | (bits >> 42 & 0x3ff));
    return !lost && exponent - 1 < 30;
}

/* A stage for another scale and zero, where these are a float16 and a whole number: nothing is rounded. false: it has
 * to be made anew. */
static inline bool restage(stage *at, mf_record record, int middle, int top) {
    uint16_t half, mirror;
    if (!at->any_scale || record.offset != 0.0 || !normal_half(record.scale, &half)) return false;
    mirror = half ^ 0x8000;
    if (record.zero != at->zero) {
        if (!(fabs(record.zero) <= MOST && (double)(int)record.zero == record.zero)) return false;
        place_codes(at, (int)record.zero, middle, top);
        at->zero = record.zero;
    }
    memcpy(at->scale, &half, sizeof half);
    memcpy(at->mirror_scale, &mirror, sizeof mirror);
    at->error = 0.0;
    return true;
}

static stage stage_affine(mf_record record, double limit, int top) {
    stage found = {.low = 0, .span = (uint8_t)top};
    const double minimum = record.offset - record.scale * record.zero;
    const double d = f16_of(record.scale, found.scale), m = f16_of(minimum, found.scale + 2);
    found.fits = isfinite(d) && isfinite(m);
    if (d != record.scale || m != minimum)
        found.error = relative(fabs(d - record.scale) * limit + fabs(m - minimum), reach_of(record, limit));
    return found;
}

/* Four-bit floats under a power of two. A negative scale turns the signs of the codes: `shift` is what flips them. */
static stage stage_mxfp4(mf_record record) {
    stage found = {.span = 15, .shift = record.scale < 0.0 ? 8 : 0};
    int exponent;
    const double fraction = frexp(fabs(record.scale), &exponent);
    found.fits = record.offset == 0.0 && record.zero == 0.0 && fraction == 0.5 && exponent > -127 && exponent <= 128;
    found.scale[0] = (uint8_t)(exponent + 126);
    return found;
}

enum { SIXTEEN = 16 }; /* codes of a vector */

/* Whether n codes lie in a range of bytes; n a multiple of 16. */
static inline bool all_in(const uint8_t *codes, size_t n, uint8_t low, uint8_t span) {
    vb outside = vb_set1(0);
    const vb lows = vb_set1(low), spans = vb_set1(span);
    for (size_t i = 0; i < n; i += SIXTEEN) outside |= (vb)((vb_load(codes + i) - lows) > spans);
    return !vb_any(outside);
}

/* The codes as the block has them; false: they do not fit. */
static inline bool moved(const stage *at, const uint8_t *codes, size_t n, bool xors, vb *out, const uint8_t **scale) {
    if (at->fits && all_in(codes, n, at->low, at->span)) {
        const vb shift = vb_set1(at->shift);
        *scale = at->scale;
        for (size_t i = 0; i < n / SIXTEEN; i++)
            out[i] = xors ? vb_load(codes + i * SIXTEEN) ^ shift : vb_load(codes + i * SIXTEEN) + shift;
        return true;
    }
    if (!at->mirror_fits || !all_in(codes, n, at->mirror_low, at->mirror_span)) return false;
    *scale = at->mirror_scale;
    for (size_t i = 0; i < n / SIXTEEN; i++) out[i] = vb_set1(at->mirror) - vb_load(codes + i * SIXTEEN);
    return true;
}

/* 32 codes as halves of bytes: byte j has codes j and j + 16. */
static inline void halves(const vb codes[2], uint8_t *out) {
    const vb both = (codes[0] & 15) | codes[1] << 4;
    memcpy(out, &both, sizeof both);
}

/* Bit 4 of 32 codes, code j in bit j. */
static inline void fifth_bits(const vb codes[2], uint8_t *out) {
    const uint16_t bits[2] = {vb_top_bits(codes[0] << 3), vb_top_bits(codes[1] << 3)};
    memcpy(out, bits, sizeof bits);
}

/* Types without a minimum: the code that stands for zero, and the largest one. */
static inline bool symmetric(int type, int *middle, int *top) {
    *middle = type == MF_Q4_0 ? 8 : type == MF_Q5_0 ? 16 : type == MF_Q8_0 ? 128 : 1;
    *top = type == MF_Q4_0 ? 15 : type == MF_Q5_0 ? 31 : type == MF_Q8_0 ? 255 : type == MF_Q2_0 ? 3 : 2;
    return type == MF_Q4_0 || type == MF_Q5_0 || type == MF_Q8_0 || type == MF_Q2_0 || type == MF_TQ2_0;
}

static stage stage_of(int type, mf_record record, double limit) {
    int middle, top;
    if (symmetric(type, &middle, &top)) return stage_symmetric(record, limit, middle, top);
    if (type == MF_MXFP4) return stage_mxfp4(record);
    return stage_affine(record, limit, type == MF_Q4_1 ? 15 : 31);
}

/* A block of codes that have been moved. */
static inline void store(int type, const vb *codes, const uint8_t *scale, uint8_t *block) {
    const uint8_t *each = (const uint8_t *)codes;
    const size_t n_scale = type == MF_MXFP4 ? 1 : type == MF_Q4_1 || type == MF_Q5_1 ? 4 : 2;
    uint8_t *rest = block + n_scale;
    if (type == MF_TQ2_0) {
        memcpy(block + 64, scale, 2);
        for (size_t half = 0; half < 2; half++)
            for (size_t m = 0; m < 32; m++) {
                const uint8_t *c = each + half * 128 + m;
                block[half * 32 + m] = (uint8_t)(c[0] | c[32] << 2 | c[64] << 4 | c[96] << 6);
            }
        return;
    }
    memcpy(block, scale, n_scale);
    if (type == MF_Q8_0) {
        for (size_t i = 0; i < 32; i++) rest[i] = each[i] ^ 128;
    } else if (type == MF_Q2_0) {
        for (size_t j = 0; j < 16; j++)
            rest[j] = (uint8_t)(each[4 * j] | each[4 * j + 1] << 2 | each[4 * j + 2] << 4 | each[4 * j + 3] << 6);
    } else {
        if (type == MF_Q5_0 || type == MF_Q5_1) {
            fifth_bits(codes, rest);
            rest += 4;
        }
        halves(codes, rest);
    }
}

/* The scale as an e4m3 number without sign, which it must be. */
static int ue4m3_of(double scale) {
    const double size = fabs(scale);
    if (size < 0x1p-6) {
        const double steps = size * 512.0;
        return steps == floor(steps) ? (int)steps : NO_PLACE;
    }
    int exponent;
    const double eighths = (frexp(size, &exponent) * 2.0 - 1.0) * 8.0;
    if (eighths != floor(eighths) || exponent - 1 > 8) return NO_PLACE;
    const int code = (exponent - 1 + 7) << 3 | (int)eighths;
    return code <= 0x7e ? code : NO_PLACE;
}

/* Four groups of 16; byte j of a group has codes j and j + 8. The tensor's own scale is divided out before. */
static bool to_nvfp4(const mf_record records[4], const uint8_t *codes, uint8_t *block) {
    for (size_t g = 0; g < 4; g++) {
        const mf_record record = records[g];
        const int code = isfinite(record.scale) ? ue4m3_of(record.scale) : NO_PLACE;
        if (record.offset != 0.0 || record.zero != 0.0 || code < 0) return false;
        const uint8_t flip = record.scale < 0.0 ? 8 : 0, *from = codes + 16 * g;
        block[g] = (uint8_t)code;
        for (size_t j = 0; j < 8; j++)
            block[4 + 8 * g + j] = (uint8_t)(((from[j] ^ flip) & 15) | (from[j + 8] ^ flip) << 4);
    }
    return true;
}

/* Whether the groups under a block are one grid; if so, its record. */
static bool one_record(mf_grid grid, const uint8_t *row, size_t first, size_t n, mf_record *record) {
    *record = record_at(row, first / grid.group);
    for (size_t g = first / grid.group + 1; g * grid.group < first + n; g++)
        if (!record_same(*record, record_at(row, g))) return false;
    return true;
}

static void misfit(size_t row, size_t column, mf_fit *fit) {
    fit->fits = false;
    fit->fault = (mf_fault){row, column};
}

static void nvfp4_rows(mf_grid grid, const uint8_t *rows, uint8_t *blocks, size_t stride, mf_fit *fit) {
    const size_t head = mf_grid_head(grid), size = mf_grid_row_bytes(grid);
    uint8_t spare[36];
    for (size_t row = 0; row < grid.n_rows; row++, rows += size)
        for (size_t col = 0; col < grid.n_cols; col += 64) {
            mf_record records[4];
            bool same = true;
            for (size_t g = 0; g < 4; g++) same = same && one_record(grid, rows, col + 16 * g, 16, &records[g]);
            uint8_t *block = blocks ? blocks + row * stride + col / 64 * 36 : spare;
            if (!same || !to_nvfp4(records, rows + head + col, block)) {
                misfit(row, col, fit);
                return;
            }
        }
}

/* The type is a constant wherever this is called, so that a block is straight code. */
static inline __attribute__((always_inline)) void block_rows(int type, size_t n, size_t bytes, mf_grid grid,
                                                             unsigned limit, const uint8_t *rows, uint8_t *blocks,
                                                             size_t stride, mf_fit *fit) {
    const size_t head = mf_grid_head(grid), size = mf_grid_row_bytes(grid);
    const size_t per_group = grid.group % n ? 0 : grid.group / n; /* blocks that share a record */
    vb codes[256 / SIXTEEN];
    stage at = {0};
    int middle, top;
    const bool restages = symmetric(type, &middle, &top);
    for (size_t row = 0; row < grid.n_rows; row++, rows += size) {
        uint8_t *block = blocks ? blocks + row * stride : NULL;
        const uint8_t *next = rows;
        size_t left = 0;
        for (size_t col = 0; col < grid.n_cols; col += n) {
            if (!left) {
                mf_record record;
                if (per_group) {
                    memcpy(&record, next, sizeof record);
                    next += sizeof record;
                    left = per_group;
                } else if (!one_record(grid, rows, col, n, &record)) {
                    misfit(row, col, fit);
                    return;
                } else {
                    left = 1;
                }
                if (!(restages && restage(&at, record, middle, top))) at = stage_of(type, record, (double)limit);
                if (at.error > fit->worst) fit->worst = at.error;
                if (!(at.error >= 0.0)) at.fits = at.mirror_fits = false;
            }
            left--;
            const uint8_t *scale;
            if (!moved(&at, rows + head + col, n, type == MF_MXFP4, codes, &scale)) {
                misfit(row, col, fit);
                return;
            }
            if (block) {
                store(type, codes, scale, block);
                block += bytes;
            }
        }
    }
}

bool MF_LEVEL(grid_to_blocks)(int type, mf_grid grid, unsigned limit, const uint8_t *rows, uint8_t *blocks,
                              size_t stride, mf_fit *fit) {
    *fit = (mf_fit){0.0, true, {0, 0}};
    switch (type) {
    case MF_Q4_0:
        block_rows(MF_Q4_0, 32, 18, grid, limit, rows, blocks, stride, fit);
        return true;
    case MF_Q4_1:
        block_rows(MF_Q4_1, 32, 20, grid, limit, rows, blocks, stride, fit);
        return true;
    case MF_Q5_0:
        block_rows(MF_Q5_0, 32, 22, grid, limit, rows, blocks, stride, fit);
        return true;
    case MF_Q5_1:
        block_rows(MF_Q5_1, 32, 24, grid, limit, rows, blocks, stride, fit);
        return true;
    case MF_Q8_0:
        block_rows(MF_Q8_0, 32, 34, grid, limit, rows, blocks, stride, fit);
        return true;
    case MF_Q2_0:
        block_rows(MF_Q2_0, 64, 18, grid, limit, rows, blocks, stride, fit);
        return true;
    case MF_TQ2_0:
        block_rows(MF_TQ2_0, 256, 66, grid, limit, rows, blocks, stride, fit);
        return true;
    case MF_MXFP4:
        block_rows(MF_MXFP4, 32, 17, grid, limit, rows, blocks, stride, fit);
        return true;
    case MF_NVFP4:
        nvfp4_rows(grid, rows, blocks, stride, fit);
        return true;
    default:
        return false;
    }
}
