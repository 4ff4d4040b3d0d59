#include "gram/gram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include "base/interrupt.h"
#include "base/limits.h"
#include "base/parallel.h"
#include "base/random.h"
#include "gram/product.h"

namespace worldfast {
namespace {

constexpr int64_t shares = 16;  // of the work, each with sums of its own

template <int L, class T>
WORLDFAST_INLINE double total_of(const typename Lanes<L, T>::Float& x) {
    double sum = 0;
    for (int i = 0; i < L; ++i) sum += static_cast<double>(x[i]);
    return sum;
}

// ---- Gram of Grams ----

struct Place {
    int64_t row, column;
};

template <class T>
struct TileWork {
    const Panel<T>& p;
    const Panel<T>& q;
    int64_t p_start, q_start;
    int64_t n;
    const double* gamma;  // null: the linear kernel alone
    const double* level;
    double* linear;    // [shares, M, M], or null
    double* rbf;       // [shares, M, M]
    double* row_sums;  // [shares, M, n]
    std::vector<Place> tiles;
    Interruption& interruption;

    bool same() const { return &p == &q; }
};

// The tiles of rows by columns; of a panel with itself those on and below the diagonal. Blocks of 8 by 8 follow one
// another: what 16 strips of each representation hold stays in the last cache while it is used.
std::vector<Place> places(int64_t rows, int64_t columns, bool same) {
    constexpr int64_t block = 8 * edge;
    std::vector<Place> order;
    for (int64_t r0 = 0; r0 < rows; r0 += block)
        for (int64_t c0 = 0; c0 < columns; c0 += block)
            for (int64_t r = r0; r < std::min(r0 + block, rows); r += edge)
                for (int64_t c = c0; c < std::min(c0 + block, columns); c += edge)
                    if (!same || c <= r) order.push_back({r, c});
    return order;
}

// x <- 2^x - taken, which is 0 or 1, within 1e-7 relative (2e-16 in double), where that is near 0 too; for x below 127.
// As exp2_of, whose terms these are, but 2^f - 1 is never added to 1 where nothing else is.
template <int L, class T>
WORLDFAST_INLINE void exp2_less(typename Lanes<L, T>::Float& x, T taken) {
    using Float = typename Lanes<L, T>::Float;
    using E = Exp2<T>;
    using Unsigned = typename Lanes<L, T>::Unsigned;
    constexpr T round = T(1.5) * (Unsigned{1} << E::mantissa);
    const Float t = x + round;
    const Float f = x - (t - round);
    Float p = f * E::term[0] + E::term[1];
    for (size_t n = 2; n + 1 < std::size(E::term); ++n) p = p * f + E::term[n];
    typename Lanes<L, T>::Bits bits;
    std::memcpy(&bits, &t, sizeof bits);
    bits = (bits + Unsigned{E::bias}) << E::mantissa;
    Float power;
    std::memcpy(&power, &bits, sizeof power);
    p = p * f * power + (power - taken);
    x = x < T(1 - E::bias) ? Float{} - taken : p;
}

// exp(-gamma |x_i - x_j|^2) - exp(-level) of `rows` by `columns` things; the rest of the tile is zeros. On the diagonal
// of the matrix the distance is 0, whatever the products were rounded to.
template <class T, int W>
WORLDFAST_INLINE void rbf_tile(const T* products, double gamma, double level, const double* row_norms, int64_t rows,
                               const double* column_norms, int64_t columns, bool diagonal, T* out) {
    constexpr int L = lanes_of<T, W>;
    constexpr double per_bit = 1.44269504088896341;
    const bool finite = std::isfinite(level);
    const T rate = static_cast<T>(gamma * per_bit), base = finite ? static_cast<T>(level * per_bit) : T(0);
    const T size = finite ? static_cast<T>(std::exp(-level)) : T(1), taken = finite ? T(1) : T(0);
    const T itself = static_cast<T>(-std::expm1(-level));
    alignas(64) T norms[edge] = {};
    for (int64_t j = 0; j < columns; ++j) norms[j] = static_cast<T>(column_norms[j]);
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < edge; j += L) {
            typename Lanes<L, T>::Float x = at<L>(products + i * edge + j);
            x = (x + x - static_cast<T>(row_norms[i]) - at<L>(norms + j)) * rate + base;
            x = x > base ? typename Lanes<L, T>::Float{} + base
                         : x;  // no distance is below 0, whatever it is rounded to
            exp2_less<L, T>(x, taken);
            at<L>(out + i * edge + j) = x * size;
        }
        if (diagonal) out[i * edge + i] = itself;
        std::fill(out + i * edge + columns, out + (i + 1) * edge, T{});
    }
    std::fill(out + rows * edge, out + edge * edge, T{});
}

