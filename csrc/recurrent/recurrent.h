// Recurrent networks on the rows of one member: forwards, and backwards through time.
//
// Rows are computed side by side, a step of all of them at a time, the longest first, so that those that have ended are
// the last ones. The L inputs stand in that order. All products but those with the recurrent weights are of all steps at
// once; these, packed, stay in the first cache while the steps pass them. A row has the same bits in every batch.
//
// L inputs, K scored positions, I numbers of an input, D hidden, G = D or 4 D gates, O outputs, P parameters.
#pragma once

#include <cstdint>
#include <vector>

#include "base/arena.h"
#include "base/interrupt.h"

namespace worldfast {

enum class RecurrentLoss : int { cross_entropy, binary_cross_entropy, mean_square, tanh_square };
constexpr int recurrent_losses = 4;

struct RecurrentShape {
    int64_t inputs, hidden, layers, outputs;  // inputs: numbers of a vector, or tokens
    bool vectors, lstm, relu, bias;           // relu: of an RNN, else tanh
    float keep, share;                        // of an RNN: h = keep h + share f(..)
    RecurrentLoss loss;
    std::vector<int64_t> offsets;  // of each parameter in [P]: the embedding of tokens; of each layer W_ih [G, I], W_hh
                                   // [G, D] and with biases b_ih, b_hh; W [O, D] and b of the outputs
    int64_t parameters = 0;        // that follows from it: the least P

    int64_t gates() const { return lstm ? 4 * hidden : hidden; }
    int64_t read_by(int64_t layer) const { return vectors && layer == 0 ? inputs : hidden; }
};

struct RecurrentRows {
    const float* vectors;   // [L, I], or
    const int32_t* tokens;  // [L]
    int64_t size;           // L
    const int32_t* row_start;
    int64_t rows;
    const int64_t* scored;             // [K]
    int64_t positions;                 // K
    const float* numbers = nullptr;    // [K, O], targets of numbers, or
    const int64_t* classes = nullptr;  // [K]
    const float* weights = nullptr;    // factors of the losses, [K], or [K, O] where `each`; null: ones
    bool each = false;
    const float* noise = nullptr;  // [L, layers * D], added to what f is applied to; null: none
};

// The shape with what follows from it. Throws std::invalid_argument where a size or an offset is none.
RecurrentShape checked(RecurrentShape shape);

// The summed loss at the scored positions; gradients [P] become its gradient. `asks`: the calling thread is the one that
// asks whether to end; any other throws Interruption::Ended once that one has thrown.
double learn_rows(const RecurrentShape& shape, const float* parameters, const RecurrentRows& rows, float* gradients,
                  Arena& arena, Interruption& interruption, bool asks);

// outputs [K, O] unless it is null; states[i] [K, D]: what layer layers[i] gives, or [K, I] what the first one reads.
void read_rows(const RecurrentShape& shape, const float* parameters, const RecurrentRows& rows,
               const std::vector<int64_t>& layers, const std::vector<float*>& states, float* outputs, Arena& arena);

}  // namespace worldfast
