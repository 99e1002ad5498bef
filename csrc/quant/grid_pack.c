/* Packed codes to rows of grids and back: what checkpoints keep in tensors of their own.
 *
 * Rows of 4 and 8 bits, 32-bit words that lie one below the other (GPTQ) and words along the other axis (AWQ) have
 * paths of their own; every other width is a stream of bits, lowest first, eight codes at a time. Sources: autoawq
 * 0.2.9 packing_utils.py, gptqmodel 7.7 qlinear, compressed-tensors 0.20 pack_quantized.py, MLX 0.32 quantized.cpp. */
#include "grid_squares.h"

enum { UNIT = 256 };

static inline void vb_store(void *p, vb b) { memcpy(p, &b, sizeof b); }

static inline vb vb_zip_low(vb a, vb b) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}

static inline vb vb_zip_high(vb a, vb b) {
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

/* 4 x 4 words exchanged along the diagonal; lines of `from` are `from_step` bytes apart, of `to` `to_step`. */
static inline void turn_words(const uint8_t *from, size_t from_step, uint8_t *to, size_t to_step) {
    typedef uint32_t words __attribute__((vector_size(16)));
    words a[4];
    for (size_t i = 0; i < 4; i++) memcpy(&a[i], from + i * from_step, sizeof a[i]);
    const words low = __builtin_shufflevector(a[0], a[1], 0, 4, 1, 5),
                high = __builtin_shufflevector(a[0], a[1], 2, 6, 3, 7);
    const words more = __builtin_shufflevector(a[2], a[3], 0, 4, 1, 5),
                most = __builtin_shufflevector(a[2], a[3], 2, 6, 3, 7);
    const words turned[4] = {
        __builtin_shufflevector(low, more, 0, 1, 4, 5), __builtin_shufflevector(low, more, 2, 3, 6, 7),
        __builtin_shufflevector(high, most, 0, 1, 4, 5), __builtin_shufflevector(high, most, 2, 3, 6, 7)};
    for (size_t i = 0; i < 4; i++) memcpy(to + i * to_step, &turned[i], sizeof turned[i]);
}

/* n lines of m words become m lines of n: four of each at a time, then the rest. */
static void turn(const uint8_t *from, size_t from_step, uint8_t *to, size_t to_step, size_t n, size_t m) {
    const size_t n_fours = n / 4 * 4, m_fours = m / 4 * 4;
    for (size_t j = 0; j < m_fours; j += 4)
        for (size_t i = 0; i < n_fours; i += 4)
            turn_words(from + i * from_step + j * WORD, from_step, to + j * to_step + i * WORD, to_step);
    for (size_t j = 0; j < m; j++)
        for (size_t i = j < m_fours ? n_fours : 0; i < n; i++)
            memcpy(to + j * to_step + i * WORD, from + i * from_step + j * WORD, WORD);
}

static void unpack_nibbles(const uint8_t *packed, uint8_t *codes, size_t n, bool high_first, uint8_t flip) {
    size_t i = 0;
    const vb mask = vb_set1(15), flips = vb_set1(flip);
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {
        const vb both = vb_load(packed + i / 2);
        const vb low = (both & mask) ^ flips, high = (both >> 4) ^ flips;
        vb_store(codes + i, high_first ? vb_zip_low(high, low) : vb_zip_low(low, high));
        vb_store(codes + i + WIDTH, high_first ? vb_zip_high(high, low) : vb_zip_high(low, high));
    }
    for (; i < n; i++) codes[i] = (uint8_t)((packed[i / 2] >> (((i & 1) != 0) != high_first ? 4 : 0) & 15) ^ flip);
}

static void order_eights(uint8_t *codes, size_t n, const uint8_t from[EIGHT]) {
    for (size_t i = 0; i + EIGHT <= n; i += EIGHT) {
        uint8_t eight[EIGHT];
        memcpy(eight, codes + i, EIGHT);
        for (size_t k = 0; k < EIGHT; k++) codes[i + k] = eight[from[k]];
    }
}

static void unpack_stream(const uint8_t *packed, uint8_t *codes, size_t n, unsigned bits, uint8_t flip) {
    const unsigned mask = (1u << bits) - 1;
    size_t i = 0;
    for (; i + 8 <= n; i += 8, packed += bits) {
        uint64_t eight = 0;
        memcpy(&eight, packed, bits);
        for (unsigned k = 0; k < 8; k++) codes[i + k] = (uint8_t)((eight >> k * bits & mask) ^ flip);
    }
    if (i < n) {
        uint64_t rest = 0;
        memcpy(&rest, packed, ((n - i) * bits + 7) / 8);
        for (unsigned k = 0; i < n; i++, k++) codes[i] = (uint8_t)((rest >> k * bits & mask) ^ flip);
    }
}

static void unpack_row(const uint8_t *packed, uint8_t *codes, size_t n, mf_packing packing) {
    static const uint8_t awq[EIGHT] = {0, 4, 1, 5, 2, 6, 3, 7};
    const uint8_t flip = (uint8_t)packing.flip;
    if (packing.bits == 4) {
        unpack_nibbles(packed, codes, n, packing.order == MF_ORDER_HIGH, flip);
        if (packing.order == MF_ORDER_AWQ) order_eights(codes, n, awq);
    } else if (packing.bits != 8) {
        unpack_stream(packed, codes, n, packing.bits, flip);
    } else if (flip) {
        for (size_t i = 0; i < n; i++) codes[i] = packed[i] ^ flip;
    } else {
        memcpy(codes, packed, n);
    }
}

/* Strips of WIDTH rows: their words are gathered, some at a time. */
static void unpack_words(mf_packing packing, mf_grid grid, const uint8_t *packed, uint8_t *rows) {
    enum { WORDS = 24 }; /* whole codes of 2, 3, 4, 6 and 8 bits */
    const size_t head = mf_grid_head(grid), size = mf_grid_row_bytes(grid);
    const size_t n_words = grid.n_cols * packing.bits / 32;
    uint32_t words[WIDTH][WORDS];
    for (size_t row = 0; row < grid.n_rows; row += WIDTH) {
        const size_t n = grid.n_rows - row < WIDTH ? grid.n_rows - row : WIDTH;
        for (size_t word = 0; word < n_words; word += WORDS) {
            const size_t m = n_words - word < WORDS ? n_words - word : WORDS;
            turn(packed + word * packing.stride + row * WORD, packing.stride, (uint8_t *)words, sizeof words[0], m, n);
            const size_t first = word * 32 / packing.bits, count = m * 32 / packing.bits;
            for (size_t r = 0; r < n; r++)
                unpack_row((const uint8_t *)words[r], rows + (row + r) * size + head + first, count, packing);
        }
    }
}

/* Ask for `n` bytes from so far behind a place on, for the next piece of the same rows. */
static inline void ask_for(const uint8_t *place, size_t behind, size_t n) {
    for (size_t i = 0; i < n; i += LINE) __builtin_prefetch((const void *)((uintptr_t)place + behind + i));
}

/* A cache line of each of SIDE columns, side by side, or what there is of them; those that come next are asked for. */
static inline void gather_lines(const uint8_t *packed, size_t stride, size_t m, size_t n, uint8_t *lines) {
    if (m < SIDE || n < LINE) {
        memset(lines, 0, SIDE * LINE);
        for (size_t k = 0; k < m; k++) memcpy(lines + k * LINE, packed + k * stride, n);
        return;
    }
    for (size_t k = 0; k < SIDE; k++) {
        memcpy(lines + k * LINE, packed + k * stride, LINE);
        ask_for(packed + k * stride, SIDE * stride, LINE);
    }
}

static void unpack_columns(mf_packing packing, mf_grid grid, const uint8_t *packed, uint8_t *rows) {
    const size_t head = mf_grid_head(grid), size = mf_grid_row_bytes(grid), n_bytes = grid.n_rows / 2;
    const vs flips = vs_set1((uint8_t)packing.flip);
    uint8_t lines[SIDE * LINE], spare[2 * WIDTH * SIDE];
    for (size_t col = 0; col < grid.n_cols; col += SIDE)
        for (size_t byte = 0; byte < n_bytes; byte += LINE) {
            const size_t m = grid.n_cols - col < SIDE ? grid.n_cols - col : SIDE;
            const size_t n = n_bytes - byte < LINE ? n_bytes - byte : LINE;
            gather_lines(packed + col * packing.stride + byte, packing.stride, m, n, lines);
            for (size_t b = 0; b < n; b += WIDTH) {
                uint8_t *to = rows + 2 * (byte + b) * size + head + col;
                if (m == SIDE && n - b >= WIDTH) {
                    open_squares(lines + b, LINE, to, size, packing.order, flips);
                    continue;
                }
                open_squares(lines + b, LINE, spare, SIDE, packing.order, flips);
                for (size_t row = 0; row < 2 * WIDTH && row < 2 * (n - b); row++)
                    memcpy(to + row * size, spare + row * SIDE, m);
            }
        }
}

void MF_LEVEL(grid_unpack)(mf_packing packing, mf_grid grid, const uint8_t *packed, uint8_t *rows) {
    if (packing.lay == MF_LAY_WORDS) {
        unpack_words(packing, grid, packed, rows);
    } else if (packing.lay == MF_LAY_COLUMNS) {
        unpack_columns(packing, grid, packed, rows);
    } else {
        const size_t head = mf_grid_head(grid), size = mf_grid_row_bytes(grid);
        for (size_t row = 0; row < grid.n_rows; row++) {
            const uint8_t *from = packed + row * packing.stride;
            ask_for(from, grid.n_cols * packing.bits / 8, 2 * LINE);
            unpack_row(from, rows + row * size + head, grid.n_cols, packing);
        }
    }
}

/* Sixteen nibbles of a code each, with neighbours in one byte: eight bytes, each twice. */
static inline vb pairs(vb codes, bool high_first) {
    typedef uint16_t words __attribute__((vector_size(16)));
    const words w = (words)codes;
    return (vb)(high_first ? (w << 4 | w >> 8) & 255 : (w | w >> 4) & 255);
}

static void pack_nibbles(const uint8_t *codes, uint8_t *packed, size_t n, bool high_first) {
    size_t i = 0;
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {
        const vb a = pairs(vb_load(codes + i), high_first), b = pairs(vb_load(codes + i + WIDTH), high_first);
        vb_store(packed + i / 2,
                 __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30));
    }
    for (; i + 2 <= n; i += 2)
        packed[i / 2] = (uint8_t)(high_first ? codes[i] << 4 | codes[i + 1] : codes[i] | codes[i + 1] << 4);
    if (n & 1) packed[n / 2] = (uint8_t)(codes[n - 1] << (high_first ? 4 : 0));
}

