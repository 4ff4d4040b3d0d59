// What a norm gives is not kept for the backward pass but computed again from its scale: that is cheaper than
// the memory.
#include "transformer/transformer.h"

#include "transformer/forward.h"

namespace worldfast {
namespace {

// The gradient of a tile, behind its forward pass.
template <class S>
class Backward {
public:
    explicit Backward(const Forward<S>& forward)
        : forward_(forward),
          shape_(forward.shape),
          layout_(forward.layout),
          arena_(forward.arena),
          threads_(forward.threads),
          interruption_(forward.interruption),
          D(forward.D),
          F(forward.F) {}

    // The summed loss, and its gradient at x [n, D], what the last block gave.
    double head(const float* x, const Scored& scored, float* dx, float* gradients) {
        const int64_t H = shape_.outputs;
        double loss = 0;
        forward_.each_block(scored.size(), [&](int64_t t, int64_t tokens) {
            float *normed = arena_.take<float>(tokens * D), *scale = arena_.take<float>(tokens);
            forward_.norm(x + t * D, layout_.norm, tokens, normed, scale);
            float* logits = forward_.logits_of(normed, tokens);
            loss += cross_entropy(tokens, H, logits, scored.first.data() + t, scored.targets.data(),
                                  scored.weights.empty() ? nullptr : scored.weights.data(), logits, threads_);
            const S *dlogits = rounded<S>(logits, tokens, H, arena_), *input = rounded<S>(normed, tokens, D, arena_);
            add_gradient(dlogits, row_of<S>(H), H, input, D, D, tokens, gradients + layout_.head.offset, arena_,
                         threads_, interruption_);
            float* dnormed = arena_.take<float>(tokens * D);
            multiply_rows(Product<S, float>{dlogits, tokens, row_of<S>(H), layout_.head.backwards, D, H, dnormed, D},
                          threads_, interruption_);
            std::memset(dx + t * D, 0, static_cast<size_t>(tokens * D) * sizeof *dx);
            norm_backward(dnormed, x + t * D, layout_.norm, scale, dx + t * D, gradients + layout_.norm_at, tokens);
        });
        return loss;
    }

    // dx [K', D] -> the gradient at the embedded tokens [U, D], and those at the parameters.
    void run(const TileRows& rows, const Scored& scored, const std::vector<Kept<S>>& kept, float* dx, float* gradients,
             float* grad_embedded) {
        const int64_t U = rows.computed;
        for (int64_t i = shape_.layers - 1; i >= 0; --i) {
            const Arena::Scope scope(arena_);
            const Block<S>& block = layout_.blocks[static_cast<size_t>(i)];
            const Kept<S>& of_block = kept[static_cast<size_t>(i)];
            const bool last = i == shape_.layers - 1;
            const int64_t n = last ? scored.size() : U;
            S* dmixed = arena_.take<S>(U * D);
            forward_.each_block(n, [&](int64_t t, int64_t tokens) {
                mlp_backward(block, of_block, t, tokens, dx + t * D, gradients);
                attention_output_backward(block, of_block.mixed + t * D, dx + t * D, dmixed + t * D, tokens, gradients);
            });
            if (last) {
                dmixed = scatter(dmixed, scored.places, U, arena_.take<S>(U * D));
                dx = scatter(dx, scored.places, U, grad_embedded);
            }
            float* dqkv = arena_.take<float>(U * 3 * D);
            std::memset(dqkv, 0, static_cast<size_t>(U * 3 * D) * sizeof *dqkv);
            attend_backward(rows, last ? scored.query.data() : rows.shared, of_block.qkv, dmixed, dqkv);
            forward_.each_block(U, [&](int64_t t, int64_t tokens) {
                project_backward(block, of_block, t, tokens, dqkv + t * 3 * D, dx + t * D, gradients);
            });
        }
    }

private:
    // to [n, D] <- x at the places, zeros elsewhere
    template <class T>
    T* scatter(const T* x, const std::vector<int64_t>& places, int64_t n, T* to) const {
        std::memset(static_cast<void*>(to), 0, static_cast<size_t>(n * D) * sizeof *x);
        for (size_t k = 0; k < places.size(); ++k)
            std::memcpy(static_cast<void*>(to + places[k] * D), x + static_cast<int64_t>(k) * D,
                        static_cast<size_t>(D) * sizeof *x);
        return to;
    }

