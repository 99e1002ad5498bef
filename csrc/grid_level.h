/* The functions of one level over grids, and small helpers that they share. */
#ifndef MF_GRID_LEVEL_H
#define MF_GRID_LEVEL_H

#include "grid.h"
#include "level.h"

#include <string.h>

void MF_LEVEL(grid_unpack)(mf_packing packing, mf_grid grid, const uint8_t *packed, uint8_t *rows);
bool MF_LEVEL(grid_pack)(mf_packing packing, mf_grid grid, const uint8_t *rows, uint8_t *packed, int rezero,
                         mf_fault *fault);
void MF_LEVEL(grid_values)(mf_grid grid, const uint8_t *rows, const double *table, double *values);
bool MF_LEVEL(grid_to_blocks)(int type, mf_grid grid, unsigned limit, const uint8_t *rows, uint8_t *blocks,
                              size_t stride, mf_fit *fit);
bool MF_LEVEL(grid_from_blocks)(int type, mf_grid grid, const uint8_t *blocks, size_t stride, uint8_t *rows);
mf_rounded_status MF_LEVEL(grid_round)(const mf_rounded *how, mf_grid grid, const mf_type *type, const uint8_t *values,
                                       float *scratch, uint8_t *rows, mf_fault *fault);
size_t MF_LEVEL(grid_round_scratch)(const mf_rounded *how);

static inline mf_record record_at(const uint8_t *row, size_t group) {
    mf_record record;
    memcpy(&record, row + group * sizeof record, sizeof record);
    return record;
}

static inline void record_store(uint8_t *row, size_t group, double scale, double offset, double zero) {
    const mf_record record = {scale, offset, zero};
    memcpy(row + group * sizeof record, &record, sizeof record);
}

static inline bool record_same(mf_record a, mf_record b) {
    return a.scale == b.scale && a.offset == b.offset && a.zero == b.zero;
}

#endif
