// One (row, head) at a time, whole: a row of the task mix has 25 to 57 tokens, so its q, k, v and scores fit
// in the first caches and there is nothing to tile over, no running softmax, and nothing to save for the
// backward pass.
//
// Scores are kept transposed, [key, query] with the queries in the lanes of a vector. Softmax then is
// vertical arithmetic, and every product of both passes is one kernel, `product`, with different strides.
//
// S is the type of the arrays, T that of the arithmetic: double where S is, else float. Rows are widened on
// their way into a tile and rounded on their way out, so nothing between knows of S.
#include "attention.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "float16.h"
#include "parallel.h"
#include "simd.h"

namespace worldfast {
namespace {

constexpr int64_t forward_grain = 512, backward_grain = 256;  // tokens that are worth a thread

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// A register tile: 4 rows of 2 vectors are 8 accumulators, enough to hide the latency of a multiply-add, few
// enough for 16 registers, and little waste along the diagonal. 4 divides every W, so a tile there stays in
// one vector of queries.
constexpr int tile_rows = 4, tile_vectors = 2;

// Terms to a chain of sums: chains are then added up, which halves the rounding of the longest.
constexpr int64_t chain = 32;

template <int W, int C, class T>
WORLDFAST_INLINE void product_tile(const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_k, int64_t n,
                                   T* out, int64_t out_row) {
    constexpr int R = tile_rows;
    for (int64_t done = 0; done < n; done += chain) {
        typename Lanes<W, T>::Float sum[R][C] = {};
        for (int64_t k = done; k < std::min(done + chain, n); ++k, a += a_k, b += b_k) {
            WORLDFAST_UNROLL
            for (int r = 0; r < R; ++r) {
                WORLDFAST_UNROLL
                for (int c = 0; c < C; ++c) sum[r][c] += a[r * a_row] * at<W>(b + c * W);
            }
        }
        WORLDFAST_UNROLL
        for (int r = 0; r < R; ++r) {
            WORLDFAST_UNROLL
            for (int c = 0; c < C; ++c) {
                T* to = out + r * out_row + c * W;
                if (done) sum[r][c] += at<W>(to);
                at<W>(to) = sum[r][c];
            }
        }
    }
}

// out[r, c] = sum over k < n of a[r, k] b[k, c] for one tile of rows and `columns`, a multiple of W.
template <int W, class T>
WORLDFAST_INLINE void product(const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_k, int64_t n,
                              T* out, int64_t out_row, int64_t columns) {
    constexpr int C = tile_vectors;
    int64_t c = 0;
    for (; c + C * W <= columns; c += C * W)
        product_tile<W, C>(a, a_row, a_k, b + c, b_k, n, out + c, out_row);
    for (; c < columns; c += W) product_tile<W, 1>(a, a_row, a_k, b + c, b_k, n, out + c, out_row);
}

// out [columns, rows] = in [rows, columns], both multiples of W. Merging line k with line k + W/2 into lines
// 2k and 2k + 1, log2(W) times over, transposes a W x W block.
template <int W, class T>
WORLDFAST_INLINE void transpose(const T* in, int64_t in_row, T* out, int64_t out_row, int64_t rows,
                                int64_t columns) {
    for (int64_t row = 0; row < rows; row += W) {
        for (int64_t column = 0; column < columns; column += W) {
            typename Lanes<W, T>::Float line[W], merged[W];
            WORLDFAST_UNROLL
            for (int i = 0; i < W; ++i) line[i] = at<W>(in + (row + i) * in_row + column);
            WORLDFAST_UNROLL
            for (int step = 1; step < W; step *= 2) {
                WORLDFAST_UNROLL
                for (int i = 0; i < W / 2; ++i)
                    interleave<W, T>(line[i], line[i + W / 2], merged[2 * i], merged[2 * i + 1]);
                WORLDFAST_UNROLL
                for (int i = 0; i < W; ++i) line[i] = merged[i];
            }
            WORLDFAST_UNROLL
            for (int i = 0; i < W; ++i) at<W>(out + (column + i) * out_row + row) = line[i];
        }
    }
}

// Cosine and sine of every angle, [positions, half].
template <class T> struct Rope {
    std::vector<T> cosine, sine;
    int64_t half;

    // Angles add: each position turns the one before, in the next wider type.
    Rope(double base, int64_t head_dim, int64_t positions) : half(head_dim / 2) {
        using Wide = std::conditional_t<std::is_same_v<T, double>, long double, double>;
        if (base == 0) return;
        cosine.resize(static_cast<size_t>(positions * half));
        sine.resize(cosine.size());
        for (int64_t d = 0; d < half; ++d) {
            const Wide step = std::pow(Wide(base), -static_cast<Wide>(d) / static_cast<Wide>(half));
            const Wide turn_c = std::cos(step), turn_s = std::sin(step);
            Wide c = 1, s = 0;
            for (int64_t p = 0; p < positions; ++p) {
                cosine[static_cast<size_t>(p * half + d)] = static_cast<T>(c);
                sine[static_cast<size_t>(p * half + d)] = static_cast<T>(s);
                const Wide next = c * turn_c - s * turn_s;
                s = s * turn_c + c * turn_s;
                c = next;
            }
        }
    }
    bool none() const { return cosine.empty(); }

    // out = in, turned by `position` forwards (sign 1) or backwards (sign -1).
    template <class In, class Out>
    WORLDFAST_INLINE void turn(const In* __restrict in, Out* __restrict out, int64_t position, T sign) const {
        const T* __restrict c = cosine.data() + position * half;
        const T* __restrict s = sine.data() + position * half;
        for (int64_t d = 0; d < half; ++d) {
            const T a = in[d], b = in[d + half], t = sign * s[d];
            out[d] = Out(a * c[d] - b * t);
            out[d + half] = Out(b * c[d] + a * t);
        }
    }
};

template <int write, class S> WORLDFAST_INLINE void prefetch(const S* p, int64_t n) {
    for (int64_t d = 0; d < n; d += 64 / sizeof(S)) __builtin_prefetch(p + d, write, 2);
}

// Whole heads are multiples of 8; a call to memcpy costs more than moving one.
template <class In, class Out>
WORLDFAST_INLINE void copy(const In* __restrict from, Out* __restrict to, int64_t n) {
    for (int64_t d = 0; d < n; d += 8) {
        WORLDFAST_UNROLL
        for (int i = 0; i < 8; ++i) to[d + i] = Out(from[d + i]);
    }
}

// The tiles of one (row, head), reused from row to row. `tokens` and `width` are rounded up to whole vectors
// and register tiles; what lies past the row's end is zero on the way in and never stored on the way out.
template <int W, class T> struct Tile {
    using Float = typename Lanes<W, T>::Float;
    using Index = typename Lanes<W, T>::Signed;

    static constexpr int64_t block = std::max(W, tile_rows);  // of queries: whole vectors and whole tiles

    int64_t tokens, padded, head_dim, width;

    Tile(int64_t tokens, int64_t head_dim)
        : tokens(tokens), padded(round_up(tokens, block)), head_dim(head_dim), width(round_up(head_dim, W)) {}

    // [padded, width] <- the row's tokens
    template <class S>
    WORLDFAST_INLINE void load(Heads<const S> from, int64_t first, int64_t head, T* to,
                               const Rope<T>* rope) const {
        for (int64_t i = 0; i < tokens; ++i) {
            prefetch<0>(from.of(first + tokens + i, head), head_dim);
            if (rope)
                rope->turn(from.of(first + i, head), to + i * width, i, T(1));
            else
                copy(from.of(first + i, head), to + i * width, head_dim);
        }
        std::memset(to + tokens * width, 0, static_cast<size_t>((padded - tokens) * width) * sizeof(T));
    }

    template <class S>
    WORLDFAST_INLINE void store(const T* from, Heads<S> to, int64_t first, int64_t head,
                                const Rope<T>* rope) const {
        for (int64_t i = 0; i < tokens; ++i) {
            prefetch<1>(to.of(first + tokens + i, head), head_dim);
            if (rope)
                rope->turn(from + i * width, to.of(first + i, head), i, T(-1));
            else
                copy(from + i * width, to.of(first + i, head), head_dim);
        }
    }

    // out[j, i] = a[j] . b[i] for keys j <= queries i and the rest of the vectors they stand in;
    // a [padded, width], b_t [width, padded]
    WORLDFAST_INLINE void pair(const T* a, const T* b_t, T* out) const {
        for (int64_t j = 0; j < tokens; j += tile_rows) {
            const int64_t i = j / W * W;
            product<W>(a + j * width, width, 1, b_t + i, padded, head_dim, out + j * padded + i, padded,
                       padded - i);
        }
    }

    // out[i] = sum over keys j <= i of weight[j, i] value[j]
    WORLDFAST_INLINE void gather(const T* weight, const T* value, T* out) const {
        for (int64_t i = 0; i < tokens; i += tile_rows)
            product<W>(weight + i, 1, padded, value, width, std::min(tokens, i + tile_rows), out + i * width,
                       width, width);
    }

    // out[j] = sum over queries i >= j of weight[j, i] value[i]
    WORLDFAST_INLINE void scatter(const T* weight, const T* value, T* out) const {
        for (int64_t j = 0; j < tokens; j += tile_rows)
            product<W>(weight + j * padded + j, padded, 1, value + j * width, width, tokens - j,
                       out + j * width, width, width);
    }

    // scores [key, query] -> probabilities, in place; zero where key > query.
    WORLDFAST_INLINE void softmax(T* scores) const {
        const T scale = static_cast<T>(M_LOG2E / std::sqrt(static_cast<double>(head_dim)));
        typename Lanes<W, T>::Int query{};
        for (int i = 0; i < W; ++i) query[i] = i;
        for (int64_t i = 0; i < padded; i += W, query += W) {
            T* column = scores + i;
            const int64_t keys = std::min(tokens, i / block * block + block);
            Float most = at<W>(column);
            for (int64_t j = 1; j < keys; ++j) {
                const Float s = query >= static_cast<Index>(j) ? Float(at<W>(column + j * padded)) : most;
                most = s > most ? s : most;
            }
            most *= scale;
            Float total{};
            for (int64_t j = 0; j < keys; ++j) {
                Float p = at<W>(column + j * padded) * scale - most;
                exp2_of<W, T>(p);
                p = query >= static_cast<Index>(j) ? p : Float{};
                total += p;
                at<W>(column + j * padded) = p;
            }
            total = T(1) / total;
            for (int64_t j = 0; j < keys; ++j) at<W>(column + j * padded) *= total;
        }
    }

    // grad [key, query], the gradient of the probabilities -> that of q . k, in place
    WORLDFAST_INLINE void softmax_backward(const T* probability, T* grad) const {
        const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(head_dim)));
        typename Lanes<W, T>::Int query{};
        for (int i = 0; i < W; ++i) query[i] = i;
        for (int64_t i = 0; i < padded; i += W, query += W) {
            const int64_t keys = std::min(tokens, i / block * block + block);
            Float mean{};
            for (int64_t j = 0; j < keys; ++j)
                mean += at<W>(probability + j * padded + i) * at<W>(grad + j * padded + i);
            for (int64_t j = 0; j < keys; ++j) {
                T* g = grad + j * padded + i;
                at<W>(g) = at<W>(probability + j * padded + i) * (at<W>(g) - mean) * scale;
            }
        }
    }
};

