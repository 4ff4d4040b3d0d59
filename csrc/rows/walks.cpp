// Integers are compared with integers, so that a row has the same bits wherever it is made. A step waits for the one
// before it: several rows take theirs side by side.
#include "rows/walks.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "base/interrupt.h"
#include "base/parallel.h"
#include "base/random.h"

namespace worldfast {
namespace {

constexpr int64_t thread_walks = 64;  // that a thread takes at least
constexpr int together = 4;

int64_t share(Random& random) { return static_cast<int64_t>(random.next() >> (64 - walk_bits)); }

// How many of the first n - 1 thresholds of each row are not above its number, without a branch: below n, whatever they
// hold. `at` goes from the first threshold to the one of that number.
template <int R>
inline void advance(const int64_t** at, const int64_t* number, int64_t n) {
    for (; n > 1; n -= n / 2) {
        const int64_t half = n / 2;
        for (int i = 0; i < R; ++i) {
            const auto over = static_cast<uint64_t>(number[i]) - static_cast<uint64_t>(at[i][half - 1]);
            at[i] += half & ~(static_cast<int64_t>(over) >> 63);
        }
    }
}

// Names of the states of a row through a chain, drawn by numbers that its walk does not see. `all` is memory for a
// permutation of the names.
void name(const WalkRule& rule, uint64_t row, int32_t chain, std::vector<int32_t>& all, int32_t* names) {
    Random random(~rule.key, row);
    std::iota(names, names + rule.states, 0);
    if (share(random) >= rule.renamed[chain]) return;
    std::iota(all.begin(), all.end(), 0);
    for (int64_t i = 0; i < rule.states; ++i) {
        const auto rest = static_cast<uint32_t>(rule.names - i);
        std::swap(all[static_cast<size_t>(i)], all[static_cast<size_t>(i + random.below(rest))]);
        names[i] = all[static_cast<size_t>(i)];
    }
}

template <int R>
void walk(const WalkRule& rule, uint64_t first, int32_t* tokens, int32_t* chain, std::vector<int32_t>& all,
          int32_t* names) {
    const int64_t S = rule.states, T = rule.length;
    Random random[R];
    const int64_t *table[R], *from[R], *at[R];
    int64_t number[R];
    for (int i = 0; i < R; ++i) {
        random[i] = Random(rule.key, first + static_cast<uint64_t>(i));
        number[i] = share(random[i]);
        at[i] = rule.prior;
    }
    advance<R>(at, number, rule.chains);
    for (int i = 0; i < R; ++i) {
        chain[i] = static_cast<int32_t>(at[i] - rule.prior);
        name(rule, first + static_cast<uint64_t>(i), chain[i], all, names + i * S);
        table[i] = rule.table + chain[i] * (S + 1) * S;
        from[i] = table[i] + S * S;
    }
    for (int64_t t = 0; t < T; ++t) {
        for (int i = 0; i < R; ++i) {
            number[i] = share(random[i]);
            at[i] = from[i];
        }
        advance<R>(at, number, S);
        for (int i = 0; i < R; ++i) {
            const int64_t state = at[i] - from[i];
            tokens[i * T + t] = names[i * S + state];
            from[i] = table[i] + state * S;
        }
    }
}

}  // namespace

void make_walks(const WalkRule& rule, int64_t start, int64_t n, int32_t* tokens, int32_t* chain, int32_t* names,
                int threads) {
    Interruption interruption;
    const auto range = [&](int64_t begin, int64_t end) {
        std::vector<int32_t> all(static_cast<size_t>(rule.names));
        const auto row = [&](int64_t i) { return static_cast<uint64_t>(start + i); };
        const int64_t S = rule.states, T = rule.length;
        int64_t i = begin;
        for (; i + together <= end; i += together) {
            if ((i - begin) / together % 16 == 0 && interruption.end(begin == 0)) return;
            walk<together>(rule, row(i), tokens + i * T, chain + i, all, names + i * S);
        }
        for (; i < end; ++i) walk<1>(rule, row(i), tokens + i * T, chain + i, all, names + i * S);
    };
    parallel_for(n, thread_walks, threads, range, &interruption);
}

}  // namespace worldfast
