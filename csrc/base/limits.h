// Integers that come from outside: in their range, or an error that names them and says the range. Whoever multiplies or
// adds what has passed here does not overflow.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace worldfast {

// Rows of a stream are counted up to here, so that two such numbers have a sum.
constexpr int64_t last_row = int64_t{1} << 62;

template <class Name>
int64_t within(const Name& name, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high)
        throw std::invalid_argument(std::string(name) + ": expected " + std::to_string(low) + " to " +
                                    std::to_string(high) + ", got " + std::to_string(value));
    return value;
}

}  // namespace worldfast
