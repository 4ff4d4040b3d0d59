#include "transformer/layers.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "base/float16.h"
#include "base/parallel.h"
#include "base/simd.h"

namespace worldfast {
namespace {

constexpr int64_t token_block = 64;           // tokens per partial sum of a weight's gradient
constexpr int64_t parameter_block = 4096;     // parameters to a partial sum of a norm
constexpr int64_t grain = 1 << 15;            // numbers that are worth a thread
constexpr int64_t many_parameters = 1 << 17;  // that are worth one
constexpr float log2_e = 1.44269504f;

struct Block {
    int64_t member, begin, end;
};

// Every member's items offsets[m] .. offsets[m + 1] in blocks of `size`, the last of a member shorter.
std::vector<Block> blocks_of(const Members& members, int64_t size) {
    std::vector<Block> blocks;
    for (int64_t m = 0; m < members.members; ++m)
        for (int64_t begin = members.offsets[m]; begin < members.offsets[m + 1]; begin += size)
            blocks.push_back({m, begin, std::min(begin + size, members.offsets[m + 1])});
    return blocks;
}

// Calls f(i) for each of n items of `width` numbers.
template <class F>
void each(int64_t n, int64_t width, int threads, const F& f, int64_t worth = grain) {
    parallel_for(n, 1 + worth / std::max<int64_t>(width, 1), threads, [&f](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) f(i);
    });
}

// ---- RMSNorm ----

// y = x * scale * weight
template <int W, class S>
WORLDFAST_INLINE void scaled_body(const float* x, const float* weight, int64_t width, float scale, S* y) {
    typename Lanes<W>::Float part, w;
    for (int64_t d = 0; d < width; d += W) {
        load<W>(x + d, width - d, part);
        load<W>(weight + d, width - d, w);
        store<W>(y + d, width - d, part * scale * w);
    }
}
template <int W, class S>
WORLDFAST_INLINE void rms_norm_body(const float* x, const float* weight, int64_t width, float eps, S* y, float* scale) {
    typename Lanes<W>::Float squares{}, part;
    for (int64_t d = 0; d < width; d += W) {
        load<W>(x + d, width - d, part);
        squares += part * part;
    }
    *scale = 1 / std::sqrt(sum_of<W>(squares) / static_cast<float>(width) + eps);
    scaled_body<W>(x, weight, width, *scale, y);
}

template <int W>
WORLDFAST_INLINE void rms_norm_backward_body(const float* __restrict grad_y, const float* __restrict x,
                                             const float* __restrict weight, int64_t width, float scale,
                                             float* __restrict grad_x, float* __restrict grad_weight) {
    typename Lanes<W>::Float products{}, g, v, w;
    for (int64_t d = 0; d < width; d += W) {
        load<W>(grad_y + d, width - d, g);
        load<W>(x + d, width - d, v);
        load<W>(weight + d, width - d, w);
        products += g * w * v;
    }
    const float along = scale * scale * scale * sum_of<W>(products) / static_cast<float>(width);
    for (int64_t d = 0; d < width; ++d) {
        grad_x[d] += grad_y[d] * weight[d] * scale - x[d] * along;
        grad_weight[d] += grad_y[d] * x[d] * scale;
    }
}
WORLDFAST_DISPATCH(rms_norm_backward_token, rms_norm_backward_body,
                   (const float* grad_y, const float* x, const float* weight, int64_t width, float scale, float* grad_x,
                    float* grad_weight),
                   (grad_y, x, weight, width, scale, grad_x, grad_weight))

// ---- SwiGLU ----

// sigmoid <- 1 / (1 + exp(-gate))
template <int W>
WORLDFAST_INLINE void sigmoid_of(const typename Lanes<W>::Float& gate, typename Lanes<W>::Float& sigmoid) {
    sigmoid = gate * -log2_e;
    exp2_of<W>(sigmoid);
    sigmoid = 1.0f / (1.0f + sigmoid);
}

template <int W, class S>
WORLDFAST_INLINE void swiglu_body(const S* gate_up, int64_t width, S* y) {
    typename Lanes<W>::Float gate, up, sigmoid;
    for (int64_t f = 0; f < width; f += W) {
        load<W>(gate_up + f, width - f, gate);
        load<W>(gate_up + width + f, width - f, up);
        sigmoid_of<W>(gate, sigmoid);
        store<W>(y + f, width - f, gate * sigmoid * up);
    }
}

template <int W, class S>
WORLDFAST_INLINE void swiglu_backward_body(const S* grad_y, const S* gate_up, int64_t width, S* grad_gate_up, S* y) {
    typename Lanes<W>::Float gate, up, sigmoid, g;
    for (int64_t f = 0; f < width; f += W) {
        load<W>(gate_up + f, width - f, gate);
        load<W>(gate_up + width + f, width - f, up);
        load<W>(grad_y + f, width - f, g);
        sigmoid_of<W>(gate, sigmoid);
        const typename Lanes<W>::Float silu = gate * sigmoid;
        store<W>(grad_gate_up + f, width - f, g * up * (sigmoid + silu * (1.0f - sigmoid)));
        store<W>(grad_gate_up + width + f, width - f, g * silu);
        if (y) store<W>(y + f, width - f, silu * up);
    }
}

// ---- for each type of activations ----

#define WORLDFAST_LAYERS(S)                                                                                            \
    WORLDFAST_DISPATCH(scaled_token, scaled_body,                                                                      \
                       (const float* x, const float* weight, int64_t width, float scale, S* y),                        \
                       (x, weight, width, scale, y))                                                                   \
    WORLDFAST_DISPATCH(rms_norm_token, rms_norm_body,                                                                  \
                       (const float* x, const float* weight, int64_t width, float eps, S* y, float* scale),            \
                       (x, weight, width, eps, y, scale))                                                              \
    WORLDFAST_DISPATCH(swiglu_token, swiglu_body, (const S* gate_up, int64_t width, S* y), (gate_up, width, y))        \
    WORLDFAST_DISPATCH(swiglu_backward_token, swiglu_backward_body,                                                    \
                       (const S* grad_y, const S* gate_up, int64_t width, S* grad_gate_up, S* y),                      \
                       (grad_y, gate_up, width, grad_gate_up, y))
WORLDFAST_LAYERS(float)
WORLDFAST_LAYERS(BFloat16)
WORLDFAST_LAYERS(Rounded)
#undef WORLDFAST_LAYERS

// ---- cross entropy ----

// `count` positions with the same logits: the summed loss, each with its weight (null: 1), and the gradient at the logits.
template <int W>
WORLDFAST_INLINE void cross_entropy_body(const float* logits, int64_t classes, const int64_t* target,
                                         const float* weight, int64_t count, float* loss, float* grad) {
    typename Lanes<W>::Float x, most{}, total{};
    const auto weight_of = [weight](int64_t i) { return weight ? weight[i] : 1.0f; };
    float picked = 0, times = 0;
    for (int64_t i = 0; i < count; ++i) {
        picked += weight_of(i) * logits[target[i]];
        times += weight_of(i);
    }
    load<W>(logits, classes, most, -__builtin_inff());
    for (int64_t c = W; c < classes; c += W) {
        load<W>(logits + c, classes - c, x, -__builtin_inff());
        most = x > most ? x : most;
    }
    float top = most[0];
    for (int i = 1; i < W; ++i) top = most[i] > top ? most[i] : top;
    for (int64_t c = 0; c < classes; c += W) {
        load<W>(logits + c, classes - c, x, -__builtin_inff());
        x = (x - top) * log2_e;
        exp2_of<W>(x);
        total += x;
        store<W>(grad + c, classes - c, x);
    }
    const float sum = sum_of<W>(total), share = times / sum;
    for (int64_t c = 0; c < classes; ++c) grad[c] *= share;
    for (int64_t i = 0; i < count; ++i) grad[target[i]] -= weight_of(i);
    *loss = times * std::log(sum) - (picked - times * top);
}
WORLDFAST_DISPATCH(cross_entropy_position, cross_entropy_body,
                   (const float* logits, int64_t classes, const int64_t* target, const float* weight, int64_t count,
                    float* loss, float* grad),
                   (logits, classes, target, weight, count, loss, grad))

// ---- AdamW ----

struct AdamWStep {
    float keep_average, keep_square, decay, eps, root_correction, rate, grad_scale;
};

template <int W>
WORLDFAST_INLINE void adamw_body(const AdamWStep& s, int64_t n, float* __restrict p, const float* __restrict grad,
                                 float* __restrict average, float* __restrict square, const float* __restrict mask) {
    for (int64_t i = 0; i < n; ++i) {
        const float g = grad[i] * s.grad_scale;
        const float a = average[i] + (1 - s.keep_average) * (g - average[i]);
        const float q = square[i] * s.keep_square + (1 - s.keep_square) * g * g;
        average[i] = a;
        square[i] = q;
        p[i] = p[i] * (1 - s.decay * mask[i]) - s.rate * (a / (std::sqrt(q) * s.root_correction + s.eps));
    }
}
WORLDFAST_DISPATCH(adamw_block, adamw_body,
                   (const AdamWStep& s, int64_t n, float* p, const float* grad, float* average, float* square,
                    const float* mask),
                   (s, n, p, grad, average, square, mask))

// squares <- sum of x^2
template <int W>
WORLDFAST_INLINE void squares_body(const float* x, int64_t n, double* squares) {
    typename Lanes<W>::Float sum[4] = {}, part;
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
        WORLDFAST_UNROLL
        for (int k = 0; k < 4; ++k) sum[k] += at<W>(x + i + k * W) * at<W>(x + i + k * W);
    }
    for (; i < n; i += W) {
        load<W>(x + i, n - i, part);
        sum[0] += part * part;
    }
    *squares = sum_of<W>((sum[0] + sum[1]) + (sum[2] + sum[3]));
}
WORLDFAST_DISPATCH(squares_block, squares_body, (const float* x, int64_t n, double* squares), (x, n, squares))