static void pack_row(const uint8_t *codes, uint8_t *packed, size_t n, mf_packing packing) {
    const unsigned bits = packing.bits;
    if (bits == 4) {
        pack_nibbles(codes, packed, n, packing.order == MF_ORDER_HIGH);
    } else if (bits == 8) {
        memcpy(packed, codes, n);
    } else {
        for (size_t i = 0; i < n; i += 8) {
            uint64_t eight = 0;
            const size_t m = n - i < 8 ? n - i : 8;
            for (size_t k = 0; k < m; k++) eight |= (uint64_t)codes[i + k] << k * bits;
            memcpy(packed + i / 8 * bits, &eight, (m * bits + 7) / 8);
        }
    }
}

/* n codes with a number added; false where one is not between 0 and top. */
static bool shifted(const uint8_t *given, uint8_t *codes, size_t n, int shift, int top, uint8_t flip) {
    const int first = shift < 0 ? -shift : 0, last = top - shift > 255 ? 255 : top - shift;
    if (first > last) return n == 0;
    size_t i = 0;
    const vb lows = vb_set1((uint8_t)first), spans = vb_set1((uint8_t)(last - first)), adds = vb_set1((uint8_t)shift);
    const vb flips = vb_set1(flip);
    vb outside = vb_set1(0);
    for (; i + WIDTH <= n; i += WIDTH) {
        const vb code = vb_load(given + i);
        outside |= (vb)((code - lows) > spans);
        vb_store(codes + i, (code + adds) ^ flips);
    }
    bool fits = !vb_any(outside);
    for (; i < n; i++) {
        fits = fits && given[i] >= first && given[i] <= last;
        codes[i] = (uint8_t)((given[i] + shift) ^ flip);
    }
    return fits;
}

