// One (row, head) at a time, in blocks of queries. The forward pass goes over the keys tile by tile, with the largest score
// and the sum of each query so far (online softmax, arXiv 2205.14135). The backward pass has all scores of a block side by
// side, in the second cache, and so needs nothing of the forward pass but its inputs here too.
//
// Queries come with log2(e) / sqrt(head_dim), so that a score is an exponent of 2.
#include <limits>
#include <vector>

#include "base/parallel.h"
#include "transformer/attention_tiles.h"

namespace worldfast {
namespace {

constexpr int64_t side =
    64;  // queries of a block, and keys of a tile: what a product reads stays in the nearest caches

// Rows of a register tile: 16 sums where there are 32 registers.
template <int lanes>
constexpr int register_rows = lanes == 16 ? 8 : tile_rows;

// Queries of a block, and keys of another or the same one: then a key is seen from its own query on. Both are whole
// register tiles.
struct Tile {
    int64_t queries, keys;
    bool diagonal;
    int64_t head_dim, width;
};

// b_t [width, side] <- b [side, width]
template <int lanes, class T>
WORLDFAST_INLINE void turn_body(int64_t width, const T* b, T* b_t) {
    transpose<lanes_of<lanes, T>>(b, width, b_t, side, side, width);
}

template <int lanes, class T>
WORLDFAST_INLINE void turn_back_body(int64_t width, const T* b_t, T* b) {
    transpose<lanes_of<lanes, T>>(b_t, side, b, width, width, side);
}

// score[j, i] = a[j] . b[i] where query i sees key j, and in some other places; a [side, width], b_t [width, side],
// score [side, side]
template <int lanes, class T>
WORLDFAST_INLINE void pair_tiles_body(const Tile& tile, const T* a, const T* b_t, T* score) {
    constexpr int W = lanes_of<lanes, T>, R = register_rows<lanes>;
    for (int64_t j = 0; j < tile.keys; j += R) {
        const int64_t i = tile.diagonal ? j / W * W : 0;
        product<W, R>(a + j * tile.width, tile.width, 1, b_t + i, side, tile.head_dim, score + j * side + i, side,
                      tile.queries - i);
    }
}

// score[j, i] = value where query i does not see key j
template <int lanes, class T>
WORLDFAST_INLINE void hide_body(const Tile& tile, T value, T* score) {
    constexpr int W = lanes_of<lanes, T>;
    using Lane = Lanes<W, T>;
    typename Lane::Int lane{};
    for (int n = 0; n < W; ++n) lane[n] = n;
    for (int64_t j = 0; tile.diagonal && j < tile.keys; ++j) {
        for (int64_t i = 0; i <= j; i += W) {
            T* const s = score + j * side + i;
            const auto key = static_cast<typename Lane::Signed>(j - i);
            at<W>(s) = lane >= key ? typename Lane::Float(at<W>(s)) : typename Lane::Float{} + value;
        }
    }
}

// out_t[d, i] += the sum over keys of weight[j, i] value[j, d]; out_t [width, side]
template <int lanes, class T>
WORLDFAST_INLINE void gather_tiles_body(const Tile& tile, const T* weight, const T* value, T* out_t) {
    constexpr int W = lanes_of<lanes, T>, R = register_rows<lanes>, columns = tile_vectors * W;
    for (int64_t i = 0; i < tile.queries; i += columns) {
        const int64_t keys = tile.diagonal ? i + columns : tile.keys;
        for (int64_t d = 0; d < tile.head_dim; d += R)
            product<W, R, true>(value + d, 1, tile.width, weight + i, side, keys, out_t + d * side + i, side, columns);
    }
}

// out[j] += the sum over queries of weight[j, i] value[i]; out [side, width]
template <int lanes, class T>
WORLDFAST_INLINE void scatter_tiles_body(const Tile& tile, const T* weight, const T* value, T* out) {
    constexpr int W = lanes_of<lanes, T>, R = register_rows<lanes>;
    for (int64_t j = 0; j < tile.keys; j += R) {
        const int64_t i = tile.diagonal ? j : 0;
        product<W, R, true>(weight + j * side + i, side, 1, value + i * tile.width, tile.width, tile.queries - i,
                            out + j * tile.width, tile.width, tile.width);
    }
}

// most[i] takes in the tile's scores; two vectors of queries at a time, since each waits for its last comparison.
template <int lanes, class T>
WORLDFAST_INLINE void largest_body(const Tile& tile, const T* score, T* most) {
    constexpr int W = lanes_of<lanes, T>, C = tile_vectors;
    using Float = typename Lanes<W, T>::Float;
    for (int64_t i = 0; i < tile.queries; i += C * W) {
        Float highest[C];
        for (int c = 0; c < C; ++c) highest[c] = at<W>(most + i + c * W);
        for (int64_t j = 0; j < tile.keys; ++j) {
            WORLDFAST_UNROLL
            for (int c = 0; c < C; ++c) {
                const Float s = at<W>(score + j * side + i + c * W);
                highest[c] = s > highest[c] ? s : highest[c];
            }
        }
        for (int c = 0; c < C; ++c) at<W>(most + i + c * W) = highest[c];
    }
}

// total and out_t, which are of the scores before this tile, in units of 2^most once it has taken in the tile's.
template <int lanes, class T>
WORLDFAST_INLINE void shrink_body(const Tile& tile, const T* before, const T* most, T* total, T* out_t) {
    constexpr int W = lanes_of<lanes, T>;
    for (int64_t i = 0; i < tile.queries; i += W) {
        typename Lanes<W, T>::Float factor = at<W>(before + i) - at<W>(most + i);
        exp2_of<W, T, true>(factor);
        at<W>(total + i) *= factor;
        for (int64_t d = 0; d < tile.head_dim; ++d) at<W>(out_t + d * side + i) *= factor;
    }
}

// score -> 2^(score - most), in place; total += these
template <int lanes, class T>
WORLDFAST_INLINE void exponents_body(const Tile& tile, const T* most, T* score, T* total) {
    constexpr int W = lanes_of<lanes, T>;
    using Float = typename Lanes<W, T>::Float;
    for (int64_t i = 0; i < tile.queries; i += W) {
        Float sum = at<W>(total + i);
        for (int64_t j = 0; j < tile.keys; ++j) {
            Float p = at<W>(score + j * side + i) - at<W>(most + i);
            exp2_of<W, T, true>(p);
            sum += p;
            at<W>(score + j * side + i) = p;
        }
        at<W>(total + i) = sum;
    }
}

// mean[i] += the sum over keys of weight[j, i] grad[j, i]
template <int lanes, class T>
WORLDFAST_INLINE void along_body(const Tile& tile, const T* weight, const T* grad, T* mean) {
    constexpr int W = lanes_of<lanes, T>;
    for (int64_t i = 0; i < tile.queries; i += W) {
        typename Lanes<W, T>::Float sum = at<W>(mean + i);
        for (int64_t j = 0; j < tile.keys; ++j) sum += at<W>(weight + j * side + i) * at<W>(grad + j * side + i);
        at<W>(mean + i) = sum;
    }
}

// grad of the probabilities -> that of the scores, in place; `mean` is that of the weighted
template <int lanes, class T>
WORLDFAST_INLINE void softmax_backward_body(const Tile& tile, const T* weight, const T* mean, T* grad) {
    constexpr int W = lanes_of<lanes, T>;
    for (int64_t j = 0; j < tile.keys; ++j) {
        for (int64_t i = 0; i < tile.queries; i += W) {
            T* const g = grad + j * side + i;
            at<W>(g) = at<W>(weight + j * side + i) * (at<W>(g) - at<W>(mean + i));
        }
    }
}

// x [side, width] /= divisor [side], each row by its own
template <int lanes, class T>
WORLDFAST_INLINE void divide_rows_body(int64_t width, const T* divisor, T* x) {
    constexpr int W = lanes_of<lanes, T>;
    for (int64_t i = 0; i < side; ++i) {
        const T share = T(1) / divisor[i];
        for (int64_t d = 0; d < width; d += W) at<W>(x + i * width + d) *= share;
    }
}

// x [rows, side] /= divisor [side]
template <int lanes, class T>
WORLDFAST_INLINE void divide_body(int64_t rows, const T* divisor, T* x) {
    constexpr int W = lanes_of<lanes, T>;
    for (int64_t i = 0; i < side; i += W) {
        const typename Lanes<W, T>::Float share = T(1) / at<W>(divisor + i);
        for (int64_t d = 0; d < rows; ++d) at<W>(x + d * side + i) *= share;
    }
}

// x [n] *= factor
template <int lanes, class T>
WORLDFAST_INLINE void scale_body(int64_t n, T factor, T* x) {
    constexpr int W = lanes_of<lanes, T>;
    for (int64_t i = 0; i < n; i += W) at<W>(x + i) *= factor;
}

WORLDFAST_ARRAYS(float, float)
WORLDFAST_ARRAYS(double, double)
WORLDFAST_ARRAYS(BFloat16, float)
WORLDFAST_ARRAYS(Float16, float)

#define WORLDFAST_TILES(T)                                                                                             \
    WORLDFAST_EACH_WIDTH(turn, turn_body, (int64_t width, const T* b, T* b_t), (width, b, b_t))                        \
    WORLDFAST_EACH_WIDTH(turn_back, turn_back_body, (int64_t width, const T* b_t, T* b), (width, b_t, b))              \
    WORLDFAST_EACH_WIDTH(pair_tiles, pair_tiles_body, (const Tile& tile, const T* a, const T* b_t, T* score),          \
                         (tile, a, b_t, score))                                                                        \
    WORLDFAST_EACH_WIDTH(hide, hide_body, (const Tile& tile, T value, T* score), (tile, value, score))                 \
    WORLDFAST_EACH_WIDTH(gather_tiles, gather_tiles_body,                                                              \
                         (const Tile& tile, const T* weight, const T* value, T* out_t), (tile, weight, value, out_t))  \
    WORLDFAST_EACH_WIDTH(scatter_tiles, scatter_tiles_body,                                                            \
                         (const Tile& tile, const T* weight, const T* value, T* out), (tile, weight, value, out))      \
    WORLDFAST_EACH_WIDTH(largest, largest_body, (const Tile& tile, const T* score, T* most), (tile, score, most))      \
    WORLDFAST_EACH_WIDTH(shrink, shrink_body, (const Tile& tile, const T* before, const T* most, T* total, T* out_t),  \
                         (tile, before, most, total, out_t))                                                           \
    WORLDFAST_EACH_WIDTH(exponents, exponents_body, (const Tile& tile, const T* most, T* score, T* total),             \
                         (tile, most, score, total))                                                                   \
    WORLDFAST_EACH_WIDTH(along, along_body, (const Tile& tile, const T* weight, const T* grad, T* mean),               \
                         (tile, weight, grad, mean))                                                                   \
    WORLDFAST_EACH_WIDTH(softmax_backward, softmax_backward_body,                                                      \
                         (const Tile& tile, const T* weight, const T* mean, T* grad), (tile, weight, mean, grad))      \
    WORLDFAST_EACH_WIDTH(divide_rows, divide_rows_body, (int64_t width, const T* divisor, T* x), (width, divisor, x))  \
    WORLDFAST_EACH_WIDTH(divide, divide_body, (int64_t rows, const T* divisor, T* x), (rows, divisor, x))              \
    WORLDFAST_EACH_WIDTH(scale, scale_body, (int64_t n, T factor, T* x), (n, factor, x))
WORLDFAST_TILES(float)
WORLDFAST_TILES(double)

// ---- passes ----

using Starts = std::vector<const int32_t*>;  // where long rows begin

// The tile of a block of queries and a block of keys.
template <int lanes, class T>
WORLDFAST_INLINE Tile tile_of(const Extent& row, int64_t query, int64_t key) {
    const int64_t queries = std::min(side, round_up(row.tokens - query, tile_vectors * lanes_of<lanes, T>));
    return {queries, key == query ? queries : side, key == query, row.head_dim, row.width};
}

// A unit is a row and a head: all heads of the first row, then those of the next.
template <int lanes, class S>
WORLDFAST_INLINE void forward_body(const Pass<S>& pass, const Starts& starts, int64_t begin, int64_t end) {
    using T = arithmetic_of<S>;
    constexpr int64_t vector = lanes_of<lanes, T>;
    constexpr T nothing = -std::numeric_limits<T>::infinity();
    const AttentionRows& rows = pass.rows;
    const Rope<T>* rope = pass.rope.none() ? nullptr : &pass.rope;
    const Extent longest(vector, pass.longest, rows.head_dim, 0, side);
    const int64_t padded = longest.padded, width = longest.width;
    Scratch<T> scratch(static_cast<size_t>(3 * padded * width + side * (2 * width + side + 3)));
    T *q = scratch.take(padded * width), *k = scratch.take(padded * width), *v = scratch.take(padded * width);
    T *q_t = scratch.take(side * width), *out_t = scratch.take(side * width), *score = scratch.take(side * side);
    T *most = scratch.take(side), *before = scratch.take(side), *total = scratch.take(side);
    for (int64_t unit = begin; unit < end; ++unit) {
        const int32_t* start = starts[static_cast<size_t>(unit / rows.heads)];
        const int64_t head = unit % rows.heads;
        const Extent row(vector, start[1] - start[0], rows.head_dim, pass.query(start), side);
        const Places at = pass.places(start);
        load<lanes>(row, pass.q, at, head, q, rope, row.query);
        load<lanes>(row, pass.k, at, head, k, rope, 0);
        load<lanes>(row, pass.v, at, head, v, nullptr, 0);
        scale<lanes>((row.padded - row.first) * width, T(M_LOG2E / std::sqrt(double(row.head_dim))),
                     q + row.first * width);
        for (int64_t i = row.first; i < row.tokens; i += side) {
            if (pass.ends(begin)) return;
            turn<lanes>(width, q + i * width, q_t);
            std::fill_n(most, side, nothing);
            std::fill_n(total, side, T(0));
            std::fill_n(out_t, side * width, T(0));
            for (int64_t j = 0; j <= i; j += side) {
                const Tile tile = tile_of<lanes, T>(row, i, j);
                pair_tiles<lanes>(tile, k + j * width, q_t, score);
                hide<lanes>(tile, nothing, score);
                std::copy_n(most, side, before);
                largest<lanes>(tile, score, most);
                shrink<lanes>(tile, before, most, total, out_t);
                exponents<lanes>(tile, most, score, total);
                gather_tiles<lanes>(tile, score, v + j * width, out_t);
            }
            divide<lanes>(row.head_dim, total, out_t);
            turn_back<lanes>(width, out_t, q + i * width);  // whose queries are not needed any more
        }
        store<lanes>(row, q, pass.out, false, at, head, nullptr, row.query);
    }
}

template <int lanes, class S, class G>
WORLDFAST_INLINE void backward_body(const Pass<S, G>& pass, const Starts& starts, int64_t begin, int64_t end) {
    using T = arithmetic_of<S>;
    constexpr int64_t vector = lanes_of<lanes, T>;
    constexpr T nothing = -std::numeric_limits<T>::infinity();
    const AttentionRows& rows = pass.rows;
    const bool add = rows.place || !std::is_same_v<S, G>;
    const Rope<T>* rope = pass.rope.none() ? nullptr : &pass.rope;
    const Extent longest(vector, pass.longest, rows.head_dim, 0, side);
    const int64_t padded = longest.padded, width = longest.width;
    Scratch<T> scratch(static_cast<size_t>(padded * (6 * width + 2 * side) + side * (3 * width + 3)));
    const auto matrix = [&](int64_t columns) { return scratch.take(padded * columns); };
    T *q = matrix(width), *k = matrix(width), *v = matrix(width), *g = matrix(width);
    T *grad_k = matrix(width), *grad_v = matrix(width), *weight = matrix(side), *grad_weight = matrix(side);
    T *q_t = scratch.take(side * width), *g_t = scratch.take(side * width), *grad_t = scratch.take(side * width);
    T *most = scratch.take(side), *total = scratch.take(side), *mean = scratch.take(side);
    for (int64_t unit = begin; unit < end; ++unit) {
        const int32_t* start = starts[static_cast<size_t>(unit / rows.heads)];
        const int64_t head = unit % rows.heads;
        const Extent row(vector, start[1] - start[0], rows.head_dim, pass.query(start), side);
        const Places at = pass.places(start);
        load<lanes>(row, pass.q, at, head, q, rope, row.query);
        load<lanes>(row, pass.k, at, head, k, rope, 0);
        load<lanes>(row, pass.v, at, head, v, nullptr, 0);
        load<lanes>(row, pass.grad_out, at, head, g, nullptr, row.query);
        scale<lanes>((row.padded - row.first) * width, T(M_LOG2E / std::sqrt(double(row.head_dim))),
                     q + row.first * width);
        std::fill_n(grad_k, row.padded * width, T(0));
        std::fill_n(grad_v, row.padded * width, T(0));
        for (int64_t i = row.first; i < row.tokens; i += side) {
            if (pass.ends(begin)) return;
            turn<lanes>(width, q + i * width, q_t);
            std::fill_n(most, side, nothing);
            std::fill_n(total, side, T(0));
            std::fill_n(mean, side, T(0));
            std::fill_n(grad_t, side * width, T(0));
            for (int64_t j = 0; j <= i; j += side) {
                const Tile tile = tile_of<lanes, T>(row, i, j);
                pair_tiles<lanes>(tile, k + j * width, q_t, weight + j * side);
                hide<lanes>(tile, nothing, weight + j * side);
                largest<lanes>(tile, weight + j * side, most);
            }
            for (int64_t j = 0; j <= i; j += side)
                exponents<lanes>(tile_of<lanes, T>(row, i, j), most, weight + j * side, total);
            divide_rows<lanes>(width, total, g + i * width);  // in place of all the weights
            turn<lanes>(width, g + i * width, g_t);
            for (int64_t j = 0; j <= i; j += side) {
                const Tile tile = tile_of<lanes, T>(row, i, j);
                pair_tiles<lanes>(tile, v + j * width, g_t, grad_weight + j * side);
                hide<lanes>(tile, T(0), grad_weight + j * side);
                along<lanes>(tile, weight + j * side, grad_weight + j * side, mean);
            }
            divide<lanes>(1, total, mean);
            for (int64_t j = 0; j <= i; j += side) {
                const Tile tile = tile_of<lanes, T>(row, i, j);
                T *const w = weight + j * side, *const grad = grad_weight + j * side;
                softmax_backward<lanes>(tile, w, mean, grad);
                scatter_tiles<lanes>(tile, w, g + i * width, grad_v + j * width);
                scatter_tiles<lanes>(tile, grad, q + i * width, grad_k + j * width);
                gather_tiles<lanes>(tile, grad, k + j * width, grad_t);
            }
            turn_back<lanes>(width, grad_t, q + i * width);
        }
        scale<lanes>((row.padded - row.first) * width, T(1 / std::sqrt(double(row.head_dim))), q + row.first * width);
        scale<lanes>(row.padded * width, T(M_LN2), grad_k);  // of queries with log2(e)
        store<lanes>(row, grad_v, pass.grad_v, add, at, head, nullptr, 0);
        store<lanes>(row, grad_k, pass.grad_k, add, at, head, rope, 0);
        store<lanes>(row, q, pass.grad_q, add, at, head, rope, row.query);
    }
}

#define WORLDFAST_ATTENTION(S)                                                                                         \
    WORLDFAST_DISPATCH(forward, forward_body, (const Pass<S>& pass, const Starts& starts, int64_t begin, int64_t end), \
                       (pass, starts, begin, end))                                                                     \
    WORLDFAST_DISPATCH(backward, backward_body,                                                                        \
                       (const Pass<S>& pass, const Starts& starts, int64_t begin, int64_t end),                        \
                       (pass, starts, begin, end))
WORLDFAST_ATTENTION(float)
WORLDFAST_ATTENTION(double)
WORLDFAST_ATTENTION(BFloat16)
WORLDFAST_ATTENTION(Float16)
#undef WORLDFAST_ATTENTION
using Mixed = Pass<BFloat16, float>;
WORLDFAST_DISPATCH(backward, backward_body, (const Mixed& pass, const Starts& starts, int64_t begin, int64_t end),
                   (pass, starts, begin, end))

// f(starts, begin, end) over the units of long rows that have a query.
template <class P, class F>
void each_unit(const P& pass, F&& f) {
    const AttentionRows& rows = pass.rows;
    Starts starts;
    for (const int32_t* start = rows.row_start; start < rows.row_start + rows.rows; ++start) {
        const int64_t tokens = start[1] - start[0];
        if (tokens > attention_short_row && pass.query(start) < tokens) starts.push_back(start);
    }
    parallel_for(
        static_cast<int64_t>(starts.size()) * rows.heads, 1, rows.threads,
        [&](int64_t begin, int64_t end) { f(starts, begin, end); }, pass.asked());
}

}  // namespace

template <class S>
void long_rows_forward(const Pass<S>& pass) {
    each_unit(pass, [&](const Starts& starts, int64_t begin, int64_t end) { forward(pass, starts, begin, end); });
}

template <class S, class G>
void long_rows_backward(const Pass<S, G>& pass) {
    each_unit(pass, [&](const Starts& starts, int64_t begin, int64_t end) { backward(pass, starts, begin, end); });
}

#define WORLDFAST_ATTENTION(S)                                                                                         \
    template void long_rows_forward(const Pass<S>&);                                                                   \
    template void long_rows_backward(const Pass<S>&);
WORLDFAST_ATTENTION(float)
WORLDFAST_ATTENTION(double)
WORLDFAST_ATTENTION(BFloat16)
WORLDFAST_ATTENTION(Float16)
template void long_rows_backward(const Mixed&);

}  // namespace worldfast