template <class S> using arithmetic_of = std::conditional_t<std::is_same_v<S, double>, double, float>;

// Lanes of a vector of T, of which W would be floats.
template <int W, class T> constexpr int lanes_of = W * sizeof(float) / sizeof(T);

template <class S> struct Pass {
    AttentionRows rows;
    Rope<arithmetic_of<S>> rope;
    int64_t longest;
    Heads<const S> q, k, v, grad_out{};
    Heads<S> out{}, grad_q{}, grad_k{}, grad_v{};
};

// Rows whose first token is in [begin, end): ranges of tokens balance the threads better than ranges of rows.
template <int lanes, class S>
WORLDFAST_INLINE void forward_body(const Pass<S>& pass, int64_t begin, int64_t end) {
    using T = arithmetic_of<S>;
    constexpr int W = lanes_of<lanes, T>;
    const AttentionRows& rows = pass.rows;
    const Rope<T>* rope = pass.rope.none() ? nullptr : &pass.rope;
    const Tile<W, T> longest(pass.longest, rows.head_dim);
    const int64_t padded = longest.padded, width = longest.width;
    Scratch<T> scratch(static_cast<size_t>(padded * (4 * width + padded)));
    const auto matrix = [&](int64_t columns) { return scratch.take(padded * columns); };
    T *q = matrix(width), *k = matrix(width), *v = matrix(width), *turned = matrix(width);
    T* scores = matrix(padded);
    const int32_t* start =
        std::lower_bound(rows.row_start, rows.row_start + rows.rows, static_cast<int32_t>(begin));
    for (; start < rows.row_start + rows.rows && *start < end; ++start) {
        const Tile<W, T> tile(start[1] - start[0], rows.head_dim);
        for (int64_t head = 0; head < rows.heads; ++head) {
            tile.load(pass.q, *start, head, q, rope);
            tile.load(pass.k, *start, head, k, rope);
            tile.load(pass.v, *start, head, v, nullptr);
            transpose<W>(q, width, turned, tile.padded, tile.padded, width);
            tile.pair(k, turned, scores);
            tile.softmax(scores);
            tile.gather(scores, v, q);
            tile.store(q, pass.out, *start, head, nullptr);
        }
    }
}

