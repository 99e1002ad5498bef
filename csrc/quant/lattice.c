#include "lattice.h"

#include <pthread.h>

/* Bit k: the point whose levels are the digits of k, the first lowest, to the base 3 (IQ1, IQ2) or 8 (IQ3). */
// clang-format off
static const uint64_t iq2_256[] = {
    0x4141441055141555, 0x100044140400, 0x40001400400400, 0x1050000004000000, 0x4004140100114140, 0x500001000400450,
    0x1000050000010, 0x4004144100004000, 0x400000400001414, 0x40000, 0x100400, 0x10100414000000,
    0x1001040011040040, 0x100404000, 0x4010000, 0x400440041000, 0x100000000004, 0x1000400000001000,
    0x0, 0x40000004000105, 0x110000, 0x1000000, 0x414000000000040, 0x50100010000,
    0x1010000000, 0x500000, 0x414000000000, 0x40000000004001, 0x4000040000, 0x0,
    0x40040000040, 0x4000000, 0x0, 0x1000000, 0x110104144105000, 0x400010000414,
    0x40400000440400, 0x4000000100404000, 0x10000000010010, 0x1004000010, 0x100000000, 0x414000000000000,
    0x11000, 0x401100000000004, 0x4000000000000, 0x50441000040000, 0x100000104000000, 0x40000,
    0x1, 0x40, 0x1000001400000, 0x400000000000000, 0x100000000, 0x400000004100400,
    0x40000000000000, 0x4000000000000, 0x0, 0x1000001000041, 0x40000000004000, 0x400000000000,
    0x11000000001000, 0x0, 0x400000000001400, 0x0, 0x0, 0x1,
    0x0, 0x0, 0x4000041400000, 0x40040000004000, 0x4, 0x4,
    0x40001000441400, 0x400000004000000, 0x4000010000000, 0x4000000001000040, 0x0, 0x10000,
    0x10000000000, 0x104000000000000, 0x100000000000410, 0x40000000004000, 0x1000000000000, 0x40000400000000,
    0x1, 0x1000000, 0x0, 0x0, 0x100000000001000, 0x0,
    0x0, 0x100000000400, 0x100000004, 0x40000000000, 0x0, 0x400,
    0x0, 0x0, 0x0, 0x40000, 0x4, 0x0,
    0x0,
};

static const uint64_t iq2_512[] = {
    0x1541455551555555, 0x4145505555540145, 0x4010515400010510, 0x5550000101000441, 0x4140115154145, 0x404010500414550,
    0x5100041400000, 0x1105554000004000, 0x540400010010414, 0x10400000040001, 0x104000100, 0x4550515554011000,
    0x1051540001054041, 0x5000500100004140, 0x10000400011, 0x1001450041455000, 0x100004140000004, 0x400400000000000,
    0x10000, 0x400004004000505, 0x110000, 0x4, 0x5555000000000040, 0x400010000414010,
    0x10001040001050, 0x10000100000, 0x4000414400000400, 0x40000000000001, 0x1000000010040000, 0x1000100,
    0x40141100000, 0x400100001, 0x10010000000, 0x144000000001001, 0x1105554145555000, 0x500414550000414,
    0x141404000440001, 0x4000000000000140, 0x10000414014515, 0x41001050001, 0x4000010100400000, 0x414000000000010,
    0x101011000, 0x40004100001004, 0x400000, 0x1041455000000000, 0x4140000004000105, 0x50004,
    0x1000000040, 0x4040105400000, 0x410100004010, 0x1040000000, 0x100000001000, 0x404000400404,
    0x140100000010000, 0x0, 0x4000004000000000, 0x100101001000041, 0x5000, 0x10000000000000,
    0x4001000100000004, 0x0, 0x110000400, 0x1000, 0x1000000000, 0x1000000,
    0x400, 0x10100000000400, 0x415010515400000, 0x1155000005000, 0x100000000041004, 0x1400000000400,
    0x40001000541441, 0x100000004000040, 0x400004000000000, 0x1000000100000000, 0x14010000040004, 0x40400,
    0x4000000000000, 0x105100404100000, 0x10001000400, 0x1000000100001, 0x400000000000000, 0x4400004000,
    0x1041, 0x14000000001000, 0x100000000, 0x400000000000000, 0x400000000, 0x100,
    0x1000000010, 0x404014500, 0x4000000000010000, 0x1144000000010, 0x4000100000010, 0x4000000000400000,
    0x0, 0x0, 0x40000400004000, 0x1040000000000045, 0x500000000000004, 0x50000000000,
    0x100010000,
};

