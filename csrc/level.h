/* Every file that includes this is compiled once per instruction-set level; MF_LEVEL(name) keeps the copies apart:
 * MF_LEVEL(q8_0_quantize) is q8_0_quantize_v3 in the v3 copy. CMakeLists.txt defines MF_LEVEL_NAME. */
#ifndef MF_LEVEL_H
#define MF_LEVEL_H

#include "mf.h"

#ifndef MF_LEVEL_NAME
#define MF_LEVEL_NAME base
#endif
#define MF_JOIN_(a, b) a##_##b
#define MF_JOIN(a, b) MF_JOIN_(a, b)
#define MF_LEVEL(name) MF_JOIN(name, MF_LEVEL_NAME)
#define MF_STRING_(a) #a
#define MF_STRING(a) MF_STRING_(a)

/* Prototypes of every kernel that types.def says exists. */
#define MF_PROTOTYPES_NONE(kernel)
#define MF_PROTOTYPES_DECODE(kernel) void MF_LEVEL(kernel##_dequantize)(const uint8_t *blocks, float *x, size_t n);
#define MF_PROTOTYPES_BOTH(kernel)                                                                                     \
    MF_PROTOTYPES_DECODE(kernel)                                                                                       \
    void MF_LEVEL(kernel##_quantize)(const float *x, uint8_t *blocks, size_t n_rows, size_t n_cols,                    \
                                     const float *importance);
#define MF_PROTOTYPES_ALL(kernel)                                                                                      \
    MF_PROTOTYPES_BOTH(kernel)                                                                                         \
    void MF_LEVEL(kernel##_refine)(const float *x, const float *weights, uint8_t *blocks, size_t n_blocks);
#define MF_TYPE(id, name, kernel, elements, bytes, has, flags, ...) MF_PROTOTYPES_##has(kernel)
#include "types.def"
#undef MF_TYPE

#endif
