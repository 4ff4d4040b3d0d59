// Counter-based random numbers and the keyed permutation.
//
// A row's numbers are a function of (key, row) alone, so rows can be made in any order, on any device, with the same
// bits. The generator is SplitMix64 (Steele, Lea, Flood 2014) started at a hash of the key and the row; its finalizer
// is also the round function of the permutation.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define WF_HD __host__ __device__ __forceinline__
#else
#define WF_HD inline
#endif

namespace worldfast {

WF_HD uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

WF_HD uint64_t multiply_high(uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH__
    return __umul64hi(a, b);
#else
    return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
#endif
}

// value / n, and what is left of value in `rest`. Half the bits take half the time, and nearly all numbers have them.
WF_HD uint64_t divide(uint64_t value, uint64_t n, uint64_t& rest) {
    if (((value | n) >> 32) == 0) {
        const uint32_t v = static_cast<uint32_t>(value), d = static_cast<uint32_t>(n);
        rest = v % d;
        return v / d;
    }
    rest = value % n;
    return value / n;
}

class Random {
public:
    Random() = default;

    WF_HD Random(uint64_t key, uint64_t row) : state_(key ^ mix(row)) {}

    WF_HD uint64_t next() { return mix(state_ += 0x9E3779B97F4A7C15ull); }

    // Uniform on 0 .. n-1, to one part in 2^64 / n.
    WF_HD uint32_t below(uint32_t n) { return static_cast<uint32_t>(multiply_high(next(), n)); }

    // `count` numbers below n, two from each word: uniform to one part in 2^32 / n.
    template <int count>
    WF_HD void below(uint32_t n, uint32_t* values) {
        for (int i = 0; i < count; i += 2) {
            const uint64_t word = next();
            values[i] = static_cast<uint32_t>((word >> 32) * n >> 32);
            if (i + 1 < count) values[i + 1] = static_cast<uint32_t>((word & 0xFFFFFFFFu) * n >> 32);
        }
    }

private:
    uint64_t state_ = 0;
};

// A keyed permutation of 0 .. size-1: a Feistel network on a grid of `rows` x `columns` >= size (Black and Rogaway 2002),
// where each round shifts one coordinate by a hash of the other. The grid is nearly as small as the size, so that the walk
// back into it is rare.
class Permutation {
public:
    Permutation() = default;

    Permutation(uint64_t key, uint64_t size) : key_(key), size_(size) {
        while (columns_ * columns_ < size) columns_ *= 2;
        for (uint64_t bit = columns_ / 2; bit > 0; bit /= 2)  // columns = the least whose square is not below size
            if ((columns_ - bit) * (columns_ - bit) >= size) columns_ -= bit;
        rows_ = (size + columns_ - 1) / columns_;
    }

    WF_HD uint64_t operator()(uint64_t i) const {
        do {
            uint64_t column, row = divide(i, columns_, column);
            for (uint64_t round = 0; round < 4; round += 2) {
                row = shift(row, hash(column, round, rows_), rows_);
                column = shift(column, hash(row, round + 1, columns_), columns_);
            }
            i = row * columns_ + column;
        } while (i >= size_);
        return i;
    }

    // The same grid under another key.
    WF_HD Permutation keyed(uint64_t key) const {
        Permutation other = *this;
        other.key_ = key;
        return other;
    }

    WF_HD uint64_t size() const { return size_; }

private:
    WF_HD uint64_t hash(uint64_t value, uint64_t round, uint64_t n) const {
        return multiply_high(mix(key_ + (round << 56) + value), n);
    }

    WF_HD static uint64_t shift(uint64_t value, uint64_t by, uint64_t n) {
        const uint64_t sum = value + by;
        return sum < n ? sum : sum - n;
    }

    uint64_t key_ = 0, size_ = 0, rows_ = 1, columns_ = 1;
};

}  // namespace worldfast