template <int W>
WORLDFAST_INLINE void add_body(int64_t n, const std::vector<const float*>& others, float* sum) {
    typename Lanes<W>::Float x, part;
    for (int64_t i = 0; i < n; i += W) {
        load<W>(sum + i, n - i, x);
        for (const float* other : others) {
            load<W>(other + i, n - i, part);
            x += part;
        }
        store<W>(sum + i, n - i, x);
    }
}
WORLDFAST_DISPATCH(add_all, add_body, (int64_t n, const std::vector<const float*>& others, float* sum),
                   (n, others, sum))

}  // namespace

void add_lanes(int64_t n, const std::vector<const float*>& others, float* sum) { add_all(n, others, sum); }

void embedding_gradient(int64_t tokens, int64_t width, int64_t vocabulary, const int32_t* token,
                        const float* grad_embedded, float* gradient) {
    std::fill_n(gradient, vocabulary * width, 0.0f);
    for (int64_t t = 0; t < tokens; ++t) {
        float* to = gradient + token[t] * width;
        for (int64_t d = 0; d < width; ++d) to[d] += grad_embedded[t * width + d];
    }
}

template <class S>
void rms_norm_forward(const Members& members, const float* x, const float* weight, float eps, S* y, float* scale,
                      int threads) {
    const int64_t D = members.width;
    const std::vector<Block> blocks = blocks_of(members, token_block);
    each(static_cast<int64_t>(blocks.size()), token_block * D, threads, [&](int64_t i) {
        const Block& block = blocks[static_cast<size_t>(i)];
        for (int64_t t = block.begin; t < block.end; ++t)
            rms_norm_token(x + t * D, weight + block.member * D, D, eps, y + t * D, scale + t);
    });
}

