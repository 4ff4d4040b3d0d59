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
#include <iterator>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#define WORLDFAST_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define WORLDFAST_UNROLL _Pragma("clang loop unroll(full)")
#define WORLDFAST_LOOPS_256
#else
#define WORLDFAST_UNROLL _Pragma("GCC unroll 32")
// A plain loop is over a head or half of one: too short for 32 numbers of 16 bits at once.
#define WORLDFAST_LOOPS_256 ",prefer-vector-width=256"
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

// Floats of the widest vectors that are compiled: a build that runs on this machine alone needs no wider ones than it has.
#ifndef WORLDFAST_WIDEST
#define WORLDFAST_WIDEST 16
#endif

// Both of these compile the kernel template `body<W>(arguments)` once for each instruction set.
// WORLDFAST_EACH_WIDTH defines `void name<W>(parameters)`, for kernels to call; WORLDFAST_DISPATCH defines
// `void name(parameters)`, which runs at the widest W there is.
#if defined(__x86_64__)
#if WORLDFAST_WIDEST >= 16
#define WORLDFAST_COMPILE_16(name, body, parameters, arguments)                                                        \
    __attribute__((                                                                                                    \
        noinline,                                                                                                      \
        target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma" WORLDFAST_LOOPS_256))) void name##_16 parameters {        \
        body<16> arguments;                                                                                            \
    }
#else
#define WORLDFAST_COMPILE_16(name, body, parameters, arguments)                                                        \
    void name##_16 parameters { __builtin_trap(); }
#endif
#define WORLDFAST_COMPILE(name, body, parameters, arguments)                                                           \
    WORLDFAST_COMPILE_16(name, body, parameters, arguments)                                                            \
    __attribute__((noinline, target("avx2,fma"))) void name##_8 parameters { body<8> arguments; }                      \
    __attribute__((noinline)) void name##_4 parameters { body<4> arguments; }
#define WORLDFAST_EACH_WIDTH(name, body, parameters, arguments)                                                        \
    WORLDFAST_COMPILE(name, body, parameters, arguments)                                                               \
    template <int W>                                                                                                   \
    WORLDFAST_INLINE void name parameters {                                                                            \
        if constexpr (W == 16) return name##_16 arguments;                                                             \
        if constexpr (W == 8) return name##_8 arguments;                                                               \
        if constexpr (W == 4) return name##_4 arguments;                                                               \
    }
#define WORLDFAST_DISPATCH(name, body, parameters, arguments)                                                          \
    WORLDFAST_COMPILE(name, body, parameters, arguments)                                                               \
    void name parameters {                                                                                             \
        switch (vector_width()) {                                                                                      \
            case 16:                                                                                                   \
                return name##_16 arguments;                                                                            \
            case 8:                                                                                                    \
                return name##_8 arguments;                                                                             \
            default:                                                                                                   \
                return name##_4 arguments;                                                                             \
        }                                                                                                              \
    }
#else
#define WORLDFAST_EACH_WIDTH(name, body, parameters, arguments)                                                        \
    __attribute__((noinline)) void name##_4 parameters { body<4> arguments; }                                          \
    template <int W>                                                                                                   \
    WORLDFAST_INLINE void name parameters {                                                                            \
        name##_4 arguments;                                                                                            \
    }
#define WORLDFAST_DISPATCH(name, body, parameters, arguments)                                                          \
    void name parameters { body<4> arguments; }
#endif

namespace worldfast {

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

inline int widest_vector() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq"))
        return 16;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 8;
#endif
    return 4;
}

// Floats per vector in every kernel from now on. A test lowers it to reach the narrower kernels on a wide
// machine.
inline std::atomic<int>& vector_width_in_use() {
    static std::atomic<int> width{widest_vector()};
    return width;
}
inline int vector_width() { return vector_width_in_use().load(std::memory_order_relaxed); }
inline int limit_vector_width(int width) { return vector_width_in_use() = std::min(widest_vector(), width); }

template <int W, class T = float>
struct Lanes {  // W floats, or W doubles
    using Signed = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    using Unsigned = std::make_unsigned_t<Signed>;
    typedef T Float __attribute__((vector_size(sizeof(T) * W)));
    typedef Unsigned Bits __attribute__((vector_size(sizeof(T) * W)));
    typedef Signed Int __attribute__((vector_size(sizeof(T) * W)));
    typedef T Unaligned __attribute__((vector_size(sizeof(T) * W), aligned(sizeof(T)), may_alias));
};

template <int W, class T>
WORLDFAST_INLINE const typename Lanes<W, T>::Unaligned& at(const T* p) {
    return *reinterpret_cast<const typename Lanes<W, T>::Unaligned*>(p);
}
template <int W, class T>
WORLDFAST_INLINE typename Lanes<W, T>::Unaligned& at(T* p) {
    return *reinterpret_cast<typename Lanes<W, T>::Unaligned*>(p);
}

// All bits set in the first n lanes, none in the others.
template <int W>
WORLDFAST_INLINE void first_lanes(int64_t n, typename Lanes<W>::Int& mask) {
    typename Lanes<W>::Int lane;
    for (int i = 0; i < W; ++i) lane[i] = i;
    mask = lane < static_cast<int32_t>(n);
}

// The first n lanes of x from p, the others `rest`; all of them where n >= W. Likewise back. Fewer than W move by the
// processor's masks where it has some: memcpy of so few is a call, and what it wrote to the stack is not read at once.
template <int W>
WORLDFAST_INLINE void load(const float* p, int64_t n, typename Lanes<W>::Float& x, float rest = 0) {
    if (n >= W) {
        x = at<W>(p);
        return;
    }
    typename Lanes<W>::Float some = typename Lanes<W>::Float{} + rest;
#if defined(__x86_64__)
    const auto& first = *reinterpret_cast<const float (*)[W]>(p);
    if constexpr (W == 16) {
        asm("vmovups %1, %0 %{%2%}" : "+v"(some) : "m"(first), "Yk"(static_cast<uint16_t>((1u << n) - 1)));
    } else if constexpr (W == 8) {
        typename Lanes<W>::Int mask;
        typename Lanes<W>::Float there;
        first_lanes<W>(n, mask);
        asm("vmaskmovps %1, %2, %0" : "=x"(there) : "m"(first), "x"(mask));
        some = mask ? there : some;
    } else
#endif
        std::memcpy(&some, p, static_cast<size_t>(n) * sizeof(float));
    x = some;
}
template <int W>
WORLDFAST_INLINE void store(float* p, int64_t n, const typename Lanes<W>::Float& x) {
    if (n >= W) {
        at<W>(p) = x;
        return;
    }
#if defined(__x86_64__)
    auto& first = *reinterpret_cast<float (*)[W]>(p);
    const typename Lanes<W>::Float all = x;  // a reference in an asm would keep it in memory
    if constexpr (W == 16) {
        asm("vmovups %1, %0 %{%2%}" : "+m"(first) : "v"(all), "Yk"(static_cast<uint16_t>((1u << n) - 1)));
        return;
    } else if constexpr (W == 8) {
        typename Lanes<W>::Int mask;
        first_lanes<W>(n, mask);
        asm("vmaskmovps %1, %2, %0" : "+m"(first) : "x"(all), "x"(mask));
        return;
    }
#endif
    std::memcpy(p, &x, static_cast<size_t>(n) * sizeof(float));
}

// 2^f for f in [-0.5, 0.5], the highest power of f first, and the layout of the number.
template <class T>
struct Exp2;
template <>
struct Exp2<float> {  // minimax, relative error 2e-9
    static constexpr int mantissa = 23, bias = 127;
    static constexpr float term[] = {
        1.53533620e-4f, 1.33988739e-3f, 9.61843692e-3f, 5.55033237e-2f, 2.40226477e-1f, 6.93147182e-1f, 1.0f};
};
template <>
struct Exp2<double> {  // ln(2)^n / n!, relative error 4e-18
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr double term[] = {1.3691488853904128e-12, 2.5678435993488206e-11,
                                      4.4455382718708116e-10, 7.054911620801123e-09,
                                      1.01780860092397e-07,   1.321548679014431e-06,
                                      1.5252733804059841e-05, 0.0001540353039338161,
                                      0.0013333558146428443,  0.009618129107628477,
                                      0.05550410866482158,    0.24022650695910072,
                                      0.6931471805599453,     1.0};
};

// x <- 2^x within 1e-7 relative (2e-16 in double): 0 where that is denormal, infinite where it is too large,
// NaN stays NaN. `negative`: no x is above 0, which saves a comparison.
template <int W, class T = float, bool negative = false>
WORLDFAST_INLINE void exp2_of(typename Lanes<W, T>::Float& x) {
    using Float = typename Lanes<W, T>::Float;
    using E = Exp2<T>;
    using Unsigned = typename Lanes<W, T>::Unsigned;
    if constexpr (negative) x = x < T(-E::bias) ? Float{} + T(-E::bias) : x;  // whose power is 0
    constexpr T round = T(1.5) * (Unsigned{1} << E::mantissa);
    const Float t = x + round;        // round(x) is now in the low bits of t
    const Float f = x - (t - round);  // [-0.5, 0.5]
    Float p = f * E::term[0] + E::term[1];
    for (size_t n = 2; n < std::size(E::term); ++n) p = p * f + E::term[n];
    typename Lanes<W, T>::Bits bits;
    std::memcpy(&bits, &t, sizeof bits);
    bits = (bits + Unsigned{E::bias}) << E::mantissa;  // 2^round(x)
    Float power;
    std::memcpy(&power, &bits, sizeof power);
    p = p * power;
    if constexpr (negative) {
        x = p;
        return;
    }
    p = x < T(1 - E::bias) ? Float{} : p;
    x = x >= T(E::bias + 1) ? Float{} + std::numeric_limits<T>::infinity() : p;
}

// low, high <- a0 b0 a1 b1 ..., W lanes each.
#if defined(__clang__)
template <class V, int... I>
WORLDFAST_INLINE void interleave(const V& a, const V& b, V& low, V& high, std::integer_sequence<int, I...>) {
    constexpr int W = sizeof...(I);
    low = __builtin_shufflevector(a, b, (I / 2 + I % 2 * W)...);
    high = __builtin_shufflevector(a, b, (I / 2 + I % 2 * W + W / 2)...);
}
template <int W, class T>
WORLDFAST_INLINE void interleave(const typename Lanes<W, T>::Float& a, const typename Lanes<W, T>::Float& b,
                                 typename Lanes<W, T>::Float& low, typename Lanes<W, T>::Float& high) {
    interleave(a, b, low, high, std::make_integer_sequence<int, W>{});
}
#else
template <int W, class T>
WORLDFAST_INLINE void interleave(const typename Lanes<W, T>::Float& a, const typename Lanes<W, T>::Float& b,
                                 typename Lanes<W, T>::Float& low, typename Lanes<W, T>::Float& high) {
    typename Lanes<W, T>::Int from{};
    for (int i = 0; i < W; ++i) from[i] = i / 2 + i % 2 * W;
    low = __builtin_shuffle(a, b, from);
    high = __builtin_shuffle(a, b, from + W / 2);
}
#endif

// Transposes W lines of W lanes. Merging line k with line k + W/2 into lines 2k and 2k + 1, log2(W) times
// over, does it.
template <int W, class T = float>
WORLDFAST_INLINE void transpose_lines(typename Lanes<W, T>::Float (&line)[W]) {
    typename Lanes<W, T>::Float merged[W];
    WORLDFAST_UNROLL
    for (int step = 1; step < W; step *= 2) {
        WORLDFAST_UNROLL
        for (int i = 0; i < W / 2; ++i) interleave<W, T>(line[i], line[i + W / 2], merged[2 * i], merged[2 * i + 1]);
        WORLDFAST_UNROLL
        for (int i = 0; i < W; ++i) line[i] = merged[i];
    }
}

// Sum over the lanes, by halves: the order is a property of W alone.
template <int W>
WORLDFAST_INLINE float sum_of(const typename Lanes<W>::Float& x) {
    float lane[W];
    std::memcpy(lane, &x, sizeof lane);
    WORLDFAST_UNROLL
    for (int half = W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
    return lane[0];
}

// Zeroed numbers on a cache line's boundary.
template <class T = float>
class Scratch {
public:
    explicit Scratch(size_t count) : memory_(count + line - 1) {
        void* p = memory_.data();
        size_t bytes = memory_.size() * sizeof(T);
        next_ = static_cast<T*>(std::align(64, count * sizeof(T), p, bytes));
    }
    T* take(int64_t count) {  // multiples of a line keep the boundary
        T* p = next_;
        next_ += count;
        return p;
    }

private:
    static constexpr size_t line = 64 / sizeof(T);
    std::vector<T> memory_;
    T* next_;
};

}  // namespace worldfast
