/* Truth values as vectors of 0 and -1, where there are no mask registers. */
typedef vi vm;

static inline vm vf_lt(vf a, vf b) { return (vm)(a < b); }
static inline vm vf_le(vf a, vf b) { return (vm)(a <= b); }
static inline vm vf_gt(vf a, vf b) { return (vm)(a > b); }
static inline vm vf_ge(vf a, vf b) { return (vm)(a >= b); }
static inline vm vf_eq(vf a, vf b) { return (vm)(a == b); }
static inline vm vi_eq(vi a, vi b) { return (vm)(a == b); }
static inline vm vi_gt(vi a, vi b) { return (vm)(a > b); }
static inline vm vi_lt(vi a, vi b) { return (vm)(a < b); }
static inline vm vm_and(vm a, vm b) { return a & b; }
static inline vm vm_or(vm a, vm b) { return a | b; }
static inline vm vm_not(vm a) { return ~a; }
