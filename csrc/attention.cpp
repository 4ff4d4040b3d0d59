// One (row, head) at a time, whole: a row of the task mix has 25 to 57 tokens, so its q, k, v and scores fit
// in the first caches and there is nothing to tile over, no running softmax, and nothing to save for the
// backward pass.
//
// Scores are kept transposed, [key, query] with the queries in the lanes of a vector. Softmax then is
// vertical arithmetic, and every product of both passes is one kernel, `product`, with different strides.
#include "attention.h"

#include <cmath>
#include <stdexcept>
#include <string>

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

template <int W, int C>
WORLDFAST_INLINE void product_tile(const float* a, int64_t a_row, int64_t a_k, const float* b, int64_t b_k,
                                   int64_t n, float* out, int64_t out_row) {
    constexpr int R = tile_rows;
    for (int64_t done = 0; done < n; done += chain) {
        typename Lanes<W>::Float sum[R][C] = {};
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
                float* to = out + r * out_row + c * W;
                if (done) sum[r][c] += at<W>(to);
                at<W>(to) = sum[r][c];
            }
        }
    }
}

// out[r, c] = sum over k < n of a[r, k] b[k, c] for one tile of rows and `columns`, a multiple of W.
template <int W>
WORLDFAST_INLINE void product(const float* a, int64_t a_row, int64_t a_k, const float* b, int64_t b_k,
                              int64_t n, float* out, int64_t out_row, int64_t columns) {
    constexpr int C = tile_vectors;
    int64_t c = 0;
    for (; c + C * W <= columns; c += C * W)
        product_tile<W, C>(a, a_row, a_k, b + c, b_k, n, out + c, out_row);
    for (; c < columns; c += W) product_tile<W, 1>(a, a_row, a_k, b + c, b_k, n, out + c, out_row);
}

// out [columns, rows] = in [rows, columns], both multiples of W. Merging line k with line k + W/2 into lines
// 2k and 2k + 1, log2(W) times over, transposes a W x W block.
template <int W>
WORLDFAST_INLINE void transpose(const float* in, int64_t in_row, float* out, int64_t out_row, int64_t rows,
                                int64_t columns) {
    for (int64_t row = 0; row < rows; row += W) {
        for (int64_t column = 0; column < columns; column += W) {
            typename Lanes<W>::Float line[W], merged[W];
            WORLDFAST_UNROLL
            for (int i = 0; i < W; ++i) line[i] = at<W>(in + (row + i) * in_row + column);
            WORLDFAST_UNROLL
            for (int step = 1; step < W; step *= 2) {
                WORLDFAST_UNROLL
                for (int i = 0; i < W / 2; ++i)
                    interleave<W>(line[i], line[i + W / 2], merged[2 * i], merged[2 * i + 1]);
                WORLDFAST_UNROLL
                for (int i = 0; i < W; ++i) line[i] = merged[i];
            }
            WORLDFAST_UNROLL
            for (int i = 0; i < W; ++i) at<W>(out + (column + i) * out_row + row) = line[i];
        }
    }
}

// Cosine and sine of every angle, [positions, half].
struct Rope {
    std::vector<float> cosine, sine;
    int64_t half;

    // Angles add: each position turns the one before, in double precision.
    Rope(double base, int64_t head_dim, int64_t positions) : half(head_dim / 2) {
        if (base == 0) return;
        cosine.resize(static_cast<size_t>(positions * half));
        sine.resize(cosine.size());
        for (int64_t d = 0; d < half; ++d) {
            const double step = std::pow(base, -static_cast<double>(d) / static_cast<double>(half));
            const double turn_c = std::cos(step), turn_s = std::sin(step);
            double c = 1, s = 0;
            for (int64_t p = 0; p < positions; ++p) {
                cosine[static_cast<size_t>(p * half + d)] = static_cast<float>(c);
                sine[static_cast<size_t>(p * half + d)] = static_cast<float>(s);
                const double next = c * turn_c - s * turn_s;
                s = s * turn_c + c * turn_s;
                c = next;
            }
        }
    }
    bool none() const { return cosine.empty(); }

    // out = in, turned by `position` forwards (sign 1) or backwards (sign -1).
    WORLDFAST_INLINE void turn(const float* __restrict in, float* __restrict out, int64_t position,
                               float sign) const {
        const float* __restrict c = cosine.data() + position * half;
        const float* __restrict s = sine.data() + position * half;
        for (int64_t d = 0; d < half; ++d) {
            const float a = in[d], b = in[d + half], t = sign * s[d];
            out[d] = a * c[d] - b * t;
            out[d + half] = b * c[d] + a * t;
        }
    }
};

