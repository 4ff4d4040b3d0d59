// Matrix products of a linear layer y = x W' + b, for rows that stand in a cache: the layer itself, its
// gradient at x and its gradient at W. One thread multiplies, and the caller cuts its rows; a gradient at W is
// cut here.
//
// S is the type of what is multiplied; sums are float32's. BFloat16 is for processors with AVX512-BF16, where
// two products are one instruction. Elsewhere the same numbers are multiplied as `Rounded` floats: exact
// products, in sums of another order.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/arena.h"
#include "base/float16.h"
#include "base/interrupt.h"

namespace worldfast {

// Whether this processor multiplies BFloat16 pair by pair, at the vector width in use.
bool multiplies_pairs();

// A matrix [lines, depth] as a product reads it: in strips of 16 lines, [lines / 16][depth][16], a cache line
// a step, with zeros up to a multiple of 32 lines. In BFloat16 depth goes by pairs,
// [lines / 16][depth / 2][16][2], with a zero after an odd one.
constexpr int64_t strip = 16;
template <class S>
constexpr int64_t paired = sizeof(S) == 2 ? 2 : 1;
template <class S>
constexpr int64_t panel_size(int64_t lines, int64_t depth) {
    return round_up(lines, 2 * strip) * round_up(depth, paired<S>);
}

// panel <- a matrix whose lines are rows of `from` (W' of W [lines, depth]), or its columns ([depth, lines]); a
// row begins `stride` numbers after the one before.
template <class S>
void pack_rows(const float* from, int64_t stride, int64_t lines, int64_t depth, S* panel);
template <class S>
void pack_columns(const float* from, int64_t stride, int64_t lines, int64_t depth, S* panel);

// to [n, stride] <- from [n, width], rounded, with zeros after each row; to may be from.
template <class S>
void round_rows(const float* from, int64_t n, int64_t width, S* to, int64_t stride);

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

// Of so many products, 0.1 ms or more: the clock may be looked at before them.
inline bool heavy(int64_t rows, int64_t lines, int64_t depth) {
    return rows * lines >= (1 << 22) / std::max<int64_t>(depth, 1);
}

// Rows `begin` to `end` of a product.
template <class S, class Out>
Product<S, Out> part_of(Product<S, Out> product, int64_t begin, int64_t end) {
    product.a += begin * product.a_stride;
    product.out += begin * product.out_stride;
    if (product.onto) product.onto += begin * product.out_stride;
    product.rows = end - begin;
    return product;
}

// gradient [a_lines, b_lines] += a' b of activations [n, ..] whose rows are a_stride and b_stride apart. `asks`: the
// calling thread is the one that asks whether to end.
template <class S>
void add_gradient(const S* a, int64_t a_stride, int64_t a_lines, const S* b, int64_t b_stride, int64_t b_lines,
                  int64_t n, float* gradient, Arena& arena, int threads, Interruption& interruption, bool asks = true);

}  // namespace worldfast
