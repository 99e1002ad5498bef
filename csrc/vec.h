/* Lanes: VF_LANES floats (vf), as many int32 (vi), as many truth values (vm). One algorithm is written over them and
 * compiled once per level; the lanes never talk to each other except in the blocks_* moves, so a kernel that puts one
 * block in each lane does exactly the scalar reference's operations, in its order, and writes the same bytes at every
 * width. No fused multiply-add is ever formed (-ffp-contract=off); + - * / and vf_sqrt round correctly.
 *
 * Operators work on whole vectors, with scalars broadcast: + - * / on vf; + - * & | ^ ~ << >> on vi, which
 * wraps; >> is arithmetic.
 * Casts (vi)x and (vf)i reinterpret bits. Never compare with an operator: use the functions, they return vm.
 *
 *   vf_set1(c) vi_set1(c)                    every lane c
 *   vf_load(p) vf_store(p, v)                VF_LANES floats, any alignment; vi_load, vi_store: int32
 *   vi_load_u8(p) vi_load_u16(p)             VF_LANES small integers, widened
 *   vb                                       sixteen bytes at every level; operators work on each of them
 *   vb_load(p) vb_set1(c) vb_pair(a, b) vb_quad(a, b, c, d)     from memory; from 8-byte or 4-byte words in registers
 *   vb_top_bits(b)                           the highest bit of each byte, as an integer
 *   vi_widen_u8(b, v) vi_widen_i8(b, v)      vi v[VI_PER_VB] from sixteen bytes: where bytes come from registers, since
 *                                            small stores before a large load stall
 *   vi_store_u8(p, v) vi_store_u16(p, v)     low bits of each lane, contiguous
 *   vf_lookup(table, i) vi_lookup(table, i)  table[i[lane]]; every index must be inside
 *   vf_min(a, b) vf_max(a, b)                a < b ? a : b, a > b ? a : b, exactly so for NaN; vi_min, vi_max
 *   vf_abs vf_negate vf_copysign(x, sign) vf_sqrt
 *   vf_lt le gt ge eq (a, b), vi_eq gt lt    -> vm      vm_and vm_or vm_not vm_any vm_all vm_first(n): lanes < n
 *   vf_select(m, a, b) vi_select(m, a, b)    m ? a : b
 *   vf_from_vi(i)                            int32 to float, nearest even
 *   vi_trunc(x)                              (int)x;        NaN and what does not fit: INT32_MIN, on every CPU
 *   vi_round_even(x)                         lrintf(x);     likewise
 *   vi_round_away(x)                         (int)roundf(x), halves away from zero; likewise
 *   vi_round_magic(x)                        ggml's nearest_int: nearest even for |x| < 2^22, its own garbage beyond
 *   vf_round_small(x)                        the float nearest_int would give, for |x| < 2^22; zero of either sign
 *   vi_shift_right_logical(i, n)
 *   vi_f16_from_vf(x) vf_from_f16(h)         IEEE half in the low 16 bits of a lane, nearest even; NaN quieted, payload
 *                                            kept. vf_round_f16(x): the value that the stored half stands for
 *   vi_bf16_from_vf(x) vf_from_bf16(h)       ggml's bfloat16: nearest even; NaN becomes (bits >> 16) | 64
 *   vi_pack4(a, b, c, d)                     low bytes of four vectors -> one little-endian word per lane
 *
 * One block per lane. `n` is how many lanes hold blocks, 1..VF_LANES; a stride is the distance between blocks (floats
 * for float pointers, bytes for byte pointers). Loads fill the other lanes with block n - 1, stores leave them out.
 *
 *   blocks_load_f32(x, stride, n, columns, out)    out[j] lane k = x[k * stride + j], j < columns, a multiple of 4
 *   blocks_store_f32(in, columns, x, stride, n)    the inverse
 *   blocks_load_16(y, stride, n, w)                16 bytes per lane as four little-endian words: vi w[4]
 *   blocks_store_16(w, y, stride, n)
 *   blocks_store_4(w, y, stride, n)                4 bytes per lane, the whole lane
 *   blocks_store_2(v, y, stride, n)                2 bytes per lane, the low 16 bits; blocks_load_2(y, stride, n)
 *   blocks_store_1(v, y, stride, n)                the low 8 bits; blocks_load_1(y, stride, n) */
