// Normal and Gumbel numbers of random words, by plain arithmetic and roots alone: no function of a mathematical library,
// whose last bits differ from machine to machine.
#pragma once

#include <cmath>
#include <cstring>

#include "base/random.h"

namespace worldfast {

// Uniform on (0, 1), symmetric about 1/2, neither end among its values.
WF_HD double uniform(uint64_t word) { return (static_cast<double>(word >> 12) + 0.5) * 0x1p-52; }

// As `uniform`, of so few digits that a float holds them: also less 1/2.
WF_HD double short_uniform(uint64_t word) { return (static_cast<double>(word >> 41) + 0.5) * 0x1p-23; }

// Natural logarithm of a normal number above 0, within 1e-15 relative to the larger of it and 1.
WF_HD double log_of(double x) {
    uint64_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    int exponent = static_cast<int>(bits >> 52) - 1023;
    bits = (bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull;
    double m;
    std::memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        ++exponent;
    }
    const double s = (m - 1) / (m + 1), z = s * s;  // log m = 2 artanh s
    double sum = 0;
    for (int odd = 19; odd > 1; odd -= 2) sum = (sum + 1.0 / odd) * z;
    return exponent * 0.6931471805599453 + 2 * s * (1 + sum);
}

// The z with P(Z <= z) = u of a standard normal Z, within 2e-7 relative: PPND7 of Wichura (1988), AS 241.
WF_HD double normal(double u) {
    const double q = u - 0.5;
    if (std::fabs(q) <= 0.425) {
        const double r = 0.180625 - q * q;
        return q * (((59.10937472 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179) /
               (((67.1875636 * r + 78.757757664) * r + 17.895169469) * r + 1);
    }
    double r = std::sqrt(-log_of(q < 0 ? u : 1 - u)), z;
    if (r <= 5) {
        r -= 1.6;
        z = (((0.17023821103 * r + 1.3067284816) * r + 2.75681539) * r + 1.4234372777) /
            ((0.12021132975 * r + 0.7370016425) * r + 1);
    } else {
        r -= 5;
        z = (((0.017337203997 * r + 0.42868294337) * r + 3.081226386) * r + 6.657905115) /
            ((0.012258202635 * r + 0.24197894225) * r + 1);
    }
    return q < 0 ? -z : z;
}

// P(Z <= z), the inverse of `normal`, within 2^-32.
WF_HD double normal_share(double z) {
    double low = 0, high = 1;
    for (int i = 0; i < 32; ++i) {
        const double middle = (low + high) / 2;
        (normal(middle) < z ? low : high) = middle;
    }
    return (low + high) / 2;
}

// Standard Gumbel number of location 0.
WF_HD double gumbel(double u) { return -log_of(-log_of(u)); }

}  // namespace worldfast
