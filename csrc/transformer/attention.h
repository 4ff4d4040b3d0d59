// Causal attention over packed rows, with rotary position embedding (RoPE), on the CPU.
#pragma once

#include <cstdint>
#include <type_traits>

#include "base/interrupt.h"

namespace worldfast {

constexpr int64_t attention_row_limit = 2048;  // tokens
constexpr int64_t attention_short_row = 128;   // tokens: all tiles of such a row stay in the nearest caches

// A [tokens, heads, head_dim] array; strides in elements, unit stride along head_dim.
template <class T>
struct Heads {
    T* data;
    int64_t token_stride, head_stride;
    T* of(int64_t token, int64_t head) const { return data + token * token_stride + head * head_stride; }
};

struct AttentionRows {
    const int32_t* row_start;  // [rows + 1], ascending from 0: row r is tokens row_start[r] .. row_start[r + 1]
    int64_t rows;
    int64_t heads;
    int64_t head_dim;  // a multiple of 8, 8 to 128; the score scale is 1 / sqrt(head_dim)
    double rope_base;  // positive, or 0 for no RoPE
    int threads;       // 0: one per processor
    // Rows that begin alike may keep in one place what is alike: token i of all rows stands at place[i] of the arrays;
    // null: at i. A row's tokens before its query[r]-th are keys of the others alone; null: none.
    const int32_t* place = nullptr;  // [tokens]
    const int32_t* query = nullptr;  // [rows]
    // Of the work that this is part of, and whether the calling thread is the one that asks; null: this is all of it.
    Interruption* interruption = nullptr;
    bool asks = true;
};

// In which numbers of type S are computed with.
template <class S>
using arithmetic_of = std::conditional_t<std::is_same_v<S, double>, double, float>;

// out[i] = sum over j <= i in the row of softmax(q'[i] k'[j] / sqrt(head_dim)) v[j], with q' and k' turned by
// their position in the row: dimensions d and d + head_dim / 2 by the angle position * rope_base^(-2 d /
// head_dim). S is float, double, BFloat16 or Float16; numbers of 16 bits are computed with as floats. Throws
// std::invalid_argument where `rows` breaks its terms. A row's result depends on that row alone.
template <class S>
void attention_forward(const AttentionRows& rows, Heads<const S> q, Heads<const S> k, Heads<const S> v, Heads<S> out);

// Gradients of sum(out * grad_out); nothing of the forward pass is needed but its inputs. No output may
// overlap an input or another output, but all may be slices of one fused array. With places they are floats,
// added to what is there, row after row and not by several threads; else they are of type S, and set.
template <class S, class G>
void attention_backward(const AttentionRows& rows, Heads<const S> q, Heads<const S> k, Heads<const S> v,
                        Heads<const S> grad_out, Heads<G> grad_q, Heads<G> grad_k, Heads<G> grad_v);

}  // namespace worldfast
