// What attention over short rows and over long ones is made of: products of tiles, RoPE, and rows on their way between
// arrays and tiles.
//
// Scores are kept transposed, [key, query] with the queries in the lanes of a vector. Softmax then is
// vertical arithmetic, and every product of both passes is one kernel, `product`, with different strides.
//
// S is the type of the arrays, T that of the arithmetic: double where S is, else float. Rows are widened on
// their way into a tile and rounded on their way out, so nothing between knows of S: it is compiled for two
// types, not four, and both passes share it.
#pragma once

#include <cmath>

#include "base/float16.h"
#include "base/simd.h"
#include "transformer/attention.h"

namespace worldfast {

// A register tile: 4 rows of 2 vectors are 8 accumulators, enough to hide the latency of a multiply-add, with
// little waste along the diagonal. 4 divides every W, so a tile there stays in one vector of queries. Registers
// are not its limit: 6 rows would stay in them too.
constexpr int tile_rows = 4, tile_vectors = 2;

// Terms per chain of sums: chains are then added up, which halves the rounding of the longest.
constexpr int64_t chain = 32;

template <int W, int R, int C, bool add, class T>
WORLDFAST_INLINE void product_tile(const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_k, int64_t n, T* out,
                                   int64_t out_row) {
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
                if (add || done) sum[r][c] += at<W>(to);
                at<W>(to) = sum[r][c];
            }
        }
    }
}

// out[r, c] = or += the sum over k < n of a[r, k] b[k, c] for R rows and `columns`, a multiple of W.
template <int W, int R = tile_rows, bool add = false, class T>
WORLDFAST_INLINE void product(const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_k, int64_t n, T* out,
                              int64_t out_row, int64_t columns) {
    constexpr int C = tile_vectors;
    int64_t c = 0;
    for (; c + C * W <= columns; c += C * W) product_tile<W, R, C, add>(a, a_row, a_k, b + c, b_k, n, out + c, out_row);
    for (; c < columns; c += W) product_tile<W, R, 1, add>(a, a_row, a_k, b + c, b_k, n, out + c, out_row);
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

// Lanes of a vector of T on a processor with `lanes` floats per vector.
template <int lanes, class T>
constexpr int lanes_of = lanes * sizeof(float) / sizeof(T);

// The tiles of one (row, head), reused from row to row. `padded` and `width` are rounded up to whole vectors
// and register tiles; what lies past the row's end is zero on the way in and never stored on the way out.
struct Extent {
    int64_t block;  // of queries: whole vectors and whole tiles
    int64_t tokens, padded, head_dim, width;
    int64_t query, first;  // the first token that is a query, and where its block of queries begins

    Extent(int64_t vector, int64_t tokens, int64_t head_dim, int64_t query = 0, int64_t block = tile_rows)
        : block(std::max(vector, block)),
          tokens(tokens),
          padded(round_up(tokens, this->block)),
          head_dim(head_dim),
          width(round_up(head_dim, vector)),
          query(query),
          first(query / this->block * this->block) {}
};

// ---- between arrays and tiles, for each type of array ----

// So many tokens ahead are called for: a row, or of a long one as many as come in while memory answers.
inline int64_t ahead(const Extent& row) { return row.tokens > attention_short_row ? 16 : row.tokens; }

// to [padded, width] <- the row's tokens from `begin` on; zeros before them, as far as anybody looks
template <int lanes, class S, class T>
WORLDFAST_INLINE void load_body(const Extent& row, Heads<const S> from, Places at, int64_t head, T* to,
                                const Rope<T>* rope, int64_t begin) {
    const int64_t look = begin / row.block * row.block, width = row.width, head_dim = row.head_dim;
    const int64_t next = ahead(row);
    std::memset(to + look * width, 0, static_cast<size_t>((begin - look) * width) * sizeof(T));
    for (int64_t i = begin; i < row.tokens; ++i) {
        if (!at.place) prefetch<0>(from.of(at(i + next), head), head_dim);
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
    const int64_t next = ahead(row);
    for (int64_t i = begin; i < row.tokens; ++i) {
        if (!at.place) prefetch<1>(to.of(at(i + next), head), row.head_dim);
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

#define WORLDFAST_ARRAYS(S, T)                                                                                         \
    WORLDFAST_EACH_WIDTH(                                                                                              \
        load, load_body,                                                                                               \
        (const Extent& row, Heads<const S> from, Places at, int64_t head, T* to, const Rope<T>* rope, int64_t begin),  \
        (row, from, at, head, to, rope, begin))                                                                        \
    WORLDFAST_EACH_WIDTH(store, store_body,                                                                            \
                         (const Extent& row, const T* from, Heads<S> to, bool add, Places at, int64_t head,            \
                          const Rope<T>* rope, int64_t begin),                                                         \
                         (row, from, to, add, at, head, rope, begin))

// ---- passes ----

// What goes in and out, of either pass.
template <class S, class G = S>
struct Pass {
    AttentionRows rows;
    const Rope<arithmetic_of<S>>& rope;
    int64_t longest;  // of the rows that are gone through
    Interruption& interruption;
    Heads<const S> q, k, v, grad_out{};
    Heads<S> out{};
    Heads<G> grad_q{}, grad_k{}, grad_v{};

    Places places(const int32_t* start) const { return {*start, rows.place ? rows.place + *start : nullptr}; }
    int64_t query(const int32_t* start) const { return rows.query ? rows.query[start - rows.row_start] : 0; }
    // Whether a thread ends, whose range begins there: that of the caller asks.
    bool ends(int64_t begin) const { return interruption.end(rows.asks && begin == 0); }
    Interruption* asked() const { return rows.asks ? &interruption : nullptr; }
};

// The long rows of a pass, one at a time for each head.
template <class S>
void long_rows_forward(const Pass<S>& pass);
template <class S, class G>
void long_rows_backward(const Pass<S, G>& pass);

}  // namespace worldfast
