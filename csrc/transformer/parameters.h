// Where a transformer's parameters stand, as they are and as they are multiplied.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "transformer/linear.h"
#include "transformer/transformer.h"

namespace worldfast {

// A matrix [lines, depth] of parameters, as it stands and packed for x W' and for y W.
template <class S>
struct Matrix {
    int64_t lines, depth, offset;
    S *forwards, *backwards;
};

template <class S>
struct Block {
    const float *input_norm, *qkv_bias, *mlp_norm;
    int64_t input_norm_at, qkv_bias_at, mlp_norm_at;
    Matrix<S> qkv, output, gate_up, down;
};

template <class S>
struct Layout {
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
            b.mlp_norm_at = *at++;
            b.gate_up = matrix(2 * F, D);
            b.down = matrix(D, F);
            b.input_norm = parameters + b.input_norm_at;
            b.qkv_bias = parameters + b.qkv_bias_at;
            b.mlp_norm = parameters + b.mlp_norm_at;
            blocks.push_back(b);
        }
        norm_at = *at++;
        norm = parameters + norm_at;
        head = matrix(shape.outputs, D);
    }
};

}  // namespace worldfast
