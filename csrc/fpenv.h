/* The default floating-point environment around a kernel: round to nearest even, subnormals kept. A library loaded
 * next to us may have switched subnormals off for the thread (anything linked with -ffast-math does); the bytes we
 * write must not depend on that. */
#ifndef MF_FPENV_H
#define MF_FPENV_H

#include <stdint.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
typedef unsigned mf_fpenv;
static inline mf_fpenv mf_fpenv_default(void) {
    mf_fpenv saved = _mm_getcsr();
    _mm_setcsr(0x1f80);
    return saved;
}
static inline void mf_fpenv_restore(mf_fpenv saved) { _mm_setcsr(saved); }
#elif defined(__aarch64__)
typedef uint64_t mf_fpenv;
static inline mf_fpenv mf_fpenv_default(void) {
    mf_fpenv saved, none = 0;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"(none) : "memory");
    return saved;
}
static inline void mf_fpenv_restore(mf_fpenv saved) { __asm__ volatile("msr fpcr, %0" : : "r"(saved) : "memory"); }
#else
#include <fenv.h>
typedef fenv_t mf_fpenv;
static inline mf_fpenv mf_fpenv_default(void) {
    mf_fpenv saved;
    fegetenv(&saved);
    fesetenv(FE_DFL_ENV);
    return saved;
}
static inline void mf_fpenv_restore(mf_fpenv saved) { fesetenv(&saved); }
#endif

#endif
