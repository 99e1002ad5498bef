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

static inline bool put(double *to, double number, int how) {
    *to = how == MF_SPREAD_SET ? number : how == MF_SPREAD_TIMES ? *to * number : *to / number;
    uint64_t bits;
    memcpy(&bits, to, sizeof bits);
    return (bits >> 52 & 0x7ff) != 0x7ff; /* isfinite */
}

bool mf_grid_spread(const mf_spread *from, double *plane, size_t n_rows, size_t n_groups, bool turned) {
    const mf_fpenv saved = mf_fpenv_default();
    bool finite = true;
    const size_t before = from->rows ? from->start / from->rows : 0;
    if (turned) {
        for (size_t g = 0; g < n_groups; g++, plane += n_rows) {
            const size_t at = from->groups[g] * from->item;
            if (from->rows == 1)
                for (size_t row = 0; row < n_rows; row++)
                    finite &= put(plane + row, number_at(from, row * from->line + at), from->how);
            else
                for (size_t row = 0; row < n_rows; row++) {
                    const size_t line = from->rows ? (from->start + row) / from->rows - before : 0;
                    finite &= put(plane + row, number_at(from, line * from->line + at), from->how);
                }
        }
    } else {
        for (size_t row = 0; row < n_rows; row++, plane += n_groups) {
            const size_t line = from->rows ? (from->start + row) / from->rows - before : 0;
            for (size_t g = 0; g < n_groups; g++)
                finite &= put(plane + g, number_at(from, line * from->line + from->groups[g] * from->item), from->how);
        }
    }
    mf_fpenv_restore(saved);
    return finite;
}

/* A number as a dense type has it: rounded once, or to infinity. */
static double rounded(double x, int type) {
    float narrow = (float)x;
    if (type == MF_F32) return (double)narrow;
    const int bits = type == MF_F16 ? 11 : 8, least = type == MF_F16 ? -24 : -133, most = type == MF_F16 ? 16 : 128;
    int exponent;
    frexp(x, &exponent);
    if (!isfinite(x) || x == 0.0) return x;
    const int lowest = exponent - bits > least ? exponent - bits : least;
    const double found = ldexp(nearbyint(ldexp(x, -lowest)), lowest);
    return fabs(found) >= ldexp(1.0, most) ? copysign(INFINITY, x) : found;
}

static double at_place(mf_plane plane, size_t i) { return plane.each ? plane.each[i] : plane.all; }

double mf_grid_rounding(const mf_stored *stored, mf_plane scale, mf_plane offset, mf_plane zero, size_t n) {
    const mf_fpenv saved = mf_fpenv_default();
    double worst = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double size = at_place(scale, i), shift = at_place(offset, i), origin = at_place(zero, i);
        const double low = shift - size * origin, top = stored->top;
        double reach = fabs(size) * top, off = fabs(rounded(size, stored->scale) - size) * top;
        if (stored->integer) reach = fmax(fabs(low), fabs(low + size * top));
        if (stored->offset >= 0) {
            const double base = isnan(stored->rezero) ? low : shift - size * stored->rezero;
            off += fabs(rounded(base, stored->offset) - base);
        } else if (stored->integer) { /* what a whole zero leaves of zero and offset */
            const double whole = nearbyint(origin - (size == 0.0 ? 0.0 : shift / size));
            off += fabs(shift - size * (origin - whole));
        }
        const double error = off == 0.0 ? 0.0 : off / reach;
        if (isnan(error))
            worst = INFINITY;
        else
            worst = fmax(worst, error);
    }
    mf_fpenv_restore(saved);
    return worst;
}
