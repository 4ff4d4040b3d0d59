#include "gram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "parallel.h"
#include "simd.h"

namespace worldfast {
namespace {

constexpr int64_t edge = 64;    // lines to a side of a tile: a tile of each of 60 representations is 1 MB
constexpr int64_t chain = 128;  // terms to a chain of sums; two strips of that depth stay in the first cache
constexpr int64_t lanes = 16;   // partial sums

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// ---- reading ----

struct Half {
    uint16_t bits;
};
struct Bfloat {
    uint16_t bits;
};

WORLDFAST_INLINE double value(float x) { return x; }
WORLDFAST_INLINE double value(double x) { return x; }
WORLDFAST_INLINE double value(Bfloat x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
}
WORLDFAST_INLINE double value(Half x) {
    uint32_t bits = static_cast<uint32_t>(x.bits & 0x7fff) << 13;
    float f;
    std::memcpy(&f, &bits, sizeof f);
    f *= 0x1p112f;  // from the bias of 15 to that of 127; denormals come out right
    std::memcpy(&bits, &f, sizeof f);
    if (f >= 0x1p16f) bits |= 0x7f800000;  // infinity and NaN stay so
    bits |= static_cast<uint32_t>(x.bits & 0x8000) << 16;
    std::memcpy(&f, &bits, sizeof f);
    return f;
}

// Calls f with the address of the first element as what it is.
template <class F> WORLDFAST_INLINE void with_elements(const Rows& rows, const F& f) {
    switch (rows.element) {
        case Element::float16: return f(static_cast<const Half*>(rows.data));
        case Element::bfloat16: return f(static_cast<const Bfloat*>(rows.data));
        case Element::float32: return f(static_cast<const float*>(rows.data));
        default: return f(static_cast<const double*>(rows.data));
    }
}

constexpr int64_t group = 8;  // columns that are read together: partial sums for each, so that they fill vectors

// Calls f(column, lane) for the columns of a row, a full group at a time; the stride is 1 or not known.
template <class F> WORLDFAST_INLINE void for_columns(int64_t begin, int64_t end, const F& f) {
    int64_t c = begin;
    for (; c + group <= end; c += group)
        for (int64_t lane = 0; lane < group; ++lane) f(c + lane, lane);
    for (; c < end; ++c) f(c, 0);
}

struct ColumnWork {
    const Rows& rows;
    const double* origin;
    double* sum;
    double* largest;
};

template <int W, class S> WORLDFAST_INLINE void add_rows(const ColumnWork& work, const S* x, int64_t stride) {
    double size[group] = {}, faults[group] = {};
    for (int64_t r = 0; r < work.rows.rows; ++r) {
        const S* row = x + r * work.rows.row_stride;
        for_columns(0, work.rows.width, [&](int64_t c, int64_t lane) __attribute__((always_inline)) {
            const double difference = value(row[c * stride]) - work.origin[c];
            work.sum[c] += difference;
            faults[lane] += difference * 0;  // NaN, and stays so, where it is not finite
            const double magnitude = std::abs(difference);
            size[lane] = magnitude > size[lane] ? magnitude : size[lane];
        });
    }
    *work.largest = 0;
    for (int64_t lane = 0; lane < group; ++lane)
        *work.largest = std::max(*work.largest, size[lane]) + faults[lane];
}

template <int W> WORLDFAST_INLINE void columns_of(const ColumnWork& work) {
    with_elements(work.rows, [&](const auto* x) __attribute__((always_inline)) {
        if (work.rows.column_stride == 1)
            add_rows<W>(work, x, 1);
        else
            add_rows<W>(work, x, work.rows.column_stride);
    });
}
WORLDFAST_DISPATCH(columns_of_rows, columns_of, (const ColumnWork& work), (work))

// ---- laying out ----

// Rows [begin, end), a strip or less, of one representation.
template <class T> struct PackWork {
    const Rows& from;
    const Centring& by;
    int64_t begin, end;
    Along along;
    T* strips;  // of the representation
    double* squared_norms;
};

template <int W, class T, class S> WORLDFAST_INLINE void pack(const PackWork<T>& work, const S* x, int64_t stride) {
    constexpr int64_t strip = Panel<T>::strip;
    const Rows& from = work.from;
    const double scale = work.by.scale;
    const bool rows = work.along == Along::rows;
    T* to = work.strips + (rows ? work.begin * from.width : 0);
    if (rows && work.end - work.begin < strip) std::fill_n(to, strip * from.width, T{});
    T line[strip];
    for (int64_t r = work.begin; r < work.end; ++r) {
        const S* row = x + r * from.row_stride;
        double norm[group] = {};
        for (int64_t c0 = 0; c0 < from.width; c0 += strip) {
            const int64_t count = std::min(strip, from.width - c0);
            const double* mean = work.by.mean + c0;
            for_columns(0, count, [&](int64_t c, int64_t lane) __attribute__((always_inline)) {
                line[c] = static_cast<T>((value(row[(c0 + c) * stride]) - mean[c]) * scale);
                norm[lane] += static_cast<double>(line[c]) * static_cast<double>(line[c]);
            });
            if (rows) {
                for (int64_t c = 0; c < count; ++c) to[(c0 + c) * strip + r - work.begin] = line[c];
            } else {
                std::fill(line + count, line + strip, T{});
                std::copy_n(line, strip, to + c0 * from.rows + r * strip);
            }
        }
        for (int64_t lane = 1; lane < group; ++lane) norm[0] += norm[lane];
        work.squared_norms[r] = norm[0];
    }
}

template <int W, class T> WORLDFAST_INLINE void pack_any(const PackWork<T>& work) {
    with_elements(work.from, [&](const auto* x) __attribute__((always_inline)) {
        if (work.from.column_stride == 1)
            pack<W>(work, x, 1);
        else
            pack<W>(work, x, work.from.column_stride);
    });
}

// ---- the tile kernel ----

template <class T, int W> struct Vectors {
    static constexpr int size = 4 * W / sizeof(T);
    typedef T Vector __attribute__((vector_size(4 * W)));
    typedef T Unaligned __attribute__((vector_size(4 * W), aligned(sizeof(T)), may_alias));
};
template <class T, int W> WORLDFAST_INLINE const typename Vectors<T, W>::Unaligned& vector_at(const T* p) {
    return *reinterpret_cast<const typename Vectors<T, W>::Unaligned*>(p);
}
template <class T, int W> WORLDFAST_INLINE typename Vectors<T, W>::Unaligned& vector_at(T* p) {
    return *reinterpret_cast<typename Vectors<T, W>::Unaligned*>(p);
}
template <class T, int W> WORLDFAST_INLINE double total_of(const typename Vectors<T, W>::Vector& x) {
    double sum = 0;
    for (int i = 0; i < Vectors<T, W>::size; ++i) sum += static_cast<double>(x[i]);
    return sum;
}

// A register tile: R lines of a by two vectors of b, in as many registers as there are.
template <class T, int W>
WORLDFAST_INLINE void register_tile(const T* a, const T* b, int64_t depth, T* out, bool add) {
    constexpr int R = W == 16 ? 8 : 4, size = Vectors<T, W>::size;
    typename Vectors<T, W>::Vector sum[R][2] = {};
    for (int64_t k = 0; k < depth; ++k, a += Panel<T>::strip, b += Panel<T>::strip) {
        const typename Vectors<T, W>::Vector b0 = vector_at<T, W>(b), b1 = vector_at<T, W>(b + size);
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
            T* to = out + r * edge + c * size;
            if (add) sum[r][c] += vector_at<T, W>(to);
            vector_at<T, W>(to) = sum[r][c];
        }
    }
}

// out [edge, edge] = the products over depth [from, to) of up to `edge` lines of a with as many of b. a and b are the
// strips they begin in, `a_lines` and `b_lines` how many follow, the last strip included.
template <class T, int W>
WORLDFAST_INLINE void product_tile(const T* a, const T* b, int64_t depth, int64_t from, int64_t to, int64_t a_lines,
                                   int64_t b_lines, T* out) {
    constexpr int64_t strip = Panel<T>::strip, R = W == 16 ? 8 : 4, C = 2 * Vectors<T, W>::size;
    const auto line = [depth](const T* strips, int64_t i, int64_t k) {
        return strips + (i / strip * depth + k) * strip + i % strip;
    };
    for (int64_t k = from; k < to; k += chain)
        for (int64_t j = 0; j < b_lines; j += C)
            for (int64_t i = 0; i < a_lines; i += R)
                register_tile<T, W>(line(a, i, k), line(b, j, k), std::min(chain, to - k), out + i * edge + j, k > from);
}

template <class T> struct Exponent;  // of 2^x by the bits of x + magic, and the terms of its series
template <> struct Exponent<float> {
    using Bits = uint32_t;
    static constexpr float magic = 12582912.0f, smallest = -126.0f;  // 1.5 * 2^23
    static constexpr int bias = 127, mantissa = 23, terms = 7;
};
template <> struct Exponent<double> {
    using Bits = uint64_t;
    static constexpr double magic = 6755399441055744.0, smallest = -1022.0;  // 1.5 * 2^52
    static constexpr int bias = 1023, mantissa = 52, terms = 13;
};

// x <- 2^x for x below 1: the integer part by the exponent, the rest, at most 1/2, by the series of e^(x ln 2).
template <class T, int W> WORLDFAST_INLINE void power_of_two(typename Vectors<T, W>::Vector& x) {
    using E = Exponent<T>;
    typedef typename E::Bits Bits __attribute__((vector_size(4 * W)));
    using Vector = typename Vectors<T, W>::Vector;
    const Vector shifted = x + E::magic;
    const Vector rest = (x - (shifted - E::magic)) * static_cast<T>(0.693147180559945309);
    Vector series = Vector{} + 1;
    WORLDFAST_UNROLL
    for (int k = E::terms; k > 0; --k) series = series * rest * (T(1) / k) + 1;
    Bits bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + E::bias) << E::mantissa;
    Vector power;
    std::memcpy(&power, &bits, sizeof power);
    x = x < E::smallest ? Vector{} : series * power;
}

