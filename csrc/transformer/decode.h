// Attention of the last tokens of rows over a cache of keys and values, on the CPU.
#pragma once

#include <cstdint>
#include <vector>

#include "base/interrupt.h"

namespace worldfast {

// Rows in a cache [places, 3, heads, head_dim] of queries, keys and values. Rows that begin alike share
// places. The last tokens of each row are new: together they stand in the places from `first` on, row after
// row.
struct CachedRows {
    int64_t rows, width;
    const int32_t* path;              // [rows, width]: the places of a row's tokens, in order
    const int32_t* length;            // [rows]: a row's tokens
    const int32_t* fresh;             // [rows]: how many of them are new
    int64_t places, heads, head_dim;  // head_dim is a multiple of 8
    int64_t first, tokens;            // the first new token's place, and how many are new in all rows
    int64_t positions;
    const float* turn;  // [positions, head_dim]: the cosines of RoPE at a position, then its sines
    int threads;        // 0: one per processor
};

// New tokens in the rows before each, and in all. Throws std::invalid_argument where `rows` breaks its terms.
std::vector<int64_t> new_tokens_before(const CachedRows& rows);

// Turns queries and keys of the new tokens where they stand, dimensions d and d + head_dim / 2 by the d-th
// angle of their position in their row; then out [tokens, heads, head_dim] is of each the
// softmax(q k' / sqrt(head_dim)) v over its row's tokens up to itself. Throws std::invalid_argument where
// `rows` breaks its terms, before anything is written. A row's result depends on that row alone.
void attention_cached(const CachedRows& rows, float* cache, float* out, Interruption& interruption);

}  // namespace worldfast
