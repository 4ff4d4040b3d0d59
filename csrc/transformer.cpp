// A layer is worked through in blocks of tokens, whole chains of operations a block, so that what passes from one operation
// to the next is still in the second cache, and so are the layer's matrices. What a norm gives is not kept for the backward
// pass but computed again from its scale: that is cheaper than the memory.
#include "transformer.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "attention.h"
#include "layers.h"
#include "linear.h"
#include "parallel.h"

namespace worldfast {
namespace {

constexpr int64_t block_tokens = 256;
constexpr int64_t grain = 32;  // rows or lines of a product that are worth a thread

// A matrix [lines, depth] of parameters, as it stands and packed for x W' and for y W.
template <class S> struct Matrix {
    int64_t lines, depth, offset;
    S *forwards, *backwards;
};

template <class S> struct Block {
    const float *input_norm, *qkv_bias, *middle_norm;
    int64_t input_norm_at, qkv_bias_at, middle_norm_at;
    Matrix<S> qkv, output, gate_up, down;
};

template <class S> struct Layout {
    std::vector<Block<S>> blocks;
    const float *embedding, *norm;
    int64_t norm_at;
    Matrix<S> head;
    int64_t size = 0;  // of what is packed, in numbers

    Layout(const TransformerShape& shape, const float* parameters, void* packed) {
        const int64_t D = shape.hidden, F = shape.intermediate;
        if (static_cast<int64_t>(shape.offsets.size()) != 7 * shape.layers + 3)
            throw std::invalid_argument("offsets: expected " + std::to_string(7 * shape.layers + 3) +
                                        " for so many layers, got " + std::to_string(shape.offsets.size()));
        const int64_t* at = shape.offsets.data();
        S* to = static_cast<S*>(packed);
        const auto matrix = [&](int64_t lines, int64_t depth) {
            const int64_t forwards = panel_size<S>(lines, depth), backwards = panel_size<S>(depth, lines);
            const Matrix<S> m{lines, depth, *at++, to + size, to + size + forwards};
            size += forwards + backwards;
            return m;
        };
        embedding = parameters + *at++;
        for (int64_t i = 0; i < shape.layers; ++i) {
            Block<S> b;
            b.input_norm_at = *at++;
            b.qkv = matrix(3 * D, D);
            b.qkv_bias_at = *at++;
            b.output = matrix(D, D);
            b.middle_norm_at = *at++;
            b.gate_up = matrix(2 * F, D);
            b.down = matrix(D, F);
            b.input_norm = parameters + b.input_norm_at;
            b.qkv_bias = parameters + b.qkv_bias_at;
            b.middle_norm = parameters + b.middle_norm_at;
            blocks.push_back(b);
        }
        norm_at = *at++;
        norm = parameters + norm_at;
        head = matrix(shape.outputs, D);
    }
};

int64_t even(int64_t n) { return n + n % 2; }

// a [n, width] as what is multiplied, in rows of an even width with a zero behind an odd one.
template <class S> const S* rounded(const float* a, int64_t n, int64_t width, Arena& arena) {
    if constexpr (sizeof(S) == 2) {
        S* to = arena.take<S>(n * even(width));
        round_rows(a, n, width, to, even(width));
        return to;
    } else {
        return a;
    }
}
template <class S> int64_t row_of(int64_t width) { return sizeof(S) == 2 ? even(width) : width; }

template <class S, class Out> void multiply_rows(Product<S, Out> product, int threads) {
    parallel_for(product.rows, grain, threads, [&](int64_t begin, int64_t end) {
        Product<S, Out> part = product;
        part.a += begin * part.a_stride;
        part.out += begin * part.out_stride;
        if (part.onto) part.onto += begin * part.out_stride;
        part.rows = end - begin;
        multiply(part);
    });
}

// gradient [lines of a, lines of b] += a' b, of activations [n, ...] whose rows are a_stride and b_stride apart.
template <class S>
void add_gradient(const S* a, int64_t a_stride, int64_t a_lines, const S* b, int64_t b_stride, int64_t b_lines, int64_t n,
                  float* gradient, Arena& arena, int threads) {
    const Arena::Scope scope(arena);
    S *packed_a = arena.take<S>(panel_size<S>(a_lines, n)), *packed_b = arena.take<S>(panel_size<S>(b_lines, n));
    pack(a, a_stride, false, a_lines, n, packed_a);
    pack(b, b_stride, false, b_lines, n, packed_b);
    parallel_for((a_lines + strip - 1) / strip, 1, threads, [&](int64_t begin, int64_t end) {
        add_products(packed_a, begin * strip, std::min(end * strip, a_lines), packed_b, b_lines, n, gradient);
    });
}

template <class T> Heads<T> heads_of(T* at, int64_t tokens_apart, int64_t head_dim) {
    return {at, tokens_apart, head_dim};
}

// What a block's gradient needs of its forward pass; n is K' in the last block, else U.
template <class S> struct Kept {
    const float *x, *x_scale;            // [U, D], [U]
    const S *qkv, *mixed;                // [U, 3 D], [n, D]
    const float *middle, *middle_scale;  // [n, D], [n]
    const S* gate_up;                    // [n, 2 F]
};

// The places that are scored, each once: K' of them, ascending; and of each, its targets.
struct Scored {
    std::vector<int64_t> places, first, targets;
    std::vector<int64_t> order;     // [K]: which of the K' each scored position is
    std::vector<int32_t> query;     // [rows]: a row's first token whose attention is used in the last block

