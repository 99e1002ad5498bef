/* Picks a level once, on first use: the fastest this CPU runs, or the one named by the environment variable
 * MODELFMT_ISA. A name that cannot be honoured is kept for mf_refused_level() and the fastest level is used. */
#include "fpenv.h"
#include "grid.h"
#include "mf.h"

#include <stdlib.h>
#include <string.h>

extern const mf_level mf_level_base, mf_level_v3, mf_level_v4, mf_level_neon;
static const mf_level *const built[] = {
#ifdef MF_HAS_v4
    &mf_level_v4,
#endif
#ifdef MF_HAS_v3
    &mf_level_v3,
#endif
#ifdef MF_HAS_neon
    &mf_level_neon,
#endif
#ifdef MF_HAS_base
    &mf_level_base,
#endif
};
enum { N_BUILT = sizeof built / sizeof built[0] };

static const mf_level *active;
static const char *refused;

size_t mf_levels(const mf_level *out[], size_t room) {
    size_t n = 0;
    for (size_t i = 0; i < N_BUILT; i++)
        if (n < room && mf_cpu_runs(built[i]->name)) out[n++] = built[i];
    return n;
}

static const mf_level *find_level(const char *name) {
    for (size_t i = 0; i < N_BUILT; i++)
        if (strcmp(built[i]->name, name) == 0 && mf_cpu_runs(name)) return built[i];
    return NULL;
}

bool mf_set_level(const char *name) {
    const mf_level *level = find_level(name);
    if (!level) return false;
    active = level;
    refused = NULL;
    return true;
}

/* Called first while the module is imported, under the import lock; afterwards `active` is only read or replaced. */
const mf_level *mf_active_level(void) {
    if (!active) {
        const mf_level *runs[N_BUILT];
        mf_levels(runs, N_BUILT);
        const char *wanted = getenv("MODELFMT_ISA");
        if (wanted && *wanted && !mf_set_level(wanted)) refused = wanted;
        if (!active) active = runs[0]; /* the last level built is the baseline: there is always one */
    }
    return active;
}

const mf_grid_level *mf_active_grid(void) { return mf_active_level()->grid; }

const char *mf_refused_level(void) { return refused; }

const mf_type *mf_find_type(const mf_level *level, int id) {
    for (size_t i = 0; i < level->n_types; i++)
        if (level->types[i].id == id) return &level->types[i];
    return NULL;
}

mf_status mf_convert(int src_type, const void *src, int dst_type, void *dst, size_t n_rows, size_t n_cols,
                     const float *importance, mf_rounding rounding, float *scratch, mf_fault *fault) {
    const mf_level *level = mf_active_level();
    const mf_type *from = mf_find_type(level, src_type), *to = mf_find_type(level, dst_type);
    if (!from || !to) return MF_UNSUPPORTED;
    mf_fpenv saved = mf_fpenv_default();
    mf_status status = level->convert(from, src, to, dst, n_rows, n_cols, importance, rounding, scratch, fault);
    mf_fpenv_restore(saved);
    return status;
}

mf_status mf_compare(int a_type, const void *a, int b_type, const void *b, size_t n_elements, float *scratch,
                     mf_error_sums *sums) {
    const mf_level *level = mf_active_level();
    const mf_type *first = mf_find_type(level, a_type), *second = mf_find_type(level, b_type);
    if (!first || !second || !first->dequantize || !second->dequantize) return MF_UNSUPPORTED;
    if (n_elements % first->block_elements || n_elements % second->block_elements) return MF_BAD_SIZE;
    mf_fpenv saved = mf_fpenv_default();
    *sums = level->error_sums(first, a, second, b, n_elements, scratch);
    mf_fpenv_restore(saved);
    return MF_OK;
}

void mf_add_product(const float *a, const float *b, float *sums, size_t n_rows, size_t n_cols, size_t rank) {
    mf_fpenv saved = mf_fpenv_default();
    mf_active_level()->add_product(a, b, sums, n_rows, n_cols, rank);
    mf_fpenv_restore(saved);
}

void mf_row_lengths(const float *x, float *lengths, size_t n_rows, size_t n_cols) {
    mf_fpenv saved = mf_fpenv_default();
    mf_active_level()->row_lengths(x, lengths, n_rows, n_cols);
    mf_fpenv_restore(saved);
}
