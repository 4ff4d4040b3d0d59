// One Qwen2 transformer on one tile of packed rows: forward, backward, and a step of decoding.
//
// All of a tile runs in one call. Rows that begin alike have computed once what is alike: of the L tokens
// that the rows have together, U stand in memory. Matrices are multiplied in float32 or BFloat16; parameters,
// sums, the residual stream, norms and gradients of parameters are float32's.
//
// U tokens, K scored positions, D hidden, F intermediate, V vocabulary, H tokens that the head can answer, P
// parameters.
#pragma once

#include <cstdint>
#include <vector>

#include "base/arena.h"
#include "transformer/decode.h"

namespace worldfast {

// What is multiplied: float32, or BFloat16, as it is where the processor multiplies its pairs, else as floats.
enum class Operand { float32, bfloat16, rounded };

struct TransformerShape {
    int64_t hidden, layers, heads, intermediate, vocabulary, outputs;
    double rope_base;
    float norm_eps;
    Operand operand;
    std::vector<int64_t>
        offsets;  // of each parameter in [P]: embedding; of each block input norm, qkv [3 D, D], its bias,
                  // output [D, D], norm, gate and up [2 F, D], down [D, F]; norm, head [H, D]
    int64_t parameters = 0, packed_bytes = 0;  // that follow from it: the least P, and bytes of what is packed
};

// Rows of one model.
struct TileRows {
    const int32_t* tokens;     // [U]
    int64_t computed;          // U
    const int32_t* row_start;  // [rows + 1]: where rows begin among the L
    int64_t rows;
    const int32_t* place;              // [L]: where among the U each token stands
    const int32_t* shared;             // [rows]: a row's first tokens that an earlier row computes
    const int64_t* sources;            // [K]: the places of the scored positions
    int64_t scored;                    // K
    const int64_t* targets = nullptr;  // [K]: the tokens to answer there
    const float* weights = nullptr;    // [K]: factors of their losses; null: ones
};

// The shape with what follows from it. Throws std::invalid_argument where a size or an offset is none.
TransformerShape checked(TransformerShape shape);

// Parameters as they are multiplied, forwards and backwards.
void pack_parameters(const TransformerShape& shape, const float* parameters, void* packed, int threads);

// A model's parameters, as they are and packed.
struct Model {
    const TransformerShape& shape;
    const float* parameters;  // [P]
    const void* packed;
};

// The summed cross entropy at the scored positions. Adds its gradient at all parameters but the embedding to
// `gradients` [P]; that at the embedded tokens is written to grad_embedded [U, D].
double learn_tile(const Model& model, const TileRows& rows, float* gradients, float* grad_embedded, Arena& arena,
                  int threads);

// logits [K, H] unless it is null; states[i] [K, D]: the residual stream before block layers[i], or after the
// last norm where that is the number of blocks.
void read_tile(const Model& model, const TileRows& rows, const std::vector<int64_t>& layers,
               const std::vector<float*>& states, float* logits, Arena& arena, int threads);

// The likeliest token behind each row, following [rows], or the logits of all, [rows, H]: either may be null. Of the rows, `tokens` [rows.tokens] are new, and go
// to their places in the blocks' caches [layers][rows.places, 3, heads, head_dim].
void extend_rows(const Model& model, const CachedRows& rows, const int32_t* tokens, float* caches, int32_t* following,
                 float* logits, Arena& arena);

}  // namespace worldfast
