/* Half precision by integer and float arithmetic on whole vectors, bit for bit what F16C and NEON do: nearest even,
 * subnormals, infinities, NaN quieted with the top of its payload kept. After Fabian Giesen's float_to_half_rtne. */

static inline vi vi_f16_from_vf(vf x) {
    const vi sign = (vi)x & INT32_MIN, a = (vi)x & 0x7fffffff;
    const vi normal = vi_shift_right_logical(a - (112 << 23) + 0xfff + ((a >> 13) & 1), 13);
    const vi subnormal = (vi)((vf)a + 0.5f) - 0x3f000000; /* the FPU rounds at 2^-24, one half of which is the ulp */
    const vi nan = 0x7e00 | ((a >> 13) & 0x3ff);
    vi h = vi_select(vi_lt(a, vi_set1(113 << 23)), subnormal, normal);
    h = vi_select(vi_lt(a, vi_set1(143 << 23)), h, vi_set1(0x7c00));
    h = vi_select(vi_gt(a, vi_set1(0x7f800000)), nan, h);
    return h | vi_shift_right_logical(sign, 16);
}

/* Exponent 31 becomes 255, infinity and NaN, which the multiplication keeps; all others come down to where they belong.
 */
static inline vf vf_from_f16(vi h) {
    const vi sign = (h & 0x8000) << 16, shifted = (h & 0x7fff) << 13;
    const vf normal = (vf)(shifted + (224 << 23)) * 0x1p-112f;
    const vf subnormal = (vf)(shifted + (113 << 23)) - 0x1p-14f;
    return (vf)((vi)vf_select(vi_lt(shifted, vi_set1(0x400 << 13)), subnormal, normal) | sign);
}
