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

// Rows of a register tile, by two vectors. With AVX2 they are at their limit, as those of a linear layer are: 12 sums, the
// two vectors and a number of a row are 15 of 16 registers. Four rows with AVX2 read each vector again for every four
// lines of a, and their eight sums only just hide the latency of a multiply-add.
template <int W>
constexpr int tile_rows = W == 16  ? 8
                          : W == 8 ? 6
                                   : 4;

// Lines that are whole tiles and lie in one strip: of six rows two tiles, and then one of four.
constexpr int64_t group = 16;

// A register tile: R lines of a by C lines of b, which are two vectors. Meanwhile memory is asked for what lies `ahead`,
// `step` bytes at a time.
template <class T, int W, int R>
struct RegisterTile {
    static constexpr int L = lanes_of<T, W>, C = 2 * L;
    static constexpr int64_t strip = Panel<T>::strip;
    static constexpr int64_t tiles = round_up(group, tile_rows<W>) / tile_rows<W>;  // of a group
    // all of two strips of lines in the time of a tile of `edge` by `edge`
    static constexpr int64_t step = (2 * group * C * sizeof(T) / edge + tiles - 1) / tiles;

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
    constexpr int R = tile_rows<W>;
    using Tile = RegisterTile<T, W, R>;
    const auto line = [&strips](const T* first, int64_t i, int64_t k) {
        return first + (i / Tile::strip * strips.depth + k) * Tile::strip + i % Tile::strip;
    };
    int64_t done = 0;
    for (int64_t k = from; k < to; k += chain)
        for (int64_t j = 0; j < strips.b_lines; j += Tile::C)
            for (int64_t i = 0, rows = R; i < strips.a_lines; i += rows, ++done) {
                if constexpr (group % R) rows = std::min<int64_t>(R, group - i % group);
                if (strips.lower && i + rows <= j) continue;
                const T *a = line(strips.a, i, k), *b = line(strips.b, j, k);
                const char* ahead = reinterpret_cast<const char*>(done % 2 ? next.a : next.b);
                ahead += done / 2 * chain * Tile::step;
                const int64_t depth = std::min(chain, to - k);
                if (rows == R)
                    Tile::add(a, b, depth, out + i * edge + j, k > from, ahead);
                else if constexpr (group % R)
                    RegisterTile<T, W, group % R>::add(a, b, depth, out + i * edge + j, k > from, ahead);
            }
}

}  // namespace worldfast