template <int lanes, class S>
WORLDFAST_INLINE void backward_body(const Pass<S>& pass, int64_t begin, int64_t end) {
    using T = arithmetic_of<S>;
    constexpr int W = lanes_of<lanes, T>;
    const AttentionRows& rows = pass.rows;
    const Rope<T>* rope = pass.rope.none() ? nullptr : &pass.rope;
    const Tile<W, T> longest(pass.longest, rows.head_dim);
    const int64_t padded = longest.padded, width = longest.width;
    Scratch<T> scratch(static_cast<size_t>(padded * (6 * width + 2 * padded)));
    const auto matrix = [&](int64_t columns) { return scratch.take(padded * columns); };
    T *q = matrix(width), *k = matrix(width), *v = matrix(width), *g = matrix(width);
    T *turned = matrix(width), *grad = matrix(width);
    T *probability = matrix(padded), *grad_score = matrix(padded);
    const int32_t* start =
        std::lower_bound(rows.row_start, rows.row_start + rows.rows, static_cast<int32_t>(begin));
    for (; start < rows.row_start + rows.rows && *start < end; ++start) {
        const Tile<W, T> tile(start[1] - start[0], rows.head_dim);
        for (int64_t head = 0; head < rows.heads; ++head) {
            tile.load(pass.q, *start, head, q, rope);
            tile.load(pass.k, *start, head, k, rope);
            tile.load(pass.v, *start, head, v, nullptr);
            tile.load(pass.grad_out, *start, head, g, nullptr);
            transpose<W>(q, width, turned, tile.padded, tile.padded, width);
            tile.pair(k, turned, probability);
            tile.softmax(probability);
            transpose<W>(g, width, turned, tile.padded, tile.padded, width);
            tile.pair(v, turned, grad_score);
            tile.softmax_backward(probability, grad_score);
            tile.scatter(probability, g, grad);
            tile.store(grad, pass.grad_v, *start, head, nullptr);
            tile.scatter(grad_score, q, grad);
            tile.store(grad, pass.grad_k, *start, head, rope);
            tile.gather(grad_score, k, grad);
            tile.store(grad, pass.grad_q, *start, head, rope);
        }
    }
}