/* Whether n codes are between 0 and top, which is one less than a power of two. */
static bool below(const uint8_t *codes, size_t n, int top) {
    vb seen = vb_set1(0);
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) seen |= vb_load(codes + i);
    for (; i < n; i++) seen[0] |= codes[i];
    return !vb_any(seen & vb_set1((uint8_t)~top));
}

/* Columns first .. first + n of a row as the codes to store: where they are, if they are as they have to be and no copy
 * is asked for, or in `codes`. NULL where one of them has no place. */
static const uint8_t *codes_of(mf_packing packing, mf_grid grid, const uint8_t *row, size_t first, size_t n, int rezero,
                               bool copy, uint8_t *codes, size_t *bad) {
    static const uint8_t awq[EIGHT] = {0, 2, 4, 6, 1, 3, 5, 7};
    const uint8_t *given = row + mf_grid_head(grid);
    const int top = (1 << packing.bits) - 1;
    const bool ordered = packing.lay == MF_LAY_ROWS && packing.order == MF_ORDER_AWQ;
    if (rezero == MF_REZERO_NONE && !packing.flip && !copy && !ordered) {
        *bad = first;
        return below(given + first, n, top) ? given + first : NULL;
    }
    for (size_t at = 0; at < n;) {
        const size_t col = first + at;
        size_t m = n - at;
        int shift = 0;
        if (rezero != MF_REZERO_NONE) {
            const size_t group = col / grid.group, rest = (group + 1) * grid.group - col;
            if (rest < m) m = rest;
            const double zero = record_at(row, group).zero;
            if (!(zero >= -1024.0 && zero <= 1024.0 && (double)(int)zero == zero)) {
                *bad = col;
                return NULL;
            }
            shift = rezero - (int)zero;
        }
        if (!shifted(given + col, codes + at, m, shift, top, (uint8_t)packing.flip)) {
            *bad = col;
            return NULL;
        }
        at += m;
    }
    if (ordered) order_eights(codes, n, awq);
    return codes;
}

