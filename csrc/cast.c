/* Dense types: float32, float64, float16, bfloat16. NaN and infinity pass; what they become is said in vec.h. */
#include "level.h"
#include "vec.h"

void MF_LEVEL(f32_dequantize)(const uint8_t *y, float *x, size_t n) { memcpy(x, y, n * sizeof *x); }

void MF_LEVEL(f32_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    (void)importance;
    memcpy(y, x, n_rows * n_cols * sizeof *x);
}

void MF_LEVEL(f64_dequantize)(const uint8_t *y, float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double wide;
        memcpy(&wide, y + i * sizeof wide, sizeof wide);
        x[i] = (float)wide;
    }
}

void MF_LEVEL(f64_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols, const float *importance) {
    (void)importance;
    for (size_t i = 0; i < n_rows * n_cols; i++) {
        double wide = x[i];
        memcpy(y + i * sizeof wide, &wide, sizeof wide);
    }
}

/* The 16-bit formats differ in one conversion each way. The last n % VF_LANES elements go through a full vector. */
#define CAST_16(name, widen, narrow)                                                                                   \
    void MF_LEVEL(name##_dequantize)(const uint8_t *y, float *x, size_t n) {                                           \
        size_t i = 0;                                                                                                  \
        for (; i + VF_LANES <= n; i += VF_LANES) vf_store(x + i, widen(vi_load_u16(y + 2 * i)));                       \
        if (i < n) {                                                                                                   \
            uint8_t rest[2 * VF_LANES] = {0};                                                                          \
            memcpy(rest, y + 2 * i, 2 * (n - i));                                                                      \
            vf values = widen(vi_load_u16(rest));                                                                      \
            memcpy(x + i, &values, 4 * (n - i));                                                                       \
        }                                                                                                              \
    }                                                                                                                  \
    void MF_LEVEL(name##_quantize)(const float *x, uint8_t *y, size_t n_rows, size_t n_cols,                           \
                                   const float *importance) {                                                          \
        (void)importance;                                                                                              \
        size_t i = 0, n = n_rows * n_cols;                                                                             \
        for (; i + VF_LANES <= n; i += VF_LANES) vi_store_u16(y + 2 * i, narrow(vf_load(x + i)));                      \
        if (i < n) {                                                                                                   \
            vf values = {0};                                                                                           \
            uint8_t rest[2 * VF_LANES];                                                                                \
            memcpy(&values, x + i, 4 * (n - i));                                                                       \
            vi_store_u16(rest, narrow(values));                                                                        \
            memcpy(y + 2 * i, rest, 2 * (n - i));                                                                      \
        }                                                                                                              \
    }

CAST_16(f16, vf_from_f16, vi_f16_from_vf)
CAST_16(bf16, vf_from_bf16, vi_bf16_from_vf)