template <class T, int W>
WORLDFAST_INLINE void add_row_sums(const T* tile, int64_t rows, int64_t columns, double* row_sums,
                                   double* column_sums) {
    constexpr int L = lanes_of<T, W>;
    typename Lanes<L, T>::Float down[edge / L] = {};
    for (int64_t i = 0; i < rows; ++i) {
        typename Lanes<L, T>::Float across{};
        for (int64_t v = 0; v < edge / L; ++v) {
            const typename Lanes<L, T>::Float x = at<L>(tile + i * edge + v * L);
            across += x;
            down[v] += x;
        }
        row_sums[i] += total_of<L, T>(across);
    }
    if (!column_sums) return;  // on the diagonal they are the row sums
    for (int64_t j = 0; j < columns; ++j) column_sums[j] += static_cast<double>(down[j / L][j % L]);
}

// Sums of pairs of representations in one share, eight per pair: floats are widened as vectors and added up last.
constexpr int64_t slots = 8;

// sums[a, b] += weight * sum of tile a times tile b, b <= a, in blocks of A by B that fill the registers. A part of the
// tiles at a time: those of A representations stay in the first cache while those of the others pass by. Sums above the
// diagonal, in the blocks that it crosses, are not read.
template <class T, int W>
WORLDFAST_INLINE void add_products(const T* tiles, int64_t padded, double weight, double* sums) {
    constexpr int A = W == 4 ? 2 : 4, B = W == 16 ? 4 : 2, L = lanes_of<T, W>;
    constexpr int64_t part = 4096 / sizeof(T);
    using Vector = typename Lanes<L, T>::Float;
    for (int64_t k0 = 0; k0 < edge * edge; k0 += part) {
        for (int64_t a = 0; a < padded; a += A) {
            for (int64_t b = 0; b < a + A; b += B) {
                const T *left = tiles + a * edge * edge + k0, *right = tiles + b * edge * edge + k0;
                Vector sum[A][B] = {};
                for (int64_t k = 0; k < part; k += L) {
                    Vector y[B];
                    WORLDFAST_UNROLL
                    for (int j = 0; j < B; ++j) y[j] = at<L>(right + j * edge * edge + k);
                    WORLDFAST_UNROLL
                    for (int i = 0; i < A; ++i) {
                        const Vector x = at<L>(left + i * edge * edge + k);
                        WORLDFAST_UNROLL
                        for (int j = 0; j < B; ++j) sum[i][j] += x * y[j];
                    }
                }
                WORLDFAST_UNROLL
                for (int i = 0; i < A; ++i) {
                    WORLDFAST_UNROLL
                    for (int j = 0; j < B; ++j) {
                        T number[L];
                        std::memcpy(number, &sum[i][j], sizeof number);
                        double* to = sums + ((a + i) * padded + b + j) * slots;
                        for (int l = 0; l < L; ++l) to[l % slots] += weight * static_cast<double>(number[l]);
                    }
                }
            }
        }
    }
}

// What one share has found, onto its sums [M, M].
inline void add_sums(const Aligned<double>& sums, int64_t padded, int64_t models, double* products) {
    for (int64_t a = 0; a < models; ++a)
        for (int64_t b = 0; b <= a; ++b)
            for (int64_t l = 0; l < slots; ++l) products[a * models + b] += sums.data()[(a * padded + b) * slots + l];
}

