// Statistics of Gram matrices, tile by tile: what centred kernel alignment (CKA) is made of.
//
// For M representations X_a [n, d_a] of the same n things, with columns of mean zero, let K_a be X_a X_a' (linear)
// or exp(-gamma_a |x_i - x_j|^2) - shift (RBF). Wanted are sum_ij K_a[i,j] K_b[i,j] for all a, b, and the sums over
// the rows of K_a. No n x n matrix is ever in memory:
//
//   GramOfGrams     takes a tile of K_a for every a, then all products of two such tiles. Linear and RBF come out of
//                   the same tiles. Costs M n^2 d + M^2 n^2 / 2 multiply-adds and additions.
//   FeatureProducts for the linear kernel alone: the sum is |X_a' X_b|^2, in tiles of X_a' X_b. Costs n (M d)^2.
//
// Both are fed with panels, blocks of rows of all M representations, so that neither the rows nor a copy of them
// need fit in memory. Tiles are computed in T, float or double; sums over tiles are double. Work is divided into a
// fixed number of lanes, and lanes are added up in order: results do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace worldfast {

enum class Element { float16, bfloat16, float32, float64 };

// A block of rows of one representation, as the caller holds it; strides in elements.
struct Rows {
    const void* data;
    Element element;
    int64_t rows, width;
    int64_t row_stride, column_stride;
};

// sum[c] += sum over rows of x[r, c] - origin[c]. Returns the largest |x - origin|, or NaN where one is not finite.
double add_columns(const Rows& rows, const double* origin, double* sum);

// How a representation is centred and scaled on its way into a panel: (x - mean[c]) * scale.
struct Centring {
    const double* mean;
    double scale;
};

// What a panel's tiles run over: the things (rows) or the features (columns).
enum class Along { rows, columns };

// Memory on a cache line's boundary.
template <class T> class Aligned {
public:
    Aligned() = default;
    explicit Aligned(int64_t size)
        : data_(static_cast<T*>(::operator new(static_cast<size_t>(size) * sizeof(T), line))) {}
    T* data() const { return data_.get(); }

private:
    static constexpr std::align_val_t line{64};
    struct Free {
        void operator()(T* p) const { ::operator delete(p, line); }
    };
    std::unique_ptr<T, Free> data_;
};

// The rows of M representations, centred, scaled and laid out for the tile kernel: strips of `strip` lines, a strip
// stored as [depth, strip]. Lines are rows and the depth is the width, or the other way round; zeros fill the last.
template <class T> class Panel {
public:
    static constexpr int64_t strip = 128 / sizeof(T);

    Panel(const std::vector<Rows>& blocks, const std::vector<Centring>& centrings, Along along, int threads);

    int64_t models() const { return static_cast<int64_t>(depth_.size()); }
    int64_t rows() const { return rows_; }
    const std::vector<int64_t>& lines() const { return lines_; }  // [M]
    const std::vector<int64_t>& depth() const { return depth_; }  // [M]
    // The strip that line `line` of representation a is in.
    const T* at(int64_t a, int64_t line) const {
        return data_.data() + begin_[a] + line / strip * strip * depth_[a];
    }
    const double* squared_norms(int64_t a) const { return squared_norms_.data() + a * rows_; }  // [rows]

private:
    int64_t rows_;
    std::vector<int64_t> lines_, depth_, begin_;
    Aligned<T> data_;
    std::vector<double> squared_norms_;
};

template <class T> class GramOfGrams {
public:
    // gamma [M], or null for the linear kernel alone; shift is taken off every entry of an RBF matrix.
    GramOfGrams(int64_t models, int64_t n, bool linear, const double* gamma, double shift);

    // The tiles of panel p, whose first row is row p_start of the n, with those of panel q, both along rows. Each pair
    // of panels is added once, in either order; a panel with itself by add(p, s, p, s). std::invalid_argument where
    // the panels are not of these representations.
    void add(const Panel<T>& p, int64_t p_start, const Panel<T>& q, int64_t q_start, int threads);

    int64_t models() const { return models_; }
    int64_t rows() const { return n_; }
    void linear(double* products) const { total(linear_, products); }  // [M, M]
    void rbf(double* products, double* row_sums) const;                // [M, M], [M, n]

private:
    void total(const std::vector<double>& lanes, double* products) const;

    int64_t models_, n_;
    std::vector<double> gamma_;
    double shift_;
    std::vector<double> linear_, rbf_, row_sums_;  // by lane
};

template <class T> class FeatureProducts {
public:
    explicit FeatureProducts(std::vector<int64_t> widths);
    int64_t models() const { return static_cast<int64_t>(widths_.size()); }
    void add(const Panel<T>& panel, int threads);  // along columns; std::invalid_argument for other widths
    void linear(double* products) const;           // [M, M]

private:
    struct Tile {
        int64_t a, b, row, column;
    };
    std::vector<int64_t> widths_;
    std::vector<Tile> tiles_;
    std::vector<double> sums_;  // of each tile's entries
};

// The median of the distances |x_i - x_j|, i < j, for each representation of a panel along rows (times its scale);
// of an even number of distances the mean of the middle two.
template <class T> std::vector<double> median_distances(const Panel<T>& panel, int threads);

}  // namespace worldfast
