/* Rows of grids to GGUF blocks, without a value in between: codes move, scales are rounded to the block's type.
 *
 * A block takes codes that lie in its range once its own zero is theirs; what rounding a scale or a minimum to float16
 * costs is measured against the largest magnitude that the block's grid reaches. Sources: ggml-common.h block structs;
 * docs/transcoding.md has the mathematics. */
#include "../grid_level.h"
#include "../half.h"

#include <math.h>

typedef struct {
    const uint8_t *codes;
    mf_record record;
    double limit; /* the largest code */
} piece;

/* The error of a block over its reach; negative: the codes or the scale have no place. */
typedef double (*block_fn)(piece from, uint8_t *block);

enum { NO_PLACE = -1 };

static double f16_of(double x, uint8_t *out) {
    const uint16_t half = mf_f32_to_f16((float)x);
    memcpy(out, &half, sizeof half);
    return (double)mf_f16_to_f32(half);
}

static double reach_of(piece from) {
    const double low = from.record.offset - from.record.scale * from.record.zero;
    const double high = low + from.record.scale * from.limit;
    return fmax(fabs(low), fabs(high));
}

static double relative(double error, double reach) { return error == 0.0 ? 0.0 : error / reach; }

/* The whole number nearest to the zero that says the same as zero and offset; rest: what it leaves of the offset. */
static double whole_zero(mf_record record, double *rest) {
    double zero = record.zero;
    if (record.offset != 0.0 && record.scale != 0.0) zero -= record.offset / record.scale;
    zero = nearbyint(zero);
    *rest = fabs(record.offset - record.scale * (record.zero - zero));
    return zero;
}

static void bounds(const uint8_t *codes, size_t n, int *least, int *most) {
    uint8_t low = 255, high = 0;
    for (size_t i = 0; i < n; i++) {
        low = codes[i] < low ? codes[i] : low;
        high = codes[i] > high ? codes[i] : high;
    }
    *least = low;
    *most = high;
}

/* A block without a minimum, of n codes around `middle`: the codes as it has them, and its scale. Codes that only fit
 * the other way round, as -8 .. 7 does for -7 .. 8, get a negative scale where mirrored allows it. */
static double symmetric(piece from, size_t n, int middle, int top, bool mirrored, uint8_t *codes, uint8_t *scale) {
    double rest;
    const double zero = whole_zero(from.record, &rest), reach = reach_of(from);
    int least, most;
    bounds(from.codes, n, &least, &most);
    if (!(fabs(zero) <= 1024.0)) return NO_PLACE;
    const int shift = middle - (int)zero, mirror = middle + (int)zero;
    double size = from.record.scale;
    if (least + shift >= 0 && most + shift <= top) {
        for (size_t i = 0; i < n; i++) codes[i] = (uint8_t)(from.codes[i] + shift);
    } else if (mirrored && mirror - most >= 0 && mirror - least <= top) {
        for (size_t i = 0; i < n; i++) codes[i] = (uint8_t)(mirror - from.codes[i]);
        size = -size;
    } else {
        return NO_PLACE;
    }
    const double stored = f16_of(size, scale);
    if (!isfinite(stored)) return NO_PLACE;
    const double widest = fmax(fabs(zero), fabs(from.limit - zero));
    return relative(fabs(stored - size) * widest + rest, reach);
}

/* A block with a minimum, of n codes from 0 to top. */
static double affine(piece from, size_t n, int top, uint8_t *codes, uint8_t *scale) {
    int least, most;
    bounds(from.codes, n, &least, &most);
    if (most > top) return NO_PLACE;
    memcpy(codes, from.codes, n);
    const double minimum = from.record.offset - from.record.scale * from.record.zero;
    const double d = f16_of(from.record.scale, scale), m = f16_of(minimum, scale + 2);
    if (!isfinite(d) || !isfinite(m)) return NO_PLACE;
    return relative(fabs(d - from.record.scale) * from.limit + fabs(m - minimum), reach_of(from));
}

/* 32 codes as halves of bytes: byte j has codes j and j + 16. */
static void halves(const uint8_t *codes, uint8_t *out) {
    for (size_t j = 0; j < 16; j++) out[j] = (uint8_t)((codes[j] & 15) | codes[j + 16] << 4);
}

/* Bit 4 of 32 codes, code j in bit j: a product gathers those of eight. */
static void fifth_bits(const uint8_t *codes, uint8_t *out) {
    for (size_t k = 0; k < 4; k++) {
        uint64_t eight;
        memcpy(&eight, codes + 8 * k, sizeof eight);
        out[k] = (uint8_t)((eight >> 4 & 0x0101010101010101u) * 0x0102040810204080u >> 56);
    }
}

static double to_q4_0(piece from, uint8_t *block) {
    uint8_t codes[32];
    const double error = symmetric(from, 32, 8, 15, true, codes, block);
    halves(codes, block + 2);
    return error;
}

static double to_q4_1(piece from, uint8_t *block) {
    uint8_t codes[32];
    const double error = affine(from, 32, 15, codes, block);
    halves(codes, block + 4);
    return error;
}

static double to_q5_0(piece from, uint8_t *block) {
    uint8_t codes[32];
    const double error = symmetric(from, 32, 16, 31, true, codes, block);
    fifth_bits(codes, block + 2);
    halves(codes, block + 6);
    return error;
}

static double to_q5_1(piece from, uint8_t *block) {
    uint8_t codes[32];
    const double error = affine(from, 32, 31, codes, block);
    fifth_bits(codes, block + 4);
    halves(codes, block + 8);
    return error;
}

static double to_q8_0(piece from, uint8_t *block) {
    const double error = symmetric(from, 32, 128, 255, true, block + 2, block);
    for (size_t i = 0; i < 32; i++) block[2 + i] ^= 128;
    return error;
}