    // Heads share nothing, so that threads may part them.
    void attend_backward(const TileRows& rows, const int32_t* query, const S* qkv, const S* dmixed, float* dqkv) {
        const auto range = [&](int64_t begin, int64_t end) {
            AttentionRows attended = attention_rows(shape_, rows, query, 1);
            attended.heads = end - begin;
            attended.interruption = &interruption_;
            attended.asks = begin == 0;
            const int64_t at = begin * (D / shape_.heads);
            const auto *in = attended_as(qkv) + at, *grad = attended_as(dmixed) + at;
            attention_backward(attended, heads_at(in, shape_), heads_at(in + D, shape_), heads_at(in + 2 * D, shape_),
                               mixed_at(grad, shape_), heads_at(dqkv + at, shape_), heads_at(dqkv + D + at, shape_),
                               heads_at(dqkv + 2 * D + at, shape_));
        };
        parallel_for(shape_.heads, 1, threads_, range, &interruption_);
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

    void mlp_backward(const Block<S>& block, const Kept<S>& kept, int64_t t, int64_t tokens, float* dx,
                      float* gradients) {
        const S *dout = rounded<S>(dx, tokens, D, arena_), *gate_up = kept.gate_up + t * 2 * F;
        S *dgated = arena_.take<S>(tokens * F), *gated = arena_.take<S>(tokens * F);
        S* dgate_up = arena_.take<S>(tokens * 2 * F);
        multiply_rows(Product<S, S>{dout, tokens, D, block.down.backwards, F, D, dgated, F}, threads_, interruption_);
        swiglu_backward(tokens, F, dgated, gate_up, dgate_up, gated, threads_);
        add_gradient(dout, D, D, gated, F, F, tokens, gradients + block.down.offset, arena_, threads_, interruption_);
        const S* normed = norm_again(kept.middle + t * D, block.mlp_norm, kept.middle_scale + t, tokens);
        add_gradient(dgate_up, 2 * F, 2 * F, normed, D, D, tokens, gradients + block.gate_up.offset, arena_, threads_,
                     interruption_);
        float* dnormed = arena_.take<float>(tokens * D);
        multiply_rows(Product<S, float>{dgate_up, tokens, 2 * F, block.gate_up.backwards, D, 2 * F, dnormed, D},
                      threads_, interruption_);
        norm_backward(dnormed, kept.middle + t * D, block.mlp_norm, kept.middle_scale + t, dx,
                      gradients + block.mlp_norm_at, tokens);
    }

    void attention_output_backward(const Block<S>& block, const S* mixed, const float* dx, S* dmixed, int64_t tokens,
                                   float* gradients) {
        const S* dout = rounded<S>(dx, tokens, D, arena_);
        add_gradient(dout, D, D, mixed, D, D, tokens, gradients + block.output.offset, arena_, threads_, interruption_);
        multiply_rows(Product<S, S>{dout, tokens, D, block.output.backwards, D, D, dmixed, D}, threads_, interruption_);
    }

    void project_backward(const Block<S>& block, const Kept<S>& kept, int64_t t, int64_t tokens, const float* dqkv,
                          float* dx, float* gradients) {
        const S* dout = rounded<S>(dqkv, tokens, 3 * D, arena_);
        const S* normed = norm_again(kept.x + t * D, block.input_norm, kept.x_scale + t, tokens);
        add_gradient(dout, 3 * D, 3 * D, normed, D, D, tokens, gradients + block.qkv.offset, arena_, threads_,
                     interruption_);
        float* bias = gradients + block.qkv_bias_at;
        for (int64_t i = 0; i < tokens; ++i)
            for (int64_t d = 0; d < 3 * D; ++d) bias[d] += dqkv[i * 3 * D + d];
        float* dnormed = arena_.take<float>(tokens * D);
        multiply_rows(Product<S, float>{dout, tokens, 3 * D, block.qkv.backwards, D, 3 * D, dnormed, D}, threads_,
                      interruption_);
        norm_backward(dnormed, kept.x + t * D, block.input_norm, kept.x_scale + t, dx, gradients + block.input_norm_at,
                      tokens);
    }

    const Forward<S>& forward_;
    const TransformerShape& shape_;
    const Layout<S>& layout_;
    Arena& arena_;
    const int threads_;
    Interruption& interruption_;
    const int64_t D, F;
};

template <class S>
void pack_all(const TransformerShape& shape, const float* parameters, void* packed, int threads) {
    const Layout<S> layout(shape, parameters, packed);
    std::vector<Matrix<S>> matrices;
    for (const Block<S>& block : layout.blocks)
        matrices.insert(matrices.end(), {block.qkv, block.output, block.gate_up, block.down});
    matrices.push_back(layout.head);
    parallel_for(static_cast<int64_t>(matrices.size()), 1, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const Matrix<S>& m = matrices[static_cast<size_t>(i)];
            pack_rows(parameters + m.offset, m.depth, m.lines, m.depth, m.forwards);
            pack_columns(parameters + m.offset, m.depth, m.depth, m.lines, m.backwards);
        }
    });
}

template <class S>
double learn(const Model& model, const TileRows& rows, float* gradients, float* grad_embedded, Arena& arena,
             int threads) {
    const Scored scored(rows);
    for (const int64_t target : scored.targets)
        if (target < 0 || target >= model.shape.outputs)
            throw std::out_of_range("targets: expected 0 to " + std::to_string(model.shape.outputs - 1) + ", got " +
                                    std::to_string(target));
    Interruption interruption;
    const Forward<S> forward(model, arena, threads, interruption);
    const float* out;
    const std::vector<Kept<S>> kept = forward.run(rows, scored, out, model.shape.layers);
    Backward<S> backward(forward);
    float* dx = arena.take<float>(scored.size() * forward.D);
    const double loss = backward.head(out, scored, dx, gradients);
    backward.run(rows, scored, kept, dx, gradients, grad_embedded);
    return loss;
}

template <class S>
void read(const Model& model, const TileRows& rows, const std::vector<int64_t>& layers,
          const std::vector<float*>& states, float* logits, Arena& arena, int threads) {
    const Scored scored(rows);
    Interruption interruption;
    const Forward<S> forward(model, arena, threads, interruption);
    const int64_t D = forward.D, H = model.shape.outputs, K = scored.size(), last = model.shape.layers;
    const int64_t deepest = layers.empty() ? 0 : *std::max_element(layers.begin(), layers.end());
    const float* out;
    const std::vector<Kept<S>> kept = forward.run(rows, scored, out, logits ? last : deepest);
    const auto copy = [&](const float* from, int64_t width, float* to, const auto& index) {
        for (int64_t k = 0; k < rows.scored; ++k)
            std::memcpy(to + k * width, from + index(k) * width, static_cast<size_t>(width) * sizeof *to);
    };
    const auto of_scored = [&](int64_t k) { return scored.order[static_cast<size_t>(k)]; };
    const float* final = nullptr;
    if (logits || deepest == last) {
        float *normed = arena.take<float>(K * D), *scale = arena.take<float>(K);
        forward.norm(out, forward.layout.norm, K, normed, scale);
        final = normed;
    }
    for (size_t i = 0; i < layers.size(); ++i) {
        if (layers[i] == last)
            copy(final, D, states[i], of_scored);
        else
            copy(kept[static_cast<size_t>(layers[i])].x, D, states[i], [&](int64_t k) { return rows.sources[k]; });
    }
    if (logits) copy(forward.logits_of(final, K), H, logits, of_scored);
}

}  // namespace

