/* The plain C side of modelfmt: tensor types, row conversion, byte moves. No Python, no allocation, no I/O, no globals
 * that change after the level is picked. Every length has been checked by the caller (module*.c) before a pointer gets
 * here. Type ids, names and block layouts are ggml's (ggml.h enum ggml_type, ggml-common.h). */
#ifndef MF_H
#define MF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the kernels read and write little-endian blocks in place"
#endif

typedef enum mf_status {
    MF_OK = 0,
    MF_BAD_SIZE,         /* columns are not a multiple of a type's block */
    MF_BAD_VALUE,        /* NaN or infinity where a block quantizer needs a number: fault.row, fault.column */
    MF_BAD_IMPORTANCE,   /* an importance that is negative, NaN or infinite: fault.column */
    MF_NEEDS_IMPORTANCE, /* the destination type cannot be quantized without importance */
    MF_UNSUPPORTED,      /* no kernel for this source or destination type */
} mf_status;

typedef struct mf_fault {
    size_t row, column;
} mf_fault;

/* Numbers of more than one byte inside a block; what big-endian files need swapped. count 0 ends the list. */
typedef struct mf_swap {
    uint16_t offset, size, count;
} mf_swap;

enum { MF_MAX_SWAPS = 2, MF_MAX_BLOCK_ELEMENTS = 256 };
enum { MF_PIECE = 8192 }; /* elements in flight: 32 KiB of float, a multiple of every block */

/* Blocks to values. n: elements, a multiple of block_elements. Every bit pattern is accepted. */
typedef void (*mf_dequantize_fn)(const uint8_t *blocks, float *x, size_t n);

/* Rows of finite values to blocks. importance: n_cols weights >= 0 shared by all rows, or NULL. Without importance a
 * block must depend on its own values alone: the caller may then pass any run of blocks as "rows". */
typedef void (*mf_quantize_fn)(const float *x, uint8_t *blocks, size_t n_rows, size_t n_cols, const float *importance);

/* Blocks that quantize made of x, n_blocks <= MF_REFINE_BLOCKS, to blocks that may be nearer to it: the sum of weights
 * * (x - value)^2 counts, weights are one for each value. The caller keeps the better ones. */
typedef void (*mf_refine_fn)(const float *x, const float *weights, uint8_t *blocks, size_t n_blocks);

/* How values become blocks: as ggml does it, or by refining that. */
typedef enum mf_rounding { MF_ROUNDING_GGML, MF_ROUNDING_BEST } mf_rounding;

enum { MF_FLAG_NEEDS_IMPORTANCE = 1 };

typedef struct mf_type {
    int id;
    const char *name;
    uint32_t block_elements, block_bytes;
    uint32_t flags;
    mf_swap swaps[MF_MAX_SWAPS];
    mf_dequantize_fn dequantize; /* NULL: no kernel */
    mf_quantize_fn quantize;     /* NULL: no kernel */
    mf_refine_fn refine;         /* NULL: quantize cannot be bettered */
} mf_type;

enum mf_type_id {
#define MF_TYPE(id, name, kernel, elements, bytes, has, flags, ...) MF_##name = id,
#include "types.def"
#undef MF_TYPE
};

typedef struct mf_error_sums {
    double sum_sq_diff, sum_sq, max_abs; /* of a - b, of a, of |a - b| */
} mf_error_sums;

/* Everything that is compiled once per instruction set. `scratch` is a caller's buffer of mf_scratch_elements(). */
typedef struct mf_level {
    const char *name;
    size_t n_types;
    const mf_type *types;
    mf_status (*convert)(const mf_type *src_type, const void *src, const mf_type *dst_type, void *dst, size_t n_rows,
                         size_t n_cols, const float *importance, mf_rounding rounding, float *scratch, mf_fault *fault);
    mf_error_sums (*error_sums)(const mf_type *a_type, const void *a, const mf_type *b_type, const void *b, size_t n,
                                float *scratch);
    void (*add_product)(const float *a, const float *b, float *sums, size_t n_rows, size_t n_cols, size_t rank);
    void (*row_lengths)(const float *x, float *lengths, size_t n_rows, size_t n_cols);
    const struct mf_grid_level *grid; /* grid.h */
} mf_level;

/* cpu.c, dispatch.c */
bool mf_cpu_runs(const char *level);
size_t mf_levels(const mf_level *out[], size_t room);       /* those this CPU runs, fastest first */
bool mf_set_level(const char *name);                        /* false: unknown, or not for this CPU */
const mf_level *mf_active_level(void);                      /* never NULL */
const char *mf_refused_level(void);                         /* MODELFMT_ISA where it could not be honoured, else NULL */
const mf_type *mf_find_type(const mf_level *level, int id); /* NULL: not a type */

/* Rows of any type to rows of any type, at the active level, under the default floating-point environment.
 * src: n_rows * n_cols / block_elements * block_bytes bytes, any alignment; dst likewise; they do not overlap. */
mf_status mf_convert(int src_type, const void *src, int dst_type, void *dst, size_t n_rows, size_t n_cols,
                     const float *importance, mf_rounding rounding, float *scratch, mf_fault *fault);
mf_status mf_compare(int a_type, const void *a, int b_type, const void *b, size_t n_elements, float *scratch,
                     mf_error_sums *sums);
/* sums [n_rows, n_cols] += b [n_rows, rank] * a [rank, n_cols], each element in the order of the rank. */
void mf_add_product(const float *a, const float *b, float *sums, size_t n_rows, size_t n_cols, size_t rank);
/* The square root of the sum of the squares of each row. */
void mf_row_lengths(const float *x, float *lengths, size_t n_rows, size_t n_cols);
static inline size_t mf_scratch_elements(size_t n_cols, bool has_importance) {
    return has_importance && n_cols > MF_PIECE ? n_cols : MF_PIECE;
}

/* bytes.c: the same at every level */
/* Words of 16 bits that occur: seen[word] becomes 1. */
void mf_mark_words(const uint8_t *words, size_t n, uint8_t *seen);
void mf_swap_bytes(const mf_type *type, uint8_t *blocks, size_t n_blocks);
/* Steps over up to n strings, each a length of width bytes and then as many bytes, from *at <= size on. Stops before
 * one that is not wholly inside. Returns how many; begins, if given, gets where each begins. */
size_t mf_skip_strings(const uint8_t *buffer, size_t size, size_t *at, size_t n, size_t width, bool is_big,
                       uint64_t *begins);
bool mf_gather_rows(const uint8_t *src, size_t n_src_rows, uint8_t *dst, size_t row_bytes, const uint8_t *indices,
                    size_t n_indices, size_t *bad); /* false: indices[*bad] is outside src, dst is unfinished */

/* lz4.c: the same at every level. history: what was made before the block, its last bytes last. false: damaged. */
bool mf_lz4_block(const uint8_t *src, size_t n_src, const uint8_t *history, size_t n_history, uint8_t *dst,
                  size_t n_dst, size_t *made);
typedef struct mf_xxh32 {
    uint64_t n_total;
    uint32_t lanes[4], n_held;
    uint8_t held[16];
} mf_xxh32;
void mf_xxh32_start(mf_xxh32 *state);
void mf_xxh32_add(mf_xxh32 *state, const uint8_t *data, size_t n);
uint32_t mf_xxh32_end(const mf_xxh32 *state);

#endif
