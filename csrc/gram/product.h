// The tile kernel: products of lines of one panel with lines of another, in vectors of the processor.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/simd.h"
#include "gram/panel.h"

namespace worldfast {

constexpr int64_t edge = 64;    // lines per side of a tile: a tile of each of 60 representations is 1 MB
constexpr int64_t chain = 128;  // terms per chain of sums; two strips of that depth stay in the first cache

// Numbers per vector that holds W floats.
template <class T, int W>
constexpr int lanes_of = 4 * W / static_cast<int>(sizeof(T));

// A register tile: R lines of a by C lines of b, two vectors, whose sums are half of the registers of AVX2 and AVX-512.
// Meanwhile memory is asked for what lies `ahead`, `step` bytes at a time.
template <class T, int W>
struct RegisterTile {
    static constexpr int L = lanes_of<T, W>, R = W == 16 ? 8 : 4, C = 2 * L;
    static constexpr int64_t strip = Panel<T>::strip;
    static constexpr int64_t step = 2 * R * C * sizeof(T) / edge;  // all of two strips of lines in the time of a tile

    static WORLDFAST_INLINE void add(const T* a, const T* b, int64_t depth, T* out, bool more, const char* ahead) {
        typename Lanes<L, T>::Float sum[R][2] = {};
        for (int64_t k = 0; k < depth; ++k, a += strip, b += strip, ahead += step) {
            __builtin_prefetch(ahead, 0, 2);
            const typename Lanes<L, T>::Float b0 = at<L>(b), b1 = at<L>(b + L);
            WORLDFAST_UNROLL
            for (int r = 0; r < R; ++r) {
                sum[r][0] += a[r] * b0;
                sum[r][1] += a[r] * b1;
            }
        }
        WORLDFAST_UNROLL
        for (int r = 0; r < R; ++r) {
            WORLDFAST_UNROLL
            for (int c = 0; c < 2; ++c) {
                T* to = out + r * edge + c * L;
                if (more) sum[r][c] += at<L>(to);
                at<L>(to) = sum[r][c];
            }
        }
    }
};

// The strips in which a tile's lines begin, how many lines there are (with the whole of the last strip), and how deep.
template <class T>
struct Strips {
    const T *a, *b;
    int64_t a_lines, b_lines, depth;
    bool lower = false;  // a tile on the diagonal, of which what is above it is not needed
};

// out [edge, edge] = the products over depth [from, to) of lines a with lines b; `next` are the strips of the next tile.
template <class T, int W>
WORLDFAST_INLINE void product_tile(const Strips<T>& strips, int64_t from, int64_t to, T* out, const Strips<T>& next) {
    using Tile = RegisterTile<T, W>;
    const auto line = [&strips](const T* first, int64_t i, int64_t k) {
        return first + (i / Tile::strip * strips.depth + k) * Tile::strip + i % Tile::strip;
    };
    int64_t done = 0;
    for (int64_t k = from; k < to; k += chain)
        for (int64_t j = 0; j < strips.b_lines; j += Tile::C)
            for (int64_t i = 0; i < strips.a_lines; i += Tile::R, ++done) {
                if (strips.lower && i + Tile::R <= j) continue;
                const char* ahead = reinterpret_cast<const char*>(done % 2 ? next.a : next.b);
                Tile::add(line(strips.a, i, k), line(strips.b, j, k), std::min(chain, to - k), out + i * edge + j,
                          k > from, ahead + done / 2 * chain * Tile::step);
            }
}

}  // namespace worldfast