    Scored(const TileRows& rows) : query(static_cast<size_t>(rows.rows)) {
        std::vector<int64_t> count(static_cast<size_t>(rows.computed) + 1);
        const auto at = [&](int64_t place) -> int64_t& { return count[static_cast<size_t>(place)]; };
        for (int64_t k = 0; k < rows.scored; ++k) {
            if (rows.sources[k] < 0 || rows.sources[k] >= rows.computed)
                throw std::invalid_argument("sources: expected places among " + std::to_string(rows.computed));
            ++at(rows.sources[k]);
        }
        first.push_back(0);
        for (int64_t place = 0; place < rows.computed; ++place) {
            if (at(place) == 0) {
                at(place) = -1;
                continue;
            }
            first.push_back(first.back() + at(place));
            at(place) = static_cast<int64_t>(places.size());
            places.push_back(place);
        }
        std::vector<int64_t> next(first.begin(), first.end() - 1);
        order.resize(static_cast<size_t>(rows.scored));
        targets.resize(rows.targets ? order.size() : 0);
        for (int64_t k = 0; k < rows.scored; ++k) {
            const int64_t group = at(rows.sources[k]);
            order[static_cast<size_t>(k)] = group;
            if (rows.targets) targets[static_cast<size_t>(next[static_cast<size_t>(group)]++)] = rows.targets[k];
        }
        for (int64_t r = 0; r < rows.rows; ++r) {
            const int32_t* place = rows.place + rows.row_start[r];
            const int32_t length = rows.row_start[r + 1] - rows.row_start[r];
            int32_t i = rows.shared[r];
            while (i < length && at(place[i]) < 0) ++i;
            query[static_cast<size_t>(r)] = i;
        }
    }
    int64_t size() const { return static_cast<int64_t>(places.size()); }
};

template <class S> class Pass {
public:
    Pass(const Model& model, Arena& arena, int threads)
        : shape_(model.shape),
          layout_(model.shape, model.parameters, const_cast<void*>(model.packed)),
          arena_(arena),
          threads_(threads),
          D(shape_.hidden),
          F(shape_.intermediate) {}

    // Every block's activations; `out` [K', D] is what the last block gives.
    std::vector<Kept<S>> forward(const TileRows& rows, const Scored& scored, const float*& out) {
        const int64_t U = rows.computed;
        std::vector<Kept<S>> kept;
        const float* x = embed(rows.tokens, U);
        for (int64_t i = 0; i < shape_.layers; ++i) {
            const Block<S>& block = layout_.blocks[static_cast<size_t>(i)];
            const bool last = i == shape_.layers - 1;
            const int64_t n = last ? scored.size() : U;
            float* x_scale = arena_.take<float>(U);
            S* qkv = arena_.take<S>(U * 3 * D);
            each_block(U, [&](int64_t t, int64_t tokens) { project(block, x, x_scale, qkv, 3 * D, t, tokens); });
            S* mixed = arena_.take<S>(U * D);
            AttentionRows attended = attention_rows(rows, last ? scored.query.data() : rows.shared);
            attention_forward(attended, of<const S>(qkv), of<const S>(qkv + D), of<const S>(qkv + 2 * D),
                              heads_of(mixed, D, head_dim()));
            const float* before = x;
            if (last) {
                before = gather(x, scored.places);
                mixed = gather(mixed, scored.places);
            }
            float *middle = arena_.take<float>(n * D), *middle_scale = arena_.take<float>(n);
            S* gate_up = arena_.take<S>(n * 2 * F);
            float* following = arena_.take<float>(n * D);
            each_block(n, [&](int64_t t, int64_t tokens) {
                add_attention(block, mixed + t * D, before + t * D, middle + t * D, tokens);
                add_mlp(block, middle + t * D, middle_scale + t, gate_up + t * 2 * F, following + t * D, tokens);
            });
            kept.push_back({x, x_scale, qkv, mixed, middle, middle_scale, gate_up});
            x = following;
        }
        out = x;
        return kept;
    }

    // The summed loss, and its gradient at x [n, D], what the last block gave.
    double head(const float* x, const Scored& scored, float* dx, float* gradients) {
        const int64_t H = shape_.outputs;
        double loss = 0;
        each_block(scored.size(), [&](int64_t t, int64_t tokens) {
            const float* normed = norm(x + t * D, layout_.norm, tokens);
            float* logits = logits_of(normed, tokens);
            loss += cross_entropy_of_groups(tokens, H, logits, scored.first.data() + t, scored.targets.data(), logits,
                                            threads_);
            const S *dlogits = rounded<S>(logits, tokens, H, arena_), *input = rounded<S>(normed, tokens, D, arena_);
            add_gradient(dlogits, row_of<S>(H), H, input, D, D, tokens, gradients + layout_.head.offset, arena_, threads_);
            float* dnormed = arena_.take<float>(tokens * D);
            multiply_rows(Product<S, float>{dlogits, tokens, row_of<S>(H), layout_.head.backwards, D, H, dnormed, D}, threads_);
            std::memset(dx + t * D, 0, static_cast<size_t>(tokens * D) * sizeof *dx);
            norm_backward(dnormed, x + t * D, layout_.norm, scale_, dx + t * D, gradients + layout_.norm_at, tokens);
        });
        return loss;
    }

    // dx [K', D] -> the gradient at the embedded tokens [U, D], and those at the parameters.
    void backward(const TileRows& rows, const Scored& scored, const std::vector<Kept<S>>& kept, float* dx, float* gradients,
                  float* grad_embedded) {
        const int64_t U = rows.computed;
        for (int64_t i = shape_.layers - 1; i >= 0; --i) {
            const Arena::Scope scope(arena_);
            const Block<S>& block = layout_.blocks[static_cast<size_t>(i)];
            const Kept<S>& of_block = kept[static_cast<size_t>(i)];
            const bool last = i == shape_.layers - 1;
            const int64_t n = last ? scored.size() : U;
            S* dmixed = arena_.take<S>(U * D);
            each_block(n, [&](int64_t t, int64_t tokens) {
                mlp_backward(block, of_block, t, tokens, dx + t * D, gradients);
                attention_output_backward(block, of_block.mixed + t * D, dx + t * D, dmixed + t * D, tokens, gradients);
            });
            if (last) {
                dmixed = scatter(dmixed, scored.places, U);
                std::memset(grad_embedded, 0, static_cast<size_t>(U * D) * sizeof *dx);
                for (int64_t k = 0; k < n; ++k)
                    std::memcpy(grad_embedded + scored.places[static_cast<size_t>(k)] * D, dx + k * D,
                                static_cast<size_t>(D) * sizeof *dx);
                dx = grad_embedded;
            }
            float* dqkv = arena_.take<float>(U * 3 * D);
            std::memset(dqkv, 0, static_cast<size_t>(U * 3 * D) * sizeof *dqkv);
            attend_backward(rows, last ? scored.query.data() : rows.shared, of_block.qkv, dmixed, dqkv);
            each_block(U, [&](int64_t t, int64_t tokens) {
                project_backward(block, of_block, t, tokens, dqkv + t * 3 * D, dx + t * D, gradients);
            });
        }
    }

    // [n, D] <- the tokens' embeddings
    float* embed(const int32_t* tokens, int64_t n) {
        float* x = arena_.take<float>(n * D);
        for (int64_t i = 0; i < n; ++i) {
            if (tokens[i] < 0 || tokens[i] >= shape_.vocabulary)
                throw std::invalid_argument("tokens: expected 0 to " + std::to_string(shape_.vocabulary - 1) + ", got " +
                                            std::to_string(tokens[i]));
            std::memcpy(x + i * D, layout_.embedding + tokens[i] * D, static_cast<size_t>(D) * sizeof *x);
        }
        return x;
    }

    // normed [n, D], which lasts as long as the caller's scope
    float* norm(const float* x, const float* weight, int64_t n) {
        float* normed = arena_.take<float>(n * D);
        scale_ = arena_.take<float>(n);
        const int64_t offsets[] = {0, n};
        rms_norm_forward({offsets, 1, D}, x, weight, shape_.norm_eps, normed, scale_, threads_);
        return normed;
    }
    float* final_norm(const float* x, int64_t n) { return norm(x, layout_.norm, n); }

    float* logits_of(const float* normed, int64_t n) {
        float* logits = arena_.take<float>(n * shape_.outputs);
        multiply_rows(Product<S, float>{rounded<S>(normed, n, D, arena_), n, D, layout_.head.forwards, shape_.outputs, D,
                                        logits, shape_.outputs},
                      threads_);
        return logits;
    }

    // qkv [.., 3 D], rows qkv_stride apart <- tokens t .. of x
    template <class Out>
    void project(const Block<S>& block, const float* x, float* x_scale, Out* qkv, int64_t qkv_stride, int64_t t,
                 int64_t tokens) {
        S* normed = arena_.take<S>(tokens * D);
        const int64_t offsets[] = {0, tokens};
        rms_norm_forward({offsets, 1, D}, x + t * D, block.input_norm, shape_.norm_eps, normed, x_scale + t, threads_);
        Product<S, Out> product{normed, tokens, D, block.qkv.forwards, 3 * D, D, qkv + t * qkv_stride, qkv_stride};
        product.bias = block.qkv_bias;
        multiply_rows(product, threads_);
    }

    void add_attention(const Block<S>& block, const S* mixed, const float* before, float* middle, int64_t tokens) {
        Product<S, float> product{mixed, tokens, D, block.output.forwards, D, D, middle, D};
        product.onto = before;
        multiply_rows(product, threads_);
    }

    void add_mlp(const Block<S>& block, const float* middle, float* middle_scale, S* gate_up, float* following,
                 int64_t tokens) {
        S* normed = arena_.take<S>(tokens * D);
        const int64_t offsets[] = {0, tokens};
        rms_norm_forward({offsets, 1, D}, middle, block.middle_norm, shape_.norm_eps, normed, middle_scale, threads_);
        multiply_rows(Product<S, S>{normed, tokens, D, block.gate_up.forwards, 2 * F, D, gate_up, 2 * F}, threads_);
        const int64_t stride = row_of<S>(F);
        S* gated = arena_.take<S>(tokens * stride);
        if (stride > F)
            for (int64_t t = 0; t < tokens; ++t) gated[t * stride + F] = S(0.0f);
        swiglu_forward(tokens, F, gate_up, gated, stride, threads_);
        Product<S, float> product{gated, tokens, stride, block.down.forwards, D, F, following, D};
        product.onto = middle;
        multiply_rows(product, threads_);
    }

    template <class F_> void each_block(int64_t n, const F_& f) {
        for (int64_t t = 0; t < n; t += block_tokens) {
            const Arena::Scope scope(arena_);
            f(t, std::min(block_tokens, n - t));
        }
    }

    template <class T> T* gather(const T* x, const std::vector<int64_t>& places) {
        T* to = arena_.take<T>(static_cast<int64_t>(places.size()) * D);
        for (size_t k = 0; k < places.size(); ++k)
            std::memcpy(static_cast<void*>(to + static_cast<int64_t>(k) * D), x + places[k] * D,
                        static_cast<size_t>(D) * sizeof *x);
        return to;
    }

    const Layout<S>& layout() const { return layout_; }
    int64_t head_dim() const { return D / shape_.heads; }

private:
    template <class T> Heads<T> of(T* qkv) const { return heads_of(qkv, 3 * D, head_dim()); }

    AttentionRows attention_rows(const TileRows& rows, const int32_t* query) const {
        AttentionRows attended{rows.row_start, rows.rows, shape_.heads, head_dim(), shape_.rope_base, threads_};
        attended.place = rows.place;
        attended.query = query;
        return attended;
    }

    template <class T> T* scatter(const T* x, const std::vector<int64_t>& places, int64_t n) {
        T* to = arena_.take<T>(n * D);
        std::memset(static_cast<void*>(to), 0, static_cast<size_t>(n * D) * sizeof *x);
        for (size_t k = 0; k < places.size(); ++k)
            std::memcpy(static_cast<void*>(to + places[k] * D), x + static_cast<int64_t>(k) * D,
                        static_cast<size_t>(D) * sizeof *x);
        return to;
    }

    // Heads share nothing, so that threads may part them.
    void attend_backward(const TileRows& rows, const int32_t* query, const S* qkv, const S* dmixed, float* dqkv) {
        parallel_for(shape_.heads, 1, threads_, [&](int64_t begin, int64_t end) {
            AttentionRows attended = attention_rows(rows, query);
            attended.heads = end - begin;
            const int64_t at = begin * head_dim();
            attention_backward(attended, of<const S>(qkv + at), of<const S>(qkv + D + at), of<const S>(qkv + 2 * D + at),
                               heads_of(dmixed + at, D, head_dim()), of<float>(dqkv + at), of<float>(dqkv + D + at),
                               of<float>(dqkv + 2 * D + at));
        });
    }

    // dx += the gradient at the norm's input
    void norm_backward(const float* dnormed, const float* x, const float* weight, const float* scale, float* dx,
                       float* gradient, int64_t tokens) {
        const int64_t offsets[] = {0, tokens};
        rms_norm_backward({offsets, 1, D}, dnormed, x, weight, scale, dx, gradient, threads_);
    }

    const S* norm_again(const float* x, const float* weight, const float* scale, int64_t tokens) {
        S* normed = arena_.take<S>(tokens * D);
        rms_norm_again(tokens, D, x, weight, scale, normed, threads_);
        return normed;
    }

    void mlp_backward(const Block<S>& block, const Kept<S>& kept, int64_t t, int64_t tokens, float* dx, float* gradients) {
        const S *dout = rounded<S>(dx, tokens, D, arena_), *gate_up = kept.gate_up + t * 2 * F;
        S *dgated = arena_.take<S>(tokens * F), *gated = arena_.take<S>(tokens * F);
        S* dgate_up = arena_.take<S>(tokens * 2 * F);
        multiply_rows(Product<S, S>{dout, tokens, D, block.down.backwards, F, D, dgated, F}, threads_);
        swiglu_backward(tokens, F, dgated, gate_up, dgate_up, gated, threads_);
        add_gradient(dout, D, D, gated, F, F, tokens, gradients + block.down.offset, arena_, threads_);
        const S* normed = norm_again(kept.middle + t * D, block.middle_norm, kept.middle_scale + t, tokens);
        add_gradient(dgate_up, 2 * F, 2 * F, normed, D, D, tokens, gradients + block.gate_up.offset, arena_, threads_);
        float* dnormed = arena_.take<float>(tokens * D);
        multiply_rows(Product<S, float>{dgate_up, tokens, 2 * F, block.gate_up.backwards, D, 2 * F, dnormed, D}, threads_);
        norm_backward(dnormed, kept.middle + t * D, block.middle_norm, kept.middle_scale + t, dx,
                      gradients + block.middle_norm_at, tokens);
    }

    void attention_output_backward(const Block<S>& block, const S* mixed, const float* dx, S* dmixed, int64_t tokens,
                                   float* gradients) {
        const S* dout = rounded<S>(dx, tokens, D, arena_);
        add_gradient(dout, D, D, mixed, D, D, tokens, gradients + block.output.offset, arena_, threads_);
        multiply_rows(Product<S, S>{dout, tokens, D, block.output.backwards, D, D, dmixed, D}, threads_);
    }

    void project_backward(const Block<S>& block, const Kept<S>& kept, int64_t t, int64_t tokens, const float* dqkv, float* dx,
                          float* gradients) {
        const S* dout = rounded<S>(dqkv, tokens, 3 * D, arena_);
        const S* normed = norm_again(kept.x + t * D, block.input_norm, kept.x_scale + t, tokens);
        add_gradient(dout, 3 * D, 3 * D, normed, D, D, tokens, gradients + block.qkv.offset, arena_, threads_);
        float* bias = gradients + block.qkv_bias_at;
        for (int64_t i = 0; i < tokens; ++i)
            for (int64_t d = 0; d < 3 * D; ++d) bias[d] += dqkv[i * 3 * D + d];
        float* dnormed = arena_.take<float>(tokens * D);
        multiply_rows(Product<S, float>{dout, tokens, 3 * D, block.qkv.backwards, D, 3 * D, dnormed, D}, threads_);
        norm_backward(dnormed, kept.x + t * D, block.input_norm, kept.x_scale + t, dx, gradients + block.input_norm_at,
                      tokens);
    }

    const TransformerShape& shape_;
    const Layout<S> layout_;
    Arena& arena_;
    const int threads_;
    float* scale_ = nullptr;  // of the norm that was computed last

public:
    const int64_t D, F;
};

template <class S> void pack_all(const TransformerShape& shape, const float* parameters, void* packed, int threads) {
    const Layout<S> layout(shape, parameters, packed);
    std::vector<Matrix<S>> matrices;
    for (const Block<S>& block : layout.blocks)
        matrices.insert(matrices.end(), {block.qkv, block.output, block.gate_up, block.down});
    matrices.push_back(layout.head);
    parallel_for(static_cast<int64_t>(matrices.size()), 1, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const Matrix<S>& m = matrices[static_cast<size_t>(i)];
            pack(parameters + m.offset, m.depth, true, m.lines, m.depth, m.forwards);
            pack(parameters + m.offset, m.depth, false, m.depth, m.lines, m.backwards);
        }
    });
}