static const uint64_t iq2_1024[] = {
    0x1555455551555555, 0x5545505155551105, 0x5010515414150514, 0x5550101111000455, 0x5145541555555545, 0x5414555514555550,
    0x1451000455401051, 0x1155154000105004, 0x540010110515555, 0x40401051440455, 0x100510140100, 0x4551515554004000,
    0x5555541451151555, 0x5000145505155545, 0x414000504414114, 0x1455551455455000, 0x5505155540105154, 0x514400010500414,
    0x4000001000041401, 0x140105154045155, 0x10500414550000, 0x1000041004000010, 0x5154000000000400, 0x11010405415115,
    0x1401050540415054, 0x104510010100004, 0x514554400050000, 0x1440001050041455, 0x110004140105, 0x4000400010500,
    0x1050001411000000, 0x4150000400000, 0x100000000000, 0x140040000004004, 0x1555554555555000, 0x5505554550514414,
    0x1541401051541455, 0x4000005004145104, 0x4550515554555555, 0x1051541455550041, 0x5004145500004150, 0x5514100000400010,
    0x1040041455051, 0x100004140105154, 0x400010500040, 0x1555455000000000, 0x5540005154145555, 0x10500414550515,
    0x1400041401051440, 0x5154145555000000, 0x414550000414010, 0x1400000040001050, 0x110004, 0x40414010515400,
    0x40001050000001, 0x1000100000000000, 0x4400004000000000, 0x1040041451051545, 0x4140105154000, 0x400010400100010,
    0x1451010000000100, 0x4000105004, 0x10001010000414, 0x40004, 0x105000100000, 0x10010000100000,
    0x4000, 0x400000000, 0x5414114515404000, 0x1455450001411011, 0x1140004140005154, 0x10500015,
    0x41455011555400, 0x4140105154000105, 0x10500001010000, 0x1000000000000050, 0x105000141, 0x4000010000014040,
    0x4000000000000, 0x5545010000400500, 0x414010515410, 0x101050001411, 0x100004140000, 0x4010515440000000,
    0x1050004001000041, 0x1100000000004000, 0x10001000000010, 0x1100041400000, 0x5000000000, 0x1100,
    0x40000000000000, 0x105410111100, 0x10000001040000, 0x4004100000000400, 0x5100014400000014, 0x100000000400010,
    0x10001040, 0x0, 0x40000000000004, 0x100000000000040, 0x400004000000000, 0x11401400000,
    0x100001000,
};

