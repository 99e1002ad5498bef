/* GGUF blocks to rows of grids: codes as bytes, and what scale, offset and zero each group of them has.
 *
 * Exact for every type here: products of a float16 and a scale of six bits, or of two small floats, fit a double.
 * Sources: ggml-common.h block structs and dequantize_row_* of ggml-quants.c. */
#include "../grid_level.h"
#include "../half.h"

#include <math.h>

/* Codes of one block, and its records from `group` on in `row`. */
typedef void (*read_fn)(const uint8_t *block, uint8_t *codes, uint8_t *row, size_t group);

static double f16_at(const uint8_t *p) { return (double)mf_load_f16(p); }

static void open_halves(const uint8_t *packed, uint8_t *codes) {
    for (size_t j = 0; j < 16; j++) {
        codes[j] = packed[j] & 15;
        codes[j + 16] = packed[j] >> 4;
    }
}

static void open_fifth_bits(const uint8_t *bits, uint8_t *codes) {
    for (size_t j = 0; j < 32; j++) codes[j] |= (uint8_t)((bits[j / 8] >> j % 8 & 1) << 4);
}

static void from_q4_0(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    open_halves(b + 2, codes);
    record_store(row, group, f16_at(b), 0.0, 8.0);
}

static void from_q4_1(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    open_halves(b + 4, codes);
    record_store(row, group, f16_at(b), f16_at(b + 2), 0.0);
}

static void from_q5_0(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    open_halves(b + 6, codes);
    open_fifth_bits(b + 2, codes);
    record_store(row, group, f16_at(b), 0.0, 16.0);
}

static void from_q5_1(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    open_halves(b + 8, codes);
    open_fifth_bits(b + 4, codes);
    record_store(row, group, f16_at(b), f16_at(b + 2), 0.0);
}

static void from_q8_0(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    for (size_t j = 0; j < 32; j++) codes[j] = b[2 + j] ^ 128;
    record_store(row, group, f16_at(b), 0.0, 128.0);
}

static void from_q2_k(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    const uint8_t *q = b + 16;
    const double d = f16_at(b + 80), dmin = f16_at(b + 82);
    for (size_t g = 0; g < 16; g++) {
        const uint8_t *from = q + g / 8 * 32 + g % 2 * 16;
        for (size_t l = 0; l < 16; l++) codes[16 * g + l] = from[l] >> g % 8 / 2 * 2 & 3;
        record_store(row, group + g, d * (b[g] & 15), -dmin * (b[g] >> 4), 0.0);
    }
}

static void from_q3_k(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    const uint8_t *high = b, *q = b + 32, *scales = b + 96;
    const double d = f16_at(b + 108);
    for (size_t g = 0; g < 16; g++) {
        const int low_bits = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4;
        const int scale = (low_bits | (scales[8 + g % 4] >> g / 4 * 2 & 3) << 4) - 32;
        const size_t at = g % 2 * 16;
        for (size_t l = 0; l < 16; l++)
            codes[16 * g + l] =
                (uint8_t)((q[g / 8 * 32 + at + l] >> g % 8 / 2 * 2 & 3) | (high[at + l] >> g / 2 & 1) << 2);
        record_store(row, group + g, d * scale, 0.0, 4.0);
    }
}

/* Scales and minimums of Q4_K and Q5_K: eight of each, of six bits. */
static void k_records(const uint8_t *b, uint8_t *row, size_t group) {
    const uint8_t *s = b + 4;
    const double d = f16_at(b), dmin = f16_at(b + 2);
    for (size_t g = 0; g < 8; g++) {
        const int scale = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
        const int minimum = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | s[g] >> 6 << 4;
        record_store(row, group + g, d * scale, -dmin * minimum, 0.0);
    }
}

static void k_nibbles(const uint8_t *packed, uint8_t *codes) {
    for (size_t c = 0; c < 4; c++)
        for (size_t l = 0; l < 32; l++) {
            codes[64 * c + l] = packed[32 * c + l] & 15;
            codes[64 * c + 32 + l] = packed[32 * c + l] >> 4;
        }
}

static void from_q4_k(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    k_records(b, row, group);
    k_nibbles(b + 16, codes);
}

static void from_q5_k(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    k_records(b, row, group);
    k_nibbles(b + 48, codes);
    for (size_t j = 0; j < 256; j++) codes[j] |= (uint8_t)((b[16 + j % 32] >> j / 32 & 1) << 4);
}

static void from_q6_k(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    const int8_t *scales = (const int8_t *)(b + 192);
    const double d = f16_at(b + 208);
    for (size_t half = 0; half < 2; half++) {
        const uint8_t *low = b + 64 * half, *high = b + 128 + 32 * half;
        for (size_t j = 0; j < 128; j++) {
            const int nibble = j < 64 ? low[j] & 15 : low[j - 64] >> 4;
            codes[128 * half + j] = (uint8_t)(nibble | (high[j % 32] >> j / 32 * 2 & 3) << 4);
        }
    }
    for (size_t g = 0; g < 16; g++) record_store(row, group + g, d * scales[g], 0.0, 32.0);
}