#define WORLDFAST_ATTENTION(S)                                                                          \
    WORLDFAST_DISPATCH(forward, forward_body, (const Pass<S>& pass, int64_t begin, int64_t end),        \
                       (pass, begin, end))                                                              \
    WORLDFAST_DISPATCH(backward, backward_body, (const Pass<S>& pass, int64_t begin, int64_t end),      \
                       (pass, begin, end))
WORLDFAST_ATTENTION(float)
WORLDFAST_ATTENTION(double)
WORLDFAST_ATTENTION(BFloat16)
WORLDFAST_ATTENTION(Float16)
#undef WORLDFAST_ATTENTION

// The longest row, at least 1.
int64_t check(const AttentionRows& rows) {
    if (rows.head_dim < 8 || rows.head_dim > 128 || rows.head_dim % 8)
        throw std::invalid_argument("head_dim: expected a multiple of 8 from 8 to 128, got " +
                                    std::to_string(rows.head_dim));
    if (!(rows.rope_base >= 0) || std::isinf(rows.rope_base))
        throw std::invalid_argument("rope_base: expected a positive number, or 0 for no RoPE, got " +
                                    std::to_string(rows.rope_base));
    if (rows.rows > 0 && rows.row_start[0] != 0)
        throw std::invalid_argument("cu_seqlens: expected to start at 0, got " +
                                    std::to_string(rows.row_start[0]));
    int64_t longest = 1;
    for (int64_t r = 0; r < rows.rows; ++r) {
        const int64_t length = int64_t{rows.row_start[r + 1]} - rows.row_start[r];
        if (length < 0 || length > attention_row_limit)
            throw std::invalid_argument("cu_seqlens: expected rows of 0 to " +
                                        std::to_string(attention_row_limit) + " tokens, got " +
                                        std::to_string(length) + " in row " + std::to_string(r));
        longest = std::max(longest, length);
    }
    return longest;
}

}  // namespace