template <int write> WORLDFAST_INLINE void prefetch(const float* p, int64_t n) {
    for (int64_t d = 0; d < n; d += 16) __builtin_prefetch(p + d, write, 2);
}

// Whole heads are multiples of 8; a call to memcpy costs more than moving one.
WORLDFAST_INLINE void copy(const float* from, float* to, int64_t n) {
    for (int64_t d = 0; d < n; d += 8) at<8>(to + d) = at<8>(from + d);
}

// The tiles of one (row, head), reused from row to row. `tokens` and `width` are rounded up to whole vectors;
// what lies past the row's end is zero on the way in and never stored on the way out.
template <int W> struct Tile {
    int64_t tokens, padded, head_dim, width;

    // [padded, width] <- the row's tokens
    WORLDFAST_INLINE void load(Heads<const float> from, int64_t first, int64_t head, float* to,
                               const Rope* rope) const {
        for (int64_t i = 0; i < tokens; ++i) {
            prefetch<0>(from.of(first + tokens + i, head), head_dim);
            if (rope)
                rope->turn(from.of(first + i, head), to + i * width, i, 1.0f);
            else
                copy(from.of(first + i, head), to + i * width, head_dim);
        }
        std::memset(to + tokens * width, 0, static_cast<size_t>((padded - tokens) * width) * sizeof(float));
    }

    WORLDFAST_INLINE void store(const float* from, Heads<float> to, int64_t first, int64_t head,
                                const Rope* rope) const {
        for (int64_t i = 0; i < tokens; ++i) {
            prefetch<1>(to.of(first + tokens + i, head), head_dim);
            if (rope)
                rope->turn(from + i * width, to.of(first + i, head), i, -1.0f);
            else
                copy(from + i * width, to.of(first + i, head), head_dim);
        }
    }

    // out[j, i] = a[j] . b[i] for keys j <= queries i and the rest of the vectors they stand in;
    // a [padded, width], b_t [width, padded]
    WORLDFAST_INLINE void pair(const float* a, const float* b_t, float* out) const {
        for (int64_t j = 0; j < tokens; j += tile_rows) {
            const int64_t i = j / W * W;
            product<W>(a + j * width, width, 1, b_t + i, padded, head_dim, out + j * padded + i, padded,
                       padded - i);
        }
    }

    // out[i] = sum over keys j <= i of weight[j, i] value[j]
    WORLDFAST_INLINE void gather(const float* weight, const float* value, float* out) const {
        for (int64_t i = 0; i < tokens; i += tile_rows)
            product<W>(weight + i, 1, padded, value, width, std::min(tokens, i + tile_rows), out + i * width,
                       width, width);
    }

    // out[j] = sum over queries i >= j of weight[j, i] value[i]
    WORLDFAST_INLINE void scatter(const float* weight, const float* value, float* out) const {
        for (int64_t j = 0; j < tokens; j += tile_rows)
            product<W>(weight + j * padded + j, padded, 1, value + j * width, width, tokens - j,
                       out + j * width, width, width);
    }

    // scores [key, query] -> probabilities, in place; zero where key > query.
    WORLDFAST_INLINE void softmax(float* scores) const {
        using Float = typename Lanes<W>::Float;
        const float scale = static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(head_dim)));
        typename Lanes<W>::Int query{};
        for (int i = 0; i < W; ++i) query[i] = i;
        for (int64_t i = 0; i < padded; i += W, query += W) {
            float* column = scores + i;
            const int64_t keys = std::min(tokens, i + W);
            Float most = at<W>(column);
            for (int64_t j = 1; j < keys; ++j) {
                const Float s = query >= static_cast<int32_t>(j) ? Float(at<W>(column + j * padded)) : most;
                most = s > most ? s : most;
            }
            most *= scale;
            Float total{};
            for (int64_t j = 0; j < keys; ++j) {
                Float p = at<W>(column + j * padded) * scale - most;
                exp2_of<W>(p);
                p = query >= static_cast<int32_t>(j) ? p : Float{};
                total += p;
                at<W>(column + j * padded) = p;
            }
            total = 1.0f / total;
            for (int64_t j = 0; j < keys; ++j) at<W>(column + j * padded) *= total;
        }
    }

    // grad [key, query], the gradient of the probabilities -> that of q . k, in place
    WORLDFAST_INLINE void softmax_backward(const float* probability, float* grad) const {
        using Float = typename Lanes<W>::Float;
        const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim)));
        typename Lanes<W>::Int query{};
        for (int i = 0; i < W; ++i) query[i] = i;
        for (int64_t i = 0; i < padded; i += W, query += W) {
            const int64_t keys = std::min(tokens, i + W);
            Float mean{};
            for (int64_t j = 0; j < keys; ++j)
                mean += at<W>(probability + j * padded + i) * at<W>(grad + j * padded + i);
            for (int64_t j = 0; j < keys; ++j) {
                float* g = grad + j * padded + i;
                at<W>(g) = at<W>(probability + j * padded + i) * (at<W>(g) - mean) * scale;
            }
        }
    }
};

