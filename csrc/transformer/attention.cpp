// One (row, head) at a time, whole: a row of the task mix has 25 to 57 tokens, so its q, k, v and scores fit
// in the first caches and there is nothing to tile over, no running softmax, and nothing to save for the
// backward pass.
#include <stdexcept>
#include <string>

#include "base/parallel.h"
#include "transformer/attention_tiles.h"

namespace worldfast {
namespace {

constexpr int64_t forward_grain = 512, backward_grain = 256;  // tokens that are worth a thread

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
        if (row.query == row.tokens || row.tokens > attention_short_row) continue;
        const Places at = pass.places(start);
        for (int64_t head = 0; head < rows.heads; ++head) {
            if (pass.ends(begin)) return;
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
        if (row.query == row.tokens || row.tokens > attention_short_row) continue;
        const Places at = pass.places(start);
        for (int64_t head = 0; head < rows.heads; ++head) {
            if (pass.ends(begin)) return;
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

// Tokens of the longest row at least 1, and of the longest short one.
struct Longest {
    int64_t row = 1, short_row = 1;
};

Longest check(const AttentionRows& rows) {
    if (rows.head_dim < 8 || rows.head_dim > 128 || rows.head_dim % 8)
        throw std::invalid_argument("head_dim: expected a multiple of 8 from 8 to 128, got " +
                                    std::to_string(rows.head_dim));
    if (!(rows.rope_base >= 0) || std::isinf(rows.rope_base))
        throw std::invalid_argument("rope_base: expected a positive number, or 0 for no RoPE, got " +
                                    std::to_string(rows.rope_base));
    if (rows.row_start[0] != 0)
        throw std::invalid_argument("cu_seqlens: expected to start at 0, got " + std::to_string(rows.row_start[0]));
    Longest longest;
    for (int64_t r = 0; r < rows.rows; ++r) {
        const int64_t length = int64_t{rows.row_start[r + 1]} - rows.row_start[r];
        if (length < 0 || length > attention_row_limit)
            throw std::invalid_argument("cu_seqlens: expected rows of 0 to " + std::to_string(attention_row_limit) +
                                        " tokens, got " + std::to_string(length) + " in row " + std::to_string(r));
        longest.row = std::max(longest.row, length);
        if (length <= attention_short_row) longest.short_row = std::max(longest.short_row, length);
    }
    return longest;
}

}  // namespace

template <class S>
void attention_forward(const AttentionRows& rows, Heads<const S> q, Heads<const S> k, Heads<const S> v, Heads<S> out) {
    const Longest longest = check(rows);
    const Rope<arithmetic_of<S>> rope(rows.rope_base, rows.head_dim, longest.row);
    Interruption own;
    Pass<S> pass{rows, rope, longest.short_row, rows.interruption ? *rows.interruption : own, q, k, v};
    pass.out = out;
    parallel_for(
        rows.row_start[rows.rows], forward_grain, rows.threads,
        [&](int64_t begin, int64_t end) { forward(pass, begin, end); }, pass.asked());
    if (longest.row <= attention_short_row) return;
    pass.longest = longest.row;
    long_rows_forward(pass);
}

template <class S, class G>
void attention_backward(const AttentionRows& rows, Heads<const S> q, Heads<const S> k, Heads<const S> v,
                        Heads<const S> grad_out, Heads<G> grad_q, Heads<G> grad_k, Heads<G> grad_v) {
    const Longest longest = check(rows);
    const Rope<arithmetic_of<S>> rope(rows.rope_base, rows.head_dim, longest.row);
    Interruption own;
    Pass<S, G> pass{rows, rope, longest.short_row, rows.interruption ? *rows.interruption : own, q, k, v};
    pass.grad_out = grad_out;
    pass.grad_q = grad_q;
    pass.grad_k = grad_k;
    pass.grad_v = grad_v;
    if (rows.place) pass.rows.threads = 1;
    parallel_for(
        rows.row_start[rows.rows], backward_grain, pass.rows.threads,
        [&](int64_t begin, int64_t end) { backward(pass, begin, end); }, pass.asked());
    if (longest.row <= attention_short_row) return;
    pass.longest = longest.row;
    long_rows_backward(pass);
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