static void from_iq4_nl(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    open_halves(b + 2, codes);
    record_store(row, group, f16_at(b), 0.0, 0.0);
}

static void from_iq4_xs(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    const double d = f16_at(b);
    for (size_t g = 0; g < 8; g++) {
        const int high = b[2 + g / 4] >> g % 4 * 2 & 3, low = b[4 + g / 2] >> g % 2 * 4 & 15;
        open_halves(b + 8 + 16 * g, codes + 32 * g);
        record_store(row, group + g, d * ((low | high << 4) - 32), 0.0, 0.0);
    }
}

static void from_tq2_0(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    for (size_t j = 0; j < 256; j++) codes[j] = b[j / 128 * 32 + j % 32] >> j % 128 / 32 * 2 & 3;
    record_store(row, group, f16_at(b + 64), 0.0, 1.0);
}

/* 0xff, which OCP calls NaN, is 2^128 here as in ggml. */
static void from_mxfp4(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    open_halves(b + 1, codes);
    record_store(row, group, ldexp(1.0, (int)b[0] - 127), 0.0, 0.0);
}

static double ue4m3_at(uint8_t byte) {
    const int code = byte & 0x7f, exponent = code >> 3;
    if (code == 0x7f) return 0.0;
    return exponent ? ldexp(8 + (code & 7), exponent - 10) : ldexp(code & 7, -9);
}

static void from_nvfp4(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    for (size_t g = 0; g < 4; g++) {
        for (size_t j = 0; j < 8; j++) {
            codes[16 * g + j] = b[4 + 8 * g + j] & 15;
            codes[16 * g + j + 8] = b[4 + 8 * g + j] >> 4;
        }
        record_store(row, group + g, ue4m3_at(b[g]), 0.0, 0.0);
    }
}

static void from_q1_0(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    const double d = f16_at(b);
    for (size_t j = 0; j < 128; j++) codes[j] = b[2 + j / 8] >> j % 8 & 1;
    record_store(row, group, 2.0 * d, -d, 0.0);
}

static void from_q2_0(const uint8_t *b, uint8_t *codes, uint8_t *row, size_t group) {
    for (size_t j = 0; j < 64; j++) codes[j] = b[2 + j / 4] >> j % 4 * 2 & 3;
    record_store(row, group, f16_at(b), 0.0, 1.0);
}

static const struct {
    int type;
    size_t elements, bytes, group;
    read_fn read;
} readers[] = {
    {MF_Q4_0, 32, 18, 32, from_q4_0},     {MF_Q4_1, 32, 20, 32, from_q4_1},     {MF_Q5_0, 32, 22, 32, from_q5_0},
    {MF_Q5_1, 32, 24, 32, from_q5_1},     {MF_Q8_0, 32, 34, 32, from_q8_0},     {MF_Q2_K, 256, 84, 16, from_q2_k},
    {MF_Q3_K, 256, 110, 16, from_q3_k},   {MF_Q4_K, 256, 144, 32, from_q4_k},   {MF_Q5_K, 256, 176, 32, from_q5_k},
    {MF_Q6_K, 256, 210, 16, from_q6_k},   {MF_IQ4_NL, 32, 18, 32, from_iq4_nl}, {MF_IQ4_XS, 256, 136, 32, from_iq4_xs},
    {MF_TQ2_0, 256, 66, 256, from_tq2_0}, {MF_MXFP4, 32, 17, 32, from_mxfp4},   {MF_NVFP4, 64, 36, 16, from_nvfp4},
    {MF_Q1_0, 128, 18, 128, from_q1_0},   {MF_Q2_0, 64, 18, 64, from_q2_0},
};

/* The grid has the type's own groups. */
bool MF_LEVEL(grid_from_blocks)(int type, mf_grid grid, const uint8_t *blocks, size_t stride, uint8_t *rows) {
    size_t t = 0;
    while (t < sizeof readers / sizeof readers[0] && readers[t].type != type) t++;
    if (t == sizeof readers / sizeof readers[0] || readers[t].group != grid.group) return false;
    const size_t head = mf_grid_head(grid), size = mf_grid_row_bytes(grid), n = readers[t].elements;
    for (size_t row = 0; row < grid.n_rows; row++, rows += size) {
        const uint8_t *block = blocks + row * stride;
        for (size_t col = 0; col < grid.n_cols; col += n, block += readers[t].bytes)
            readers[t].read(block, rows + head + col, rows, col / grid.group);
    }
    return true;
}