template <int W, class T>
WORLDFAST_INLINE void tiles_of_shares(const TileWork<T>& work, int64_t first, int64_t last) {
    const int64_t models = work.p.models(), padded = round_up(models, 4), area = edge * edge;
    const int64_t pairs = padded * padded * slots;
    Aligned<T> linear(padded * area), rbf(work.gamma ? padded * area : 0);
    Aligned<double> linear_sums(work.linear ? pairs : 0), rbf_sums(work.gamma ? pairs : 0);
    std::fill_n(linear.data(), padded * area, T{});  // beyond the last model they stay so
    if (work.gamma) std::fill_n(rbf.data(), padded * area, T{});
    for (int64_t share = first; share < last; ++share) {
        if (work.linear) std::fill_n(linear_sums.data(), pairs, 0.0);
        if (work.gamma) std::fill_n(rbf_sums.data(), pairs, 0.0);
        double* row_sums = work.row_sums + share * models * work.n;
        for (size_t t = static_cast<size_t>(share); t < work.tiles.size(); t += shares) {
            if (work.interruption.end(first == 0)) return;
            const auto [row, column] = work.tiles[t];
            const bool diagonal = work.same() && row == column;
            const double weight = diagonal ? 1 : 2;
            const int64_t rows = std::min(edge, work.p.rows() - row), columns = std::min(edge, work.q.rows() - column);
            const auto strips_of = [&](int64_t a) {
                return Strips<T>{work.p.at(a, row), work.q.at(a, column), round_up(rows, Panel<T>::strip),
                                 round_up(columns, Panel<T>::strip), work.p.depth()[a]};
            };
            Strips<T> strips = strips_of(0);
            for (int64_t a = 0; a < models; ++a) {
                const Strips<T> next = strips_of(std::min(a + 1, models - 1));
                T* products = linear.data() + a * area;
                if (strips.a_lines + strips.b_lines < 2 * edge) std::fill_n(products, area, T{});  // the rest of it
                product_tile<T, W>(strips, 0, strips.depth, products, next);
                strips = next;
                if (!work.gamma) continue;
                T* kernel = rbf.data() + a * area;
                rbf_tile<T, W>(products, work.gamma[a], work.level[a], work.p.squared_norms(a) + row, rows,
                               work.q.squared_norms(a) + column, columns, diagonal, kernel);
                double* sums = row_sums + a * work.n;
                add_row_sums<T, W>(kernel, rows, columns, sums + work.p_start + row,
                                   diagonal ? nullptr : sums + work.q_start + column);
            }
            if (work.linear) add_products<T, W>(linear.data(), padded, weight, linear_sums.data());
            if (work.gamma) add_products<T, W>(rbf.data(), padded, weight, rbf_sums.data());
        }
        if (work.linear) add_sums(linear_sums, padded, models, work.linear + share * models * models);
        if (work.gamma) add_sums(rbf_sums, padded, models, work.rbf + share * models * models);
    }
}

// ---- feature products ----

template <class T>
struct FeatureWork {
    const Panel<T>& panel;
    const FeatureTile* tiles;
    int64_t count;
    double* sums;  // [count, edge, edge]
    Interruption& interruption;
    bool asks;
};

template <int W, class T>
WORLDFAST_INLINE void feature_tiles(const FeatureWork<T>& work) {
    const Panel<T>& panel = work.panel;
    alignas(64) T products[edge * edge] = {};
    for (int64_t t = 0; t < work.count; ++t) {
        if (work.interruption.end(work.asks)) return;
        const FeatureTile& tile = work.tiles[t];
        const auto lines = [&panel](int64_t a, int64_t first) {
            return round_up(std::min(edge, panel.lines()[a] - first), Panel<T>::strip);
        };
        const Strips<T> strips{panel.at(tile.a, tile.row),
                               panel.at(tile.b, tile.column),
                               lines(tile.a, tile.row),
                               lines(tile.b, tile.column),
                               panel.rows(),
                               tile.diagonal()};
        if (strips.a_lines + strips.b_lines < 2 * edge) std::fill_n(products, edge * edge, T{});  // the rest of it
        product_tile<T, W>(strips, 0, panel.rows(), products, strips);
        double* sums = work.sums + t * edge * edge;
        for (int64_t i = 0; i < edge * edge; ++i) sums[i] += static_cast<double>(products[i]);
    }
}