struct Pass {
    AttentionRows rows;
    Rope rope;
    int64_t longest;
    Heads<const float> q, k, v, grad_out{};
    Heads<float> out{}, grad_q{}, grad_k{}, grad_v{};
};

// Rows whose first token is in [begin, end): ranges of tokens balance the threads better than ranges of rows.
template <int W> WORLDFAST_INLINE void forward_body(const Pass& pass, int64_t begin, int64_t end) {
    const AttentionRows& rows = pass.rows;
    const Rope* rope = pass.rope.none() ? nullptr : &pass.rope;
    const int64_t padded = round_up(pass.longest, W), width = round_up(rows.head_dim, W);
    Scratch scratch(static_cast<size_t>(padded * (4 * width + padded)));
    const auto matrix = [&](int64_t columns) { return scratch.take(padded * columns); };
    float *q = matrix(width), *k = matrix(width), *v = matrix(width), *turned = matrix(width);
    float* scores = matrix(padded);
    const int32_t* start =
        std::lower_bound(rows.row_start, rows.row_start + rows.rows, static_cast<int32_t>(begin));
    for (; start < rows.row_start + rows.rows && *start < end; ++start) {
        const int64_t tokens = start[1] - start[0];
        const Tile<W> tile{tokens, round_up(tokens, W), rows.head_dim, width};
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

template <int W> WORLDFAST_INLINE void backward_body(const Pass& pass, int64_t begin, int64_t end) {
    const AttentionRows& rows = pass.rows;
    const Rope* rope = pass.rope.none() ? nullptr : &pass.rope;
    const int64_t padded = round_up(pass.longest, W), width = round_up(rows.head_dim, W);
    Scratch scratch(static_cast<size_t>(padded * (6 * width + 2 * padded)));
    const auto matrix = [&](int64_t columns) { return scratch.take(padded * columns); };
    float *q = matrix(width), *k = matrix(width), *v = matrix(width), *g = matrix(width);
    float *turned = matrix(width), *grad = matrix(width);
    float *probability = matrix(padded), *grad_score = matrix(padded);
    const int32_t* start =
        std::lower_bound(rows.row_start, rows.row_start + rows.rows, static_cast<int32_t>(begin));
    for (; start < rows.row_start + rows.rows && *start < end; ++start) {
        const int64_t tokens = start[1] - start[0];
        const Tile<W> tile{tokens, round_up(tokens, W), rows.head_dim, width};
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

WORLDFAST_DISPATCH(forward, forward_body, (const Pass& pass, int64_t begin, int64_t end), (pass, begin, end))
WORLDFAST_DISPATCH(backward, backward_body, (const Pass& pass, int64_t begin, int64_t end),
                   (pass, begin, end))

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

void attention_forward(const AttentionRows& rows, Heads<const float> q, Heads<const float> k,
                       Heads<const float> v, Heads<float> out) {
    const int64_t longest = check(rows);
    Pass pass{rows, Rope(rows.rope_base, rows.head_dim, longest), longest, q, k, v};
    pass.out = out;
    parallel_for(rows.row_start[rows.rows], forward_grain, rows.threads,
                 [&](int64_t begin, int64_t end) { forward(pass, begin, end); });
}

void attention_backward(const AttentionRows& rows, Heads<const float> q, Heads<const float> k,
                        Heads<const float> v, Heads<const float> grad_out, Heads<float> grad_q,
                        Heads<float> grad_k, Heads<float> grad_v) {
    const int64_t longest = check(rows);
    Pass pass{rows, Rope(rows.rope_base, rows.head_dim, longest), longest, q, k, v};
    pass.grad_out = grad_out;
    pass.grad_q = grad_q;
    pass.grad_k = grad_k;
    pass.grad_v = grad_v;
    parallel_for(rows.row_start[rows.rows], backward_grain, rows.threads,
                 [&](int64_t begin, int64_t end) { backward(pass, begin, end); });
}

}  // namespace worldfast