template <class S>
double learn(const Model& model, const TileRows& rows, float* gradients, float* grad_embedded, Arena& arena, int threads) {
    const Scored scored(rows);
    for (const int64_t target : scored.targets)
        if (target < 0 || target >= model.shape.outputs)
            throw std::out_of_range("targets: expected 0 to " + std::to_string(model.shape.outputs - 1) + ", got " +
                                    std::to_string(target));
    Pass<S> pass(model, arena, threads);
    const float* out;
    const std::vector<Kept<S>> kept = pass.forward(rows, scored, out);
    float* dx = arena.take<float>(scored.size() * pass.D);
    const double loss = pass.head(out, scored, dx, gradients);
    pass.backward(rows, scored, kept, dx, gradients, grad_embedded);
    return loss;
}

template <class S>
void read(const Model& model, const TileRows& rows, const std::vector<int64_t>& layers, const std::vector<float*>& states,
          float* logits, Arena& arena, int threads) {
    const Scored scored(rows);
    Pass<S> pass(model, arena, threads);
    const int64_t D = pass.D, H = model.shape.outputs, K = scored.size();
    const float* out;
    const std::vector<Kept<S>> kept = pass.forward(rows, scored, out);
    const float* final = pass.final_norm(out, K);
    const auto copy = [&](const float* from, int64_t width, float* to, const auto& index) {
        for (int64_t k = 0; k < rows.scored; ++k)
            std::memcpy(to + k * width, from + index(k) * width, static_cast<size_t>(width) * sizeof *to);
    };
    const auto of_scored = [&](int64_t k) { return scored.order[static_cast<size_t>(k)]; };
    for (size_t i = 0; i < layers.size(); ++i) {
        if (layers[i] == model.shape.layers)
            copy(final, D, states[i], of_scored);
        else
            copy(kept[static_cast<size_t>(layers[i])].x, D, states[i], [&](int64_t k) { return rows.sources[k]; });
    }
    if (logits) copy(pass.logits_of(final, K), H, logits, of_scored);
}

