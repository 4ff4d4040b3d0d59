// The training step's work between its matrix products, on the CPU: each function is one pass over memory.
//
// Arrays are float32 and contiguous, sizes as the comments say. Every sum over tokens or parameters is cut
// into blocks of a fixed size, counted from the member's own start and added in order: a member's bits depend
// neither on the number of threads nor on the other members. threads 0 is one per processor.
#pragma once

#include <cstdint>

namespace worldfast {

// y = x * scale * weight, scale = 1 / sqrt(mean(x^2) + eps), for each token. Tokens offsets[m] .. offsets[m +
// 1] are member m's.
struct Members {
    const int64_t* offsets;  // [members + 1], ascending from 0
    int64_t members;
    int64_t width;  // D
};
void rms_norm_forward(const Members& members, const float* x /* [L, D] */, const float* weight /* [M, D] */,
                      float eps, float* y /* [L, D] */, float* scale /* [L] */, int threads);

// Adds to grad_x and to grad_weight.
void rms_norm_backward(const Members& members, const float* grad_y, const float* x, const float* weight,
                       const float* scale, float* grad_x, float* grad_weight /* [M, D] */, int threads);

// y [L, F] = silu(gate) * up, where gate_up [L, 2F] is gate beside up and silu(g) = g / (1 + exp(-g)).
void swiglu_forward(int64_t tokens, int64_t width, const float* gate_up, float* y, int threads);

// y may be null; else it is computed again, for the gradient of the weights behind it.
void swiglu_backward(int64_t tokens, int64_t width, const float* grad_y, const float* gate_up,
                     float* grad_gate_up, float* y, int threads);

// loss[k] = -log softmax(logits[k])[target[k]] and its gradient at the logits [K, V]; grad may be logits
// itself. The first k whose target is not in 0 .. V - 1, or -1 where all was well; nothing is written if
// there is one.
int64_t cross_entropy(int64_t positions, int64_t classes, const float* logits, const int64_t* target,
                      float* loss, float* grad, int threads);

struct AdamW {
    double beta1, beta2, eps, weight_decay;
};

// One decoupled-decay Adam step of members' parameters [M, P], in the order of operations of
// torch.optim.AdamW. decay_mask [P] scales the decay of each parameter; step [M] counts from 1; grad_scale
// [M] multiplies the gradient.
void adamw(const AdamW& adamw, int64_t members, int64_t parameters, float* parameter, const float* grad,
           float* average, float* average_square, const float* decay_mask, const double* learning_rate,
           const int64_t* step, const double* grad_scale, int threads);

// norm[m] = sqrt(sum of grad[m]^2), grad [M, P].
void gradient_norm(int64_t members, int64_t parameters, const float* grad, double* norm, int threads);

}  // namespace worldfast
