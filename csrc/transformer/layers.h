// The training step's work between its matrix products, on the CPU: each function is one pass over memory.
//
// Arrays are contiguous, of float or where S stands of BFloat16, and sizes are as the comments say. Every sum
// over tokens or parameters is cut into blocks of a fixed size, counted from the member's own start and added
// in order: a member's bits depend neither on the number of threads nor on the other members. threads 0 is
// one per processor.
#pragma once

#include <cstdint>
#include <vector>

#include "base/float16.h"

namespace worldfast {

// y = x * scale * weight, scale = 1 / sqrt(mean(x^2) + eps), for each token. Tokens offsets[m] .. offsets[m +
// 1] are member m's.
struct Members {
    const int64_t* offsets;  // [members + 1], ascending from 0
    int64_t members;
    int64_t width;  // D
};
template <class S>
void rms_norm_forward(const Members& members, const float* x /* [L, D] */, const float* weight /* [M, D] */, float eps,
                      S* y /* [L, D] */, float* scale /* [L] */, int threads);

// y once more, of one member, from the scale that was found.
template <class S>
void rms_norm_again(int64_t tokens, int64_t width, const float* x, const float* weight, const float* scale, S* y,
                    int threads);

// Adds to grad_x and to grad_weight.
void rms_norm_backward(const Members& members, const float* grad_y, const float* x, const float* weight,
                       const float* scale, float* grad_x, float* grad_weight /* [M, D] */, int threads);

// y [L, F] = silu(gate) * up, where gate_up [L, 2F] is gate beside up and silu(g) = g / (1 + exp(-g)).
// Rows of y are y_stride apart.
template <class S>
void swiglu_forward(int64_t tokens, int64_t width, const S* gate_up, S* y, int64_t y_stride, int threads);

// y may be null; else it is computed again, for the gradient of the weights behind it.
template <class S>
void swiglu_backward(int64_t tokens, int64_t width, const S* grad_y, const S* gate_up, S* grad_gate_up, S* y,
                     int threads);

// The summed loss -log softmax(logits[g])[target] of groups of targets that share their logits [groups, V]: group g has
// targets first[g] .. first[g + 1], all within the classes. grad [groups, V] is the gradient of the sum; it may be logits
// itself. weight is a factor of each target's loss; null: ones.
double cross_entropy(int64_t groups, int64_t classes, const float* logits, const int64_t* first, const int64_t* target,
                     const float* weight, float* grad, int threads);

// sum [n] += each of `others` [n], in order.
void add_lanes(int64_t n, const std::vector<const float*>& others, float* sum);

// gradient [V, D] <- the sum of grad_embedded [U, D] over the tokens [U] of each kind, in their order.
void embedding_gradient(int64_t tokens, int64_t width, int64_t vocabulary, const int32_t* token,
                        const float* grad_embedded, float* gradient);

struct AdamW {
    double beta1, beta2, eps, weight_decay;
};

// One decoupled-decay Adam step of these members of parameters [M, P], in the order of operations of torch.optim.AdamW.
// decay_mask [P] scales the decay of each parameter; there is one of the others for each of the members: step counts from
// 1, grad_scale multiplies the gradient. Nothing ends it midway, as Ctrl-C does other loops: weights are of a whole step.
void adamw(const AdamW& adamw, const std::vector<int64_t>& members, int64_t parameters, float* parameter,
           const float* grad, float* average, float* average_square, const float* decay_mask,
           const double* learning_rate, const int64_t* step, const double* grad_scale, int threads);

// norm[i] = sqrt(sum of grad[members[i]]^2), grad [M, P].
void gradient_norm(const std::vector<int64_t>& members, int64_t parameters, const float* grad, double* norm,
                   int threads);

}  // namespace worldfast