// ---- Gram of Grams ----

struct Place {
    int64_t row, column;
};

template <class T> struct TileWork {
    const Panel<T>& p;
    const Panel<T>& q;
    int64_t p_start, q_start;
    int64_t n;
    const double* gamma;  // null: the linear kernel alone
    double shift;
    double* linear;    // [lanes, M, M], or null
    double* rbf;       // [lanes, M, M]
    double* row_sums;  // [lanes, M, n]
    std::vector<Place> tiles;

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

// exp(-gamma |x_i - x_j|^2) - shift of `rows` by `columns` things; the rest of the tile is zeros.
template <class T, int W>
WORLDFAST_INLINE void rbf_tile(const T* products, double gamma, double shift, const double* row_norms, int64_t rows,
                               const double* column_norms, int64_t columns, T* out) {
    constexpr int size = Vectors<T, W>::size;
    const T rate = static_cast<T>(gamma * 1.44269504088896341), offset = static_cast<T>(shift);
    alignas(64) T norms[edge] = {};
    for (int64_t j = 0; j < columns; ++j) norms[j] = static_cast<T>(column_norms[j]);
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < edge; j += size) {
            typename Vectors<T, W>::Vector x = vector_at<T, W>(products + i * edge + j);
            x = (x + x - static_cast<T>(row_norms[i]) - vector_at<T, W>(norms + j)) * rate;
            power_of_two<T, W>(x);
            vector_at<T, W>(out + i * edge + j) = x - offset;
        }
        std::fill(out + i * edge + columns, out + (i + 1) * edge, T{});
    }
    std::fill(out + rows * edge, out + edge * edge, T{});
}