#ifndef MF_VEC_H
#define MF_VEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__)
#define VF_LANES 16
#elif defined(__AVX2__)
#define VF_LANES 8
#else
#define VF_LANES 4
#endif

typedef float vf __attribute__((vector_size(4 * VF_LANES)));
typedef int32_t vi __attribute__((vector_size(4 * VF_LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * VF_LANES)));
typedef uint8_t vb __attribute__((vector_size(16)));
enum { VI_PER_VB = 16 / VF_LANES };

static inline vb vb_load(const void *p) {
    vb b;
    memcpy(&b, p, sizeof b);
    return b;
}

static inline vb vb_set1(uint8_t c) { return (vb){c, c, c, c, c, c, c, c, c, c, c, c, c, c, c, c}; }

/* Whether any of the bytes is not 0. */
static inline bool vb_any(vb b) {
    uint64_t halves[2];
    memcpy(halves, &b, sizeof halves);
    return (halves[0] | halves[1]) != 0;
}

/* The highest bit of each byte, byte k's in bit k. Little-endian, as all that is here. */
static inline uint16_t vb_top_bits(vb b) {
#if defined(__SSE2__)
    typedef char bytes __attribute__((vector_size(16)));
    return (uint16_t)__builtin_ia32_pmovmskb128((bytes)b);
#else
    uint64_t halves[2];
    memcpy(halves, &b, sizeof halves);
    for (int i = 0; i < 2; i++) /* the product gathers the bits of eight bytes in the highest one */
        halves[i] = (halves[i] >> 7 & 0x0101010101010101u) * 0x0102040810204080u >> 56;
    return (uint16_t)(halves[0] | halves[1] << 8);
#endif
}

static inline vb vb_pair(uint64_t a, uint64_t b) {
    typedef uint64_t words __attribute__((vector_size(16)));
    return (vb)(words){a, b};
}

static inline vb vb_quad(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    typedef uint32_t words __attribute__((vector_size(16)));
    return (vb)(words){a, b, c, d};
}

static inline vi vi_shift_right_logical(vi i, int n) { return (vi)((vu)i >> (uint32_t)n); }

#if VF_LANES == 16
#include "vec/avx512.h"
#elif VF_LANES == 8
#include "vec/avx2.h"
#elif defined(__SSE2__)
#include "vec/sse2.h"
#elif defined(__aarch64__)
#include "vec/neon.h"
#else
#include "vec/plain.h"
#endif

static inline vf vf_load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void vf_store(float *p, vf v) { memcpy(p, &v, sizeof v); }

