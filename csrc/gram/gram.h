// Statistics of Gram matrices, tile by tile: what centred kernel alignment (CKA) is made of.
//
// For M representations X_a [n, d_a] of the same n things, with columns of mean zero, let K_a be X_a X_a' (linear)
// or exp(-gamma_a |x_i - x_j|^2) - exp(-level_a) (RBF). Wanted are sum_ij K_a[i,j] K_b[i,j] for all a, b, and the sums over
// the rows of K_a. No n x n matrix is ever in memory:
//
//   GramOfGrams     takes a tile of K_a for every a, then all products of two such tiles. Linear and RBF come out of
//                   the same tiles. Costs M n^2 d + M^2 n^2 / 2 multiply-adds and additions.
//   FeatureProducts for the linear kernel alone: the sum is |X_a' X_b|^2, in tiles of X_a' X_b. Costs n (M d)^2.
//
// Both are fed with blocks of rows of all M representations, so that neither the rows nor a copy of them need fit in
// memory. Tiles are computed in T, float or double; sums over tiles are double. Work is divided into a
// fixed number of shares, whose sums are added up in order: results do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "gram/panel.h"

namespace worldfast {

template <class T>
class GramOfGrams {
public:
    // gamma and level [M], or null for the linear kernel alone. An entry of an RBF matrix is a difference from
    // exp(-level), made without cancelling: where gamma is small all entries are near one, and centring takes it away.
    // An infinite level takes nothing off.
    GramOfGrams(int64_t models, int64_t n, bool linear, const double* gamma, const double* level);

    // The tiles of panel p, whose first row is row p_start of the n, with those of panel q, both along rows. Each pair
    // of panels is added once, in either order; a panel with itself by add(p, s, p, s). std::invalid_argument where
    // the panels are not of these representations.
    void add(const Panel<T>& p, int64_t p_start, const Panel<T>& q, int64_t q_start, int threads);

    int64_t models() const { return models_; }
    int64_t rows() const { return n_; }
    void linear(double* products) const { total(linear_, products); }  // [M, M]
    void rbf(double* products, double* row_sums) const;                // [M, M], [M, n]

private:
    void total(const std::vector<double>& by_share, double* products) const;

    int64_t models_, n_;
    std::vector<double> gamma_, level_;
    std::vector<double> linear_, rbf_, row_sums_;  // by share
};

// A tile of X_a' X_b, by its first feature of each.
struct FeatureTile {
    int64_t a, b, row, column;
    bool diagonal() const { return a == b && row == column; }
};

template <class T>
class FeatureProducts {
public:
    explicit FeatureProducts(std::vector<int64_t> widths);
    int64_t models() const { return static_cast<int64_t>(widths_.size()); }
    // A block of rows of every representation, whose squared norms are set, [M, n] in memory with a stride.
    // std::invalid_argument for other widths.
    void add(const std::vector<Rows>& blocks, const std::vector<Centring>& centrings, double* squared_norms,
             int64_t stride, int threads);
    void linear(double* products) const;  // [M, M]

private:
    std::vector<int64_t> widths_;
    std::vector<FeatureTile> tiles_;
    std::vector<double> sums_;  // of each tile's entries
};

// The median of the distances |x_i - x_j|, i < j, for each representation of a panel along rows (times its scale);
// of an even number of distances the mean of the middle two.
template <class T>
std::vector<double> median_distances(const Panel<T>& panel, int threads);

}  // namespace worldfast