static const uint64_t iq1_2048[] = {
    0x514202a085142555, 0xa28a2086a8314508, 0x14508514202a081a, 0xa005152545442082, 0x8208001888208202, 0xaaabb88a02a03a0,
    0xaa0a0022000baa90, 0x4508514008a0828c, 0x851421450808821, 0x2a8008a09808308a, 0x4248208514214508, 0x20a0c22c01450855,
    0xa2aaa8242a00268a, 0x28280808afe208, 0xa82028aa284202a0, 0xa8bab9089b0a2080, 0x3aaaaea289aeca20, 0xb80e82bbbaeaeb7c,
    0x2202920ed3caba22, 0x820aba8aa8202200, 0x3ba2e04a2a000802, 0x81408100a22b2022, 0x8514012208288aaa, 0x5421450920821550,
    0x203aa8230208a085, 0xa208514254208284, 0x82a021450950820, 0x200248a08082a8b8, 0xab2802a268a28208, 0x83082082085082a,
    0xa085142145004045, 0x8229014500514200, 0x1430a1082a828a00, 0x2145082882145005, 0x2aaa200202208514, 0xa828ae8ab1122000,
    0xa820070a8aaa1ba, 0x8200840222280208, 0xaa2ab0eaa0804800, 0xa7daea22ba8b20c2, 0xaa2ab092a86e8b8b, 0x48202a0c448a8b72,
    0x20aa082a8a284084, 0xa09aafa222a2ccc8, 0xa82a00020002a8e8, 0xa2a28ba080200088, 0xba0a328280a0ba28, 0x2ba0a2ebfebab8be,
    0xa2ea280a8a08a2, 0xdeeaa4fa0c0232a1, 0xeb7ebe8d2ea82bef, 0xdeba7de6bf7ff7fa, 0x12fa26bfff27fb69, 0xebeaa10228ae1e9,
    0xae820ba8b208aa84, 0x62048083e924baff, 0x2ba40aa8f2682c, 0x12aae208082a02, 0x82c920a60a2a8202, 0x8c00a20028829089,
    0x6c00080882001380, 0x8abea602bbaaaa8a, 0xd02e976b8002caa0, 0xdeaa2e108210e9b2, 0x820a0004a5d11528, 0x20a1010820828a00,
    0xa0843222ba39aa82, 0x262a28a00188009, 0xac21450051441481, 0x20aa085142145082, 0x45082a120a87aa28, 0x8514208a0051421,
    0x22a240a002200145, 0x8a6a08a208008800, 0xa200080aaaab86e, 0x5044082122c8e282, 0x8515208a09514214, 0x2a2aaa080a861450,
    0x21450851420a0080, 0xe2085142145000a8, 0x82a82180a828820, 0xa028bb08aaaa2aa, 0xaaa80822820aa2a, 0x220288a900280828,
    0xba8a08b8280bbea0, 0xaef8a4baffaeb24b, 0x30a0b668285220aa, 0x6a220828020a80e6, 0x2baaaa020a208062, 0x808a2a0a9a2eaaa,
    0xe8200228aa02010, 0x400aa08514214500, 0x4a0006a921450851, 0x440d1000a50802aa, 0x514214508288214, 0x20f2ac82820800,
    0x20ba0a280aaa0000, 0x280948820002a2ea, 0x51454b110014e9, 0x5142145002a80145, 0x400a288808248808, 0x2a0051401450008,
    0x145085140,
};

static const uint64_t iq3_256[] = {
    0x2800000402058a15, 0x10010020522050a, 0x200082008a050215, 0x100000000200582, 0x2800801080000800, 0x40004000082,
    0x10000020000000, 0x2000800005100, 0x180150a050a, 0x50205, 0x40000000102050a, 0x40004002010005,
    0x10000000022, 0x200004000110000, 0x20, 0x100040000, 0x402450a05, 0x18800000102052a,
    0x200180058205, 0x1100000000001102, 0x80020000000, 0x1000000200800008, 0x0, 0x200000400a,
    0x4200100000a0502, 0x5002010005, 0x40004000020010a, 0x8000200, 0x400008001000000, 0x200000040041,
    0x8000040001000, 0x1000008000000, 0x8800a0008010, 0x1000000000000000, 0x41000180010000, 0x2000000080,
    0x10020000000010, 0x100000800200000, 0x0, 0x1000520, 0x100000200000400, 0x200000400041,
    0x400000004001000, 0x80000000004, 0x400000000880100, 0x2000004, 0x10000000000, 0x400100000,
    0x10005000100000, 0x2000000020000, 0x10000000008000, 0x41000000, 0x1000000000, 0x40000000020,
    0x8000000, 0x20008, 0x400040001a8, 0x100400000, 0x42000000400, 0x1000008002001,
    0x200020000, 0x100005, 0x1000000, 0x0,
};

