/* Values to rows of grids: rounded to the nearest of 2^bits integers under a scale for each group, as ONNX Runtime's
 * quantizer of weights does it.
 *
 * symmetric: scale = (the value farthest from zero) / -2^(bits - 1), zero = 2^(bits - 1). Otherwise the group's range
 * is stretched to hold 0: scale = (high - low) / (2^bits - 1), zero = round(-low / scale). half: the scale is rounded
 * to float16. code = clamp(round(x * (1 / scale) + zero)); round(): to the nearest, away from zero half way. Source:
 * BlockwiseQuantizer in onnxruntime/core/mlas/lib/q4_dq.cpp (1.32). */
#include "../grid_level.h"
#include "../half.h"

#include <math.h>

enum { LANES = 16 };

typedef struct {
    float low, high;
    bool finite;
} span;

/* Smallest and largest of n values; minima of lanes, so that the compiler finds vectors: their order does not matter.
 */
static span span_of(const float *x, size_t n) {
    float low[LANES], high[LANES];
    uint32_t odd[LANES] = {0};
    for (size_t l = 0; l < LANES; l++) low[l] = high[l] = x[0];
    for (size_t j = 0; j < n; j += LANES) {
        const size_t most = n - j < LANES ? n - j : LANES;
        for (size_t l = 0; l < most; l++) {
            uint32_t bits;
            memcpy(&bits, x + j + l, sizeof bits);
            odd[l] |= (bits & 0x7f800000) == 0x7f800000;
            low[l] = x[j + l] < low[l] ? x[j + l] : low[l];
            high[l] = x[j + l] > high[l] ? x[j + l] : high[l];
        }
    }
    span found = {low[0], high[0], true};
    for (size_t l = 0; l < LANES; l++) {
        found.low = low[l] < found.low ? low[l] : found.low;
        found.high = high[l] > found.high ? high[l] : found.high;
        found.finite &= !odd[l];
    }
    return found;
}

static float stored(float scale, bool half) { return half ? mf_f16_to_f32(mf_f32_to_f16(scale)) : scale; }

static void round_group(const float *x, size_t n, float inverse, float zero, float most, uint8_t *codes) {
    for (size_t j = 0; j < n; j++) {
        float v = x[j] * inverse + zero;
        v = v > 0.0f ? v : 0.0f;
        v = v < most ? v : most;
        const int whole = (int)v;
        codes[j] = (uint8_t)(whole + (v - (float)whole >= 0.5f));
    }
}

bool MF_LEVEL(grid_round)(mf_rounded how, mf_grid grid, const float *x, uint8_t *rows, mf_fault *fault) {
    const size_t head = mf_grid_head(grid), size = how.records ? head : head + grid.n_cols;
    const float most = (float)((1u << how.bits) - 1), middle = (float)(1u << (how.bits - 1));
    for (size_t r = 0; r < grid.n_rows; r++) {
        for (size_t at = 0; at < grid.n_cols; at += grid.group) {
            const float *values = x + r * grid.n_cols + at;
            const span found = span_of(values, grid.group);
            const float low = found.low < 0.0f ? found.low : 0.0f, high = found.high > 0.0f ? found.high : 0.0f;
            const float far = fabsf(found.high) > fabsf(found.low) ? found.high : found.low;
            const float exact = how.symmetric ? far / -middle : (high - low) / most;
            const float zero = how.symmetric ? middle : exact != 0.0f ? fminf(roundf(-low / exact), most) : 0.0f;
            const float scale = stored(exact, how.half);
            if (!found.finite || !isfinite(scale)) {
                *fault = (mf_fault){r, at};
                for (size_t j = 0; j < grid.group && !found.finite && isfinite(values[j]); j++) fault->column++;
                return false;
            }
            record_store(rows + r * size, at / grid.group, (double)scale, 0.0, (double)zero);
            if (!how.records)
                round_group(values, grid.group, scale != 0.0f ? 1.0f / scale : 0.0f, zero, most,
                            rows + r * size + head + at);
        }
    }
    return true;
}
