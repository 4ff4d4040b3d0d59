// A row has few new tokens, one at most steps, so the lanes of a vector are dimensions of a head, and each
// query walks its row's keys where they stand in the cache.
#include "transformer/decode.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/parallel.h"
#include "base/simd.h"

namespace worldfast {
namespace {

constexpr int64_t grain = 64;  // rows that are worth a thread

struct Pass {
    const CachedRows& rows;
    std::vector<int64_t> before;  // [rows + 1]: new tokens in the rows before
    float* cache;
    float* out;
    Interruption& interruption;

    float* token(int64_t place) const { return cache + place * 3 * rows.heads * rows.head_dim; }
};

template <int>
WORLDFAST_INLINE void turn_body(const Pass& pass, int64_t begin, int64_t end) {
    const CachedRows& rows = pass.rows;
    const int64_t half = rows.head_dim / 2;
    for (int64_t row = begin; row < end; ++row) {
        if (pass.interruption.end(begin == 0)) return;
        for (int64_t i = rows.length[row] - rows.fresh[row]; i < rows.length[row]; ++i) {
            const float* __restrict cosine = rows.turn + i * rows.head_dim;
            const float* __restrict sine = cosine + half;
            float* __restrict x = pass.token(rows.path[row * rows.width + i]);
            for (int64_t head = 0; head < 2 * rows.heads; ++head, x += rows.head_dim) {  // q, then k
                for (int64_t d = 0; d < half; ++d) {
                    const float a = x[d], b = x[d + half];
                    x[d] = a * cosine[d] - b * sine[d];
                    x[d + half] = b * cosine[d] + a * sine[d];
                }
            }
        }
    }
}

// out[t] = the sum over the lanes of term[t]. Merging vector t with vector t + n and adding the two halves
// leaves n vectors of sums over half as many lanes, and log2(W) times over, one.
template <int W>
WORLDFAST_INLINE void sums_of(typename Lanes<W>::Float* term, float* out) {
    typename Lanes<W>::Float low, high;
    WORLDFAST_UNROLL
    for (int n = W / 2; n > 0; n /= 2) {
        WORLDFAST_UNROLL
        for (int t = 0; t < n; ++t) {
            interleave<W, float>(term[t], term[t + n], low, high);
            term[t] = low + high;
        }
    }
    at<W>(out) = term[0];
}

// score[0, n) -> probabilities but for their sum, which is `total`. There is room for whole vectors.
template <int W>
WORLDFAST_INLINE void softmax(float* score, int64_t n, float scale, float& total) {
    using Float = typename Lanes<W>::Float;
    const float nothing = -std::numeric_limits<float>::infinity();
    for (int64_t j = n; j % W; ++j) score[j] = nothing;
    Float highest = at<W>(score);
    for (int64_t j = W; j < n; j += W) {
        const Float x = at<W>(score + j);
        highest = x > highest ? x : highest;
    }
    float most = nothing;
    for (int lane = 0; lane < W; ++lane) most = std::max(most, highest[lane]);
    Float sum{};
    for (int64_t j = 0; j < n; j += W) {
        Float p = (at<W>(score + j) - most) * scale;
        exp2_of<W>(p);
        sum += p;
        at<W>(score + j) = p;
    }
    total = sum_of<W>(sum);
}

template <int W>
WORLDFAST_INLINE void attend_body(const Pass& pass, int64_t begin, int64_t end) {
    using Float = typename Lanes<W>::Float;
    const CachedRows& rows = pass.rows;
    const int64_t D = rows.head_dim, model = rows.heads * D, stride = 3 * model;
    const float* const cache = pass.cache;
    const float scale = static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(D)));
    std::vector<float> scores(static_cast<size_t>(rows.width + W));
    float* const score = scores.data();
    float* out = pass.out + pass.before[static_cast<size_t>(begin)] * model;
    for (int64_t row = begin; row < end; ++row) {
        const int32_t* path = rows.path + row * rows.width;
        const int64_t old = rows.length[row] - rows.fresh[row];
        for (int64_t head = 0; head < rows.heads; ++head) {  // whose keys then stay in the nearest cache
            for (int64_t i = old; i < rows.length[row]; ++i) {
                if ((i - old) % 16 == 0 && pass.interruption.end(begin == 0)) return;
                const int64_t keys = i + 1;
                const float* q = cache + path[i] * stride + head * D;
                float* to = out + (i - old) * model + head * D;
                for (int64_t j = 0; j < keys; j += W) {
                    Float term[W] = {};
                    for (int64_t t = 0; t < std::min<int64_t>(W, keys - j); ++t) {
                        const float* k = cache + path[j + t] * stride + model + head * D;
                        Float sum{};
                        for (int64_t d = 0; d < D; d += W) sum += at<W>(q + d) * at<W>(k + d);
                        term[t] = sum;
                    }
                    sums_of<W>(term, score + j);
                }
                float total;
                softmax<W>(score, keys, scale, total);
                for (int64_t d = 0; d < D; d += W) {
                    const float* v = cache + 2 * model + head * D + d;
                    Float sum{};
                    for (int64_t j = 0; j < keys; ++j) sum += score[j] * at<W>(v + path[j] * stride);
                    at<W>(to + d) = sum / total;
                }
            }
        }
        out += rows.fresh[row] * model;
    }
}