static const uint64_t iq3_512[] = {
    0x92050aa5082357a7, 0x422001022892317, 0x9000aa4112249a3, 0x228005104a052208, 0x100020904128801, 0x84000a208450014,
    0x200040002000a40, 0x110008450015, 0x40250005205ab17, 0x410005020902114b, 0x40120090411a401, 0x104000211820992,
    0x11440a001428, 0x20005020902, 0x5000910000, 0x10400022002050a, 0x2980052a058a55ab, 0x20412248905,
    0x12008802810a0092, 0x4001040a140225, 0x2400000224090082, 0x100080180040210, 0x2200000020085, 0x10801400220,
    0x20802942a04aa04, 0x44010001000a102a, 0x10014010401, 0x800208a018a1102, 0x11040002044208, 0x800401004200502,
    0x200004000, 0x2005000a, 0x100010204910411, 0x220821040a84, 0x10480010802210a, 0x22050a10,
    0x200000180100005, 0x40000000200a0, 0x1000010000800, 0x20801002100, 0x1040049100041104, 0x40000000402042a,
    0x80041080201, 0x820021000800184, 0x4004010012, 0xa0000400400, 0x400000000, 0x40014,
    0x100000a002a00, 0x10000000810001, 0x104200410000400, 0x100021001, 0x4000800200000, 0x1000010000009,
    0x100000020, 0xa00, 0x4100140050091, 0x2800100204, 0x20001024112, 0x80024000004,
    0x10000010822, 0x400040000, 0x2000004, 0x1,
};
// clang-format on

/* X(id, bits of the points, dimensions, levels, points, n_distances, n_vectors, values of the levels...)
 * n_distances: how many different distances make a neighbourhood. n_vectors: of 16 lanes, that all the lists take. */
#define EACH_LATTICE(X)                                                                                                \
    X(LATTICE_2XXS, iq2_256, 8, 3, 256, 2, 10071, 8, 25, 43)                                                           \
    X(LATTICE_2XS, iq2_512, 8, 3, 512, 2, 14410, 8, 25, 43)                                                            \
    X(LATTICE_2S, iq2_1024, 8, 3, 1024, 1, 6286, 8, 25, 43)                                                            \
    X(LATTICE_1, iq1_2048, 8, 3, 2048, 3, 22647, -9, -1, 7)                                                            \
    X(LATTICE_3XXS, iq3_256, 4, 8, 256, 2, 3902, 4, 12, 20, 28, 36, 44, 52, 62)                                        \
    X(LATTICE_3S, iq3_512, 4, 8, 512, 3, 3706, 1, 3, 5, 7, 9, 11, 13, 15)

enum { MAX_POINTS = 2048, N_DISTANCES = 4 * 7 * 7 + 1 };

#define LARGEST_CODE(levels) ((levels) == 3 ? 0xaaaa : 0xfff)

typedef struct {
    const uint64_t *is_point;
    int dims, levels, n_points, n_distances;
    int8_t values[8];
} rule;

static const rule rules[N_LATTICES] = {
#define RULE(id, bits, dims, levels, n_points, n_distances, n_vectors, ...)                                            \
    [id] = {bits, dims, levels, n_points, n_distances, {__VA_ARGS__}},
    EACH_LATTICE(RULE)};

/* The number that has the digits l[0..n-1], each times `step` of its place. */
static int number_of(const uint8_t *l, int n, int step) {
    int number = 0;
    for (int i = n; i-- > 0;) number = number * step + l[i];
    return number;
}

static int n_possible(const rule *r) {
    int n = 1;
    for (int i = 0; i < r->dims; i++) n *= r->levels;
    return n;
}

static void levels_of(const rule *r, int k, uint8_t *l) {
    for (int i = 0; i < r->dims; i++, k /= r->levels) l[i] = (uint8_t)(k % r->levels);
}

static int n_halves(const rule *r) { return r->levels == 3 ? 81 : 64; }

