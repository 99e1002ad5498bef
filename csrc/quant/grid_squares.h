/* Squares of codes: 16 packed bytes of 16 columns of MF_LAY_COLUMNS, which are 32 rows of them. Two squares side by
 * side, where a register holds both. */
#ifndef MF_GRID_SQUARES_H
#define MF_GRID_SQUARES_H

#include "../grid_level.h"
#include "../vec.h"

enum { WIDTH = 16, WORD = 4 };

#if VF_LANES > 4
enum { SQUARES = 2 };
typedef uint8_t vs __attribute__((vector_size(32)));
#define VS_ZIP_LOW                                                                                                     \
    0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54,    \
        23, 55
#define VS_ZIP_HIGH                                                                                                    \
    8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47, 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30,  \
        62, 31, 63
#else
enum { SQUARES = 1 };
typedef vb vs;
#define VS_ZIP_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define VS_ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#endif
enum { SIDE = SQUARES * WIDTH, LINE = 64 }; /* columns of the squares, bytes of a column that are fetched at once */

/* Byte b of a word: which of eight neighbouring rows its low and its high nibble belong to. */
static const uint8_t low_row[3][WORD] = {[MF_ORDER_LOW] = {0, 2, 4, 6}, [MF_ORDER_AWQ] = {0, 4, 1, 5}};
static const uint8_t high_row[3][WORD] = {[MF_ORDER_LOW] = {1, 3, 5, 7}, [MF_ORDER_AWQ] = {2, 6, 3, 7}};
enum { EIGHT = 8 }; /* codes of a word */

static inline vs vs_load(const void *p) {
    vs v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void vs_store(void *p, vs v) { memcpy(p, &v, sizeof v); }

/* The byte in every place. */
static inline vs vs_set1(uint8_t c) { return (vs){0} + c; }

/* Sixteen bytes of a line, and of the line that is WIDTH lines below. */
static inline vs vs_load_lines(const uint8_t *p, size_t step) {
#if VF_LANES > 4
    return __builtin_shufflevector(vb_load(p), vb_load(p + WIDTH * step), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,
                                   14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
#else
    (void)step;
    return vb_load(p);
#endif
}

static inline void vs_store_lines(vs v, uint8_t *p, size_t step) {
    uint8_t both[sizeof v];
    memcpy(both, &v, sizeof v);
    for (size_t i = 0; i < SQUARES; i++) memcpy(p + i * WIDTH * step, both + i * WIDTH, WIDTH);
}

/* 16 x 16 bytes exchanged along the diagonal: four times the perfect shuffle of the whole. */
static inline void transpose(vs v[WIDTH]) {
    for (int round = 0; round < 4; round++) {
        vs next[WIDTH];
        for (size_t i = 0; i < WIDTH / 2; i++) {
            next[2 * i] = __builtin_shufflevector(v[i], v[i + WIDTH / 2], VS_ZIP_LOW);
            next[2 * i + 1] = __builtin_shufflevector(v[i], v[i + WIDTH / 2], VS_ZIP_HIGH);
        }
        memcpy(v, next, sizeof next);
    }
}

/* Lines of packed bytes become 32 rows of SIDE codes, `size` bytes apart: the bytes change places, then fall into
 * nibbles. */
static inline void open_squares(const uint8_t *lines, size_t step, uint8_t *codes, size_t size, mf_order order,
                                vs flips) {
    const vs mask = vs_set1(15);
    vs v[WIDTH];
    for (size_t k = 0; k < WIDTH; k++) v[k] = vs_load_lines(lines + k * step, step);
    transpose(v);
    for (size_t b = 0; b < WIDTH; b++) {
        uint8_t *octet = codes + b / WORD * EIGHT * size;
        vs_store(octet + low_row[order][b % WORD] * size, (v[b] & mask) ^ flips);
        vs_store(octet + high_row[order][b % WORD] * size, (v[b] >> 4) ^ flips);
    }
}

/* 32 rows of SIDE codes, `size` bytes apart, become lines: nibbles of two rows fall together, then bytes change places.
 */
static inline void close_squares(const uint8_t *codes, size_t size, uint8_t *lines, size_t step, mf_order order) {
    vs v[WIDTH];
    for (size_t b = 0; b < WIDTH; b++) {
        const uint8_t *octet = codes + b / WORD * EIGHT * size;
        v[b] = vs_load(octet + low_row[order][b % WORD] * size) | vs_load(octet + high_row[order][b % WORD] * size)
                                                                      << 4;
    }
    transpose(v);
    for (size_t k = 0; k < WIDTH; k++) vs_store_lines(v[k], lines + k * step, step);
}

#endif
