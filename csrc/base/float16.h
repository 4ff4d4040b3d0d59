// Numbers of 16 bits as arrays hold them. Arithmetic is float32's: they are widened when read, exactly, and
// rounded when written, to the nearest and ties to even. No operation of floats depends on a question, so a
// loop over them becomes vectors, and none needs or makes a denormal float, so the processor's settings do
// not matter.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "base/simd.h"

namespace worldfast {

WORLDFAST_INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
WORLDFAST_INLINE float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// The upper half of a float32.
struct BFloat16 {
    uint16_t bits;

    BFloat16() = default;
    WORLDFAST_INLINE explicit BFloat16(float x) {
        const uint32_t b = bits_of(x);
        const uint32_t rounded = b + 0x7fff + (b >> 16 & 1);  // carries into the exponent, up to infinity
        bits = static_cast<uint16_t>((b & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded >> 16);
    }
    WORLDFAST_INLINE operator float() const { return float_of(uint32_t{bits} << 16); }
};

// A BFloat16 in the place of a float: wider in memory, but multiplied without being widened first.
struct Rounded {
    float value;

    Rounded() = default;
    WORLDFAST_INLINE explicit Rounded(float x) : value(BFloat16(x)) {}
    WORLDFAST_INLINE operator float() const { return value; }
};

// ---- vectors of BFloat16 ----

template <int W>
struct Halves {
    typedef uint16_t type __attribute__((vector_size(2 * W)));
};

// bits <- W numbers rounded, each in the lower half of its lane.
template <int W>
WORLDFAST_INLINE void round_to(const typename Lanes<W>::Float& x, typename Lanes<W>::Bits& bits) {
    std::memcpy(&bits, &x, sizeof bits);
    const typename Lanes<W>::Bits rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    bits = (bits & 0x7fffffff) > 0x7f800000 ? typename Lanes<W>::Bits{} + 0x7fc0 : rounded;
}

// As load and store of floats. load_bits leaves each number in the lower half of its lane.
template <int W>
WORLDFAST_INLINE void load_bits(const BFloat16* p, int64_t n, typename Lanes<W>::Bits& bits) {
    typename Halves<W>::type half{};
    if (n >= W)
        std::memcpy(&half, p, sizeof half);
    else
        std::memcpy(&half, p, static_cast<size_t>(n) * sizeof *p);
    bits = __builtin_convertvector(half, typename Lanes<W>::Bits);
}
template <int W>
WORLDFAST_INLINE void load(const BFloat16* p, int64_t n, typename Lanes<W>::Float& x) {
    typename Lanes<W>::Bits bits;
    load_bits<W>(p, n, bits);
    bits <<= 16;
    std::memcpy(&x, &bits, sizeof x);
}
template <int W>
WORLDFAST_INLINE void store_half(BFloat16* p, int64_t n, const typename Halves<W>::type& half) {
    if (n >= W)
        std::memcpy(p, &half, sizeof half);
    else
        std::memcpy(p, &half, static_cast<size_t>(n) * sizeof *p);
}
template <int W>
WORLDFAST_INLINE void store(BFloat16* p, int64_t n, const typename Lanes<W>::Float& x) {
    typename Lanes<W>::Bits bits;
    round_to<W>(x, bits);
    store_half<W>(p, n, __builtin_convertvector(bits, typename Halves<W>::type));
}

template <int W>
WORLDFAST_INLINE void load(const Rounded* p, int64_t n, typename Lanes<W>::Float& x) {
    load<W>(reinterpret_cast<const float*>(p), n, x);
}
template <int W>
WORLDFAST_INLINE void store(Rounded* p, int64_t n, const typename Lanes<W>::Float& x) {
    typename Lanes<W>::Bits bits;
    round_to<W>(x, bits);
    bits <<= 16;
    typename Lanes<W>::Float rounded;
    std::memcpy(&rounded, &bits, sizeof rounded);
    store<W>(reinterpret_cast<float*>(p), n, rounded);
}

// IEEE 754's binary16: 5 bits of exponent, biased by 15, and 10 of mantissa.
struct Float16 {
    uint16_t bits;

    Float16() = default;
    WORLDFAST_INLINE explicit Float16(float x) {
        const uint32_t sign = bits_of(x) >> 16 & 0x8000, magnitude = bits_of(x) & 0x7fffffff;
        // Denormals have the steps of 2^-14; from 2^16 all is infinite.
        const uint32_t exponent = std::clamp(magnitude >> 23, 127u - 14, 127u + 16);
        const uint32_t anchor = (exponent + 13) << 23;  // the power of 2 where a float's step is as large
        const uint32_t steps = bits_of(float_of(magnitude) + float_of(anchor)) - anchor;  // rounds as it adds
        const uint32_t rounded = std::min(((exponent - (127 - 14)) << 10) + steps, 0x7c00u);
        const uint32_t nan = uint32_t{magnitude > 0x7f800000} << 9;  // a bit beside infinity's
        bits = static_cast<uint16_t>(sign | rounded | nan);
    }
    WORLDFAST_INLINE operator float() const {
        const uint32_t sign = bits & 0x8000u, magnitude = bits & 0x7fffu;
        const uint32_t rebias = (127 - 15) << 23, smallest = (127 - 14) << 23;  // 2^-14, the smallest normal
        const uint32_t special = magnitude >= 0x7c00, denormal = magnitude < 0x400;
        const float above = float_of((magnitude << 13) + rebias + special * rebias + (denormal << 23));
        const float value = above - float_of(denormal * smallest);  // a denormal stands above the smallest
        return float_of(sign << 16 | bits_of(value));
    }
};

}  // namespace worldfast
