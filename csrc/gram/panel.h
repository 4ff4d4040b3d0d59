// Representations as the tile kernel reads them: centred, scaled, in strips of lines. What the callers hold may be
// float16, bfloat16, float32 or float64 with any strides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace worldfast {

enum class Element { float16, bfloat16, float32, float64 };

// A block of rows of one representation, as the caller holds it; strides in elements.
struct Rows {
    const void* data;
    Element element;
    int64_t rows, width;
    int64_t row_stride, column_stride;

    Rows from(int64_t first, int64_t count) const;  // some of them
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

// Memory on a cache line's boundary; where it is large, on huge pages if the system has them, since a tile touches
// more small ones than the processor remembers.
template <class T>
class Aligned {
public:
    Aligned() = default;
    explicit Aligned(int64_t size) {
        const size_t bytes = static_cast<size_t>(size) * sizeof(T);
        const std::align_val_t alignment{bytes < 2 * huge ? 64 : huge};
        data_ = {static_cast<T*>(::operator new(bytes, alignment)), Free{alignment}};
#ifdef MADV_HUGEPAGE
        if (bytes >= 2 * huge) madvise(data_.get(), bytes / huge * huge, MADV_HUGEPAGE);  // a wish: refusal is no error
#endif
    }
    T* data() const { return data_.get(); }

private:
    static constexpr size_t huge = size_t{1} << 21;
    struct Free {
        std::align_val_t alignment{64};
        void operator()(T* p) const { ::operator delete(p, alignment); }
    };
    std::unique_ptr<T, Free> data_;
};

// The rows of M representations, centred, scaled and laid out for the tile kernel: strips of `strip` lines, a strip
// stored as [depth, strip]. Lines are rows and the depth is the width, or the other way round; zeros fill the last.
template <class T>
class Panel {
public:
    static constexpr int64_t strip = 128 / sizeof(T);

    // Takes other rows, into the same memory where they fit.
    void fill(const std::vector<Rows>& blocks, const std::vector<Centring>& centrings, Along along, int threads);

    int64_t models() const { return static_cast<int64_t>(depth_.size()); }
    int64_t rows() const { return rows_; }
    const std::vector<int64_t>& lines() const { return lines_; }  // [M]
    const std::vector<int64_t>& depth() const { return depth_; }  // [M]
    // The strip that line `line` of representation a is in.
    const T* at(int64_t a, int64_t line) const { return data_.data() + begin_[a] + line / strip * strip * depth_[a]; }
    const double* squared_norms(int64_t a) const { return squared_norms_.data() + a * rows_; }  // [rows]

private:
    int64_t rows_ = 0, capacity_ = 0;
    std::vector<int64_t> lines_, depth_, begin_;
    Aligned<T> data_;
    std::vector<double> squared_norms_;
};

}  // namespace worldfast
