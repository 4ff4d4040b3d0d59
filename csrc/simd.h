// Vectors of the processor without intrinsics: the compilers' own vector types, W floats wide. A kernel is
// one always-inlined template over W; WORLDFAST_DISPATCH compiles it once for each instruction set and picks
// at run time. The portable width is 4, which is SSE2 on x86 and NEON on ARM.
//
// Functions here take vectors by reference and return none: the calling convention of a wide vector depends
// on the instruction set of the function, and these are inlined into several.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#define WORLDFAST_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define WORLDFAST_UNROLL _Pragma("clang loop unroll(full)")
#else
#define WORLDFAST_UNROLL _Pragma("GCC unroll 32")
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

// Defines `void name(parameters)`, which calls the kernel template `body<W>(arguments)` at the widest W there
// is.
#if defined(__x86_64__)
#define WORLDFAST_DISPATCH(name, body, parameters, arguments)                                          \
    __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))) void name##_16 parameters { \
        body<16> arguments;                                                                            \
    }                                                                                                  \
    __attribute__((target("avx2,fma"))) void name##_8 parameters { body<8> arguments; }                \
    void name##_4 parameters { body<4> arguments; }                                                    \
    void name parameters {                                                                             \
        switch (vector_width()) {                                                                      \
            case 16: return name##_16 arguments;                                                       \
            case 8: return name##_8 arguments;                                                         \
            default: return name##_4 arguments;                                                        \
        }                                                                                              \
    }
#else
#define WORLDFAST_DISPATCH(name, body, parameters, arguments) \
    void name parameters { body<4> arguments; }
#endif

namespace worldfast {

inline int widest_vector() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
        return 16;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 8;
#endif
    return 4;
}

// Floats to a vector in every kernel from now on. A test lowers it to reach the narrower kernels on a wide
// machine.
inline std::atomic<int>& vector_width_in_use() {
    static std::atomic<int> width{widest_vector()};
    return width;
}
inline int vector_width() { return vector_width_in_use().load(std::memory_order_relaxed); }
inline int limit_vector_width(int width) { return vector_width_in_use() = std::min(widest_vector(), width); }

template <int W> struct Lanes {
    typedef float Float __attribute__((vector_size(4 * W)));
    typedef uint32_t Bits __attribute__((vector_size(4 * W)));
    typedef int32_t Int __attribute__((vector_size(4 * W)));
    typedef float Unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));
};

template <int W> WORLDFAST_INLINE const typename Lanes<W>::Unaligned& at(const float* p) {
    return *reinterpret_cast<const typename Lanes<W>::Unaligned*>(p);
}
template <int W> WORLDFAST_INLINE typename Lanes<W>::Unaligned& at(float* p) {
    return *reinterpret_cast<typename Lanes<W>::Unaligned*>(p);
}

// The first n lanes of x from p, the others `rest`; all of them where n >= W. Likewise back.
template <int W>
WORLDFAST_INLINE void load(const float* p, int64_t n, typename Lanes<W>::Float& x, float rest = 0) {
    x = typename Lanes<W>::Float{} + rest;
    if (n >= W)
        x = at<W>(p);
    else
        std::memcpy(&x, p, static_cast<size_t>(n) * sizeof(float));
}
template <int W> WORLDFAST_INLINE void store(float* p, int64_t n, const typename Lanes<W>::Float& x) {
    if (n >= W)
        at<W>(p) = x;
    else
        std::memcpy(p, &x, static_cast<size_t>(n) * sizeof(float));
}

// x <- 2^x within 1e-7 relative: 0 below -126 (no denormals), infinite from 128, NaN stays NaN.
template <int W> WORLDFAST_INLINE void exp2_of(typename Lanes<W>::Float& x) {
    using Float = typename Lanes<W>::Float;
    const Float t = x + 12582912.0f;                // 1.5 * 2^23: round(x) is now in the low bits of t
    const Float f = x - (t - 12582912.0f);          // [-0.5, 0.5]
    Float p = f * 1.53533620e-4f + 1.33988739e-3f;  // minimax of 2^f, relative error 2e-9
    p = p * f + 9.61843692e-3f;
    p = p * f + 5.55033237e-2f;
    p = p * f + 2.40226477e-1f;
    p = p * f + 6.93147182e-1f;
    p = p * f + 1.0f;
    typename Lanes<W>::Bits bits;
    std::memcpy(&bits, &t, sizeof bits);
    bits = (bits + 127u) << 23;  // 2^round(x)
    Float power;
    std::memcpy(&power, &bits, sizeof power);
    p = p * power;
    p = x < -126.0f ? Float{} : p;
    x = x >= 128.0f ? Float{} + __builtin_inff() : p;
}

// low, high <- a0 b0 a1 b1 ..., W lanes each.
#if defined(__clang__)
template <int W, int... I>
WORLDFAST_INLINE void interleave(const typename Lanes<W>::Float& a, const typename Lanes<W>::Float& b,
                                 typename Lanes<W>::Float& low, typename Lanes<W>::Float& high,
                                 std::integer_sequence<int, I...>) {
    low = __builtin_shufflevector(a, b, (I / 2 + I % 2 * W)...);
    high = __builtin_shufflevector(a, b, (I / 2 + I % 2 * W + W / 2)...);
}
template <int W>
WORLDFAST_INLINE void interleave(const typename Lanes<W>::Float& a, const typename Lanes<W>::Float& b,
                                 typename Lanes<W>::Float& low, typename Lanes<W>::Float& high) {
    interleave<W>(a, b, low, high, std::make_integer_sequence<int, W>{});
}
#else
template <int W>
WORLDFAST_INLINE void interleave(const typename Lanes<W>::Float& a, const typename Lanes<W>::Float& b,
                                 typename Lanes<W>::Float& low, typename Lanes<W>::Float& high) {
    typename Lanes<W>::Int from{};
    for (int i = 0; i < W; ++i) from[i] = i / 2 + i % 2 * W;
    low = __builtin_shuffle(a, b, from);
    high = __builtin_shuffle(a, b, from + W / 2);
}
#endif

// Sum over the lanes, by halves: the order is a property of W alone.
template <int W> WORLDFAST_INLINE float sum_of(const typename Lanes<W>::Float& x) {
    float lane[W];
    std::memcpy(lane, &x, sizeof lane);
    WORLDFAST_UNROLL
    for (int half = W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
    return lane[0];
}

// Zeroed floats on a cache line's boundary.
class Scratch {
public:
    explicit Scratch(size_t floats) : floats_(floats + 15) {
        void* p = floats_.data();
        size_t bytes = floats_.size() * sizeof(float);
        next_ = static_cast<float*>(std::align(64, floats * sizeof(float), p, bytes));
    }
    float* take(int64_t floats) {  // multiples of 16 keep the boundary
        float* p = next_;
        next_ += floats;
        return p;
    }

private:
    std::vector<float> floats_;
    float* next_;
};

}  // namespace worldfast