static inline vi vi_load(const int32_t *p) {
    vi v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void vi_store(int32_t *p, vi v) { memcpy(p, &v, sizeof v); }

#ifndef VF_HAS_MIN_MAX /* compilers find minps in this for AVX2 alone */
static inline vf vf_min(vf a, vf b) { return vf_select(vf_lt(a, b), a, b); }

static inline vf vf_max(vf a, vf b) { return vf_select(vf_gt(a, b), a, b); }
#endif

#ifndef VF_HAS_ROUND
static inline vf vf_round_small(vf x) { return (x + 12582912.0f) - 12582912.0f; }
#endif

static inline vi vi_min(vi a, vi b) { return vi_select(vi_lt(a, b), a, b); }

static inline vi vi_max(vi a, vi b) { return vi_select(vi_gt(a, b), a, b); }

static inline vf vf_abs(vf x) { return (vf)((vi)x & 0x7fffffff); }

static inline vf vf_negate(vf x) { return (vf)((vi)x ^ INT32_MIN); }

static inline vf vf_copysign(vf x, vf sign) { return (vf)(((vi)x & 0x7fffffff) | ((vi)sign & INT32_MIN)); }

static inline vm vm_first(size_t n) {
    static const int32_t order[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return vi_lt(vi_load(order), vi_set1((int32_t)n));
}

/* Adding the float just below one half and truncating is roundf() for every float: the largest x below k + 0.5 stays
 * below k + 1, and k + 0.5 itself reaches it by rounding. */
static inline vi vi_round_away(vf x) { return vi_trunc(x + vf_copysign(vf_set1(0x1.fffffep-2f), x)); }

static inline vi vi_round_magic(vf x) { return ((vi)(x + 12582912.0f) & 0x007fffff) - 0x00400000; }

static inline vi vi_pack4(vi a, vi b, vi c, vi d) { return (a & 255) | (b & 255) << 8 | (c & 255) << 16 | d << 24; }

static inline vf vf_round_f16(vf x) { return vf_from_f16(vi_f16_from_vf(x)); }

static inline vf vf_from_bf16(vi h) { return (vf)(h << 16); }

static inline vi vi_bf16_from_vf(vf x) {
    vi bits = (vi)x;
    vi rounded = vi_shift_right_logical(bits + 0x7fff + (vi_shift_right_logical(bits, 16) & 1), 16);
    vm is_nan = vi_gt(bits & 0x7fffffff, vi_set1(0x7f800000));
    return vi_select(is_nan, vi_shift_right_logical(bits, 16) | 64, rounded);
}

/* Lane k's block, or the last block there is. */
static inline size_t blocks_at(size_t k, size_t n) { return k < n ? k : n - 1; }

static inline void blocks_load_16(const uint8_t *y, size_t stride, size_t n, vi w[4]) {
    if (n >= VF_LANES)
        vi_quad_load(y, stride, VF_LANES, w); /* a constant count: plain strided addresses */
    else
        vi_quad_load(y, stride, n, w);
}

static inline void blocks_store_16(const vi w[4], uint8_t *y, size_t stride, size_t n) {
    if (n >= VF_LANES) {
        vi_quad_store(w, y, stride);
        return;
    }
    uint8_t all[16 * VF_LANES];
    vi_quad_store(w, all, 16);
    for (size_t k = 0; k < n; k++) memcpy(y + k * stride, all + k * 16, 16);
}

static inline void blocks_load_f32(const float *x, size_t stride, size_t n, size_t columns, vf *out) {
    for (size_t j = 0; j < columns; j += 4) {
        vi w[4];
        blocks_load_16((const uint8_t *)(x + j), 4 * stride, n, w);
        for (size_t k = 0; k < 4; k++) out[j + k] = (vf)w[k];
    }
}

static inline void blocks_store_f32(const vf *in, size_t columns, float *x, size_t stride, size_t n) {
    for (size_t j = 0; j < columns; j += 4) {
        const vi w[4] = {(vi)in[j], (vi)in[j + 1], (vi)in[j + 2], (vi)in[j + 3]};
        blocks_store_16(w, (uint8_t *)(x + j), 4 * stride, n);
    }
}

static inline vi blocks_load_2(const uint8_t *y, size_t stride, size_t n) {
    uint16_t all[VF_LANES];
    for (size_t k = 0; k < VF_LANES; k++) memcpy(all + k, y + blocks_at(k, n) * stride, 2);
    return vi_load_u16(all);
}

static inline vi blocks_load_1(const uint8_t *y, size_t stride, size_t n) {
    uint8_t all[VF_LANES];
    for (size_t k = 0; k < VF_LANES; k++) all[k] = y[blocks_at(k, n) * stride];
    return vi_load_u8(all);
}

#define MF_BLOCKS_STORE(bytes)                                                                                         \
    static inline void blocks_store_##bytes(vi v, uint8_t *y, size_t stride, size_t n) {                               \
        int32_t all[VF_LANES];                                                                                         \
        vi_store(all, v);                                                                                              \
        for (size_t k = 0; k < VF_LANES && k < n; k++) memcpy(y + k * stride, all + k, bytes);                         \
    }
MF_BLOCKS_STORE(1)
MF_BLOCKS_STORE(2)
MF_BLOCKS_STORE(4)
#undef MF_BLOCKS_STORE

#endif
