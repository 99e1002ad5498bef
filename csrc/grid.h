/* Rows of grids: the form between one quantized layout and another.
 *
 * A row is n_cols / group records of three doubles (scale, offset, zero), then a byte for each code:
 *   value = scale * (code - zero) + offset, or scale * (table[code] - zero) + offset.
 * Doubles, because the product of two levels of scales needs more than 24 bits (e4m3 * float32: 28) and nothing may be
 * lost on the way. Rows have no alignment. */
#ifndef MF_GRID_H
#define MF_GRID_H

#include "mf.h"

typedef struct mf_grid {
    size_t n_rows, n_cols, group; /* group divides n_cols */
} mf_grid;

typedef struct mf_record {
    double scale, offset, zero;
} mf_record;

_Static_assert(sizeof(mf_record) == 24, "three doubles");

static inline size_t mf_grid_head(mf_grid grid) { return grid.n_cols / grid.group * sizeof(mf_record); }
static inline size_t mf_grid_row_bytes(mf_grid grid) { return mf_grid_head(grid) + grid.n_cols; }

/* How packed codes lie. MF_LAY_ROWS: [rows][bytes of a row], codes along the row. MF_LAY_WORDS: GPTQ, [words][rows] of
 * 32 bits, the words of a row one below the other. MF_LAY_COLUMNS: AWQ, [cols][rows * bits / 8], the codes of
 * neighbouring rows in one word of 32 bits. */
typedef enum mf_lay { MF_LAY_ROWS, MF_LAY_WORDS, MF_LAY_COLUMNS } mf_lay;

/* bits: 1 to 8, codes lowest first; MF_LAY_COLUMNS: 4. order: of the eight nibbles of a word (MF_LAY_COLUMNS), or
 * MF_ORDER_HIGH: the first of two nibbles is the high one. stride: bytes between packed rows (MF_LAY_ROWS) or between
 * rows of the strip. flip: bits exchanged in every code, 128 for signed bytes. */
typedef enum mf_order { MF_ORDER_LOW, MF_ORDER_HIGH, MF_ORDER_AWQ } mf_order;

typedef struct mf_packing {
    mf_lay lay;
    mf_order order;
    unsigned bits, flip;
    size_t stride;
} mf_packing;

/* What became of blocks made from a grid. worst: the largest error over the largest magnitude that the block's grid
 * reaches; fits: every code and scale has a place; otherwise fault says where not. */
typedef struct mf_fit {
    double worst;
    bool fits;
    mf_fault fault;
} mf_fit;

/* How values become a grid. bits: of codes, 1 to 8. half: scales are float16. records: no codes are wanted. */
typedef struct mf_rounded {
    unsigned bits;
    bool symmetric, half, records;
} mf_rounded;

typedef struct mf_grid_level {
    void (*unpack)(mf_packing packing, mf_grid grid, const uint8_t *packed, uint8_t *rows);
    /* false: a code that does not fit; packed is then unfinished. rezero: codes become code - zero + rezero. */
    bool (*pack)(mf_packing packing, mf_grid grid, const uint8_t *rows, uint8_t *packed, int rezero, mf_fault *fault);
    void (*values)(mf_grid grid, const uint8_t *rows, const double *table, double *values);
    /* false: no such type. limit: the largest code of the grid. blocks NULL: only look. */
    bool (*to_blocks)(int type, mf_grid grid, unsigned limit, const uint8_t *rows, uint8_t *blocks, mf_fit *fit);
    bool (*from_blocks)(int type, mf_grid grid, const uint8_t *blocks, uint8_t *rows);
    /* false: a value that is not finite, or a scale that float16 does not hold. */
    bool (*round)(mf_rounded how, mf_grid grid, const float *x, uint8_t *rows, mf_fault *fault);
} mf_grid_level;

enum { MF_REZERO_NONE = -1 };

const mf_grid_level *mf_active_grid(void);

#endif
