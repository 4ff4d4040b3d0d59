// Matrix products of a linear layer y = x W' + b, for rows that stand in a cache: the layer itself, its
// gradient at x and its gradient at W. One thread computes; the caller cuts work into rows or lines.
//
// S is the type of what is multiplied, float or BFloat16; sums are float32's. In BFloat16 two products are
// one instruction where the processor has AVX512-BF16, and floats are multiplied elsewhere: exact products,
// but other sums.
#pragma once

#include <cstdint>

#include "float16.h"

namespace worldfast {

// Whether this processor multiplies BFloat16 pair by pair.
bool multiplies_pairs();

// A matrix [lines, depth] as a product reads it: in strips of 32 lines, [lines / 32][depth][32], zeros behind
// its last line. In BFloat16 depth goes by pairs, [lines / 32][depth / 2][32][2], with a zero behind an odd
// one.
constexpr int64_t strip = 32;
template <class S>
constexpr int64_t paired = sizeof(S) == 2 ? 2 : 1;
template <class S>
constexpr int64_t panel_size(int64_t lines, int64_t depth) {
    return round_up(lines, strip) * round_up(depth, paired<S>);
}

// panel <- a matrix whose lines (true: W' of W, [lines, depth]) or whose columns (false, [depth, lines]) lie
// side by side in `from`, a row `stride` numbers behind the one before.
template <class From, class S>
void pack(const From* from, int64_t stride, bool lines_are_rows, int64_t lines, int64_t depth, S* panel);

// to [n, stride] <- from [n, width], rounded, with zeros behind each row.
void round_rows(const float* from, int64_t n, int64_t width, BFloat16* to, int64_t stride);

// out = a b' (+ bias) (+ onto), row by row.
template <class S, class Out>
struct Product {
    const S* a;  // [rows, depth]; in BFloat16, a_stride is even and an odd depth is followed by a zero
    int64_t rows, a_stride;
    const S* b;  // a panel [lines, depth]
    int64_t lines, depth;
    Out* out;  // [rows, lines]
    int64_t out_stride;
    const float* bias = nullptr;  // [lines]
    const float* onto = nullptr;  // [rows, lines] with the strides of out; may be out itself
};
template <class S, class Out>
void multiply(const Product<S, Out>& product);

// out [lines from .. to, b_lines] += a b' for panels of equal depth, whose lines are columns of activations
// and whose depth is tokens. `from` is a multiple of 32.
template <class S>
void add_products(const S* a, int64_t from, int64_t to, const S* b, int64_t b_lines, int64_t depth,
                  float* out);

}  // namespace worldfast
