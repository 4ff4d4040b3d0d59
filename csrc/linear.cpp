// A register tile is 8 rows by two vectors of lines: 16 sums, which hide the latency of a multiply-add, and
// 10 loads for 16 multiply-adds. A strip of lines stays in the first cache while all rows pass it, where it
// is not deeper than 300 or so.
#include "linear.h"

#include <type_traits>

#include "simd.h"

namespace worldfast {
namespace {

constexpr int64_t chain = 256;  // terms to a chain of sums in float32, which are then added up

template <int W>
WORLDFAST_INLINE void load_bits(const float* p, int64_t n, typename Lanes<W>::Bits& bits) {
    typename Lanes<W>::Float x;
    load<W>(p, n, x);
    round_to<W>(x, bits);
}

// ---- packing ----

// A step in depth of up to 32 lines that lie side by side: a number of each, or a pair.
template <int W>
WORLDFAST_INLINE void pack_step(const float* row, int64_t, bool, int64_t n, float* to) {
    typename Lanes<W>::Float x;
    for (int64_t i = 0; i < strip; i += W) {
        load<W>(row + i, std::max<int64_t>(n - i, 0), x);
        store<W>(to + i, W, x);
    }
}
template <int W, class From>
WORLDFAST_INLINE void pack_step(const From* row, int64_t stride, bool both, int64_t n, BFloat16* to) {
    typename Lanes<W>::Bits first, second{};
    for (int64_t i = 0; i < strip; i += W) {
        load_bits<W>(row + i, std::max<int64_t>(n - i, 0), first);
        if (both) load_bits<W>(row + stride + i, std::max<int64_t>(n - i, 0), second);
        first |= second << 16;
        std::memcpy(to + 2 * i, &first, sizeof first);
    }
}

template <int W, class From, class S>
WORLDFAST_INLINE void pack_body(const From* from, int64_t stride, bool lines_are_rows, int64_t lines,
                                int64_t depth, S* panel) {
    constexpr int64_t P = paired<S>;
    const int64_t deep = round_up(depth, P);
    for (int64_t first = 0; first < lines; first += strip, panel += strip * deep) {
        const int64_t n = std::min(strip, lines - first);
        if (!lines_are_rows) {
            for (int64_t k = 0; k < depth; k += P)
                pack_step<W>(from + k * stride + first, stride, k + 1 < depth, n, panel + k * strip);
            continue;
        }
        if (n < strip || deep > depth) std::memset(panel, 0, static_cast<size_t>(strip * deep) * sizeof(S));
        for (int64_t i = 0; i < n; ++i) {
            const From* line = from + (first + i) * stride;
            for (int64_t p = 0; p < P; ++p)
                for (int64_t k = p; k < depth; k += P) panel[(k - p) * strip + i * P + p] = S(line[k]);
        }
    }
}

#define WORLDFAST_PACK(From, S)                                                                          \
    WORLDFAST_DISPATCH(                                                                                  \
        pack_in, pack_body,                                                                              \
        (const From* from, int64_t stride, bool lines_are_rows, int64_t lines, int64_t depth, S* panel), \
        (from, stride, lines_are_rows, lines, depth, panel))
WORLDFAST_PACK(float, float)
WORLDFAST_PACK(float, BFloat16)
WORLDFAST_PACK(BFloat16, BFloat16)
#undef WORLDFAST_PACK

template <int W>
WORLDFAST_INLINE void round_body(const float* from, int64_t n, int64_t width, BFloat16* to, int64_t stride) {
    typename Lanes<W>::Float x;
    for (int64_t i = 0; i < n; ++i, from += width, to += stride) {
        for (int64_t d = 0; d < width; d += W) {
            load<W>(from + d, width - d, x);
            store<W>(to + d, width - d, x);
        }
        for (int64_t d = width; d < stride; ++d) to[d] = BFloat16(0.0f);
    }
}
WORLDFAST_DISPATCH(round_in, round_body,
                   (const float* from, int64_t n, int64_t width, BFloat16* to, int64_t stride),
                   (from, n, width, to, stride))

// ---- the register tile ----

template <int W, bool native>
WORLDFAST_INLINE void store_as(float* p, int64_t n, const typename Lanes<W>::Float& x) {
    store<W>(p, n, x);
}
template <int W, bool native>
WORLDFAST_INLINE void store_as(BFloat16* p, int64_t n, const typename Lanes<W>::Float& x) {
    if constexpr (native) {
        typename Halves<W>::type half;
        asm("vcvtneps2bf16 %1, %0" : "=v"(half) : "v"(x));
        store_half<W>(p, n, half);
    } else {
        store<W>(p, n, x);
    }
}

// sum += the terms of one step in depth: one product, or two.
template <int W, bool native>
WORLDFAST_INLINE void add_term(typename Lanes<W>::Float& sum, float a, const typename Lanes<W>::Float& b) {
    sum += a * b;
}
template <int W, bool native>
WORLDFAST_INLINE void add_term(typename Lanes<W>::Float& sum, uint32_t a, const typename Lanes<W>::Bits& b) {
    if constexpr (native) {
        const typename Lanes<W>::Bits both = typename Lanes<W>::Bits{} + a;
        typename Lanes<W>::Float total = sum;  // a reference in an asm would keep the sums in memory
        asm("vdpbf16ps %2, %1, %0" : "+v"(total) : "v"(both), "v"(b));
        sum = total;
    } else {
        typename Lanes<W>::Float low, high;
        const typename Lanes<W>::Bits first = b << 16, second = b & 0xffff0000;
        std::memcpy(&low, &first, sizeof low);
        std::memcpy(&high, &second, sizeof high);
        sum += float_of(a << 16) * low;
        sum += float_of(a & 0xffff0000) * high;
    }
}

// What a step in depth reads: a float, or two BFloat16.
template <class S>
using Word = std::conditional_t<sizeof(S) == 2, uint32_t, float>;
template <int W, class S>
using Words = std::conditional_t<sizeof(S) == 2, typename Lanes<W>::Bits, typename Lanes<W>::Float>;

// sum [R][2 W] = a b' over `steps` in depth; a_row and a_step count words.
template <int W, int R, bool native, class S>
WORLDFAST_INLINE void tile(const S* a_, int64_t a_row, int64_t a_step, const S* b_, int64_t steps,
                           typename Lanes<W>::Float (&sum)[R][2]) {
    using word [[gnu::may_alias, gnu::aligned(sizeof(S))]] = Word<S>;
    typedef Words<W, S> Vector __attribute__((aligned(sizeof(S)), may_alias));
    const word* a = reinterpret_cast<const word*>(a_);
    const word* b = reinterpret_cast<const word*>(b_);
    WORLDFAST_UNROLL
    for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = typename Lanes<W>::Float{};
    for (int64_t k = 0; k < steps; ++k, a += a_step, b += strip) {
        const Words<W, S> b0 = *reinterpret_cast<const Vector*>(b),
                          b1 = *reinterpret_cast<const Vector*>(b + W);
        WORLDFAST_UNROLL
        for (int r = 0; r < R; ++r) {
            add_term<W, native>(sum[r][0], a[r * a_row], b0);
            add_term<W, native>(sum[r][1], a[r * a_row], b1);
        }
    }
}

// As `tile`, in chains.
template <int W, int R, bool native, class S>
WORLDFAST_INLINE void tile_in_chains(const S* a, int64_t a_row, int64_t a_step, const S* b, int64_t steps,
                                     typename Lanes<W>::Float (&sum)[R][2]) {
    constexpr int64_t P = paired<S>;
    tile<W, R, native>(a, a_row, a_step, b, std::min(steps, chain), sum);
    for (int64_t done = chain; done < steps; done += chain) {
        typename Lanes<W>::Float more[R][2];
        tile<W, R, native>(a + done * a_step * P, a_row, a_step, b + done * strip * P,
                           std::min(steps - done, chain), more);
        WORLDFAST_UNROLL
        for (int r = 0; r < R; ++r) sum[r][0] += more[r][0], sum[r][1] += more[r][1];
    }
}

template <int W, int R, bool native, class S, class Out>
WORLDFAST_INLINE void multiply_rows(const Product<S, Out>& p, int64_t row, const S* b, int64_t line) {
    constexpr int64_t P = paired<S>;
    typename Lanes<W>::Float sum[R][2], x;
    tile_in_chains<W, R, native>(p.a + row * p.a_stride, p.a_stride / P, 1, b, (p.depth + P - 1) / P, sum);
    for (int c = 0; c < 2; ++c) {
        const int64_t at = line + c * W, n = p.lines - at;
        if (n <= 0) break;
        WORLDFAST_UNROLL
        for (int r = 0; r < R; ++r) {
            const int64_t to = (row + r) * p.out_stride + at;
            if (p.bias) load<W>(p.bias + at, n, x), sum[r][c] += x;
            if (p.onto) load<W>(p.onto + to, n, x), sum[r][c] += x;
            store_as<W, native>(p.out + to, n, sum[r][c]);
        }
    }
}

template <int W, bool native, class S, class Out>
WORLDFAST_INLINE void multiply_body(const Product<S, Out>& p) {
    constexpr int64_t P = paired<S>;
    const int64_t deep = round_up(p.depth, P);
    for (int64_t line = 0; line < p.lines; line += 2 * W) {
        const S* b = p.b + line / strip * strip * deep + line % strip * P;
        int64_t row = 0;
        for (; row + 8 <= p.rows; row += 8) multiply_rows<W, 8, native>(p, row, b, line);
        for (; row + 4 <= p.rows; row += 4) multiply_rows<W, 4, native>(p, row, b, line);
        for (; row < p.rows; ++row) multiply_rows<W, 1, native>(p, row, b, line);
    }
}

template <class S>
struct Sums {
    const S *a, *b;
    int64_t from, to, b_lines, depth;
    float* out;
};

template <int W, int R, bool native, class S>
WORLDFAST_INLINE void add_rows(const Sums<S>& s, int64_t line, const S* b, int64_t column, int64_t rows) {
    constexpr int64_t P = paired<S>;
    const int64_t steps = (s.depth + P - 1) / P;
    const S* a = s.a + line / strip * strip * steps * P + line % strip * P;
    typename Lanes<W>::Float sum[R][2], x;
    tile_in_chains<W, R, native>(a, 1, strip, b, steps, sum);
    WORLDFAST_UNROLL
    for (int r = 0; r < R; ++r) {
        if (r >= rows) break;
        for (int c = 0; c < 2; ++c) {
            const int64_t at = column + c * W, n = s.b_lines - at;
            if (n <= 0) break;
            float* to = s.out + (line + r) * s.b_lines + at;
            load<W>(to, n, x);
            store<W>(to, n, sum[r][c] + x);
        }
    }
}

template <int W, bool native, class S>
WORLDFAST_INLINE void add_products_body(const Sums<S>& s) {
    constexpr int64_t P = paired<S>;
    const int64_t deep = round_up(s.depth, P);
    for (int64_t column = 0; column < s.b_lines; column += 2 * W) {
        const S* b = s.b + column / strip * strip * deep + column % strip * P;
        for (int64_t line = s.from; line < s.to; line += 8)
            add_rows<W, 8, native>(s, line, b, column, std::min<int64_t>(8, s.to - line));
    }
}

// ---- an instance for each instruction set ----

template <int W, class S, class Out>
WORLDFAST_INLINE void plainly(const Product<S, Out>& p) {
    multiply_body<W, false>(p);
}
template <int W, class S>
WORLDFAST_INLINE void plainly(const Sums<S>& s) {
    add_products_body<W, false>(s);
}
template <class S, class Out>
WORLDFAST_INLINE void by_pairs(const Product<S, Out>& p) {
    multiply_body<16, true>(p);
}
template <class S>
WORLDFAST_INLINE void by_pairs(const Sums<S>& s) {
    add_products_body<16, true>(s);
}

#if defined(__x86_64__)
#define WORLDFAST_LINEAR(T)                                                                              \
    __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))) void work_pairs(const T& t) { \
        by_pairs(t);                                                                                     \
    }                                                                                                    \
    WORLDFAST_DISPATCH(work_plain, plainly, (const T& t), (t))