TransformerShape checked(TransformerShape shape) {
    constexpr int64_t widest = 1 << 20, deepest = 1 << 12;  // so that no number of parameters or bytes overflows
    within("hidden", shape.hidden, 1, widest);
    within("layers", shape.layers, 1, deepest);
    within("heads", shape.heads, 1, shape.hidden);
    within("intermediate", shape.intermediate, 1, widest);
    within("vocabulary", shape.vocabulary, 1, widest);
    within("outputs", shape.outputs, 1, widest);
    if (shape.hidden % shape.heads || shape.hidden / shape.heads % 8)
        throw std::invalid_argument("heads: expected a head size that is a multiple of 8, got " +
                                    std::to_string(shape.hidden) + " / " + std::to_string(shape.heads));
    with_operand(shape, [&](auto operand) {
        using S = decltype(operand);
        const Layout<S> layout(shape, nullptr, nullptr);
        shape.parameters = layout.end;
        shape.packed_bytes = layout.size * static_cast<int64_t>(sizeof(S));
    });
    return shape;
}

void pack_parameters(const TransformerShape& shape, const float* parameters, void* packed, int threads) {
    with_operand(shape, [&](auto operand) { pack_all<decltype(operand)>(shape, parameters, packed, threads); });
}

double learn_tile(const Model& model, const TileRows& rows, float* gradients, float* grad_embedded, Arena& arena,
                  int threads) {
    arena.clear();
    return with_operand(model.shape, [&](auto operand) {
        return learn<decltype(operand)>(model, rows, gradients, grad_embedded, arena, threads);
    });
}

void read_tile(const Model& model, const TileRows& rows, const std::vector<int64_t>& layers,
               const std::vector<float*>& states, float* logits, Arena& arena, int threads) {
    arena.clear();
    with_operand(model.shape,
                 [&](auto operand) { read<decltype(operand)>(model, rows, layers, states, logits, arena, threads); });
}

}  // namespace worldfast
