// Where a transformer's parameters stand, as they are and as they are multiplied.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/limits.h"

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
    int64_t size = 0, end = 0;  // of what is packed and of the parameters, in numbers

    // Throws std::invalid_argument where offsets are not those of so many layers, or one is negative.
    Layout(const TransformerShape& shape, const float* parameters, void* packed) {
        const int64_t D = shape.hidden, F = shape.intermediate;
        if (static_cast<int64_t>(shape.offsets.size()) != 7 * shape.layers + 3)
            throw std::invalid_argument("offsets: expected " + std::to_string(7 * shape.layers + 3) +
                                        " for so many layers, got " + std::to_string(shape.offsets.size()));
        const int64_t* offset = shape.offsets.data();
        // Where the next parameter stands, of so many numbers.
        const auto next = [&](int64_t numbers) {
            end = std::max(end, within("offsets", *offset, 0, int64_t{1} << 48) + numbers);
            return *offset++;
        };
        S* to = static_cast<S*>(packed);
        const auto matrix = [&](int64_t lines, int64_t depth) {
            const int64_t forwards = panel_size<S>(lines, depth), backwards = panel_size<S>(depth, lines);
            const Matrix<S> m{lines, depth, next(lines * depth), to + size, to + size + forwards};
            size += forwards + backwards;
            return m;
        };
        embedding = parameters + next(shape.vocabulary * D);
        for (int64_t i = 0; i < shape.layers; ++i) {
            Block<S> b;
            b.input_norm_at = next(D);
            b.qkv = matrix(3 * D, D);
            b.qkv_bias_at = next(3 * D);
            b.output = matrix(D, D);
            b.mlp_norm_at = next(D);
            b.gate_up = matrix(2 * F, D);
            b.down = matrix(D, F);
            b.input_norm = parameters + b.input_norm_at;
            b.qkv_bias = parameters + b.qkv_bias_at;
            b.mlp_norm = parameters + b.mlp_norm_at;
            blocks.push_back(b);
        }
        norm_at = next(D);
        norm = parameters + norm_at;
        head = matrix(shape.outputs, D);
    }
};

}  // namespace worldfast
