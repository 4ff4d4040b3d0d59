// Rows that are walks through Markov chains: of chains of states, or of graphs whose nodes carry names.
#pragma once

#include <cstdint>

namespace worldfast {

constexpr int64_t most_states = 1 << 12, most_walk_names = 1 << 16, longest_walk = 1 << 11;
constexpr int walk_bits = 53;  // thresholds are shares of 2^53, so that a double holds each of them

struct WalkRule {
    uint64_t key;
    int64_t chains, states, length;
    int64_t names;           // tokens of which a row takes its states' names, at least as many as states
    const int64_t* table;    // [chains, states + 1, states]: thresholds from each state, then those of the first one
    const int64_t* prior;    // [chains]: thresholds
    const int64_t* renamed;  // [chains]: thresholds of the rows of each chain whose names are drawn; in the others a
                             // state's name is its number
};

// Rows start .. start+n-1: tokens [n, length], the chain of each [n], and the names of its states [n, states].
void make_walks(const WalkRule& rule, int64_t start, int64_t n, int32_t* tokens, int32_t* chain, int32_t* names,
                int threads);

}  // namespace worldfast