template <class T, int W>
WORLDFAST_INLINE void add_row_sums(const T* tile, int64_t rows, int64_t columns, double* row_sums, double* column_sums) {
    constexpr int size = Vectors<T, W>::size;
    typename Vectors<T, W>::Vector down[edge / size] = {};
    for (int64_t i = 0; i < rows; ++i) {
        typename Vectors<T, W>::Vector across{};
        for (int64_t v = 0; v < edge / size; ++v) {
            const typename Vectors<T, W>::Vector x = vector_at<T, W>(tile + i * edge + v * size);
            across += x;
            down[v] += x;
        }
        row_sums[i] += total_of<T, W>(across);
    }
    if (!column_sums) return;  // on the diagonal they are the row sums
    for (int64_t j = 0; j < columns; ++j) column_sums[j] += static_cast<double>(down[j / size][j % size]);
}

// products[a, b] += weight * sum of tile a times tile b, b <= a, in blocks of B by B that fill the registers.
template <class T, int W>
WORLDFAST_INLINE void add_products(const T* tiles, int64_t models, double weight, double* products) {
    constexpr int B = W == 16 ? 4 : 2, size = Vectors<T, W>::size;
    for (int64_t a = 0; a < models; a += B) {
        for (int64_t b = 0; b <= a; b += B) {
            typename Vectors<T, W>::Vector sum[B][B] = {};
            for (int64_t k = 0; k < edge * edge; k += size) {
                typename Vectors<T, W>::Vector right[B];
                WORLDFAST_UNROLL
                for (int j = 0; j < B; ++j) right[j] = vector_at<T, W>(tiles + (b + j) * edge * edge + k);
                WORLDFAST_UNROLL
                for (int i = 0; i < B; ++i) {
                    const typename Vectors<T, W>::Vector left = vector_at<T, W>(tiles + (a + i) * edge * edge + k);
                    WORLDFAST_UNROLL
                    for (int j = 0; j < B; ++j) sum[i][j] += left * right[j];
                }
            }
            for (int i = 0; i < B; ++i)
                for (int j = 0; j < B; ++j)
                    if (a + i < models && b + j <= a + i)
                        products[(a + i) * models + b + j] += weight * total_of<T, W>(sum[i][j]);
        }
    }
}

