// One (row, head) at a time, whole: a row of the task mix has 25 to 57 tokens, so its q, k, v and scores fit
// in the first caches and there is nothing to tile over, no running softmax, and nothing to save for the
// backward pass.
//
// Scores are kept transposed, [key, query] with the queries in the lanes of a vector. Softmax then is
// vertical arithmetic, and every product of both passes is one kernel, `product`, with different strides.
//
// S is the type of the arrays, T that of the arithmetic: double where S is, else float. Rows are widened on
// their way into a tile and rounded on their way out, so nothing between knows of S: it is compiled for two
// types, not four, and both passes share it.
#include "transformer/attention.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "base/float16.h"
#include "base/parallel.h"
#include "base/simd.h"

namespace worldfast {
namespace {

constexpr int64_t forward_grain = 512, backward_grain = 256;  // tokens that are worth a thread

// A register tile: 4 rows of 2 vectors are 8 accumulators, enough to hide the latency of a multiply-add, with
// little waste along the diagonal. 4 divides every W, so a tile there stays in one vector of queries. Registers
// are not its limit: 6 rows would stay in them too.
constexpr int tile_rows = 4, tile_vectors = 2;

// Terms per chain of sums: chains are then added up, which halves the rounding of the longest.
constexpr int64_t chain = 32;

template <int W, int C, class T>
WORLDFAST_INLINE void product_tile(const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_k, int64_t n, T* out,
                                   int64_t out_row) {
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
WORLDFAST_INLINE void product(const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_k, int64_t n, T* out,
                              int64_t out_row, int64_t columns) {
    constexpr int C = tile_vectors;
    int64_t c = 0;
    for (; c + C * W <= columns; c += C * W) product_tile<W, C>(a, a_row, a_k, b + c, b_k, n, out + c, out_row);
    for (; c < columns; c += W) product_tile<W, 1>(a, a_row, a_k, b + c, b_k, n, out + c, out_row);
}

// out [columns, rows] = in [rows, columns], both multiples of W.
template <int W, class T>
WORLDFAST_INLINE void transpose(const T* in, int64_t in_row, T* out, int64_t out_row, int64_t rows, int64_t columns) {
    for (int64_t row = 0; row < rows; row += W) {
        for (int64_t column = 0; column < columns; column += W) {
            typename Lanes<W, T>::Float line[W];
            WORLDFAST_UNROLL
            for (int i = 0; i < W; ++i) line[i] = at<W>(in + (row + i) * in_row + column);
            transpose_lines<W, T>(line);
            WORLDFAST_UNROLL
            for (int i = 0; i < W; ++i) at<W>(out + (column + i) * out_row + row) = line[i];
        }
    }
}

// Cosine and sine of every angle, [positions, half].
template <class T>
struct Rope {
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

    // out = in, or out += in, turned by `position` forwards (sign 1) or backwards (sign -1).
    template <bool add = false, class In, class Out>
    WORLDFAST_INLINE void turn(const In* __restrict in, Out* __restrict out, int64_t position, T sign) const {
        const T* __restrict c = cosine.data() + position * half;
        const T* __restrict s = sine.data() + position * half;
        for (int64_t d = 0; d < half; ++d) {
            const T a = in[d], b = in[d + half], t = sign * s[d];
            out[d] = Out(a * c[d] - b * t + (add ? T(out[d]) : T(0)));
            out[d + half] = Out(b * c[d] + a * t + (add ? T(out[d + half]) : T(0)));
        }
    }
};

template <int write, class S>
WORLDFAST_INLINE void prefetch(const S* p, int64_t n) {
    for (int64_t d = 0; d < n; d += 64 / sizeof(S)) __builtin_prefetch(p + d, write, 2);
}

// Whole heads are multiples of 8; a call to memcpy costs more than moving one.
template <bool add = false, class In, class Out>
WORLDFAST_INLINE void copy(const In* __restrict from, Out* __restrict to, int64_t n) {
    for (int64_t d = 0; d < n; d += 8) {
        WORLDFAST_UNROLL
        for (int i = 0; i < 8; ++i) to[d + i] = add ? Out(to[d + i] + from[d + i]) : Out(from[d + i]);
    }
}

// Where a row's tokens stand.
struct Places {
    int64_t first;
    const int32_t* place;  // null: from `first` on
    int64_t operator()(int64_t i) const { return place ? place[i] : first + i; }
};

template <class S>
using arithmetic_of = std::conditional_t<std::is_same_v<S, double>, double, float>;

// Lanes of a vector of T on a processor with `lanes` floats per vector.
template <int lanes, class T>
constexpr int lanes_of = lanes * sizeof(float) / sizeof(T);

// The tiles of one (row, head), reused from row to row. `padded` and `width` are rounded up to whole vectors
// and register tiles; what lies past the row's end is zero on the way in and never stored on the way out.
struct Extent {
    int64_t block;  // of queries: whole vectors and whole tiles
    int64_t tokens, padded, head_dim, width;
    int64_t query, first;  // the first token that is a query, and where its vector of queries begins

    Extent(int64_t vector, int64_t tokens, int64_t head_dim, int64_t query = 0)
        : block(std::max<int64_t>(vector, tile_rows)),
          tokens(tokens),
          padded(round_up(tokens, block)),
          head_dim(head_dim),
          width(round_up(head_dim, vector)),
          query(query),
          first(query / block * block) {}
};

// ---- between arrays and tiles, for each type of array ----

// to [padded, width] <- the row's tokens from `begin` on; zeros before them, as far as anybody looks
template <int lanes, class S, class T>
WORLDFAST_INLINE void load_body(const Extent& row, Heads<const S> from, Places at, int64_t head, T* to,
                                const Rope<T>* rope, int64_t begin) {
    const int64_t look = begin / row.block * row.block, width = row.width, head_dim = row.head_dim;
    std::memset(to + look * width, 0, static_cast<size_t>((begin - look) * width) * sizeof(T));
    for (int64_t i = begin; i < row.tokens; ++i) {
        if (!at.place) prefetch<0>(from.of(at(row.tokens + i), head), head_dim);
        if (rope)
            rope->turn(from.of(at(i), head), to + i * width, i, T(1));
        else
            copy(from.of(at(i), head), to + i * width, head_dim);
    }
    const int64_t rest = (row.padded - row.tokens) * width;
    std::memset(to + row.tokens * width, 0, static_cast<size_t>(rest) * sizeof(T));
}

template <bool add, class S, class T>
WORLDFAST_INLINE void store_as(const Extent& row, const T* from, Heads<S> to, Places at, int64_t head,
                               const Rope<T>* rope, int64_t begin) {
    for (int64_t i = begin; i < row.tokens; ++i) {
        if (!at.place) prefetch<1>(to.of(at(row.tokens + i), head), row.head_dim);
        if (rope)
            rope->template turn<add>(from + i * row.width, to.of(at(i), head), i, T(-1));
        else
            copy<add>(from + i * row.width, to.of(at(i), head), row.head_dim);
    }
}

// Gradients are added up in float: no other type is asked for where rows share tokens.
template <int lanes, class S, class T>
WORLDFAST_INLINE void store_body(const Extent& row, const T* from, Heads<S> to, bool add, Places at, int64_t head,
                                 const Rope<T>* rope, int64_t begin) {
    if constexpr (std::is_same_v<S, float>) {
        if (add) return store_as<true>(row, from, to, at, head, rope, begin);
    }
    store_as<false>(row, from, to, at, head, rope, begin);
}

// ---- from tile to tile, for each type of arithmetic ----

// b_t [width, padded] <- b [padded, width], of the queries
template <int lanes, class T>
WORLDFAST_INLINE void transpose_body(const Extent& row, const T* b, T* b_t) {
    transpose<lanes_of<lanes, T>>(b + row.first * row.width, row.width, b_t + row.first, row.padded,
                                  row.padded - row.first, row.width);
}

// out[j, i] = a[j] . b[i] for keys j <= queries i and the rest of the vectors they stand in;
// a [padded, width], b_t [width, padded]
template <int lanes, class T>
WORLDFAST_INLINE void pair_body(const Extent& row, const T* a, const T* b_t, T* out) {
    constexpr int W = lanes_of<lanes, T>;
    for (int64_t j = 0; j < row.tokens; j += tile_rows) {
        const int64_t i = std::max(j / W * W, row.first);
        product<W>(a + j * row.width, row.width, 1, b_t + i, row.padded, row.head_dim, out + j * row.padded + i,
                   row.padded, row.padded - i);
    }
}

// out[i] = sum over keys j <= i of weight[j, i] value[j]
template <int lanes, class T>
WORLDFAST_INLINE void gather_body(const Extent& row, const T* weight, const T* value, T* out) {
    for (int64_t i = row.query / tile_rows * tile_rows; i < row.tokens; i += tile_rows)
        product<lanes_of<lanes, T>>(weight + i, 1, row.padded, value, row.width, std::min(row.tokens, i + tile_rows),
                                    out + i * row.width, row.width, row.width);
}

// out[j] = sum over queries i >= j of weight[j, i] value[i]
template <int lanes, class T>
WORLDFAST_INLINE void scatter_body(const Extent& row, const T* weight, const T* value, T* out) {
    for (int64_t j = 0; j < row.tokens; j += tile_rows) {
        const int64_t i = std::max(j, row.query);
        product<lanes_of<lanes, T>>(weight + j * row.padded + i, row.padded, 1, value + i * row.width, row.width,
                                    row.tokens - i, out + j * row.width, row.width, row.width);
    }
}

// scores [key, query] -> probabilities, in place; zero where key > query.
template <int lanes, class T>
WORLDFAST_INLINE void softmax_body(const Extent& row, T* scores) {
    constexpr int W = lanes_of<lanes, T>;
    using Float = typename Lanes<W, T>::Float;
    using Index = typename Lanes<W, T>::Signed;
    const T scale = static_cast<T>(M_LOG2E / std::sqrt(static_cast<double>(row.head_dim)));
    const int64_t padded = row.padded;
    typename Lanes<W, T>::Int query{};
    for (int i = 0; i < W; ++i) query[i] = i;
    query += static_cast<Index>(row.first);
    for (int64_t i = row.first; i < padded; i += W, query += W) {
        T* column = scores + i;
        const int64_t keys = std::min(row.tokens, i / row.block * row.block + row.block);
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
template <int lanes, class T>
WORLDFAST_INLINE void softmax_backward_body(const Extent& row, const T* probability, T* grad) {
    constexpr int W = lanes_of<lanes, T>;
    const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(row.head_dim)));
    for (int64_t i = row.first; i < row.padded; i += W) {
        const int64_t keys = std::min(row.tokens, i / row.block * row.block + row.block);
        typename Lanes<W, T>::Float mean{};
        for (int64_t j = 0; j < keys; ++j)
            mean += at<W>(probability + j * row.padded + i) * at<W>(grad + j * row.padded + i);
        for (int64_t j = 0; j < keys; ++j) {
            T* g = grad + j * row.padded + i;
            at<W>(g) = at<W>(probability + j * row.padded + i) * (at<W>(g) - mean) * scale;
        }
    }
}

#define WORLDFAST_ARRAYS(S, T)                                                                                         \
    WORLDFAST_EACH_WIDTH(                                                                                              \
        load, load_body,                                                                                               \
        (const Extent& row, Heads<const S> from, Places at, int64_t head, T* to, const Rope<T>* rope, int64_t begin),  \
        (row, from, at, head, to, rope, begin))                                                                        \
    WORLDFAST_EACH_WIDTH(store, store_body,                                                                            \
                         (const Extent& row, const T* from, Heads<S> to, bool add, Places at, int64_t head,            \
                          const Rope<T>* rope, int64_t begin),                                                         \
                         (row, from, to, add, at, head, rope, begin))
WORLDFAST_ARRAYS(float, float)
WORLDFAST_ARRAYS(double, double)
WORLDFAST_ARRAYS(BFloat16, float)
WORLDFAST_ARRAYS(Float16, float)

#define WORLDFAST_TILES(T)                                                                                             \
    WORLDFAST_EACH_WIDTH(transpose, transpose_body, (const Extent& row, const T* b, T* b_t), (row, b, b_t))            \
    WORLDFAST_EACH_WIDTH(pair, pair_body, (const Extent& row, const T* a, const T* b_t, T* out), (row, a, b_t, out))   \
    WORLDFAST_EACH_WIDTH(gather, gather_body, (const Extent& row, const T* weight, const T* value, T* out),            \
                         (row, weight, value, out))                                                                    \
    WORLDFAST_EACH_WIDTH(scatter, scatter_body, (const Extent& row, const T* weight, const T* value, T* out),          \
                         (row, weight, value, out))                                                                    \
    WORLDFAST_EACH_WIDTH(softmax, softmax_body, (const Extent& row, T* scores), (row, scores))                         \
    WORLDFAST_EACH_WIDTH(softmax_backward, softmax_backward_body, (const Extent& row, const T* probability, T* grad),  \
                         (row, probability, grad))
WORLDFAST_TILES(float)
WORLDFAST_TILES(double)

// ---- passes ----

template <class S, class G = S>
struct Pass {
    AttentionRows rows;
    Rope<arithmetic_of<S>> rope;
    int64_t longest;
    Heads<const S> q, k, v, grad_out{};
    Heads<S> out{};
    Heads<G> grad_q{}, grad_k{}, grad_v{};

    Places places(const int32_t* start) const { return {*start, rows.place ? rows.place + *start : nullptr}; }
    int64_t query(const int32_t* start) const { return rows.query ? rows.query[start - rows.row_start] : 0; }
};

// Rows whose first token is in [begin, end): ranges of tokens balance the threads better than ranges of rows.
template <int lanes, class S>
WORLDFAST_INLINE void forward_body(const Pass<S>& pass, int64_t begin, int64_t end) {
    using T = arithmetic_of<S>;
    constexpr int64_t vector = lanes_of<lanes, T>;
    const AttentionRows& rows = pass.rows;
    const Rope<T>* rope = pass.rope.none() ? nullptr : &pass.rope;
    const Extent longest(vector, pass.longest, rows.head_dim);
    const int64_t padded = longest.padded, width = longest.width;
    Scratch<T> scratch(static_cast<size_t>(padded * (4 * width + padded)));
    const auto matrix = [&](int64_t columns) { return scratch.take(padded * columns); };
    T *q = matrix(width), *k = matrix(width), *v = matrix(width), *turned = matrix(width);
    T* scores = matrix(padded);
    const int32_t* start = std::lower_bound(rows.row_start, rows.row_start + rows.rows, static_cast<int32_t>(begin));
    for (; start < rows.row_start + rows.rows && *start < end; ++start) {
        const Extent row(vector, start[1] - start[0], rows.head_dim, pass.query(start));
        if (row.query == row.tokens) continue;
        const Places at = pass.places(start);
        for (int64_t head = 0; head < rows.heads; ++head) {
            load<lanes>(row, pass.q, at, head, q, rope, row.query);
            load<lanes>(row, pass.k, at, head, k, rope, 0);
            load<lanes>(row, pass.v, at, head, v, nullptr, 0);
            transpose<lanes>(row, q, turned);
            pair<lanes>(row, k, turned, scores);
            softmax<lanes>(row, scores);
            gather<lanes>(row, scores, v, q);
            store<lanes>(row, q, pass.out, false, at, head, nullptr, row.query);
        }
    }
}

template <int lanes, class S, class G>
WORLDFAST_INLINE void backward_body(const Pass<S, G>& pass, int64_t begin, int64_t end) {
    using T = arithmetic_of<S>;
    constexpr int64_t vector = lanes_of<lanes, T>;
    const AttentionRows& rows = pass.rows;
    const bool add = rows.place || !std::is_same_v<S, G>;
    const Rope<T>* rope = pass.rope.none() ? nullptr : &pass.rope;
    const Extent longest(vector, pass.longest, rows.head_dim);
    const int64_t padded = longest.padded, width = longest.width;
    Scratch<T> scratch(static_cast<size_t>(padded * (6 * width + 2 * padded)));
    const auto matrix = [&](int64_t columns) { return scratch.take(padded * columns); };
    T *q = matrix(width), *k = matrix(width), *v = matrix(width), *g = matrix(width);
    T *turned = matrix(width), *grad = matrix(width);
    T *probability = matrix(padded), *grad_score = matrix(padded);
    const int32_t* start = std::lower_bound(rows.row_start, rows.row_start + rows.rows, static_cast<int32_t>(begin));
    for (; start < rows.row_start + rows.rows && *start < end; ++start) {
        const Extent row(vector, start[1] - start[0], rows.head_dim, pass.query(start));
        if (row.query == row.tokens) continue;
        const Places at = pass.places(start);
        for (int64_t head = 0; head < rows.heads; ++head) {
            load<lanes>(row, pass.q, at, head, q, rope, row.query);
            load<lanes>(row, pass.k, at, head, k, rope, 0);
            load<lanes>(row, pass.v, at, head, v, nullptr, 0);
            load<lanes>(row, pass.grad_out, at, head, g, nullptr, row.query);
            transpose<lanes>(row, q, turned);
            pair<lanes>(row, k, turned, probability);
            softmax<lanes>(row, probability);
            transpose<lanes>(row, g, turned);
            pair<lanes>(row, v, turned, grad_score);
            softmax_backward<lanes>(row, probability, grad_score);
            scatter<lanes>(row, probability, g, grad);
            store<lanes>(row, grad, pass.grad_v, add, at, head, nullptr, 0);
            scatter<lanes>(row, grad_score, q, grad);
            store<lanes>(row, grad, pass.grad_k, add, at, head, rope, 0);
            gather<lanes>(row, grad_score, k, grad);
            store<lanes>(row, grad, pass.grad_q, add, at, head, rope, row.query);
        }
    }
}

#define WORLDFAST_ATTENTION(S)                                                                                         \
    WORLDFAST_DISPATCH(forward, forward_body, (const Pass<S>& pass, int64_t begin, int64_t end), (pass, begin, end))   \
    WORLDFAST_DISPATCH(backward, backward_body, (const Pass<S>& pass, int64_t begin, int64_t end), (pass, begin, end))
WORLDFAST_ATTENTION(float)
WORLDFAST_ATTENTION(double)
WORLDFAST_ATTENTION(BFloat16)
WORLDFAST_ATTENTION(Float16)
#undef WORLDFAST_ATTENTION
using Mixed = Pass<BFloat16, float>;
WORLDFAST_DISPATCH(backward, backward_body, (const Mixed& pass, int64_t begin, int64_t end), (pass, begin, end))

// The longest row, at least 1.
int64_t check(const AttentionRows& rows) {
    if (rows.head_dim < 8 || rows.head_dim > 128 || rows.head_dim % 8)
        throw std::invalid_argument("head_dim: expected a multiple of 8 from 8 to 128, got " +
                                    std::to_string(rows.head_dim));
    if (!(rows.rope_base >= 0) || std::isinf(rows.rope_base))
        throw std::invalid_argument("rope_base: expected a positive number, or 0 for no RoPE, got " +
                                    std::to_string(rows.rope_base));
    if (rows.row_start[0] != 0)
        throw std::invalid_argument("cu_seqlens: expected to start at 0, got " + std::to_string(rows.row_start[0]));
    int64_t longest = 1;
    for (int64_t r = 0; r < rows.rows; ++r) {
        const int64_t length = int64_t{rows.row_start[r + 1]} - rows.row_start[r];
        if (length < 0 || length > attention_row_limit)
            throw std::invalid_argument("cu_seqlens: expected rows of 0 to " + std::to_string(attention_row_limit) +
                                        " tokens, got " + std::to_string(length) + " in row " + std::to_string(r));
        longest = std::max(longest, length);
    }
    return longest;
}

}  // namespace

template <class S>
void attention_forward(const AttentionRows& rows, Heads<const S> q, Heads<const S> k, Heads<const S> v, Heads<S> out) {
    const int64_t longest = check(rows);
    Pass<S> pass{rows, {rows.rope_base, rows.head_dim, longest}, longest, q, k, v};
    pass.out = out;
    parallel_for(rows.row_start[rows.rows], forward_grain, rows.threads,
                 [&](int64_t begin, int64_t end) { forward(pass, begin, end); });
}

template <class S, class G>
void attention_backward(const AttentionRows& rows, Heads<const S> q, Heads<const S> k, Heads<const S> v,
                        Heads<const S> grad_out, Heads<G> grad_q, Heads<G> grad_k, Heads<G> grad_v) {
    const int64_t longest = check(rows);
    Pass<S, G> pass{rows, {rows.rope_base, rows.head_dim, longest}, longest, q, k, v};
    pass.grad_out = grad_out;
    pass.grad_q = grad_q;
    pass.grad_k = grad_k;
    pass.grad_v = grad_v;
    parallel_for(rows.row_start[rows.rows], backward_grain, rows.place ? 1 : rows.threads,
                 [&](int64_t begin, int64_t end) { backward(pass, begin, end); });
}

#define WORLDFAST_ATTENTION(S)                                                                                         \
    template void attention_forward(const AttentionRows&, Heads<const S>, Heads<const S>, Heads<const S>, Heads<S>);   \
    template void attention_backward(const AttentionRows&, Heads<const S>, Heads<const S>, Heads<const S>,             \
                                     Heads<const S>, Heads<S>, Heads<S>, Heads<S>);
WORLDFAST_ATTENTION(float)
WORLDFAST_ATTENTION(double)
WORLDFAST_ATTENTION(BFloat16)
WORLDFAST_ATTENTION(Float16)
template void attention_backward(const AttentionRows&, Heads<const BFloat16>, Heads<const BFloat16>,
                                 Heads<const BFloat16>, Heads<const BFloat16>, Heads<float>, Heads<float>,
                                 Heads<float>);

}  // namespace worldfast
