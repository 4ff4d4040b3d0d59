// A transformer's forward pass, and the parts of it that decoding has in common.
//
// A layer is worked through in blocks of tokens, whole chains of operations a block, so that what passes from
// one operation to the next is still in the second cache, and so are the layer's matrices.
#pragma once

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "base/parallel.h"
#include "transformer/attention.h"
#include "transformer/layers.h"
#include "transformer/parameters.h"
#include "transformer/scored.h"

namespace worldfast {

constexpr int64_t block_tokens = 256;
constexpr int64_t grain = 32;  // rows of a product that are worth a thread

// Calls f with a number of the type that is multiplied.
template <class F>
auto with_operand(const TransformerShape& shape, F&& f) {
    if (shape.operand == Operand::bfloat16) return f(BFloat16{});
    if (shape.operand == Operand::rounded) return f(Rounded{});
    return f(float{});
}

// Numbers per row of what is multiplied.
template <class S>
constexpr int64_t row_of(int64_t width) {
    return round_up(width, paired<S>);
}

// a [n, width] as what is multiplied, with a zero behind an odd row.
template <class S>
const S* rounded(const float* a, int64_t n, int64_t width, Arena& arena) {
    if constexpr (!std::is_same_v<S, float>) {
        S* to = arena.take<S>(n * row_of<S>(width));
        round_rows(a, n, width, to, row_of<S>(width));
        return to;
    } else {
        return a;
    }
}

template <class S, class Out>
void multiply_rows(const Product<S, Out>& product, int threads, Interruption& interruption) {
    const auto range = [&](int64_t begin, int64_t end) {
        const bool large = heavy(std::min(end - begin, block_tokens), product.lines, product.depth);
        for (int64_t t = begin; t < end && !interruption.end(begin == 0, large); t += block_tokens)
            multiply(part_of(product, t, std::min(t + block_tokens, end)));
    };
    parallel_for(product.rows, grain, threads, range, &interruption);
}

// What a block's gradient needs of its forward pass; n is K' in the last block, else U.
template <class S>
struct Kept {
    const float *x, *x_scale = nullptr;                      // [U, D], [U]
    const S *qkv = nullptr, *mixed = nullptr;                // [U, 3 D], [n, D]
    const float *middle = nullptr, *middle_scale = nullptr;  // [n, D], [n]
    const S* gate_up = nullptr;                              // [n, 2 F]
};

// Attention reads Rounded numbers as the floats that they are.
template <class S>
auto* attended_as(S* p) {
    if constexpr (std::is_same_v<std::remove_const_t<S>, Rounded>)
        return &p->value;
    else
        return p;
}

// Queries, keys or values among qkv [.., 3 D], from the head on at which `at` begins.
template <class T>
Heads<T> heads_at(T* at, const TransformerShape& shape) {
    return {at, 3 * shape.hidden, shape.hidden / shape.heads};
}
// Likewise of [.., D].
template <class T>
Heads<T> mixed_at(T* at, const TransformerShape& shape) {
    return {at, shape.hidden, shape.hidden / shape.heads};
}

inline AttentionRows attention_rows(const TransformerShape& shape, const TileRows& rows, const int32_t* query,
                                    int threads) {
    AttentionRows attended{rows.row_start,  rows.rows, shape.heads, shape.hidden / shape.heads,
                           shape.rope_base, threads};
    attended.place = rows.place;
    attended.query = query;
    return attended;
}

// What it takes from the arena lasts as long as the caller's scope.
template <class S>
struct Forward {
    const TransformerShape& shape;
    const Layout<S> layout;
    Arena& arena;
    const int threads;
    Interruption& interruption;
    const int64_t D, F;

    Forward(const Model& model, Arena& arena, int threads, Interruption& interruption)
        : shape(model.shape),
          layout(model.shape, model.parameters, const_cast<void*>(model.packed)),
          arena(arena),
          threads(threads),
          interruption(interruption),
          D(shape.hidden),
          F(shape.intermediate) {}

    // Every block's activations; `out` [K', D] is what the last block gives. Where only `depth` blocks are
    // asked for, the block behind them has its input alone.
    std::vector<Kept<S>> run(const TileRows& rows, const Scored& scored, const float*& out, int64_t depth) const {
        const int64_t U = rows.computed;
        std::vector<Kept<S>> kept;
        const float* x = embed(rows.tokens, U);
        for (int64_t i = 0; i < depth; ++i) {
            const Block<S>& block = layout.blocks[static_cast<size_t>(i)];
            const bool last = i == shape.layers - 1;
            const int64_t n = last ? scored.size() : U;
            float* x_scale = arena.take<float>(U);
            S* qkv = arena.take<S>(U * 3 * D);
            each_block(U, [&](int64_t t, int64_t tokens) { project(block, x, x_scale, qkv, 3 * D, t, tokens); });
            S* mixed = arena.take<S>(U * D);
            const AttentionRows attended =
                attention_rows(shape, rows, last ? scored.query.data() : rows.shared, threads);
            attend(attended, qkv, mixed, U);
            const float* before = x;
            if (last) {
                before = gather(x, scored.places);
                mixed = gather(mixed, scored.places);
            }
            float *middle = arena.take<float>(n * D), *middle_scale = arena.take<float>(n);
            S* gate_up = arena.take<S>(n * 2 * F);
            float* following = arena.take<float>(n * D);
            each_block(n, [&](int64_t t, int64_t tokens) {
                add_attention(block, mixed + t * D, before + t * D, middle + t * D, tokens);
                add_mlp(block, middle + t * D, middle_scale + t, gate_up + t * 2 * F, following + t * D, tokens);
            });
            kept.push_back({x, x_scale, qkv, mixed, middle, middle_scale, gate_up});
            x = following;
        }
        if (depth < shape.layers) kept.push_back({x});
        out = x;
        return kept;
    }

