/* The table of types of one level: types.def with this level's functions filled in. */
#include "grid_level.h"

mf_status MF_LEVEL(convert)(const mf_type *src_type, const void *src, const mf_type *dst_type, void *dst, size_t n_rows,
                            size_t n_cols, const float *importance, mf_rounding rounding, float *scratch,
                            mf_fault *fault);
mf_error_sums MF_LEVEL(error_sums)(const mf_type *a_type, const void *a, const mf_type *b_type, const void *b, size_t n,
                                   float *scratch);
void MF_LEVEL(add_product)(const float *a, const float *b, float *sums, size_t n_rows, size_t n_cols, size_t rank);
void MF_LEVEL(row_lengths)(const float *x, float *lengths, size_t n_rows, size_t n_cols);
extern const mf_level MF_LEVEL(mf_level);

#define MF_FUNCTIONS_NONE(kernel) NULL, NULL, NULL
#define MF_FUNCTIONS_DECODE(kernel) MF_LEVEL(kernel##_dequantize), NULL, NULL
#define MF_FUNCTIONS_BOTH(kernel) MF_LEVEL(kernel##_dequantize), MF_LEVEL(kernel##_quantize), NULL
#define MF_FUNCTIONS_ALL(kernel) MF_LEVEL(kernel##_dequantize), MF_LEVEL(kernel##_quantize), MF_LEVEL(kernel##_refine)

static const mf_type types[] = {
#define MF_TYPE(id, name, kernel, elements, bytes, has, flags, ...)                                                    \
    {id, #name, elements, bytes, flags, {__VA_ARGS__}, MF_FUNCTIONS_##has(kernel)},
#include "types.def"
#undef MF_TYPE
};

static const mf_grid_level grid_level = {
    .unpack = MF_LEVEL(grid_unpack),
    .pack = MF_LEVEL(grid_pack),
    .values = MF_LEVEL(grid_values),
    .to_blocks = MF_LEVEL(grid_to_blocks),
    .from_blocks = MF_LEVEL(grid_from_blocks),
    .round = MF_LEVEL(grid_round),
    .round_scratch = MF_LEVEL(grid_round_scratch),
};

const mf_level MF_LEVEL(mf_level) = {
    .name = MF_STRING(MF_LEVEL_NAME),
    .n_types = sizeof types / sizeof types[0],
    .types = types,
    .convert = MF_LEVEL(convert),
    .error_sums = MF_LEVEL(error_sums),
    .add_product = MF_LEVEL(add_product),
    .row_lengths = MF_LEVEL(row_lengths),
    .grid = &grid_level,
};
