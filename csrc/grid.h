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
 * neighbouring rows in one word of 32 bits. MF_LAY_BLOCKS: [rows][blocks], which have their own scales; values are
 * blocks of one element. */
typedef enum mf_lay { MF_LAY_ROWS, MF_LAY_WORDS, MF_LAY_COLUMNS, MF_LAY_BLOCKS } mf_lay;

/* bits: 1 to 8, codes lowest first; MF_LAY_COLUMNS: 4; MF_LAY_BLOCKS: the type. order: of the eight nibbles of a word
 * (MF_LAY_COLUMNS, or MF_ORDER_AWQ in rows), or MF_ORDER_HIGH: the first of two nibbles is the high one. stride: bytes
 * between rows (MF_LAY_ROWS, MF_LAY_BLOCKS) or between rows of the strip. flip: bits exchanged in every code, 128 for
 * signed bytes. */
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

/* What the scale of a group is made of: its largest magnitude, the value that is farthest from zero (which has a sign),
 * its range, stretched to hold zero, or the end of its range that is farther from zero, which MLX puts on the grid. */
typedef enum mf_found { MF_FOUND_LARGEST, MF_FOUND_FARTHEST, MF_FOUND_RANGE, MF_FOUND_EDGE } mf_found;

/* What a scale is rounded to. POWER: the power of two below, or above what is 1.75 times one; POWER_ABOVE: above. */
typedef enum mf_kept {
    MF_KEPT_F32,
    MF_KEPT_F16,
    MF_KEPT_BF16,
    MF_KEPT_E4M3,
    MF_KEPT_POWER,
    MF_KEPT_POWER_ABOVE,
} mf_kept;

/* Codes: integers, half way to the even one or away from zero; E4M3; of a codebook. */
typedef enum mf_codes { MF_CODES_EVEN, MF_CODES_AWAY, MF_CODES_FLOAT, MF_CODES_BOOK } mf_codes;

enum { MF_THRESHOLDS = 15 };

/* How values become a grid. size columns of `rows` neighbouring rows share a scale; the grid's group divides size.
 * scale = times * (found / reach), rounded to via, then to stored; least stands in for a scale of nothing. Codes are
 * for x / (scale / over), or, without `divide`, x * (over * (1 / scale)), of a scale that is not less than floor;
 * integers are moved by shift, so that they are 0 to limit. Others are clipped to top and -top. book: code i is for
 * what is above i of the thresholds. records: no codes are wanted. */
typedef struct mf_rounded {
    mf_found found;
    mf_codes codes;
    mf_kept via, stored;
    unsigned limit, shift;
    bool divide, records;
    size_t size, rows;
    float reach, times, over, least, floor, top;
    float thresholds[MF_THRESHOLDS];
    uint8_t book[MF_THRESHOLDS + 1];
} mf_rounded;

/* BAD_VALUE: one is not finite. BAD_SCALE: one is not, as it is to be stored. */
typedef enum mf_rounded_status { MF_ROUNDED_OK, MF_ROUNDED_BAD_VALUE, MF_ROUNDED_BAD_SCALE } mf_rounded_status;

typedef struct mf_grid_level {
    void (*unpack)(mf_packing packing, mf_grid grid, const uint8_t *packed, uint8_t *rows);
    /* false: a code that does not fit; packed is then unfinished. rezero: codes become code - zero + rezero. */
    bool (*pack)(mf_packing packing, mf_grid grid, const uint8_t *rows, uint8_t *packed, int rezero, mf_fault *fault);
    void (*values)(mf_grid grid, const uint8_t *rows, const double *table, double *values);
    /* false: no such type. limit: the largest code of the grid. blocks NULL: only look. stride: bytes between rows. */
    bool (*to_blocks)(int type, mf_grid grid, unsigned limit, const uint8_t *rows, uint8_t *blocks, size_t stride,
                      mf_fit *fit);
    bool (*from_blocks)(int type, mf_grid grid, const uint8_t *blocks, size_t stride, uint8_t *rows);
    /* values: of a dense type, any alignment; scratch: of round_scratch bytes, aligned to float. */
    mf_rounded_status (*round)(const mf_rounded *how, mf_grid grid, const mf_type *type, const uint8_t *values,
                               float *scratch, uint8_t *rows, mf_fault *fault);
    size_t (*round_scratch)(const mf_rounded *how);
} mf_grid_level;

enum { MF_REZERO_NONE = -1 };

/* A number for each group of a grid, [n_rows][n_cols / group], or one for all where `each` is NULL. */
typedef struct mf_plane {
    const double *each;
    double all;
} mf_plane;

/* Codes from one layout into another. scale, offset, zero: of codes that are no blocks. limit: the largest code of the
 * grid, for blocks. rezero: for packed codes. table: what codes stand for, where values are made; NULL: themselves. */
typedef struct mf_move {
    mf_packing source, target;
    mf_grid grid;
    mf_plane scale, offset, zero;
    unsigned limit;
    int rezero;
    const double *table;
} mf_move;

/* grid_move.c. The grid between the two is made in pieces that stay in the cache, in scratch of mf_move_scratch()
 * bytes, aligned to double. */
size_t mf_move_scratch(const mf_move *move);
mf_status mf_grid_move(const mf_move *move, const uint8_t *source, uint8_t *target, void *scratch, mf_fault *fault);
/* grid_planes.c. Numbers that lie in lines, one for so many rows (0: all of them), item by item; groups: which item
 * each group has. start: the first row, whose line is the first. */
typedef struct mf_spread {
    const float *floats;
    const uint8_t *bytes; /* where there are no floats */
    size_t line, item;    /* distances of lines and items, in elements */
    size_t start, rows;
    const size_t *groups;
    double plus; /* added to each number */
    enum { MF_SPREAD_SET, MF_SPREAD_TIMES, MF_SPREAD_OVER } how;
} mf_spread;

/* false: some number of the plane is not finite now. turned: the plane is [n_groups][n_rows]. */
bool mf_grid_spread(const mf_spread *from, double *plane, size_t n_rows, size_t n_groups, bool turned);
/* How scales and offsets are to be stored. top: the largest code, or magnitude of a table. scale, offset: dense types;
 * offset -1: none, zeros must say all. rezero: what the codes' zero becomes; NaN: they stay. */
typedef struct mf_stored {
    double top, rezero;
    int scale, offset;
    bool integer;
} mf_stored;

/* The largest error of storing n groups so, over the largest magnitude that each group's grid reaches. */
double mf_grid_rounding(const mf_stored *stored, mf_plane scale, mf_plane offset, mf_plane zero, size_t n);
/* Scale, offset and zero of each group of blocks as planes; rows is scratch for one row of the grid. false: no grid. */
bool mf_grid_numbers(int type, mf_grid grid, const uint8_t *blocks, size_t stride, uint8_t *rows, double *scale,
                     double *offset, double *zero);

const mf_grid_level *mf_active_grid(void);

#endif