enum { PIECE = 1024 };

static bool pack_rows(mf_packing packing, mf_grid grid, const uint8_t *rows, uint8_t *packed, int rezero,
                      mf_fault *fault) {
    uint8_t spare[PIECE];
    const size_t size = mf_grid_row_bytes(grid);
    for (size_t row = 0; row < grid.n_rows; row++)
        for (size_t col = 0; col < grid.n_cols; col += PIECE) {
            const size_t n = grid.n_cols - col < PIECE ? grid.n_cols - col : PIECE;
            const uint8_t *codes =
                codes_of(packing, grid, rows + row * size, col, n, rezero, false, spare, &fault->column);
            if (!codes) {
                fault->row = row;
                return false;
            }
            pack_row(codes, packed + row * packing.stride + col * packing.bits / 8, n, packing);
        }
    return true;
}

/* Strips of WIDTH rows: their words are gathered and go out as lines. */
static bool pack_words(mf_packing packing, mf_grid grid, const uint8_t *rows, uint8_t *packed, int rezero,
                       mf_fault *fault) {
    enum { WORDS = UNIT * 8 / 32 }; /* 256 codes: whole words at every width */
    const size_t size = mf_grid_row_bytes(grid);
    uint8_t spare[UNIT];
    uint32_t words[WIDTH][WORDS];
    for (size_t row = 0; row < grid.n_rows; row += WIDTH)
        for (size_t col = 0; col < grid.n_cols; col += UNIT) {
            const size_t n = grid.n_cols - col < UNIT ? grid.n_cols - col : UNIT;
            const size_t h = grid.n_rows - row < WIDTH ? grid.n_rows - row : WIDTH;
            for (size_t r = 0; r < h; r++) {
                const uint8_t *codes =
                    codes_of(packing, grid, rows + (row + r) * size, col, n, rezero, false, spare, &fault->column);
                if (!codes) {
                    fault->row = row + r;
                    return false;
                }
                pack_row(codes, (uint8_t *)words[r], n, packing);
            }
            const size_t first = col * packing.bits / 32, m = n * packing.bits / 32;
            turn((const uint8_t *)words, sizeof words[0], packed + first * packing.stride + row * WORD, packing.stride,
                 h, m);
        }
    return true;
}

