/* Moves of whole bytes: the same code at every level. */
#include "mf.h"

#include <string.h>

void mf_swap_bytes(const mf_type *type, uint8_t *blocks, size_t n_blocks) {
    for (size_t f = 0; f < MF_MAX_SWAPS && type->swaps[f].count; f++) {
        mf_swap field = type->swaps[f];
        for (size_t i = 0; i < n_blocks; i++)
            for (size_t k = 0; k < field.count; k++) {
                uint8_t *p = blocks + i * type->block_bytes + field.offset + k * field.size;
                for (size_t a = 0, b = field.size - 1; a < b; a++, b--) {
                    uint8_t byte = p[a];
                    p[a] = p[b];
                    p[b] = byte;
                }
            }
    }
}

void mf_mark_words(const uint8_t *words, size_t n, uint8_t *seen) {
    for (size_t i = 0; i < n; i++) {
        uint16_t word;
        memcpy(&word, words + 2 * i, sizeof word);
        seen[word] = 1;
    }
}

bool mf_gather_rows(const uint8_t *src, size_t n_src_rows, uint8_t *dst, size_t row_bytes, const uint8_t *indices,
                    size_t n_indices, size_t *bad) {
    for (size_t i = 0; i < n_indices; i++) {
        int64_t row;
        memcpy(&row, indices + i * sizeof row, sizeof row);
        if (row < 0 || (uint64_t)row >= n_src_rows) {
            *bad = i;
            return false;
        }
        memcpy(dst + i * row_bytes, src + (size_t)row * row_bytes, row_bytes);
    }
    return true;
}

size_t mf_skip_strings(const uint8_t *buffer, size_t size, size_t *at, size_t n, size_t width, bool is_big,
                       uint64_t *begins) {
    size_t done = 0;
    for (; done < n; done++) {
        if (size - *at < width) break;
        uint64_t length = 0;
        for (size_t k = 0; k < width; k++) {
            length |= (uint64_t)buffer[*at + k] << 8 * (is_big ? width - 1 - k : k);
        }
        if (size - *at - width < length) break;
        if (begins) begins[done] = *at;
        *at += width + (size_t)length;
    }
    return done;
}
