// The callback of -fsanitize-coverage=trace-pc: counts the places of the code that were reached. Compiled into builds with
// WORLDFAST_COVERAGE alone, and itself without that flag.
#include <cstdint>

namespace {

constexpr uintptr_t places = 1 << 20;

bool reached[places];
int64_t count;

}  // namespace

extern "C" {

__attribute__((visibility("default"))) void __sanitizer_cov_trace_pc() {
    const uintptr_t base = reinterpret_cast<uintptr_t>(&count);  // the same in each process, wherever it is loaded
    const uintptr_t place = (reinterpret_cast<uintptr_t>(__builtin_return_address(0)) - base) * 0x9E3779B1u >> 4;
    bool& one = reached[place % places];
    if (__atomic_load_n(&one, __ATOMIC_RELAXED)) return;
    __atomic_store_n(&one, true, __ATOMIC_RELAXED);
    __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED);
}

// Places that were reached in this process.
__attribute__((visibility("default"))) int64_t coverage() { return __atomic_load_n(&count, __ATOMIC_RELAXED); }
}