template <class S>
void extend(const Model& model, const CachedRows& rows, const int32_t* tokens, float* caches, int32_t* following,
            Arena& arena) {
    Pass<S> pass(model, arena, rows.threads);
    const int64_t D = pass.D, H = model.shape.outputs, layers = model.shape.layers;
    std::vector<int64_t> last;  // the last token of each row, among the new ones
    for (int64_t r = 0, n = 0; r < rows.rows; ++r) last.push_back((n += rows.fresh[r]) - 1);
    float *x = pass.embed(tokens, rows.tokens), *mixed = arena.take<float>(rows.tokens * D);
    float* scale = arena.take<float>(rows.tokens);
    int64_t n = rows.tokens;
    for (int64_t i = 0; i < layers; ++i) {
        const Block<S>& block = pass.layout().blocks[static_cast<size_t>(i)];
        float* cache = caches + i * rows.places * 3 * D;
        float* fresh = cache + rows.first * 3 * D;
        pass.each_block(n, [&](int64_t t, int64_t count) { pass.project(block, x, scale, fresh, 3 * D, t, count); });
        attention_cached(rows, cache, mixed);
        if (i == layers - 1) {
            x = pass.gather(x, last);
            mixed = pass.gather(mixed, last);
            n = rows.rows;
        }
        pass.each_block(n, [&](int64_t t, int64_t count) {
            pass.add_attention(block, rounded<S>(mixed + t * D, count, D, arena), x + t * D, x + t * D, count);
            S* gate_up = arena.take<S>(count * 2 * pass.F);
            pass.add_mlp(block, x + t * D, scale + t, gate_up, x + t * D, count);
        });
    }
    pass.each_block(n, [&](int64_t t, int64_t count) {
        const float* logits = pass.logits_of(pass.final_norm(x + t * D, count), count);
        for (int64_t r = 0; r < count; ++r)
            following[t + r] =
                static_cast<int32_t>(std::max_element(logits + r * H, logits + (r + 1) * H) - (logits + r * H));
    });
}

}  // namespace