// ---- distances ----

template <class T>
struct DistanceWork {
    const Panel<T>& panel;
    int64_t a;
    T* squared;  // [n (n - 1) / 2]
    Interruption& interruption;
    bool asks;
};

template <int W, class T>
WORLDFAST_INLINE void squared_distances(const DistanceWork<T>& work) {
    const Panel<T>& panel = work.panel;
    const double* norms = panel.squared_norms(work.a);
    alignas(64) T tile[edge * edge];
    T* next = work.squared;
    for (int64_t row = 0; row < panel.rows(); row += edge) {
        if (work.interruption.end(work.asks)) return;
        for (int64_t column = 0; column <= row; column += edge) {
            const int64_t rows = std::min(edge, panel.rows() - row), columns = std::min(edge, panel.rows() - column);
            const Strips<T> strips{panel.at(work.a, row),           panel.at(work.a, column),
                                   round_up(rows, Panel<T>::strip), round_up(columns, Panel<T>::strip),
                                   panel.depth()[work.a],           row == column};
            product_tile<T, W>(strips, 0, strips.depth, tile, strips);
            for (int64_t i = 0; i < rows; ++i)
                for (int64_t j = 0; j < std::min(columns, row + i - column); ++j)
                    *next++ = static_cast<T>(norms[row + i] + norms[column + j] -
                                             2 * static_cast<double>(tile[i * edge + j]));
        }
    }
}