static bool is_point(const rule *r, int k) { return r->is_point[k / 64] >> k % 64 & 1; }

/* Distances are sums over the two halves of a point, looked up by the number of each half. */
typedef struct {
    uint8_t distance[MAX_HALVES][MAX_HALVES];      /* between halves */
    uint8_t first[MAX_POINTS], second[MAX_POINTS]; /* the halves of every point of the lattice */
    uint16_t code[MAX_POINTS];
    int32_t lookup[MAX_POINTS];
} workspace;

static void prepare(const rule *r, workspace *w, uint32_t *where) {
    const int half = r->dims / 2, side = n_halves(r);
    for (int a = 0; a < side; a++)
        for (int b = 0; b < side; b++) {
            int sum = 0;
            for (int i = 0, p = a, q = b; i < half; i++, p /= r->levels, q /= r->levels)
                sum += (p % r->levels - q % r->levels) * (p % r->levels - q % r->levels);
            w->distance[a][b] = (uint8_t)sum;
        }
    for (int k = 0, g = 0; k < n_possible(r); k++) {
        if (!is_point(r, k)) continue;
        uint8_t l[8];
        levels_of(r, k, l);
        w->first[g] = (uint8_t)(k % side);
        w->second[g] = (uint8_t)(k / side);
        w->code[g] = (uint16_t)number_of(l, r->dims, r->levels == 3 ? 4 : 8);
        uint32_t lookup = 0;
        for (int i = 0; i < r->dims; i++) lookup |= (uint32_t)((32 / r->dims * i + l[i]) & 15) << 4 * i;
        w->lookup[g] = (int32_t)lookup;
        where[w->code[g]] = (uint32_t)g << 8;
        g++;
    }
}

/* Lists the neighbours of possible point k from `at` on; returns how many. Sorted by counting. */
static size_t list(const rule *r, const workspace *w, int k, int32_t *lookups, uint16_t *codes) {
    const int side = n_halves(r);
    const uint8_t *first = w->distance[k % side], *second = w->distance[k / side];
    uint16_t place[N_DISTANCES] = {0};
    for (int g = 0; g < r->n_points; g++) place[first[w->first[g]] + second[w->second[g]]]++;
    size_t n = 0;
    int limit = 0;
    for (int found = 0; found < r->n_distances; limit++) {
        const uint16_t here = place[limit];
        place[limit] = (uint16_t)n;
        n += here;
        found += here > 0;
    }
    for (int g = 0; g < r->n_points; g++) {
        const int distance = first[w->first[g]] + second[w->second[g]];
        if (distance >= limit) continue;
        lookups[place[distance]] = w->lookup[g];
        codes[place[distance]++] = w->code[g];
    }
    for (; n % VF_LANES; n++) lookups[n] = lookups[0], codes[n] = codes[0];
    return n;
}

static void build(const rule *r, uint32_t *where, int32_t *lookups, uint16_t *codes) {
    workspace w;
    prepare(r, &w, where);
    uint32_t at = 0;
    for (int k = 0; k < n_possible(r); k++) {
        if (is_point(r, k)) continue;
        uint8_t l[8];
        levels_of(r, k, l);
        const uint32_t n = (uint32_t)(list(r, &w, k, lookups + at * VF_LANES, codes + at * VF_LANES) / VF_LANES);
        where[number_of(l, r->dims, r->levels == 3 ? 4 : 8)] = at << 8 | n;
        at += n;
    }
}

#define TABLES(id, bits, dims, levels, n_points, n_distances, n_vectors, ...)                                          \
    static uint32_t id##_where[LARGEST_CODE(levels) + 1];                                                              \
    static int32_t id##_lookups[n_vectors * 16];                                                                       \
    static uint16_t id##_codes[n_vectors * 16];                                                                        \
    static int8_t id##_values[n_points * dims];                                                                        \
    static pthread_once_t id##_once = PTHREAD_ONCE_INIT;                                                               \
    static void id##_build(void) { build(&rules[id], id##_where, id##_lookups, id##_codes); }
