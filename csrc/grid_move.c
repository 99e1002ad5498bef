/* Codes from one layout into another: any source, any target, through pieces of a grid that stay in the cache.
 *
 * A piece is some rows of some columns. Where words lie across rows, on either side, it is as high as a cache line of
 * such words is long, so that each line is fetched once; otherwise it is wide. */
#include "fpenv.h"
#include "grid.h"

#include <string.h>

enum { UNIT = 256, WIDE = 2048, WIDEST = 1024 };   /* columns: a step, of a wide piece, of the widest that is high */
enum { HIGH = 128, SHORT = 32, ELEMENTS = 16384 }; /* rows of words that lie across, rows of them, of a wide piece */

static size_t common_multiple(size_t a, size_t b) {
    size_t x = a, y = b;
    while (y) {
        const size_t rest = x % y;
        x = y;
        y = rest;
    }
    return a / x * b;
}

static bool crosses(mf_packing packing) { return packing.lay == MF_LAY_WORDS || packing.lay == MF_LAY_COLUMNS; }

/* Whether all groups have the same numbers, so that any columns are a group. */
static bool alike(const mf_move *move) {
    return !move->scale.each && !move->offset.each && !move->zero.each && move->source.lay != MF_LAY_BLOCKS;
}

/* Rows, columns and group of a piece. Columns are whole groups, or lie in one, and whole blocks and words. */
static mf_grid piece_of(const mf_move *move) {
    const mf_grid grid = move->grid;
    const bool tall = crosses(move->source) || crosses(move->target);
    size_t unit = UNIT;
    if (grid.group % UNIT) unit = common_multiple(UNIT, grid.group);
    if (unit >= grid.n_cols || grid.n_cols % UNIT) unit = grid.n_cols;
    size_t wide = unit;
    if (!tall && grid.group < unit) wide = WIDE > unit ? WIDE / unit * unit : unit;
    if (wide > grid.n_cols) wide = grid.n_cols;
    size_t rows = ELEMENTS / wide ? ELEMENTS / wide : 1;
    if (tall) rows = wide <= WIDEST ? HIGH : SHORT;
    const size_t group = grid.group < wide && !alike(move) ? grid.group : wide;
    return (mf_grid){rows < grid.n_rows ? rows : grid.n_rows, wide, group};
}

static size_t aligned(size_t n_bytes) { return (n_bytes + 63) / 64 * 64; }

size_t mf_move_scratch(const mf_move *move) {
    const mf_grid piece = piece_of(move);
    return aligned(piece.n_rows * mf_grid_row_bytes(piece)) + piece.n_cols * (sizeof(double) + sizeof(float)) +
           MF_PIECE * sizeof(float);
}

/* Where column `col` of row `row` lies in a layout. */
static size_t place(mf_packing packing, const mf_type *type, size_t row, size_t col) {
    switch (packing.lay) {
    case MF_LAY_ROWS:
        return row * packing.stride + col * packing.bits / 8;
    case MF_LAY_WORDS:
        return col * packing.bits / 32 * packing.stride + row * 4;
    case MF_LAY_COLUMNS:
        return col * packing.stride + row / 2;
    default:
        return row * packing.stride + col / type->block_elements * type->block_bytes;
    }
}

/* The numbers of a plane from a group on, and how far apart they are: not at all, where there is one for all. */
static const double *from_group(const mf_plane *plane, size_t first) {
    return plane->each ? plane->each + first : &plane->all;
}

static void fill_records(const mf_move *move, mf_grid piece, size_t row, size_t col, uint8_t *rows) {
    const size_t size = mf_grid_row_bytes(piece), n_groups = move->grid.n_cols / move->grid.group;
    const size_t scales = move->scale.each != NULL, offsets = move->offset.each != NULL,
                 zeros = move->zero.each != NULL;
    for (size_t r = 0; r < piece.n_rows; r++) {
        const size_t first = (row + r) * n_groups + col / move->grid.group;
        const double *scale = from_group(&move->scale, first), *offset = from_group(&move->offset, first);
        const double *zero = from_group(&move->zero, first);
        uint8_t *to = rows + r * size;
        for (size_t g = 0; g < piece.n_cols / piece.group; g++, to += sizeof(mf_record)) {
            const mf_record record = {scale[g * scales], offset[g * offsets], zero[g * zeros]};
            memcpy(to, &record, sizeof record);
        }
    }
}