    // mixed [n, D] <- the attention of qkv [n, 3 D]
    void attend(AttentionRows rows, const S* qkv, S* mixed, int64_t n) const {
        rows.interruption = &interruption;
        const auto* in = attended_as(qkv);
        auto* out = attended_as(mixed);
        attention_forward(rows, heads_at(in, shape), heads_at(in + D, shape), heads_at(in + 2 * D, shape),
                          mixed_at(out, shape));
        if constexpr (std::is_same_v<S, Rounded>) round_rows(out, n, D, mixed, D);
    }

    // [n, D] <- the tokens' embeddings
    float* embed(const int32_t* tokens, int64_t n) const {
        float* x = arena.take<float>(n * D);
        for (int64_t i = 0; i < n; ++i) {
            if (tokens[i] < 0 || tokens[i] >= shape.vocabulary)
                throw std::invalid_argument("tokens: expected 0 to " + std::to_string(shape.vocabulary - 1) + ", got " +
                                            std::to_string(tokens[i]));
            std::memcpy(x + i * D, layout.embedding + tokens[i] * D, static_cast<size_t>(D) * sizeof *x);
        }
        return x;
    }

    // [n, D] and its scale [n] <- the norm of x
    template <class Out>
    void norm(const float* x, const float* weight, int64_t n, Out* normed, float* scale) const {
        const int64_t offsets[] = {0, n};
        rms_norm_forward({offsets, 1, D}, x, weight, shape.norm_eps, normed, scale, threads);
    }

    float* logits_of(const float* normed, int64_t n) const {
        float* logits = arena.take<float>(n * shape.outputs);
        multiply_rows(Product<S, float>{rounded<S>(normed, n, D, arena), n, D, layout.head.forwards, shape.outputs, D,
                                        logits, shape.outputs},
                      threads, interruption);
        return logits;
    }

    // qkv [.., 3 D], rows qkv_stride apart <- tokens t .. of x
    template <class Out>
    void project(const Block<S>& block, const float* x, float* x_scale, Out* qkv, int64_t qkv_stride, int64_t t,
                 int64_t tokens) const {
        S* normed = arena.take<S>(tokens * D);
        norm(x + t * D, block.input_norm, tokens, normed, x_scale + t);
        Product<S, Out> product{normed, tokens, D, block.qkv.forwards, 3 * D, D, qkv + t * qkv_stride, qkv_stride};
        product.bias = block.qkv_bias;
        multiply_rows(product, threads, interruption);
    }

    void add_attention(const Block<S>& block, const S* mixed, const float* before, float* middle,
                       int64_t tokens) const {
        Product<S, float> product{mixed, tokens, D, block.output.forwards, D, D, middle, D};
        product.onto = before;
        multiply_rows(product, threads, interruption);
    }

    void add_mlp(const Block<S>& block, const float* middle, float* middle_scale, S* gate_up, float* following,
                 int64_t tokens) const {
        S* normed = arena.take<S>(tokens * D);
        norm(middle, block.mlp_norm, tokens, normed, middle_scale);
        multiply_rows(Product<S, S>{normed, tokens, D, block.gate_up.forwards, 2 * F, D, gate_up, 2 * F}, threads,
                      interruption);
        const int64_t stride = row_of<S>(F);
        S* gated = arena.take<S>(tokens * stride);
        if (stride > F)
            for (int64_t t = 0; t < tokens; ++t) gated[t * stride + F] = S(0.0f);
        swiglu_forward(tokens, F, gate_up, gated, stride, threads);
        Product<S, float> product{gated, tokens, stride, block.down.forwards, D, F, following, D};
        product.onto = middle;
        multiply_rows(product, threads, interruption);
    }

    template <class Work>
    void each_block(int64_t n, const Work& f) const {
        for (int64_t t = 0; t < n; t += block_tokens) {
            const Arena::Scope scope(arena);
            f(t, std::min(block_tokens, n - t));
        }
    }

    template <class T>
    T* gather(const T* x, const std::vector<int64_t>& places) const {
        T* to = arena.take<T>(static_cast<int64_t>(places.size()) * D);
        for (size_t k = 0; k < places.size(); ++k)
            std::memcpy(static_cast<void*>(to + static_cast<int64_t>(k) * D), x + places[k] * D,
                        static_cast<size_t>(D) * sizeof *x);
        return to;
    }
};

}  // namespace worldfast