#else
#define WORLDFAST_LINEAR(T) WORLDFAST_DISPATCH(work_plain, plainly, (const T& t), (t))
#endif
using FloatProduct = Product<float, float>;
using HalfProduct = Product<BFloat16, BFloat16>;
using MixedProduct = Product<BFloat16, float>;
WORLDFAST_DISPATCH(work, plainly, (const FloatProduct& t), (t))
WORLDFAST_DISPATCH(work, plainly, (const Sums<float>& t), (t))
WORLDFAST_LINEAR(HalfProduct)
WORLDFAST_LINEAR(MixedProduct)
WORLDFAST_LINEAR(Sums<BFloat16>)
template <class T>
void work(const T& t) {
#if defined(__x86_64__)
    if (multiplies_pairs()) return work_pairs(t);
#endif
    work_plain(t);
}

}  // namespace

bool multiplies_pairs() {
#if defined(__x86_64__)
    static const bool has = __builtin_cpu_supports("avx512bf16");
    return has && vector_width() == 16;
#else
    return false;
#endif
}

template <class From, class S>
void pack(const From* from, int64_t stride, bool lines_are_rows, int64_t lines, int64_t depth, S* panel) {
    pack_in(from, stride, lines_are_rows, lines, depth, panel);
}
template void pack(const float*, int64_t, bool, int64_t, int64_t, float*);
template void pack(const float*, int64_t, bool, int64_t, int64_t, BFloat16*);
template void pack(const BFloat16*, int64_t, bool, int64_t, int64_t, BFloat16*);

void round_rows(const float* from, int64_t n, int64_t width, BFloat16* to, int64_t stride) {
    round_in(from, n, width, to, stride);
}

template <class S, class Out>
void multiply(const Product<S, Out>& product) {
    work(product);
}
template void multiply(const FloatProduct&);
template void multiply(const HalfProduct&);
template void multiply(const MixedProduct&);

template <class S>
void add_products(const S* a, int64_t from, int64_t to, const S* b, int64_t b_lines, int64_t depth,
                  float* out) {
    work(Sums<S>{a, b, from, to, b_lines, depth, out});
}
template void add_products(const float*, int64_t, int64_t, const float*, int64_t, int64_t, float*);
template void add_products(const BFloat16*, int64_t, int64_t, const BFloat16*, int64_t, int64_t, float*);

}  // namespace worldfast