template <class S>
void rms_norm_again(int64_t tokens, int64_t width, const float* x, const float* weight, const float* scale, S* y,
                    int threads) {
    each(tokens, width, threads,
         [=](int64_t t) { scaled_token(x + t * width, weight, width, scale[t], y + t * width); });
}

void rms_norm_backward(const Members& members, const float* grad_y, const float* x, const float* weight,
                       const float* scale, float* grad_x, float* grad_weight, int threads) {
    const int64_t D = members.width;
    const std::vector<Block> blocks = blocks_of(members, token_block);
    std::vector<float> partial(blocks.size() * static_cast<size_t>(D));  // [blocks, D]
    each(static_cast<int64_t>(blocks.size()), token_block * D, threads, [&](int64_t i) {
        const Block& block = blocks[static_cast<size_t>(i)];
        for (int64_t t = block.begin; t < block.end; ++t)
            rms_norm_backward_token(grad_y + t * D, x + t * D, weight + block.member * D, D, scale[t], grad_x + t * D,
                                    partial.data() + i * D);
    });
    for (size_t i = 0; i < blocks.size(); ++i)
        for (int64_t d = 0; d < D; ++d)
            grad_weight[blocks[i].member * D + d] += partial[i * static_cast<size_t>(D) + static_cast<size_t>(d)];
}