WORLDFAST_DISPATCH(turn, turn_body, (const Pass& pass, int64_t begin, int64_t end), (pass, begin, end))
// Whole vectors per head: a head's dimensions are a multiple of 8.
template <int W>
WORLDFAST_INLINE void attend_heads(const Pass& pass, int64_t begin, int64_t end) {
    if constexpr (W > 8) {
        if (pass.rows.head_dim % W) return attend_body<8>(pass, begin, end);
    }
    attend_body<W>(pass, begin, end);
}

WORLDFAST_DISPATCH(attend, attend_heads, (const Pass& pass, int64_t begin, int64_t end), (pass, begin, end))

[[noreturn]] void refuse(const char* name, int64_t row, const std::string& expected, int64_t came) {
    throw std::invalid_argument(std::string(name) + ": expected " + expected + " in row " + std::to_string(row) +
                                ", got " + std::to_string(came));
}

}  // namespace

std::vector<int64_t> new_tokens_before(const CachedRows& rows) {
    std::vector<int64_t> before{0};
    const int64_t longest = std::min(rows.width, rows.positions);
    for (int64_t row = 0; row < rows.rows; ++row) {
        const int64_t length = rows.length[row], fresh = rows.fresh[row];
        if (length < 0 || length > longest)
            refuse("length", row, "0 to " + std::to_string(longest) + " tokens", length);
        if (fresh < 0 || fresh > length) refuse("fresh", row, "0 to " + std::to_string(length) + " new tokens", fresh);
        int64_t next = rows.first + before.back();
        const int32_t* path = rows.path + row * rows.width;
        for (int64_t i = 0; i < length; ++i) {
            const bool is_new = i >= length - fresh;
            if (is_new ? path[i] != next || next >= rows.places : path[i] < 0 || path[i] >= next)
                refuse("path", row,
                       is_new ? "place " + std::to_string(next) + " of " + std::to_string(rows.places)
                              : "a place before " + std::to_string(next),
                       path[i]);
            next += is_new;
        }
        before.push_back(before.back() + fresh);
    }
    if (before.back() != rows.tokens)
        throw std::invalid_argument("out: expected room for the " + std::to_string(before.back()) +
                                    " new tokens, got " + std::to_string(rows.tokens));
    return before;
}

void attention_cached(const CachedRows& rows, float* cache, float* out, Interruption& interruption) {
    const Pass pass{rows, new_tokens_before(rows), cache, out, interruption};
    const auto each = [&](void (*work)(const Pass&, int64_t, int64_t)) {
        parallel_for(
            rows.rows, grain, rows.threads, [&](int64_t begin, int64_t end) { work(pass, begin, end); }, &interruption);
    };
    each(turn);  // all of them first: a row may share new tokens with the one before it
    each(attend);
}

}  // namespace worldfast
