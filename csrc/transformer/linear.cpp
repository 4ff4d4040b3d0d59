// A register tile is some rows by two vectors of lines: 8 to 16 sums, which hide the latency of a
// multiply-add and leave registers for what is multiplied. A strip of lines stays in the first cache while
// all rows pass it, where it is not deeper than 300 or so.
#include "transformer/linear.h"

#include <stdexcept>
#include <type_traits>

#include "base/parallel.h"
#include "base/simd.h"

namespace worldfast {
namespace {

// Rows of a register tile. With AVX2 they are at their limit: 12 sums, two vectors of lines and a number of a row are 15
// of 16 registers, and two rows more would keep sums in memory. The others are not: 6 rows with SSE2 and 10 with AVX-512
// would stay in registers too; how fast they are was not measured.
#if defined(__aarch64__)
template <int W>
constexpr int tile_rows = 8;
#else
template <int W>
constexpr int tile_rows = W == 16  ? 8
                          : W == 8 ? 6
                                   : 4;
#endif

// Terms per chain of sums in float32, which are then added up. Rounded numbers have the chains that pairs
// have.
template <class S>
constexpr int64_t chain = std::is_same_v<S, float> ? 256 : 512;

// ---- packing ----

template <int W>
WORLDFAST_INLINE void load_bits(const float* p, int64_t n, typename Lanes<W>::Bits& bits) {
    typename Lanes<W>::Float x;
    load<W>(p, n, x);
    round_to<W>(x, bits);
}

// A step in depth of up to N lines that lie side by side: a number of each, or a pair.
template <int W, int N, class From, class S>
WORLDFAST_INLINE void pack_step(const From* row, int64_t, bool, int64_t n, S* to) {
    typename Lanes<W>::Float x;
    for (int i = 0; i < N; i += W) {
        load<W>(row + i, std::max<int64_t>(n - i, 0), x);
        store<W>(to + i, N - i, x);
    }
}
template <int W, int N, class From>
WORLDFAST_INLINE void pack_step(const From* row, int64_t stride, bool both, int64_t n, BFloat16* to) {
    typename Lanes<W>::Bits first, second{};
    for (int i = 0; i < N; i += W) {
        load_bits<W>(row + i, std::max<int64_t>(n - i, 0), first);
        if (both) load_bits<W>(row + stride + i, std::max<int64_t>(n - i, 0), second);
        first |= second << 16;
        std::memcpy(to + 2 * i, &first, sizeof first);
    }
}

// A strip of N lines that are columns, of which n are there.
template <int W, int N, class From, class S>
WORLDFAST_INLINE void pack_strip(const From* from, int64_t stride, int64_t n, int64_t depth, S* to) {
    for (int64_t k = 0; k < depth; k += paired<S>)
        pack_step<W, N>(from + k * stride, stride, k + 1 < depth, n, to + k * N);
}
// Some rows at a time through all strips: memory is read as it stands.
template <int W, int N, class From, class S>
WORLDFAST_INLINE void pack_columns(const From* from, int64_t stride, int64_t lines, int64_t depth, S* to) {
    constexpr int64_t few = 8;
    const int64_t size = N * round_up(depth, paired<S>);
    for (int64_t k = 0; k < depth; k += few, from += few * stride, to += few * N) {
        const int64_t steps = std::min(few, depth - k);
        int64_t first = 0;
        for (; first + N <= lines; first += N)
            pack_strip<W, N>(from + first, stride, N, steps, to + first / N * size);  // a constant: vectors are whole
        if (first < lines) pack_strip<W, N>(from + first, stride, lines - first, steps, to + first / N * size);
    }
}

// A strip of n lines that are rows, `stride` apart: blocks of W by W are transposed.
template <int W, class S>
WORLDFAST_INLINE void pack_lines(const float* from, int64_t stride, int64_t n, int64_t depth, S* to) {
    for (int64_t i = 0; i < strip; i += W) {
        for (int64_t k = 0; k < depth; k += W) {
            typename Lanes<W>::Float line[W];
            WORLDFAST_UNROLL
            for (int r = 0; r < W; ++r) {
                line[r] = typename Lanes<W>::Float{};
                if (i + r < n) load<W>(from + (i + r) * stride + k, depth - k, line[r]);
            }
            transpose_lines<W>(line);
            for (int64_t c = 0; c < std::min<int64_t>(W, depth - k); ++c)
                store<W>(to + (k + c) * strip + i, W, line[c]);
        }
    }
}
template <int W>
WORLDFAST_INLINE void pack_lines(const float* from, int64_t stride, int64_t n, int64_t depth, BFloat16* to) {
    const int64_t deep = round_up(depth, 2);
    if (n < strip || deep > depth) std::memset(to, 0, static_cast<size_t>(strip * deep) * sizeof *to);
    for (int64_t i = 0; i < n; ++i)
        for (int64_t p = 0; p < 2; ++p)
            for (int64_t k = p; k < depth; k += 2) to[(k - p) * strip + i * 2 + p] = BFloat16(from[i * stride + k]);
}

// Zeros in the second strip of two, where there are no lines for it.
template <class S>
WORLDFAST_INLINE void fill_up(int64_t lines, int64_t size, S* panel) {
    const int64_t strips = (lines + strip - 1) / strip;
    if (strips % 2) std::memset(static_cast<void*>(panel + strips * size), 0, static_cast<size_t>(size) * sizeof(S));
}

template <int W, class S>
WORLDFAST_INLINE void pack_rows_body(const float* from, int64_t stride, int64_t lines, int64_t depth, S* panel) {
    const int64_t size = strip * round_up(depth, paired<S>);
    for (int64_t first = 0; first < lines; first += strip)
        pack_lines<W>(from + first * stride, stride, std::min(strip, lines - first), depth,
                      panel + first / strip * size);
    fill_up(lines, size, panel);
}

template <int W, class From, class S>
WORLDFAST_INLINE void pack_columns_body(const From* from, int64_t stride, int64_t lines, int64_t depth, S* panel) {
    const int64_t size = strip * round_up(depth, paired<S>);
    pack_columns<W, strip>(from, stride, lines, depth, panel);
    fill_up(lines, size, panel);
}

template <int W, class S>
WORLDFAST_INLINE void round_body(const float* from, int64_t n, int64_t width, S* to, int64_t stride) {
    typename Lanes<W>::Float x;
    for (int64_t i = 0; i < n; ++i, from += width, to += stride) {
        for (int64_t d = 0; d < width; d += W) {
            load<W>(from + d, width - d, x);
            store<W>(to + d, width - d, x);
        }
        for (int64_t d = width; d < stride; ++d) to[d] = S(0.0f);
    }
}

// ---- the register tile ----

// Two BFloat16 side by side: a step in depth. A step of all others is a float.
struct Pair {
    BFloat16 first, second;
};

// What stands in memory as S, in steps.
template <class S>
using step_of = std::conditional_t<paired<S> == 2, Pair, float>;
template <class S>
const step_of<S>* steps_of(const S* p) {
    return reinterpret_cast<const step_of<S>*>(p);
}
template <int W, class Step>
using Steps = std::conditional_t<std::is_same_v<Step, float>, typename Lanes<W>::Float, typename Lanes<W>::Bits>;

template <int W, class Step>
WORLDFAST_INLINE void load_steps(const Step* p, Steps<W, Step>& x) {
    std::memcpy(&x, p, sizeof x);
}

template <int W>
WORLDFAST_INLINE void add_term(typename Lanes<W>::Float& sum, float a, const typename Lanes<W>::Float& b) {
    sum += a * b;
}
#if defined(__x86_64__)
template <int W>
WORLDFAST_INLINE void add_term(typename Lanes<W>::Float& sum, const Pair& a, const typename Lanes<W>::Bits& b) {
    uint32_t bits;
    std::memcpy(&bits, &a, sizeof bits);
    const typename Lanes<W>::Bits both = typename Lanes<W>::Bits{} + bits;
    typename Lanes<W>::Float total = sum;  // a reference in an asm would keep the sums in memory
    asm("vdpbf16ps %2, %1, %0" : "+v"(total) : "v"(both), "v"(b));
    sum = total;
}
#endif

// sum [R][2 W] = a b' over so many steps; a_row, a_step and b_step count steps, and `second` is the way from b to the
// second vector.
template <int W, int R, class Step>
WORLDFAST_INLINE void tile(const Step* a, int64_t a_row, int64_t a_step, const Step* b, int64_t second, int64_t b_step,
                           int64_t steps, typename Lanes<W>::Float (&sum)[R][2]) {
    WORLDFAST_UNROLL
    for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = typename Lanes<W>::Float{};
    for (int64_t k = 0; k < steps; ++k, a += a_step, b += b_step) {
        Steps<W, Step> b0, b1;
        load_steps<W>(b, b0);
        load_steps<W>(b + second, b1);
        WORLDFAST_UNROLL
        for (int r = 0; r < R; ++r) {
            add_term<W>(sum[r][0], a[r * a_row], b0);
            add_term<W>(sum[r][1], a[r * a_row], b1);
        }
    }
}

// As `tile`, in chains of so many steps.
template <int W, int R, class Step>
WORLDFAST_INLINE void tile_in_chains(const Step* a, int64_t a_row, int64_t a_step, const Step* b, int64_t second,
                                     int64_t b_step, int64_t steps, int64_t chain,
                                     typename Lanes<W>::Float (&sum)[R][2]) {
    typename Lanes<W>::Float total[R][2];
    for (int64_t done = 0;; done += chain) {
        tile<W, R>(a + done * a_step, a_row, a_step, b + done * b_step, second, b_step, std::min(steps - done, chain),
                   sum);
        if (steps <= chain) return;
        WORLDFAST_UNROLL
        for (int r = 0; r < R; ++r) {
            total[r][0] = done ? total[r][0] + sum[r][0] : sum[r][0];
            total[r][1] = done ? total[r][1] + sum[r][1] : sum[r][1];
        }
        if (done + chain >= steps) break;
    }
    WORLDFAST_UNROLL
    for (int r = 0; r < R; ++r) sum[r][0] = total[r][0], sum[r][1] = total[r][1];
}

// A panel as tiles read it, in steps.
template <class Step>
struct Strips {
    const Step* first;
    int64_t lines, steps;

