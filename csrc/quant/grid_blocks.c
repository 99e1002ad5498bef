/* Rows of grids to GGUF blocks, without a value in between: codes move, scales are rounded to the block's type.
 *
 * A block takes codes that lie in its range once its own zero is theirs; what rounding a scale or a minimum to float16
 * costs is measured against the largest magnitude that the block's grid reaches. Sources: ggml-common.h block structs;
 * docs/transcoding.md has the mathematics. */
#include "../grid_level.h"
#include "../half.h"

#include <math.h>
#include <stddef.h>

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

static stage stage_symmetric(mf_record record, double limit, int middle, int top) {
    stage found = {0};
    double rest;
    const double zero = whole_zero(record, &rest);
    if (!(fabs(zero) <= MOST)) return found;
    const double stored = f16_of(record.scale, found.scale);
    if (!isfinite(stored)) return found;
    found.mirror_scale[0] = found.scale[0];
    found.mirror_scale[1] = found.scale[1] ^ 0x80;
    const int shift = middle - (int)zero, mirror = middle + (int)zero;
    found.shift = (uint8_t)shift;
    found.mirror = (uint8_t)mirror;
    found.fits = range_of(-shift, top - shift, &found.low, &found.span);
    found.mirror_fits = range_of(mirror - top, mirror, &found.mirror_low, &found.mirror_span);
    if (stored == record.scale && rest == 0.0) return found;
    const double widest = larger(fabs(zero), fabs(limit - zero));
    found.error = relative(fabs(stored - record.scale) * widest + rest, reach_of(record, limit));
    return found;
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

enum { GROUPS = 64 }; /* records that are looked at before codes are */

/* What groups mean whose scales are float16 and whose zeros are whole: codes + shift under `scale`. */
typedef struct {
    uint16_t scale[GROUPS];
    uint8_t shift[GROUPS];
} plain_groups;

/* Bits of record number i of a row. */
static inline uint64_t bits_of(const uint8_t *records, size_t i, size_t field) {
    uint64_t bits;
    memcpy(&bits, records + i * sizeof(mf_record) + field, sizeof bits);
    return bits;
}

/* Such numbers of n groups; false: some are of another kind, or could take codes up to `limit` past the end of a byte
 * and back into the range. Without a branch: `other` gathers bits that have to be 0, `outside` signs of what is out of
 * a range, in numbers without sign, since the zero of a file can be any. */
static inline bool plain(const uint8_t *records, size_t n, int limit, int middle, int top, plain_groups *found) {
    const double whole = 0x1.8p52; /* a number that is added to it is rounded to a whole one, in the lowest bits */
    const uint64_t bias = (1023 - 15) << 10, least = (uint64_t)(top - 255), most = (uint64_t)(255 - limit);
    uint64_t other = 0, outside = 0, begin;
    memcpy(&begin, &whole, sizeof begin);
    for (size_t i = 0; i < n; i++) {
        const uint64_t scale = bits_of(records, i, offsetof(mf_record, scale));
        const uint64_t given = bits_of(records, i, offsetof(mf_record, zero));
        uint64_t moved, back;
        double zero;
        memcpy(&zero, &given, sizeof zero);
        zero += whole;
        memcpy(&moved, &zero, sizeof moved);
        zero -= whole;
        memcpy(&back, &zero, sizeof back);
        const uint64_t shift = (uint64_t)middle - (moved - begin);
        const uint64_t half = (scale >> 42 & 0x1fffff) - bias, normal = half - (1 << 10);
        other |= (back ^ given) | scale << (64 - 42) | bits_of(records, i, offsetof(mf_record, offset)) << 1;
        outside |= (shift - least) | (most - shift) | normal | ((30 << 10) - 1 - normal);
        found->scale[i] = (uint16_t)(half | (scale >> 48 & 0x8000));
        found->shift[i] = (uint8_t)shift;
    }
    return !other && !(outside >> 63);
}

/* n groups of `run` blocks each; false: some code has no place as it is. */
static inline __attribute__((always_inline)) bool plain_blocks(int type, size_t n, size_t bytes,
                                                               const plain_groups *groups, size_t n_groups, size_t run,
                                                               int top, const uint8_t *codes, uint8_t *block) {
    const vb most = vb_set1((uint8_t)top);
    vb outside = vb_set1(0), out[256 / SIXTEEN];
    for (size_t g = 0; g < n_groups; g++) {
        const vb shift = vb_set1(groups->shift[g]);
        for (size_t k = 0; k < run; k++, codes += n) {
            for (size_t i = 0; i < n / SIXTEEN; i++) {
                out[i] = vb_load(codes + i * SIXTEEN) + shift;
                outside |= top & (top + 1) ? (vb)(out[i] > most) : out[i] & ~most; /* of a power of two, bits above */
            }
            if (!block) continue;
            store(type, out, (const uint8_t *)&groups->scale[g], block);
            block += bytes;
        }
    }
    return !vb_any(outside);
}

/* Columns first to last of a row, one block after the other; false: one has no place, and fit says which. */
static inline __attribute__((always_inline)) bool any_blocks(int type, size_t n, size_t bytes, mf_grid grid,
                                                             unsigned limit, const uint8_t *row, size_t first,
                                                             size_t last, uint8_t *block, mf_fit *fit) {
    const uint8_t *codes = row + mf_grid_head(grid);
    vb out[256 / SIXTEEN];
    stage at = {0};
    size_t staged = SIZE_MAX; /* the group whose record `at` is of */
    for (size_t col = first; col < last; col += n) {
        fit->fault.column = col;
        if (grid.group % n || col / grid.group != staged) {
            mf_record record;
            if (!one_record(grid, row, col, n, &record)) return false;
            staged = col / grid.group;
            at = stage_of(type, record, (double)limit);
            if (at.error > fit->worst) fit->worst = at.error;
            if (!(at.error >= 0.0)) at.fits = at.mirror_fits = false;
        }
        const uint8_t *scale;
        if (!moved(&at, codes + col, n, type == MF_MXFP4, out, &scale)) return false;
        if (!block) continue;
        store(type, out, scale, block);
        block += bytes;
    }
    return true;
}

/* The type is a constant wherever this is called, so that a block is straight code. */
static inline __attribute__((always_inline)) void block_rows(int type, size_t n, size_t bytes, mf_grid grid,
                                                             unsigned limit, const uint8_t *rows, uint8_t *blocks,
                                                             size_t stride, mf_fit *fit) {
    const size_t head = mf_grid_head(grid), size = mf_grid_row_bytes(grid);
    const size_t run = grid.group % n ? 1 : grid.group / n; /* blocks that share a record */
    int middle, top;
    bool plainly = symmetric(type, &middle, &top) && grid.group % n == 0;
    for (size_t row = 0; row < grid.n_rows; row++, rows += size) {
        const size_t step = GROUPS * run * n;
        for (size_t first = 0; first < grid.n_cols; first += step) {
            const size_t last = grid.n_cols - first < step ? grid.n_cols : first + step;
            uint8_t *block = blocks ? blocks + row * stride + first / n * bytes : NULL;
            if (plainly) {
                const size_t n_groups = (last - first) / grid.group;
                plain_groups groups;
                if (plain(rows + first / grid.group * sizeof(mf_record), n_groups, (int)limit, middle, top, &groups) &&
                    plain_blocks(type, n, bytes, &groups, n_groups, run, top, rows + head + first, block))
                    continue;
            }
            plainly = false;
            if (!any_blocks(type, n, bytes, grid, limit, rows, first, last, block, fit)) {
                misfit(row, fit->fault.column, fit);
                return;
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