static bool pack_columns(mf_packing packing, mf_grid grid, const uint8_t *rows, uint8_t *packed, int rezero,
                         mf_fault *fault) {
    enum { COLUMNS = 128, ROWS = 2 * LINE };
    const size_t size = mf_grid_row_bytes(grid);
    uint8_t spare[ROWS * COLUMNS] = {0}, lines[SIDE * LINE]; /* whole squares are read of what may be less */
    for (size_t row = 0; row < grid.n_rows; row += ROWS) {
        const size_t m = grid.n_rows - row < ROWS ? grid.n_rows - row : ROWS;
        for (size_t col = 0; col < grid.n_cols; col += COLUMNS) {
            const size_t n = grid.n_cols - col < COLUMNS ? grid.n_cols - col : COLUMNS;
            const bool partly = m < ROWS || n < COLUMNS;
            const uint8_t *codes = NULL; /* of the first row */
            for (size_t r = 0; r < m; r++) {
                const uint8_t *found = codes_of(packing, grid, rows + (row + r) * size, col, n, rezero, partly,
                                                spare + r * COLUMNS, &fault->column);
                if (!found) {
                    fault->row = row + r;
                    return false;
                }
                if (r == 0) codes = found;
            }
            const size_t step = codes == spare ? COLUMNS : size;
            for (size_t k = 0; k < n; k += SIDE) {
                for (size_t r = 0; r < m; r += 2 * WIDTH)
                    close_squares(codes + r * step + k, step, lines + r / 2, LINE, packing.order);
                uint8_t *to = packed + (col + k) * packing.stride + row / 2;
                if (m == ROWS && n - k >= SIDE)
                    for (size_t c = 0; c < SIDE; c++) {
                        memcpy(to + c * packing.stride, lines + c * LINE, LINE);
                        ask_for(to + c * packing.stride, SIDE * packing.stride, LINE);
                    }
                else
                    for (size_t c = 0; c < SIDE && k + c < n; c++)
                        memcpy(to + c * packing.stride, lines + c * LINE, m / 2);
            }
        }
    }
    return true;
}

bool MF_LEVEL(grid_pack)(mf_packing packing, mf_grid grid, const uint8_t *rows, uint8_t *packed, int rezero,
                         mf_fault *fault) {
    if (packing.lay == MF_LAY_WORDS) return pack_words(packing, grid, rows, packed, rezero, fault);
    if (packing.lay == MF_LAY_COLUMNS) return pack_columns(packing, grid, rows, packed, rezero, fault);
    return pack_rows(packing, grid, rows, packed, rezero, fault);
}

void MF_LEVEL(grid_values)(mf_grid grid, const uint8_t *rows, const double *table, double *values) {
    const size_t head = mf_grid_head(grid), size = mf_grid_row_bytes(grid);
    for (size_t row = 0; row < grid.n_rows; row++, rows += size)
        for (size_t group = 0; group < grid.n_cols / grid.group; group++) {
            const mf_record record = record_at(rows, group);
            const uint8_t *codes = rows + head + group * grid.group;
            for (size_t k = 0; k < grid.group; k++, values++) {
                const double code = table ? table[codes[k]] : (double)codes[k];
                *values = record.scale * (code - record.zero) + record.offset;
            }
        }
}
