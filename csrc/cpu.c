/* Which levels the running CPU (and its operating system: saved registers) can execute. The names of the features
 * match the -m flags of that level in CMakeLists.txt, one for one. */
#include "mf.h"

#include <string.h>

bool mf_cpu_runs(const char *level) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
              __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    if (strcmp(level, "v3") == 0) return v3;
    if (strcmp(level, "v4") == 0)
        return v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512cd");
#endif
    return strcmp(level, "base") == 0 || strcmp(level, "neon") == 0; /* what the compiler's baseline guarantees */
}