EACH_LATTICE(TABLES)

neighbour_table MF_LEVEL(lattice_neighbours)(lattice_id id) {
    switch (id) {
#define NEIGHBOURS(id, ...)                                                                                            \
    case id:                                                                                                           \
        pthread_once(&id##_once, id##_build);                                                                          \
        return (neighbour_table){id##_where, id##_lookups, id##_codes};
        EACH_LATTICE(NEIGHBOURS)
    default:
        return (neighbour_table){0};
    }
}

static int8_t *const all_values[N_LATTICES] = {
#define VALUES(id, ...) [id] = id##_values,
    EACH_LATTICE(VALUES)};

static lattice_sign_bytes all_signs;

static void build_signs(void) {
    for (int signs = 0; signs < 256; signs++) {
        uint64_t bytes = 0;
        int n_minuses = 0;
        for (int i = 0; i < 8; i++) {
            if (!(signs >> i & 1)) continue;
            bytes |= (uint64_t)255 << 8 * i;
            n_minuses++;
        }
        all_signs.eight[signs] = bytes;
        if (n_minuses % 2 == 0) all_signs.seven[signs & 127] = bytes;
    }
}

static void build_values(void) {
    for (size_t id = 0; id < N_LATTICES; id++) {
        const rule *r = &rules[id];
        int8_t *out = all_values[id];
        for (int k = 0; k < n_possible(r); k++) {
            if (!is_point(r, k)) continue;
            uint8_t l[8];
            levels_of(r, k, l);
            for (int i = 0; i < r->dims; i++) *out++ = r->values[l[i]];
        }
    }
}

const int8_t *MF_LEVEL(lattice_values)(lattice_id id) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, build_values);
    return all_values[id];
}

const lattice_sign_bytes *MF_LEVEL(lattice_signs)(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, build_signs);
    return &all_signs;
}

typedef struct {
    uint16_t *begins, *first;
    int32_t *points, *levels;
} halves;

static void build_halves(const rule *r, halves to) {
    const int side = n_halves(r);
    uint16_t at = 0;
    for (int second = 0, g = 0; second < MAX_HALVES; second++) {
        to.begins[second] = at;
        for (int k = second * side; second < side && k < (second + 1) * side; k++) {
            if (!is_point(r, k)) continue;
            uint8_t l[8];
            levels_of(r, k, l);
            to.first[at] = (uint16_t)((size_t)(k % side) * sizeof(vf));
            to.levels[at] = number_of(l, r->dims, 16);
            to.points[at++] = g++;
        }
        if (at % 2 == 0) continue;
        to.first[at] = to.first[at - 1];
        to.levels[at] = to.levels[at - 1];
        to.points[at] = to.points[at - 1];
        at++;
    }
    to.begins[MAX_HALVES] = at;
}

#define HALVES(id, bits, dims, levels, n_points, ...)                                                                  \
    static uint16_t id##_begins[MAX_HALVES + 1], id##_first[n_points + MAX_HALVES];                                    \
    static int32_t id##_points[n_points + MAX_HALVES], id##_levels[n_points + MAX_HALVES];                             \
    static pthread_once_t id##_halves_once = PTHREAD_ONCE_INIT;                                                        \
    static void id##_build_halves(void) {                                                                              \
        build_halves(&rules[id], (halves){id##_begins, id##_first, id##_points, id##_levels});                         \
    }
EACH_LATTICE(HALVES)

lattice_halves MF_LEVEL(lattice_halves)(lattice_id id) {
    switch (id) {
#define HALVES_OF(id, ...)                                                                                             \
    case id:                                                                                                           \
        pthread_once(&id##_halves_once, id##_build_halves);                                                            \
        return (lattice_halves){id##_begins, id##_first, id##_points, id##_levels};
        EACH_LATTICE(HALVES_OF)
    default:
        return (lattice_halves){0};
    }
}