template <int W, class T> WORLDFAST_INLINE void tiles_of_lanes(const TileWork<T>& work, int64_t first, int64_t last) {
    const int64_t models = work.p.models(), padded = round_up(models, 4), area = edge * edge;
    // Beyond the last model stay zeros.
    Aligned<T> linear(padded * area), rbf(work.gamma ? padded * area : 0);
    std::fill_n(linear.data(), padded * area, T{});
    if (work.gamma) std::fill_n(rbf.data(), padded * area, T{});
    for (int64_t lane = first; lane < last; ++lane) {
        double* row_sums = work.row_sums + lane * models * work.n;
        for (size_t t = static_cast<size_t>(lane); t < work.tiles.size(); t += lanes) {
            const auto [row, column] = work.tiles[t];
            const bool diagonal = work.same() && row == column;
            const double weight = diagonal ? 1 : 2;
            const int64_t rows = std::min(edge, work.p.rows() - row), columns = std::min(edge, work.q.rows() - column);
            const int64_t a_lines = round_up(rows, Panel<T>::strip), b_lines = round_up(columns, Panel<T>::strip);
            for (int64_t a = 0; a < models; ++a) {
                T* products = linear.data() + a * area;
                const int64_t depth = work.p.depth()[a];
                if (a_lines + b_lines < 2 * edge) std::fill_n(products, area, T{});  // what is not written below
                product_tile<T, W>(work.p.at(a, row), work.q.at(a, column), depth, 0, depth, a_lines, b_lines, products);
                if (!work.gamma) continue;
                T* kernel = rbf.data() + a * area;
                rbf_tile<T, W>(products, work.gamma[a], work.shift, work.p.squared_norms(a) + row, rows,
                               work.q.squared_norms(a) + column, columns, kernel);
                double* sums = row_sums + a * work.n;
                add_row_sums<T, W>(kernel, rows, columns, sums + work.p_start + row,
                                   diagonal ? nullptr : sums + work.q_start + column);
            }
            if (work.linear) add_products<T, W>(linear.data(), models, weight, work.linear + lane * models * models);
            if (work.gamma) add_products<T, W>(rbf.data(), models, weight, work.rbf + lane * models * models);
        }
    }
}

// ---- feature products ----

template <class T> struct FeatureWork {
    const Panel<T>& panel;
    int64_t a, b, row, column;
    double* sums;  // [edge, edge]
};

constexpr int64_t float_rows = 256;  // whose products are added up in T before they go to double

template <int W, class T> WORLDFAST_INLINE void feature_tile(const FeatureWork<T>& work) {
    const Panel<T>& panel = work.panel;
    alignas(64) T tile[edge * edge] = {};
    const int64_t a_lines = round_up(std::min(edge, panel.lines()[work.a] - work.row), Panel<T>::strip);
    const int64_t b_lines = round_up(std::min(edge, panel.lines()[work.b] - work.column), Panel<T>::strip);
    for (int64_t from = 0; from < panel.rows(); from += float_rows) {
        product_tile<T, W>(panel.at(work.a, work.row), panel.at(work.b, work.column), panel.rows(), from,
                           std::min(from + float_rows, panel.rows()), a_lines, b_lines, tile);
        for (int64_t i = 0; i < edge * edge; ++i) work.sums[i] += static_cast<double>(tile[i]);
    }
}

// ---- distances ----

template <class T> struct DistanceWork {
    const Panel<T>& panel;
    int64_t a;
    T* squared;  // [n (n - 1) / 2]
};