/* -1, 0, 1 and 2. */
static double to_q2_0(piece from, uint8_t *block) {
    uint8_t codes[64];
    const double error = symmetric(from, 64, 1, 3, true, codes, block);
    for (size_t j = 0; j < 16; j++)
        block[2 + j] = (uint8_t)(codes[4 * j] | codes[4 * j + 1] << 2 | codes[4 * j + 2] << 4 | codes[4 * j + 3] << 6);
    return error;
}

static double to_tq2_0(piece from, uint8_t *block) {
    uint8_t codes[256];
    const double error = symmetric(from, 256, 1, 2, true, codes, block + 64);
    for (size_t half = 0; half < 2; half++)
        for (size_t m = 0; m < 32; m++) {
            const uint8_t *c = codes + half * 128 + m;
            block[half * 32 + m] = (uint8_t)(c[0] | c[32] << 2 | c[64] << 4 | c[96] << 6);
        }
    return error;
}

/* Four-bit floats under a power of two. A negative scale turns the signs of the codes. */
static double to_mxfp4(piece from, uint8_t *block) {
    int exponent;
    const double fraction = frexp(fabs(from.record.scale), &exponent);
    uint8_t codes[32];
    if (from.record.offset != 0.0 || from.record.zero != 0.0 || fraction != 0.5) return NO_PLACE;
    if (exponent - 1 < -127 || exponent - 1 > 127) return NO_PLACE;
    const uint8_t flip = from.record.scale < 0.0 ? 8 : 0;
    for (size_t i = 0; i < 32; i++) codes[i] = from.codes[i] ^ flip;
    block[0] = (uint8_t)(exponent - 1 + 127);
    halves(codes, block + 1);
    return 0.0;
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
static double to_nvfp4(const piece from[4], uint8_t *block) {
    for (size_t g = 0; g < 4; g++) {
        const mf_record record = from[g].record;
        const int code = isfinite(record.scale) ? ue4m3_of(record.scale) : NO_PLACE;
        if (record.offset != 0.0 || record.zero != 0.0 || code < 0) return NO_PLACE;
        const uint8_t flip = record.scale < 0.0 ? 8 : 0;
        block[g] = (uint8_t)code;
        for (size_t j = 0; j < 8; j++)
            block[4 + 8 * g + j] = (uint8_t)(((from[g].codes[j] ^ flip) & 15) | (from[g].codes[j + 8] ^ flip) << 4);
    }
    return 0.0;
}

static const struct {
    int type;
    size_t elements, bytes;
    block_fn make;
} makers[] = {{MF_Q4_0, 32, 18, to_q4_0},    {MF_Q4_1, 32, 20, to_q4_1},  {MF_Q5_0, 32, 22, to_q5_0},
              {MF_Q5_1, 32, 24, to_q5_1},    {MF_Q8_0, 32, 34, to_q8_0},  {MF_Q2_0, 64, 18, to_q2_0},
              {MF_TQ2_0, 256, 66, to_tq2_0}, {MF_MXFP4, 32, 17, to_mxfp4}};

static bool accept(double error, size_t row, size_t column, mf_fit *fit) {
    if (!(error >= 0.0)) {
        fit->fits = false;
        fit->fault = (mf_fault){row, column};
        return false;
    }
    if (error > fit->worst) fit->worst = error;
    return true;
}

/* Whether the groups under a block are one grid; if so, its record. */
static bool one_record(mf_grid grid, const uint8_t *row, size_t first, size_t n, mf_record *record) {
    *record = record_at(row, first / grid.group);
    for (size_t g = first / grid.group + 1; g * grid.group < first + n; g++)
        if (!record_same(*record, record_at(row, g))) return false;
    return true;
}

static void nvfp4_rows(mf_grid grid, const uint8_t *rows, uint8_t *blocks, mf_fit *fit) {
    const size_t head = mf_grid_head(grid), size = mf_grid_row_bytes(grid);
    uint8_t spare[36];
    for (size_t row = 0; row < grid.n_rows; row++, rows += size)
        for (size_t col = 0; col < grid.n_cols; col += 64) {
            piece from[4];
            bool same = true;
            for (size_t g = 0; g < 4; g++) {
                from[g].codes = rows + head + col + 16 * g;
                same = same && one_record(grid, rows, col + 16 * g, 16, &from[g].record);
            }
            if (!accept(same ? to_nvfp4(from, blocks ? blocks : spare) : NO_PLACE, row, col, fit)) return;
            blocks = blocks ? blocks + 36 : NULL;
        }
}

bool MF_LEVEL(grid_to_blocks)(int type, mf_grid grid, unsigned limit, const uint8_t *rows, uint8_t *blocks,
                              mf_fit *fit) {
    *fit = (mf_fit){0.0, true, {0, 0}};
    if (type == MF_NVFP4) {
        nvfp4_rows(grid, rows, blocks, fit);
        return true;
    }
    size_t t = 0;
    while (t < sizeof makers / sizeof makers[0] && makers[t].type != type) t++;
    if (t == sizeof makers / sizeof makers[0]) return false;
    const size_t head = mf_grid_head(grid), size = mf_grid_row_bytes(grid), n = makers[t].elements;
    uint8_t spare[66];
    for (size_t row = 0; row < grid.n_rows; row++, rows += size)
        for (size_t col = 0; col < grid.n_cols; col += n) {
            piece from = {rows + head + col, {0, 0, 0}, (double)limit};
            const bool same = one_record(grid, rows, col, n, &from.record);
            const double error = same ? makers[t].make(from, blocks ? blocks : spare) : NO_PLACE;
            if (!accept(error, row, col, fit)) return true;
            if (blocks) blocks += makers[t].bytes;
        }
    return true;
}
