/* Blocks of LZ4 and the hash of its frames. Source: LZ4's block format; xxHash's specification 0.1.1 (XXH32).
 * Every length and distance is checked before it is used; nothing is read outside src and history, or written outside
 * dst. */
#include "mf.h"

#include <string.h>

/* A length whose 4 bits in the token are 15 goes on in bytes of 255. false: src ends, or it passes the limit. */
static bool longer(const uint8_t *src, size_t n_src, size_t *at, size_t limit, size_t *length) {
    if (*length != 15) return true;
    uint8_t byte;
    do {
        if (*at >= n_src || *length > limit) return false;
        byte = src[(*at)++];
        *length += byte;
    } while (byte == 255);
    return true;
}

bool mf_lz4_block(const uint8_t *src, size_t n_src, const uint8_t *history, size_t n_history, uint8_t *dst,
                  size_t n_dst, size_t *made) {
    size_t at = 0, out = 0;
    while (at < n_src) {
        uint8_t token = src[at++];
        size_t length = token >> 4;
        if (!longer(src, n_src, &at, n_dst, &length) || length > n_src - at || length > n_dst - out) return false;
        memcpy(dst + out, src + at, length);
        at += length;
        out += length;
        if (at == n_src) break; /* the last sequence has literals only */
        if (n_src - at < 2) return false;
        size_t distance = src[at] | (size_t)src[at + 1] << 8;
        at += 2;
        length = token & 15;
        if (!longer(src, n_src, &at, n_dst, &length)) return false;
        length += 4;
        if (distance == 0 || distance > out + n_history || length > n_dst - out) return false;
        while (length && distance > out) { /* from the block before */
            dst[out] = history[n_history - (distance - out)];
            out++;
            length--;
        }
        if (distance >= length) {
            if (length) memcpy(dst + out, dst + out - distance, length);
            out += length;
        } else {
            for (; length; length--, out++) dst[out] = dst[out - distance];
        }
    }
    *made = out;
    return true;
}

#define P1 2654435761u
#define P2 2246822519u
#define P3 3266489917u
#define P4 668265263u
#define P5 374761393u

static uint32_t rotated(uint32_t x, int bits) { return x << bits | x >> (32 - bits); }

static uint32_t word(const uint8_t *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void stripe(uint32_t lanes[4], const uint8_t *p) {
    for (int i = 0; i < 4; i++) lanes[i] = rotated(lanes[i] + word(p + 4 * i) * P2, 13) * P1;
}

void mf_xxh32_start(mf_xxh32 *state) { *state = (mf_xxh32){.lanes = {P1 + P2, P2, 0, 0u - P1}}; }

void mf_xxh32_add(mf_xxh32 *state, const uint8_t *data, size_t n) {
    state->n_total += n;
    if (state->n_held) {
        size_t taken = 16 - state->n_held < n ? 16 - state->n_held : n;
        memcpy(state->held + state->n_held, data, taken);
        state->n_held += (uint32_t)taken;
        data += taken;
        n -= taken;
        if (state->n_held < 16) return;
        stripe(state->lanes, state->held);
        state->n_held = 0;
    }
    for (; n >= 16; n -= 16, data += 16) stripe(state->lanes, data);
    if (n) memcpy(state->held, data, n);
    state->n_held = (uint32_t)n;
}

uint32_t mf_xxh32_end(const mf_xxh32 *state) {
    const uint32_t *lanes = state->lanes;
    uint32_t hash = state->n_total >= 16
                        ? rotated(lanes[0], 1) + rotated(lanes[1], 7) + rotated(lanes[2], 12) + rotated(lanes[3], 18)
                        : P5;
    hash += (uint32_t)state->n_total;
    size_t at = 0, n = state->n_held;
    for (; n - at >= 4; at += 4) hash = rotated(hash + word(state->held + at) * P3, 17) * P4;
    for (; at < n; at++) hash = rotated(hash + state->held[at] * P5, 11) * P1;
    hash = (hash ^ hash >> 15) * P2;
    hash = (hash ^ hash >> 13) * P3;
    return hash ^ hash >> 16;
}