template <int W, class T> WORLDFAST_INLINE void squared_distances(const DistanceWork<T>& work) {
    const Panel<T>& panel = work.panel;
    const double* norms = panel.squared_norms(work.a);
    alignas(64) T tile[edge * edge];
    T* next = work.squared;
    for (int64_t row = 0; row < panel.rows(); row += edge) {
        for (int64_t column = 0; column <= row; column += edge) {
            const int64_t rows = std::min(edge, panel.rows() - row), columns = std::min(edge, panel.rows() - column);
            product_tile<T, W>(panel.at(work.a, row), panel.at(work.a, column), panel.depth()[work.a], 0,
                               panel.depth()[work.a], round_up(rows, Panel<T>::strip),
                               round_up(columns, Panel<T>::strip), tile);
            for (int64_t i = 0; i < rows; ++i)
                for (int64_t j = 0; j < std::min(columns, row + i - column); ++j)
                    *next++ = static_cast<T>(norms[row + i] + norms[column + j] - 2 * static_cast<double>(tile[i * edge + j]));
        }
    }
}

// One instance for each instruction set and element; the module picks at run time.
#define WORLDFAST_GRAM(T, suffix)                                                                                     \
    WORLDFAST_DISPATCH(tiles_of_lanes_##suffix, tiles_of_lanes, (const TileWork<T>& work, int64_t first, int64_t last), \
                       (work, first, last))                                                                           \
    WORLDFAST_DISPATCH(pack_##suffix, pack_any, (const PackWork<T>& work), (work))                                    \
    WORLDFAST_DISPATCH(feature_tile_##suffix, feature_tile, (const FeatureWork<T>& work), (work))                     \
    WORLDFAST_DISPATCH(squared_distances_##suffix, squared_distances, (const DistanceWork<T>& work), (work))          \
    void run_lanes(const TileWork<T>& work, int64_t first, int64_t last) { tiles_of_lanes_##suffix(work, first, last); } \
    void run(const PackWork<T>& work) { pack_##suffix(work); }                                                        \
    void run(const FeatureWork<T>& work) { feature_tile_##suffix(work); }                                             \
    void run(const DistanceWork<T>& work) { squared_distances_##suffix(work); }
WORLDFAST_GRAM(float, float)
WORLDFAST_GRAM(double, double)

}  // namespace

double add_columns(const Rows& rows, const double* origin, double* sum) {
    double largest = 0;
    columns_of_rows({rows, origin, sum, &largest});
    return largest;
}

template <class T>
Panel<T>::Panel(const std::vector<Rows>& blocks, const std::vector<Centring>& centrings, Along along, int threads)
    : rows_(blocks.empty() ? 0 : blocks[0].rows) {
    int64_t size = 0;
    for (const Rows& block : blocks) {
        lines_.push_back(along == Along::rows ? rows_ : block.width);
        depth_.push_back(along == Along::rows ? block.width : rows_);
        begin_.push_back(size);
        size += round_up(lines_.back(), strip) * depth_.back();
    }
    data_ = Aligned<T>(size);
    squared_norms_.resize(static_cast<size_t>(models() * rows_));
    const int64_t pieces = (rows_ + strip - 1) / strip;
    parallel_for(models() * pieces, 16, threads, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const int64_t a = i / pieces, begin = i % pieces * strip;
            run(PackWork<T>{blocks[a], centrings[a], begin, std::min(begin + strip, rows_), along,
                            data_.data() + begin_[a], squared_norms_.data() + a * rows_});
        }
    });
}

template <class T>
GramOfGrams<T>::GramOfGrams(int64_t models, int64_t n, bool linear, const double* gamma, double shift)
    : models_(models), n_(n), shift_(shift) {
    const size_t pairs = static_cast<size_t>(lanes * models * models);
    if (linear) linear_.resize(pairs);
    if (!gamma) return;
    gamma_.assign(gamma, gamma + models);
    rbf_.resize(pairs);
    row_sums_.resize(static_cast<size_t>(lanes * models * n));
}

template <class T>
void GramOfGrams<T>::add(const Panel<T>& p, int64_t p_start, const Panel<T>& q, int64_t q_start, int threads) {
    const auto fits = [this](const Panel<T>& panel, int64_t start) {
        return panel.models() == models_ && start >= 0 && start + panel.rows() <= n_;
    };
    if (!fits(p, p_start) || !fits(q, q_start) || p.depth() != q.depth())
        throw std::invalid_argument("Gram of Grams: the panels are not of these representations");
    const TileWork<T> work{p,      q,
                           p_start, q_start,
                           n_,     gamma_.empty() ? nullptr : gamma_.data(),
                           shift_, linear_.empty() ? nullptr : linear_.data(),
                           rbf_.data(), row_sums_.data(),
                           places(p.rows(), q.rows(), &p == &q)};
    parallel_for(lanes, 1, threads, [&](int64_t first, int64_t last) { run_lanes(work, first, last); });
}

template <class T> void GramOfGrams<T>::total(const std::vector<double>& by_lane, double* products) const {
    for (int64_t a = 0; a < models_; ++a)
        for (int64_t b = 0; b <= a; ++b) {
            double sum = 0;
            for (int64_t lane = 0; lane < lanes; ++lane)
                sum += by_lane[static_cast<size_t>((lane * models_ + a) * models_ + b)];
            products[a * models_ + b] = products[b * models_ + a] = sum;
        }
}

template <class T> void GramOfGrams<T>::rbf(double* products, double* row_sums) const {
    total(rbf_, products);
    const int64_t size = models_ * n_;
    std::fill_n(row_sums, size, 0.0);
    for (int64_t lane = 0; lane < lanes; ++lane)
        for (int64_t i = 0; i < size; ++i) row_sums[i] += row_sums_[static_cast<size_t>(lane * size + i)];
}

template <class T>
FeatureProducts<T>::FeatureProducts(std::vector<int64_t> widths) : widths_(std::move(widths)) {
    for (int64_t a = 0; a < models(); ++a)
        for (int64_t b = 0; b <= a; ++b)
            for (int64_t row = 0; row < widths_[a]; row += edge)
                for (int64_t column = 0; column < (a == b ? row + 1 : widths_[b]); column += edge)
                    tiles_.push_back({a, b, row, column});
    sums_.resize(tiles_.size() * edge * edge);
}

template <class T> void FeatureProducts<T>::add(const Panel<T>& panel, int threads) {
    if (panel.lines() != widths_) throw std::invalid_argument("feature products: the panel has other widths");
    parallel_for(static_cast<int64_t>(tiles_.size()), 1, threads, [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t) {
            const Tile& tile = tiles_[static_cast<size_t>(t)];
            run(FeatureWork<T>{panel, tile.a, tile.b, tile.row, tile.column, sums_.data() + t * edge * edge});
        }
    });
}

template <class T> void FeatureProducts<T>::linear(double* products) const {
    std::fill_n(products, models() * models(), 0.0);
    for (size_t t = 0; t < tiles_.size(); ++t) {
        const Tile& tile = tiles_[t];
        double sum = 0;
        for (size_t i = t * edge * edge; i < (t + 1) * edge * edge; ++i) sum += sums_[i] * sums_[i];
        if (tile.a == tile.b && tile.row != tile.column) sum *= 2;
        products[tile.a * models() + tile.b] += sum;
    }
    for (int64_t a = 0; a < models(); ++a)
        for (int64_t b = 0; b < a; ++b) products[b * models() + a] = products[a * models() + b];
}

template <class T> std::vector<double> median_distances(const Panel<T>& panel, int threads) {
    const int64_t count = panel.rows() * (panel.rows() - 1) / 2;
    std::vector<double> medians(static_cast<size_t>(panel.models()));
    parallel_for(panel.models(), 1, threads, [&](int64_t first, int64_t last) {
        std::vector<T> squared(static_cast<size_t>(count));
        for (int64_t a = first; a < last; ++a) {
            run(DistanceWork<T>{panel, a, squared.data()});
            const auto middle = squared.begin() + count / 2;
            std::nth_element(squared.begin(), middle, squared.end());
            const auto root = [](T x) { return std::sqrt(std::max(static_cast<double>(x), 0.0)); };
            const double upper = root(*middle);
            medians[a] =
                count % 2 ? upper : (root(*std::max_element(squared.begin(), middle)) + upper) / 2;
        }
    });
    return medians;
}

#define WORLDFAST_INSTANCES(T)      \
    template class Panel<T>;        \
    template class GramOfGrams<T>;  \
    template class FeatureProducts<T>; \
    template std::vector<double> median_distances(const Panel<T>&, int);
WORLDFAST_INSTANCES(float)
WORLDFAST_INSTANCES(double)

}  // namespace worldfast