/* Values of a piece in a dense type, each rounded once. */
static mf_status store_values(const mf_move *move, mf_grid piece, const mf_type *type, const uint8_t *rows,
                              uint8_t *target, double *values, float *scratch, mf_fault *fault) {
    const mf_level *level = mf_active_level();
    const mf_type *doubles = mf_find_type(level, MF_F64);
    const size_t size = mf_grid_row_bytes(piece);
    for (size_t r = 0; r < piece.n_rows; r++) {
        const mf_grid one = {1, piece.n_cols, piece.group};
        level->grid->values(one, rows + r * size, move->table, values);
        const mf_status status = level->convert(doubles, values, type, target + r * move->target.stride, 1, one.n_cols,
                                                NULL, MF_ROUNDING_GGML, scratch, fault);
        if (status != MF_OK) return status;
    }
    return MF_OK;
}

/* One piece. MF_BAD_VALUE: a code or a scale without a place; fault says where in the piece. */
static mf_status move_piece(const mf_move *move, mf_grid piece, size_t row, size_t col, const uint8_t *source,
                            uint8_t *target, uint8_t *scratch, size_t rows_bytes, mf_fault *fault) {
    const mf_level *level = mf_active_level();
    const mf_type *from = NULL, *to = NULL;
    if (move->source.lay == MF_LAY_BLOCKS) from = mf_find_type(level, (int)move->source.bits);
    if (move->target.lay == MF_LAY_BLOCKS) to = mf_find_type(level, (int)move->target.bits);
    const uint8_t *in = source + place(move->source, from, row, col);
    uint8_t *out = target + place(move->target, to, row, col), *rows = scratch;
    if (from) {
        if (!level->grid->from_blocks(from->id, piece, in, move->source.stride, rows)) return MF_UNSUPPORTED;
    } else {
        fill_records(move, piece, row, col, rows);
        level->grid->unpack(move->source, piece, in, rows);
    }
    if (to && to->block_elements == 1) {
        double *values = (double *)(void *)(scratch + rows_bytes);
        return store_values(move, piece, to, rows, out, values, (float *)(values + piece.n_cols), fault);
    }
    if (to) {
        mf_fit fit;
        if (!level->grid->to_blocks(to->id, piece, move->limit, rows, out, move->target.stride, &fit))
            return MF_UNSUPPORTED;
        *fault = fit.fault;
        return fit.fits ? MF_OK : MF_BAD_VALUE;
    }
    return level->grid->pack(move->target, piece, rows, out, move->rezero, fault) ? MF_OK : MF_BAD_VALUE;
}

mf_status mf_grid_move(const mf_move *move, const uint8_t *source, uint8_t *target, void *scratch, mf_fault *fault) {
    const mf_fpenv saved = mf_fpenv_default();
    const mf_grid grid = move->grid, whole = piece_of(move);
    const size_t rows_bytes = aligned(whole.n_rows * mf_grid_row_bytes(whole));
    mf_status status = MF_OK;
    for (size_t row = 0; row < grid.n_rows && status == MF_OK; row += whole.n_rows)
        for (size_t col = 0; col < grid.n_cols && status == MF_OK; col += whole.n_cols) {
            mf_grid piece = whole;
            if (grid.n_rows - row < piece.n_rows) piece.n_rows = grid.n_rows - row;
            if (grid.n_cols - col < piece.n_cols) piece.n_cols = grid.n_cols - col;
            if (piece.n_cols < piece.group) piece.group = piece.n_cols;
            status = move_piece(move, piece, row, col, source, target, scratch, rows_bytes, fault);
            if (status == MF_BAD_VALUE) *fault = (mf_fault){row + fault->row, col + fault->column};
        }
    mf_fpenv_restore(saved);
    return status;
}