    WORLDFAST_INLINE const Step* at(int64_t line) const { return first + line / strip * strip * steps + line % strip; }
    // from one vector of lines to the next
    template <int W>
    WORLDFAST_INLINE int64_t next() const {
        return W < strip ? W : strip * steps;
    }
};

template <class Step, class Out>
struct Multiplication {
    const Step* a;
    int64_t rows, a_stride, chain;
    Strips<Step> b;
    Out* out;
    int64_t out_stride;
    const float *bias, *onto;
};

template <int W, class Out>
WORLDFAST_INLINE void store_sum(Out* p, int64_t n, const typename Lanes<W>::Float& x) {
    if constexpr (sizeof(Out) == 2) {  // an instruction that comes with the one for pairs
        typename Halves<W>::type half;
        asm("vcvtneps2bf16 %1, %0" : "=v"(half) : "v"(x));
        store_half<W>(p, n, half);
    } else {
        store<W>(p, n, x);
    }
}

// Column c of a tile is stored by a function of its own and by way of `y`: a sum whose index varies or whose
// address is taken would keep all sums in memory.
template <int c, int W, int R, class Step, class Out>
WORLDFAST_INLINE void store_column(const Multiplication<Step, Out>& m, int64_t row, int64_t line,
                                   const typename Lanes<W>::Float (&sum)[R][2]) {
    const int64_t at = line + c * W, n = m.b.lines - at;
    if (n <= 0) return;
    WORLDFAST_UNROLL
    for (int r = 0; r < R; ++r) {
        const int64_t to = (row + r) * m.out_stride + at;
        typename Lanes<W>::Float y = sum[r][c], x;
        if (m.bias) load<W>(m.bias + at, n, x), y += x;
        if (m.onto) load<W>(m.onto + to, n, x), y += x;
        store_sum<W>(m.out + to, n, y);
    }
}

template <int W, int R, class Step, class Out>
WORLDFAST_INLINE void multiply_tile(const Multiplication<Step, Out>& m, int64_t row, int64_t line) {
    typename Lanes<W>::Float sum[R][2];
    tile_in_chains<W, R>(m.a + row * m.a_stride, m.a_stride, 1, m.b.at(line), m.b.template next<W>(), strip, m.b.steps,
                         m.chain, sum);
    store_column<0, W>(m, row, line, sum);
    store_column<1, W>(m, row, line, sum);
}

template <int W, class Step, class Out>
WORLDFAST_INLINE void multiply_body(const Multiplication<Step, Out>& m) {
    constexpr int R = tile_rows<W>;
    for (int64_t line = 0; line < m.b.lines; line += 2 * W) {
        int64_t row = 0;
        for (; row + R <= m.rows; row += R) multiply_tile<W, R>(m, row, line);
        if (R > 4 && row + 4 <= m.rows) multiply_tile<W, 4>(m, row, line), row += 4;
        for (; row < m.rows; ++row) multiply_tile<W, 1>(m, row, line);
    }
}

// out [lines of a, b.lines] += a' b for a block of activations a, its columns `from` to `to`, which are packed on their
// way, or read as they stand where `packed` is null; so is b where `b_stands`.
template <class S>
struct Sums {
    const S* a;
    int64_t a_stride, from, to, depth;
    Strips<step_of<S>> b;
    bool b_stands;
    int64_t b_stride, chain;
    S* packed;  // block_lines lines of a
    float* out;
};

// Whether tiles of so many lines read activations as they stand: their rows lie close together, and lines fill whole tiles.
constexpr int64_t close_together = 256;  // floats
template <class S>
bool stand_well(int64_t lines, int64_t stride, int64_t of_tile) {
    return sizeof(S) == sizeof(float) && stride <= close_together && lines % of_tile == 0;
}

// A block of lines stays in the second cache while all columns of the gradient pass it.
constexpr int64_t block_lines = 96;

// Column c of a tile, as `store_column`; `rows` of the R lines from `line` on are wanted.
template <int c, int W, int R, class S>
WORLDFAST_INLINE void add_column(const Sums<S>& s, int64_t line, int64_t column, int64_t rows,
                                 const typename Lanes<W>::Float (&sum)[R][2]) {
    typename Lanes<W>::Float x;
    const int64_t at = column + c * W, n = s.b.lines - at;
    if (n <= 0) return;
    WORLDFAST_UNROLL
    for (int r = 0; r < R; ++r) {
        if (r >= rows) return;
        float* to = s.out + (line + r) * s.b.lines + at;
        load<W>(to, n, x);
        store<W>(to, n, sum[r][c] + x);
    }
}

template <int W, class S>
WORLDFAST_INLINE void add_products_body(const Sums<S>& s) {
    constexpr int R = tile_rows<W>, N = R == 6 ? 12 : strip;  // lines per strip of a: whole tiles
    const int64_t lines = s.to - s.from;
    if (s.packed) pack_columns<W, N>(s.a + s.from, s.a_stride, lines, s.depth, s.packed);
    for (int64_t column = 0; column < s.b.lines; column += 2 * W) {
        for (int64_t i = 0; i < lines; i += R) {
            const int64_t line = s.from + i, rows = std::min<int64_t>(R, lines - i);
            for (int64_t r = 0; r < rows; ++r) __builtin_prefetch(s.out + (line + r) * s.b.lines + column, 1, 3);
            typename Lanes<W>::Float sum[R][2];
            const auto* a = s.packed ? steps_of(s.packed) + i / N * N * s.b.steps + i % N : steps_of(s.a + line);
            const auto* b = s.b_stands ? s.b.first + column : s.b.at(column);
            tile_in_chains<W, R>(a, 1, s.packed ? N : s.a_stride, b, s.b_stands ? W : s.b.template next<W>(),
                                 s.b_stands ? s.b_stride : strip, s.b.steps, s.chain, sum);
            add_column<0, W>(s, line, column, rows, sum);
            add_column<1, W>(s, line, column, rows, sum);
        }
    }
}

// ---- an instance for each instruction set ----

#define WORLDFAST_PACK_ROWS(S)                                                                                         \
    WORLDFAST_DISPATCH(pack_rows_in, pack_rows_body,                                                                   \
                       (const float* from, int64_t stride, int64_t lines, int64_t depth, S* panel),                    \
                       (from, stride, lines, depth, panel))
#define WORLDFAST_PACK_COLUMNS(From, S)                                                                                \
    WORLDFAST_DISPATCH(pack_columns_in, pack_columns_body,                                                             \
                       (const From* from, int64_t stride, int64_t lines, int64_t depth, S* panel),                     \
                       (from, stride, lines, depth, panel))
#define WORLDFAST_ROUND(S)                                                                                             \
    WORLDFAST_DISPATCH(round_in, round_body, (const float* from, int64_t n, int64_t width, S* to, int64_t stride),     \
                       (from, n, width, to, stride))
WORLDFAST_PACK_ROWS(float)
WORLDFAST_PACK_ROWS(Rounded)
WORLDFAST_PACK_ROWS(BFloat16)
WORLDFAST_PACK_COLUMNS(float, float)
WORLDFAST_PACK_COLUMNS(float, Rounded)
WORLDFAST_PACK_COLUMNS(float, BFloat16)
WORLDFAST_PACK_COLUMNS(BFloat16, BFloat16)
WORLDFAST_ROUND(Rounded)
WORLDFAST_ROUND(BFloat16)

using FloatProduct = Multiplication<float, float>;
using RoundedProduct = Multiplication<float, Rounded>;
WORLDFAST_DISPATCH(work, multiply_body, (const FloatProduct& m), (m))
WORLDFAST_DISPATCH(work, multiply_body, (const RoundedProduct& m), (m))
WORLDFAST_DISPATCH(work, add_products_body, (const Sums<float>& s), (s))

#if defined(__x86_64__) && WORLDFAST_WIDEST >= 16
#define WORLDFAST_PAIRS __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")))
WORLDFAST_PAIRS void work(const Multiplication<Pair, BFloat16>& m) { multiply_body<16>(m); }
WORLDFAST_PAIRS void work(const Multiplication<Pair, float>& m) { multiply_body<16>(m); }
WORLDFAST_PAIRS void work(const Sums<BFloat16>& s) { add_products_body<16>(s); }
#else
template <class Work>
void work(const Work&) {
    throw std::logic_error("bfloat16: this processor multiplies no pairs");
}
#endif

template <class S>
Strips<step_of<S>> strips_of(const S* panel, int64_t lines, int64_t depth) {
    return {steps_of(panel), lines, (depth + paired<S> - 1) / paired<S>};
}

template <class S>
void add_gradient_of(const S* a, int64_t a_stride, int64_t a_lines, const S* b, int64_t b_stride, int64_t b_lines,
                     int64_t n, int64_t chain, float* gradient, Arena& arena, int threads, Interruption& interruption,
                     bool asks) {
    const Arena::Scope scope(arena);
    const int W = vector_width(), R = W == 16 ? tile_rows<16> : W == 8 ? tile_rows<8> : tile_rows<4>;
    const bool a_stands = stand_well<S>(a_lines, a_stride, R), b_stands = stand_well<S>(b_lines, b_stride, 2 * W);
    S* packed = b_stands ? nullptr : arena.take<S>(panel_size<S>(b_lines, n));
    if (packed) pack_columns_in(b, b_stride, b_lines, n, packed);
    const int64_t blocks = (a_lines + block_lines - 1) / block_lines, room = panel_size<S>(block_lines, n);
    S* of_block = a_stands ? nullptr : arena.take<S>(blocks * room);
    const auto range = [&](int64_t begin, int64_t end) {
        const bool large = heavy(n, std::min(a_lines, block_lines), b_lines);
        for (int64_t block = begin; block < end && !interruption.end(asks && begin == 0, large); ++block)
            work(Sums<S>{a, a_stride, block * block_lines, std::min((block + 1) * block_lines, a_lines), n,
                         strips_of(packed ? packed : b, b_lines, n), b_stands, b_stride, chain,
                         of_block ? of_block + begin * room : nullptr, gradient});
    };
    parallel_for(blocks, 1, threads, range, asks ? &interruption : nullptr);
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

template <class S>
void pack_rows(const float* from, int64_t stride, int64_t lines, int64_t depth, S* panel) {
    pack_rows_in(from, stride, lines, depth, panel);
}
template void pack_rows(const float*, int64_t, int64_t, int64_t, float*);
template void pack_rows(const float*, int64_t, int64_t, int64_t, Rounded*);
template void pack_rows(const float*, int64_t, int64_t, int64_t, BFloat16*);

template <class S>
void pack_columns(const float* from, int64_t stride, int64_t lines, int64_t depth, S* panel) {
    pack_columns_in(from, stride, lines, depth, panel);
}
template void pack_columns(const float*, int64_t, int64_t, int64_t, float*);
template void pack_columns(const float*, int64_t, int64_t, int64_t, Rounded*);
template void pack_columns(const float*, int64_t, int64_t, int64_t, BFloat16*);

template <class S>
void round_rows(const float* from, int64_t n, int64_t width, S* to, int64_t stride) {
    round_in(from, n, width, to, stride);
}
template void round_rows(const float*, int64_t, int64_t, Rounded*, int64_t);
template void round_rows(const float*, int64_t, int64_t, BFloat16*, int64_t);

template <class S, class Out>
void multiply(const Product<S, Out>& p) {
    work(Multiplication<step_of<S>, Out>{steps_of(p.a), p.rows, p.a_stride / paired<S>, chain<S> / paired<S>,
                                         strips_of(p.b, p.lines, p.depth), p.out, p.out_stride, p.bias, p.onto});
}
template void multiply(const Product<float, float>&);
template void multiply(const Product<Rounded, Rounded>&);
template void multiply(const Product<Rounded, float>&);
template void multiply(const Product<BFloat16, BFloat16>&);
template void multiply(const Product<BFloat16, float>&);

template <class S>
void add_gradient(const S* a, int64_t a_stride, int64_t a_lines, const S* b, int64_t b_stride, int64_t b_lines,
                  int64_t n, float* gradient, Arena& arena, int threads, Interruption& interruption, bool asks) {
    if constexpr (std::is_same_v<S, Rounded>) {
        add_gradient_of(&a->value, a_stride, a_lines, &b->value, b_stride, b_lines, n, chain<S>, gradient, arena,
                        threads, interruption, asks);
    } else {
        add_gradient_of(a, a_stride, a_lines, b, b_stride, b_lines, n, chain<S> / paired<S>, gradient, arena, threads,
                        interruption, asks);
    }
}
template void add_gradient(const float*, int64_t, int64_t, const float*, int64_t, int64_t, int64_t, float*, Arena&, int,
                           Interruption&, bool);
template void add_gradient(const Rounded*, int64_t, int64_t, const Rounded*, int64_t, int64_t, int64_t, float*, Arena&,
                           int, Interruption&, bool);
template void add_gradient(const BFloat16*, int64_t, int64_t, const BFloat16*, int64_t, int64_t, int64_t, float*,
                           Arena&, int, Interruption&, bool);

}  // namespace worldfast