template <class S>
void swiglu_forward(int64_t tokens, int64_t width, const S* gate_up, S* y, int64_t y_stride, int threads) {
    each(tokens, width, threads, [=](int64_t t) { swiglu_token(gate_up + t * 2 * width, width, y + t * y_stride); });
}

template <class S>
void swiglu_backward(int64_t tokens, int64_t width, const S* grad_y, const S* gate_up, S* grad_gate_up, S* y,
                     int threads) {
    each(tokens, width, threads, [=](int64_t t) {
        swiglu_backward_token(grad_y + t * width, gate_up + t * 2 * width, width, grad_gate_up + t * 2 * width,
                              y ? y + t * width : nullptr);
    });
}

#define WORLDFAST_LAYERS(S)                                                                                            \
    template void rms_norm_forward(const Members&, const float*, const float*, float, S*, float*, int);                \
    template void rms_norm_again(int64_t, int64_t, const float*, const float*, const float*, S*, int);                 \
    template void swiglu_forward(int64_t, int64_t, const S*, S*, int64_t, int);                                        \
    template void swiglu_backward(int64_t, int64_t, const S*, const S*, S*, S*, int);
WORLDFAST_LAYERS(float)
WORLDFAST_LAYERS(BFloat16)
WORLDFAST_LAYERS(Rounded)
#undef WORLDFAST_LAYERS

double cross_entropy(int64_t groups, int64_t classes, const float* logits, const int64_t* first, const int64_t* target,
                     const float* weight, float* grad, int threads) {
    std::vector<float> loss(static_cast<size_t>(groups));
    each(groups, classes, threads, [&](int64_t g) {
        cross_entropy_position(logits + g * classes, classes, target + first[g], weight ? weight + first[g] : nullptr,
                               first[g + 1] - first[g], loss.data() + g, grad + g * classes);
    });
    double sum = 0;
    for (const float part : loss) sum += part;
    return sum;
}

void adamw(const AdamW& adamw, const std::vector<int64_t>& members, int64_t parameters, float* parameter,
           const float* grad, float* average, float* average_square, const float* decay_mask,
           const double* learning_rate, const int64_t* step, const double* grad_scale, int threads) {
    const auto count = static_cast<int64_t>(members.size());
    std::vector<AdamWStep> steps;
    for (int64_t m = 0; m < count; ++m) {
        const double t = static_cast<double>(step[m]);
        const double correction1 = 1 - std::pow(adamw.beta1, t), correction2 = 1 - std::pow(adamw.beta2, t);
        steps.push_back({static_cast<float>(adamw.beta1), static_cast<float>(adamw.beta2),
                         static_cast<float>(learning_rate[m] * adamw.weight_decay), static_cast<float>(adamw.eps),
                         static_cast<float>(1 / std::sqrt(correction2)),
                         static_cast<float>(learning_rate[m] / correction1), static_cast<float>(grad_scale[m])});
    }
    const int64_t per_member = (parameters + parameter_block - 1) / parameter_block;
    each(
        count * per_member, parameter_block, threads,
        [&](int64_t i) {
            const auto m = static_cast<size_t>(i / per_member);
            const int64_t first = i % per_member * parameter_block, at = members[m] * parameters + first;
            adamw_block(steps[m], std::min(parameter_block, parameters - first), parameter + at, grad + at,
                        average + at, average_square + at, decay_mask + first);
        },
        many_parameters);
}

void gradient_norm(const std::vector<int64_t>& members, int64_t parameters, const float* grad, double* norm,
                   int threads) {
    const int64_t per_member = (parameters + parameter_block - 1) / parameter_block;
    std::vector<double> squares(members.size() * static_cast<size_t>(per_member));
    each(
        static_cast<int64_t>(squares.size()), parameter_block, threads,
        [&](int64_t i) {
            const int64_t m = members[static_cast<size_t>(i / per_member)], first = i % per_member * parameter_block;
            squares_block(grad + m * parameters + first, std::min(parameter_block, parameters - first),
                          squares.data() + i);
        },
        many_parameters);
    for (size_t m = 0; m < members.size(); ++m) {
        const auto first = squares.begin() + static_cast<int64_t>(m) * per_member;
        norm[m] = std::sqrt(std::accumulate(first, first + per_member, 0.0));
    }
}

}  // namespace worldfast