// One instance for each instruction set and element; the module picks at run time.
#define WORLDFAST_GRAM(T, suffix)                                                                                      \
    WORLDFAST_DISPATCH(tiles_of_shares_##suffix, tiles_of_shares,                                                      \
                       (const TileWork<T>& work, int64_t first, int64_t last), (work, first, last))                    \
    WORLDFAST_DISPATCH(feature_tiles_##suffix, feature_tiles, (const FeatureWork<T>& work), (work))                    \
    WORLDFAST_DISPATCH(squared_distances_##suffix, squared_distances, (const DistanceWork<T>& work), (work))           \
    void run_shares(const TileWork<T>& work, int64_t first, int64_t last) {                                            \
        tiles_of_shares_##suffix(work, first, last);                                                                   \
    }                                                                                                                  \
    void run(const FeatureWork<T>& work) { feature_tiles_##suffix(work); }                                             \
    void run(const DistanceWork<T>& work) { squared_distances_##suffix(work); }
WORLDFAST_GRAM(float, float)
WORLDFAST_GRAM(double, double)

}  // namespace

template <class T>
GramOfGrams<T>::GramOfGrams(int64_t models, int64_t n, bool linear, const double* gamma, const double* level)
    : models_(models), n_(n) {
    within("models", models, 0, 1 << 20);
    within("n", n, 0, 1 << 24);  // so that no product of these overflows, and no request is beyond any machine
    const size_t pairs = static_cast<size_t>(shares * models * models);
    if (linear) linear_.resize(pairs);
    if (!gamma) return;
    gamma_.assign(gamma, gamma + models);
    level_.assign(level, level + models);
    rbf_.resize(pairs);
    row_sums_.resize(static_cast<size_t>(shares * models * n));
}

template <class T>
void GramOfGrams<T>::add(const Panel<T>& p, int64_t p_start, const Panel<T>& q, int64_t q_start, int threads) {
    const auto fits = [this](const Panel<T>& panel, int64_t start) {
        return panel.models() == models_ && start >= 0 && start <= n_ - panel.rows();
    };
    if (!fits(p, p_start) || !fits(q, q_start) || p.depth() != q.depth() || (&p == &q && p_start != q_start))
        throw std::invalid_argument("Gram of Grams: the panels are not of these representations");
    Interruption interruption;
    const TileWork<T> work{p,
                           q,
                           p_start,
                           q_start,
                           n_,
                           gamma_.empty() ? nullptr : gamma_.data(),
                           level_.data(),
                           linear_.empty() ? nullptr : linear_.data(),
                           rbf_.data(),
                           row_sums_.data(),
                           places(p.rows(), q.rows(), &p == &q),
                           interruption};
    parallel_for(
        shares, 1, threads, [&](int64_t first, int64_t last) { run_shares(work, first, last); }, &interruption);
}

template <class T>
void GramOfGrams<T>::total(const std::vector<double>& by_share, double* products) const {
    for (int64_t a = 0; a < models_; ++a)
        for (int64_t b = 0; b <= a; ++b) {
            double sum = 0;
            for (int64_t share = 0; share < shares; ++share)
                sum += by_share[static_cast<size_t>((share * models_ + a) * models_ + b)];
            products[a * models_ + b] = products[b * models_ + a] = sum;
        }
}

template <class T>
void GramOfGrams<T>::rbf(double* products, double* row_sums) const {
    total(rbf_, products);
    const int64_t size = models_ * n_;
    std::fill_n(row_sums, size, 0.0);
    for (int64_t share = 0; share < shares; ++share)
        for (int64_t i = 0; i < size; ++i) row_sums[i] += row_sums_[static_cast<size_t>(share * size + i)];
}

template <class T>
FeatureProducts<T>::FeatureProducts(std::vector<int64_t> widths) : widths_(std::move(widths)) {
    int64_t lines = 0, most = 0;
    for (const int64_t width : widths_) lines += (within("widths", width, 0, 1 << 24) + edge - 1) / edge;
    within("tiles to a side", lines, 0, 1 << 12);  // sums of 256 GiB
    for (const int64_t width : widths_) most += (width + edge - 1) / edge * lines;
    sums_.reserve(static_cast<size_t>(most / 2 * edge * edge));  // what does not fit in memory is refused now
    for (int64_t a = 0; a < models(); ++a)
        for (int64_t b = 0; b <= a; ++b)
            for (int64_t row = 0; row < widths_[a]; row += edge)
                for (int64_t column = 0; column < (a == b ? row + 1 : widths_[b]); column += edge)
                    tiles_.push_back({a, b, row, column});
    sums_.resize(tiles_.size() * edge * edge);
}

// Each thread has some of the tiles and takes all rows through them, a few at a time: laid out, those of a few
// representations stay in its caches. That each lays out all rows for itself costs less than waiting for the others.
template <class T>
void FeatureProducts<T>::add(const std::vector<Rows>& blocks, const std::vector<Centring>& centrings,
                             double* squared_norms, int64_t stride, int threads) {
    constexpr int64_t at_once = 256;  // rows, whose products are added up in T before they go to double
    const auto fits = [](int64_t width, const Rows& block) { return width == block.width; };
    if (!std::equal(widths_.begin(), widths_.end(), blocks.begin(), blocks.end(), fits))
        throw std::invalid_argument("feature products: the rows have other widths");
    Interruption interruption;
    const auto range = [&](int64_t first, int64_t last) {
        Panel<T> panel;
        std::vector<Rows> few = blocks;
        for (int64_t begin = 0; begin < blocks[0].rows; begin += at_once) {
            for (size_t a = 0; a < few.size(); ++a)
                few[a] = blocks[a].from(begin, std::min(at_once, blocks[a].rows - begin));
            panel.fill(few, centrings, Along::columns, 1);
            if (interruption.end(first == 0)) return;
            run(FeatureWork<T>{panel, tiles_.data() + first, last - first, sums_.data() + first * edge * edge,
                               interruption, first == 0});
            if (first == 0)
                for (int64_t a = 0; a < models(); ++a)
                    std::copy_n(panel.squared_norms(a), panel.rows(), squared_norms + a * stride + begin);
        }
    };
    parallel_for(static_cast<int64_t>(tiles_.size()), 1, threads, range, &interruption);
}

template <class T>
void FeatureProducts<T>::linear(double* products) const {
    std::fill_n(products, models() * models(), 0.0);
    for (size_t t = 0; t < tiles_.size(); ++t) {
        const FeatureTile& tile = tiles_[t];
        const double* found = sums_.data() + t * edge * edge;
        double sum = 0;
        if (tile.diagonal())
            for (int64_t i = 0; i < edge; ++i)
                for (int64_t j = 0; j <= i; ++j) sum += (i == j ? 1 : 2) * found[i * edge + j] * found[i * edge + j];
        else
            for (int64_t i = 0; i < edge * edge; ++i) sum += (tile.a == tile.b ? 2 : 1) * found[i] * found[i];
        products[tile.a * models() + tile.b] += sum;
    }
    for (int64_t a = 0; a < models(); ++a)
        for (int64_t b = 0; b < a; ++b) products[b * models() + a] = products[a * models() + b];
}

// Of numbers of which that of rank k and its neighbour below are wanted: moves some that hold both to the front, lowers
// k to the rank among them, and returns how many they are. Two bounds from a sample drop nearly all others, for less
// than it costs to partition them; where the bounds miss, all stay.
template <class T>
int64_t narrow(std::vector<T>& numbers, int64_t& k) {
    constexpr int64_t few = 4096, margin = 160;  // five standard deviations of a rank in the sample
    const int64_t size = static_cast<int64_t>(numbers.size());
    if (size < 16 * few) return size;
    Random random(0, 0);
    std::vector<T> sample(few);
    for (T& x : sample) x = numbers[multiply_high(random.next(), static_cast<uint64_t>(size))];
    std::sort(sample.begin(), sample.end());
    const int64_t rank = k * few / size;
    const T low = sample[static_cast<size_t>(std::max<int64_t>(rank - margin, 0))];
    const T high = sample[static_cast<size_t>(std::min(rank + margin, few - 1))];
    int64_t below = 0, within = 0;
    for (const T x : numbers) {
        below += x < low;
        within += (x >= low) & (x <= high);
    }
    if (k <= below || k >= below + within) return size;
    int64_t kept = 0;
    for (const T x : numbers) {  // without a branch, which nobody could predict
        numbers[static_cast<size_t>(kept)] = x;
        kept += (x >= low) & (x <= high);
    }
    k -= below;
    return within;
}

template <class T>
std::vector<double> median_distances(const Panel<T>& panel, int threads) {
    const int64_t count = within("rows of a panel", panel.rows(), 2, int64_t{1} << 31) * (panel.rows() - 1) / 2;
    std::vector<double> medians(static_cast<size_t>(panel.models()));
    Interruption interruption;
    const auto range = [&](int64_t first, int64_t last) {
        std::vector<T> squared(static_cast<size_t>(count));
        for (int64_t a = first; a < last; ++a) {
            if (interruption.end(first == 0)) return;
            run(DistanceWork<T>{panel, a, squared.data(), interruption, first == 0});
            medians[a] = std::numeric_limits<double>::quiet_NaN();
            bool some = false;  // numbers that are none have no order
            for (const T x : squared) some |= x != x;
            if (some) continue;
            int64_t rank = count / 2;
            const int64_t kept = narrow(squared, rank);
            const auto middle = squared.begin() + rank;
            std::nth_element(squared.begin(), middle, squared.begin() + kept);
            const auto root = [](T x) { return std::sqrt(std::max(static_cast<double>(x), 0.0)); };
            const double upper = root(*middle);
            medians[a] = count % 2 ? upper : (root(*std::max_element(squared.begin(), middle)) + upper) / 2;
        }
    };
    parallel_for(panel.models(), 1, threads, range, &interruption);
    return medians;
}

#define WORLDFAST_INSTANCES(T)                                                                                         \
    template class GramOfGrams<T>;                                                                                     \
    template class FeatureProducts<T>;                                                                                 \
    template std::vector<double> median_distances(const Panel<T>&, int);
WORLDFAST_INSTANCES(float)
WORLDFAST_INSTANCES(double)

}  // namespace worldfast
