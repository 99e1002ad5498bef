/* iq1_s, iq1_m: x = d * (2 * scale + 1) * (-1, 0 or 1, and 1/8 more or less), scale 0..7; eight of the ternary levels
 * at a time are a point of a lattice of 2048. iq1_s has one scale and one sign of the 1/8 for 32 values, iq1_m a scale
 * for 16 and a sign for 8.
 *
 * Source: ggml quantize_row_iq1_s_impl, quantize_row_iq1_m_impl, dequantize_row_iq1_s, dequantize_row_iq1_m. */
#include "lattice_decode.h"

enum { QK_K = 256, SUB = 32, N_SUBS = QK_K / SUB };

typedef struct {
    uint8_t d[2];             /* float16 */
    uint8_t points[QK_K / 8]; /* low 8 bits */
    uint8_t words[N_SUBS][2]; /* 3 high bits of each point from bit 0 on, the scale from bit 12 on, minus in bit 15 */
} iq1_s_block;

typedef struct {
    uint8_t points[QK_K / 8]; /* low 8 bits */
    uint8_t high[QK_K / 16];  /* for each point 3 high bits, then minus */
    uint8_t words[4][2];      /* four scales of 3 bits from bit 0 on, four bits of the float16 d from bit 12 on */
} iq1_m_block;

_Static_assert(sizeof(iq1_s_block) == 50, "block_iq1_s of ggml-common.h");
_Static_assert(sizeof(iq1_m_block) == 56, "block_iq1_m of ggml-common.h");

/* Eight levels -1, 0, 1, with 1/8 more or less, as eight bytes 8 * (level + 1) + (2 or 0). */
static inline void iq1_load(const int8_t *lattice, int point, bool is_minus, int8_t *bytes) {
    uint64_t eight;
    memcpy(&eight, lattice + 8 * point, 8);
    if (!is_minus) eight += 0x0202020202020202;
    memcpy(bytes, &eight, 8);
}

static inline void iq1_store(float scale, const int8_t *bytes, size_t n, float *x) {
    for (size_t j = 0; j < n; j += VF_LANES) vf_store(x + j, scale * (vf_from_vi(vi_load_i8(bytes + j) - 9) * 0.125f));
}

static inline int iq1_word(const uint8_t *bytes) { return bytes[0] | bytes[1] << 8; }

void MF_LEVEL(iq1_s_dequantize)(const uint8_t *y, float *x, size_t n) {
    const int8_t *lattice = MF_LEVEL(lattice_values)(LATTICE_1);
    const iq1_s_block *block = (const iq1_s_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        const float d = mf_load_f16(block->d);
        for (size_t sub = 0; sub < N_SUBS; sub++, x += SUB) {
            const int word = iq1_word(block->words[sub]);
            int8_t bytes[SUB];
            for (size_t l = 0; l < 4; l++)
                iq1_load(lattice, block->points[4 * sub + l] | (word >> 3 * l & 7) << 8, word >> 15, bytes + 8 * l);
            iq1_store(d * (float)(2 * (word >> 12 & 7) + 1), bytes, SUB, x);
        }
    }
}

void MF_LEVEL(iq1_m_dequantize)(const uint8_t *y, float *x, size_t n) {
    const int8_t *lattice = MF_LEVEL(lattice_values)(LATTICE_1);
    const iq1_m_block *block = (const iq1_m_block *)(const void *)y;
    for (size_t i = 0; i < n / QK_K; i++, block++) {
        uint16_t half = 0;
        for (int k = 0; k < 4; k++) half |= (uint16_t)(iq1_word(block->words[k]) >> 12 << 4 * k);
        const float d = mf_f16_to_f32(half);
        for (size_t sub = 0; sub < QK_K / 16; sub++, x += 16) {
            const int high = block->high[sub], scale = iq1_word(block->words[sub / 4]) >> sub % 4 * 3 & 7;
            int8_t bytes[16];
            iq1_load(lattice, block->points[2 * sub] | (high & 7) << 8, high & 8, bytes);
            iq1_load(lattice, block->points[2 * sub + 1] | (high >> 4 & 7) << 8, high & 128, bytes + 8);
            iq1_store(d * (float)(2 * scale + 1), bytes, 16, x);
        }
    }
}
