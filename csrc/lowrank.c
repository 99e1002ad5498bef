/* Products with a small inner dimension (LoRA), and the lengths of rows (DoRA). Each element is its own sum, made in
 * the order of the inner dimension, one column in each lane: the same bits at every level, for any cut into rows,
 * columns or pieces of the inner dimension. */
#include "level.h"
#include "vec.h"

#include <math.h>

enum { ROWS = 4, VECTORS = 4 };

/* A constant number of rows and vectors keeps the sums in registers. */
static inline __attribute__((always_inline)) void block(const float *a, const float *b, float *sums, size_t n_cols,
                                                        size_t rank, size_t rows, size_t vectors) {
    vf sum[ROWS][VECTORS];
    for (size_t i = 0; i < rows; i++)
        for (size_t v = 0; v < vectors; v++) sum[i][v] = vf_load(sums + i * n_cols + v * VF_LANES);
    for (size_t k = 0; k < rank; k++) {
        vf column[VECTORS];
        for (size_t v = 0; v < vectors; v++) column[v] = vf_load(a + k * n_cols + v * VF_LANES);
        for (size_t i = 0; i < rows; i++) {
            const vf factor = vf_set1(b[i * rank + k]);
            for (size_t v = 0; v < vectors; v++) sum[i][v] += factor * column[v];
        }
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t v = 0; v < vectors; v++) vf_store(sums + i * n_cols + v * VF_LANES, sum[i][v]);
}

/* Columns that are no whole vectors: the same products and sums, one element after another. */
static void rest(const float *a, const float *b, float *sums, size_t n_cols, size_t rank, size_t rows, size_t columns) {
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < rank; k++)
            for (size_t j = 0; j < columns; j++) sums[i * n_cols + j] += b[i * rank + k] * a[k * n_cols + j];
}

static void strip(const float *a, const float *b, float *sums, size_t n_cols, size_t rank, size_t rows,
                  size_t columns) {
    enum { WIDE = VECTORS * VF_LANES };
    size_t j = 0;
    if (rows == ROWS)
        for (; j + WIDE <= columns; j += WIDE) block(a + j, b, sums + j, n_cols, rank, ROWS, VECTORS);
    for (; j + VF_LANES <= columns; j += VF_LANES)
        for (size_t i = 0; i < rows; i++) block(a + j, b + i * rank, sums + i * n_cols + j, n_cols, rank, 1, 1);
    rest(a + j, b, sums + j, n_cols, rank, rows, columns - j);
}

/* As many columns at once as keep their part of `a` in the cache. */
void MF_LEVEL(add_product)(const float *a, const float *b, float *sums, size_t n_rows, size_t n_cols, size_t rank) {
    enum { CACHED = 1 << 15, LEAST = 256 };
    size_t step = rank ? CACHED / rank / LEAST * LEAST : n_cols;
    if (step < LEAST) step = LEAST;
    for (size_t j = 0; j < n_cols; j += step) {
        const size_t columns = n_cols - j < step ? n_cols - j : step;
        for (size_t i = 0; i < n_rows; i += ROWS) {
            const size_t rows = n_rows - i < ROWS ? n_rows - i : ROWS;
            strip(a + j, b + i * rank, sums + i * n_cols + j, n_cols, rank, rows, columns);
        }
    }
}

/* Sixteen partial sums, element i into sum i % 16, added in one fixed tree. */
void MF_LEVEL(row_lengths)(const float *x, float *lengths, size_t n_rows, size_t n_cols) {
    enum { WAYS = 16 };
    for (size_t i = 0; i < n_rows; i++) {
        double square[WAYS] = {0};
        const float *row = x + i * n_cols;
        size_t j = 0;
        for (; j + WAYS <= n_cols; j += WAYS)
            for (size_t k = 0; k < WAYS; k++) square[k] += (double)row[j + k] * (double)row[j + k];
        for (; j < n_cols; j++) square[j % WAYS] += (double)row[j] * (double)row[j];
        for (size_t half = WAYS / 2; half; half /= 2)
            for (size_t k = 0; k < half; k++) square[k] += square[k + half];
        lengths[i] = (float)sqrt(square[0]);
    }
}