template <class S>
void attention_forward(const AttentionRows& rows, Heads<const S> q, Heads<const S> k, Heads<const S> v,
                       Heads<S> out) {
    const int64_t longest = check(rows);
    Pass<S> pass{rows, {rows.rope_base, rows.head_dim, longest}, longest, q, k, v};
    pass.out = out;
    parallel_for(rows.row_start[rows.rows], forward_grain, rows.threads,
                 [&](int64_t begin, int64_t end) { forward(pass, begin, end); });
}

template <class S>
void attention_backward(const AttentionRows& rows, Heads<const S> q, Heads<const S> k, Heads<const S> v,
                        Heads<const S> grad_out, Heads<S> grad_q, Heads<S> grad_k, Heads<S> grad_v) {
    const int64_t longest = check(rows);
    Pass<S> pass{rows, {rows.rope_base, rows.head_dim, longest}, longest, q, k, v};
    pass.grad_out = grad_out;
    pass.grad_q = grad_q;
    pass.grad_k = grad_k;
    pass.grad_v = grad_v;
    parallel_for(rows.row_start[rows.rows], backward_grain, rows.threads,
                 [&](int64_t begin, int64_t end) { backward(pass, begin, end); });
}

#define WORLDFAST_ATTENTION(S)                                                                          \
    template void attention_forward(const AttentionRows&, Heads<const S>, Heads<const S>,               \
                                    Heads<const S>, Heads<S>);                                          \
    template void attention_backward(const AttentionRows&, Heads<const S>, Heads<const S>,              \
                                     Heads<const S>, Heads<const S>, Heads<S>, Heads<S>, Heads<S>);
WORLDFAST_ATTENTION(float)
WORLDFAST_ATTENTION(double)
WORLDFAST_ATTENTION(BFloat16)
WORLDFAST_ATTENTION(Float16)

}  // namespace worldfast
