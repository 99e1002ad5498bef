/* Planes: scales, offsets and zeros of a grid, a double for each group of each row, or the same turned. */
#include "fpenv.h"
#include "grid.h"

#include <math.h>
#include <string.h>

bool mf_grid_numbers(int type, mf_grid grid, const uint8_t *blocks, size_t stride, uint8_t *rows, double *scale,
                     double *offset, double *zero) {
    const mf_fpenv saved = mf_fpenv_default();
    const mf_grid one = {1, grid.n_cols, grid.group};
    const size_t n_groups = grid.n_cols / grid.group;
    bool known = true;
    for (size_t row = 0; row < grid.n_rows && known; row++) {
        known = mf_active_grid()->from_blocks(type, one, blocks + row * stride, stride, rows);
        for (size_t g = 0; g < n_groups && known; g++) {
            mf_record record;
            memcpy(&record, rows + g * sizeof record, sizeof record);
            scale[row * n_groups + g] = record.scale;
            offset[row * n_groups + g] = record.offset;
            zero[row * n_groups + g] = record.zero;
        }
    }
    mf_fpenv_restore(saved);
    return known;
}

static inline double number_at(const mf_spread *from, size_t at) {
    return (from->bytes ? (double)from->bytes[at] : (double)from->floats[at]) + from->plus;
}

bool mf_grid_spread(const mf_spread *from, double *plane, size_t n_rows, size_t n_groups, bool turned) {
    const mf_fpenv saved = mf_fpenv_default();
    bool finite = true;
    for (size_t row = 0; row < n_rows; row++) {
        const size_t line = from->rows ? ((from->start + row) / from->rows - from->start / from->rows) : 0;
        for (size_t g = 0; g < n_groups; g++) {
            const double number = number_at(from, line * from->line + from->groups[g] * from->item);
            double *to = plane + (turned ? g * n_rows + row : row * n_groups + g);
            if (from->how == MF_SPREAD_SET)
                *to = number;
            else
                *to = from->how == MF_SPREAD_TIMES ? *to * number : *to / number;
            finite = finite && isfinite(*to);
        }
    }
    mf_fpenv_restore(saved);
    return finite;
}
