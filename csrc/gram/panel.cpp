#include "gram/panel.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/float16.h"
#include "base/interrupt.h"
#include "base/limits.h"
#include "base/parallel.h"
#include "base/simd.h"

namespace worldfast {
namespace {

// ---- reading ----

// Calls f with the address of the first element as what it is.
template <class F>
WORLDFAST_INLINE void with_elements(const Rows& rows, const F& f) {
    switch (rows.element) {
        case Element::float16:
            return f(static_cast<const Float16*>(rows.data));
        case Element::bfloat16:
            return f(static_cast<const BFloat16*>(rows.data));
        case Element::float32:
            return f(static_cast<const float*>(rows.data));
        default:
            return f(static_cast<const double*>(rows.data));
    }
}

constexpr int64_t group = 8;  // columns that are read together: partial sums for each, so that they fill vectors

// Reads rows whose columns stand side by side; of others, a copy.
template <class S>
class Reader {
public:
    WORLDFAST_INLINE Reader(const Rows& rows, const S* first)
        : rows_(rows), first_(first), copy_(rows.column_stride == 1 ? 0 : static_cast<size_t>(rows.width)) {}

    WORLDFAST_INLINE const S* row(int64_t r) {
        const S* row = first_ + r * rows_.row_stride;
        if (rows_.column_stride == 1) return row;
        for (int64_t c = 0; c < rows_.width; ++c) copy_[static_cast<size_t>(c)] = row[c * rows_.column_stride];
        return copy_.data();
    }

private:
    const Rows& rows_;
    const S* first_;
    std::vector<S> copy_;
};

// Calls f(column, lane) for the columns of a row, a full group at a time.
template <class F>
WORLDFAST_INLINE void for_columns(int64_t begin, int64_t end, const F& f) {
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

template <int W, class S>
WORLDFAST_INLINE void add_rows(const ColumnWork& work, const S* x) {
    Reader<S> reader(work.rows, x);
    double size[group] = {}, faults[group] = {};
    for (int64_t r = 0; r < work.rows.rows; ++r) {
        const S* row = reader.row(r);
        for_columns(0, work.rows.width, [&](int64_t c, int64_t lane) __attribute__((always_inline)) {
            const double difference = static_cast<double>(row[c]) - work.origin[c];
            work.sum[c] += difference;
            faults[lane] += difference * 0;  // NaN, and stays so, where it is not finite
            const double magnitude = std::abs(difference);
            size[lane] = magnitude > size[lane] ? magnitude : size[lane];
        });
    }
    *work.largest = 0;
    for (int64_t lane = 0; lane < group; ++lane) *work.largest = std::max(*work.largest, size[lane]) + faults[lane];
}

template <int W>
WORLDFAST_INLINE void columns_of(const ColumnWork& work) {
    with_elements(work.rows, [&](const auto* x) __attribute__((always_inline)) { add_rows<W>(work, x); });
}
WORLDFAST_DISPATCH(columns_of_rows, columns_of, (const ColumnWork& work), (work))

// ---- laying out ----

// Rows [begin, end), a strip or less, of one representation.
template <class T>
struct PackWork {
    const Rows& from;
    const Centring& by;
    int64_t begin, end;
    Along along;
    T* strips;  // of the representation
    double* squared_norms;
};

template <int W, class T, class S>
WORLDFAST_INLINE void pack(const PackWork<T>& work, const S* x) {
    constexpr int64_t strip = Panel<T>::strip;
    const Rows& from = work.from;
    const double scale = work.by.scale;
    const bool rows = work.along == Along::rows;
    T* to = work.strips + (rows ? work.begin * from.width : 0);
    if (rows && work.end - work.begin < strip) std::fill_n(to, strip * from.width, T{});
    T line[strip];
    Reader<S> reader(from, x);
    for (int64_t r = work.begin; r < work.end; ++r) {
        const S* row = reader.row(r);
        double norm[group] = {};
        for (int64_t c0 = 0; c0 < from.width; c0 += strip) {
            const int64_t count = std::min(strip, from.width - c0);
            const double* mean = work.by.mean + c0;
            for_columns(0, count, [&](int64_t c, int64_t lane) __attribute__((always_inline)) {
                line[c] = static_cast<T>((static_cast<double>(row[c0 + c]) - mean[c]) * scale);
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

template <int W, class T>
WORLDFAST_INLINE void pack_any(const PackWork<T>& work) {
    with_elements(work.from, [&](const auto* x) __attribute__((always_inline)) { pack<W>(work, x); });
}

WORLDFAST_DISPATCH(pack_floats, pack_any, (const PackWork<float>& work), (work))
WORLDFAST_DISPATCH(pack_doubles, pack_any, (const PackWork<double>& work), (work))
void run(const PackWork<float>& work) { pack_floats(work); }
void run(const PackWork<double>& work) { pack_doubles(work); }

}  // namespace

Rows Rows::from(int64_t first, int64_t count) const {
    static constexpr int64_t bytes[] = {2, 2, 4, 8};
    const int64_t offset = first * row_stride * bytes[static_cast<int>(element)];
    return {static_cast<const char*>(data) + offset, element, count, width, row_stride, column_stride};
}

double add_columns(const Rows& rows, const double* origin, double* sum) {
    double largest = 0;
    columns_of_rows({rows, origin, sum, &largest});
    return largest;
}

template <class T>
void Panel<T>::fill(const std::vector<Rows>& blocks, const std::vector<Centring>& centrings, Along along, int threads) {
    rows_ = blocks.empty() ? 0 : blocks[0].rows;
    lines_.clear();
    depth_.clear();
    begin_.clear();
    int64_t size = 0;
    for (const Rows& block : blocks) {
        lines_.push_back(along == Along::rows ? rows_ : block.width);
        depth_.push_back(along == Along::rows ? block.width : rows_);
        begin_.push_back(size);
        size += (lines_.back() + strip - 1) / strip * strip * depth_.back();
        within("numbers in a panel", size, 0, int64_t{1} << 48);
    }
    if (size > capacity_) data_ = Aligned<T>(capacity_ = size);
    squared_norms_.resize(static_cast<size_t>(models() * rows_));
    const int64_t pieces = (rows_ + strip - 1) / strip;
    Interruption interruption;
    const auto range = [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            if ((i - first) % 64 == 0 && interruption.end(first == 0)) return;
            const int64_t a = i / pieces, begin = i % pieces * strip;
            run(PackWork<T>{blocks[a], centrings[a], begin, std::min(begin + strip, rows_), along,
                            data_.data() + begin_[a], squared_norms_.data() + a * rows_});
        }
    };
    parallel_for(models() * pieces, 16, threads, range, &interruption);
}

template class Panel<float>;
template class Panel<double>;

}  // namespace worldfast