int64_t packed_bytes(const TransformerShape& shape) {
    if (shape.bfloat16) return Layout<BFloat16>(shape, nullptr, nullptr).size * 2;
    return Layout<float>(shape, nullptr, nullptr).size * 4;
}

void pack_parameters(const TransformerShape& shape, const float* parameters, void* packed, int threads) {
    if (shape.bfloat16) return pack_all<BFloat16>(shape, parameters, packed, threads);
    pack_all<float>(shape, parameters, packed, threads);
}

double learn_tile(const Model& model, const TileRows& rows, float* gradients, float* grad_embedded, Arena& arena,
                  int threads) {
    arena.clear();
    if (model.shape.bfloat16) return learn<BFloat16>(model, rows, gradients, grad_embedded, arena, threads);
    return learn<float>(model, rows, gradients, grad_embedded, arena, threads);
}

void read_tile(const Model& model, const TileRows& rows, const std::vector<int64_t>& layers,
               const std::vector<float*>& states, float* logits, Arena& arena, int threads) {
    arena.clear();
    if (model.shape.bfloat16) return read<BFloat16>(model, rows, layers, states, logits, arena, threads);
    read<float>(model, rows, layers, states, logits, arena, threads);
}

void extend_rows(const Model& model, const CachedRows& rows, const int32_t* tokens, float* caches, int32_t* following,
                 Arena& arena) {
    arena.clear();
    if (model.shape.bfloat16) return extend<BFloat16>(model, rows, tokens, caches, following, arena);
    extend<float>(model, rows, tokens, caches, following, arena);
}

}  // namespace worldfast
