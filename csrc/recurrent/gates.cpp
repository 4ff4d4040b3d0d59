#include "recurrent/gates.h"

#include <cmath>

#include "base/simd.h"

namespace worldfast {
namespace {

constexpr float log2_e = 1.44269504f;

// x <- 1 / (1 + e^-x)
template <int W>
WORLDFAST_INLINE void sigmoid_of(typename Lanes<W>::Float& x) {
    x *= -log2_e;
    exp2_of<W>(x);
    x = 1 / (1 + x);
}

// x <- tanh(x), within 2e-7 relative: from e^-2|x|, but near 0, where digits would be lost, by a polynomial (Cephes).
template <int W>
WORLDFAST_INLINE void tanh_of(typename Lanes<W>::Float& x) {
    using Float = typename Lanes<W>::Float;
    constexpr float near = 0.625f;
    const Float square = x * x;
    Float p = square * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    p = p * square * x + x;
    Float e = x < 0 ? x : -x;
    e *= 2 * log2_e;
    exp2_of<W>(e);
    Float far = (1 - e) / (1 + e);
    far = x < 0 ? -far : far;
    x = square < near * near ? p : far;
}

// ---- units ----

template <int W>
WORLDFAST_INLINE void units_forward(const UnitStep& s, const float* before, float* h) {
    using Float = typename Lanes<W>::Float;
    Float f, old{};
    for (int64_t i = 0; i < s.units; i += W) {
        const int64_t n = s.units - i;
        load<W>(s.f + i, n, f);
        if (s.relu)
            f = f < 0 ? Float{} : f;  // NaN stays
        else
            tanh_of<W>(f);
        store<W>(s.f + i, n, f);
        if (h == s.f) continue;
        if (before) load<W>(before + i, n, old);
        store<W>(h + i, n, s.keep * old + s.share * f);
    }
}

template <int W>
WORLDFAST_INLINE void units_backward(const UnitStep& s, const float* dh, float* dpre) {
    using Float = typename Lanes<W>::Float;
    Float f, d;
    for (int64_t i = 0; i < s.units; i += W) {
        const int64_t n = s.units - i;
        load<W>(s.f + i, n, f);
        load<W>(dh + i, n, d);
        d *= s.share;
        d = s.relu ? (f > 0 ? d : Float{}) : d * (1 - f * f);
        store<W>(dpre + i, n, d);
    }
}

// ---- cells ----

template <int W>
WORLDFAST_INLINE void cells_forward(const CellStep& s, float* h) {
    using Float = typename Lanes<W>::Float;
    const int64_t D = s.width;
    Float into, keep, fresh, out, old{};
    for (int64_t r = 0; r < s.n; ++r) {
        float* gate = s.gates + r * 4 * D;
        for (int64_t d = 0; d < D; d += W) {
            const int64_t n = D - d, at = r * D + d;
            load<W>(gate + d, n, into);
            load<W>(gate + D + d, n, keep);
            load<W>(gate + 2 * D + d, n, fresh);
            load<W>(gate + 3 * D + d, n, out);
            sigmoid_of<W>(into);
            sigmoid_of<W>(keep);
            tanh_of<W>(fresh);
            sigmoid_of<W>(out);
            store<W>(gate + d, n, into);
            store<W>(gate + D + d, n, keep);
            store<W>(gate + 2 * D + d, n, fresh);
            store<W>(gate + 3 * D + d, n, out);
            if (s.before) load<W>(s.before + at, n, old);
            Float c = keep * old + into * fresh;
            store<W>(s.c + at, n, c);
            tanh_of<W>(c);
            store<W>(s.squashed + at, n, c);
            store<W>(h + at, n, out * c);
        }
    }
}

template <int W>
WORLDFAST_INLINE void cells_backward(const CellStep& s, const float* dh, float* dc) {
    using Float = typename Lanes<W>::Float;
    const int64_t D = s.width;
    Float into, keep, fresh, out, old{}, c, d, carried;
    for (int64_t r = 0; r < s.n; ++r) {
        float* gate = s.gates + r * 4 * D;
        for (int64_t i = 0; i < D; i += W) {
            const int64_t n = D - i, at = r * D + i;
            load<W>(gate + i, n, into);
            load<W>(gate + D + i, n, keep);
            load<W>(gate + 2 * D + i, n, fresh);
            load<W>(gate + 3 * D + i, n, out);
            load<W>(s.squashed + at, n, c);
            load<W>(dh + at, n, d);
            load<W>(dc + at, n, carried);
            if (s.before) load<W>(s.before + at, n, old);
            carried += d * out * (1 - c * c);
            store<W>(gate + i, n, carried * fresh * into * (1 - into));
            store<W>(gate + D + i, n, carried * old * keep * (1 - keep));
            store<W>(gate + 2 * D + i, n, carried * into * (1 - fresh * fresh));
            store<W>(gate + 3 * D + i, n, d * c * out * (1 - out));
            store<W>(dc + at, n, carried * keep);
        }
    }
}

// ---- sums ----

template <int W>
WORLDFAST_INLINE void sums_body(const float* from, int64_t lines, int64_t width, float* to) {
    typename Lanes<W>::Float sum, x;
    for (int64_t d = 0; d < width; d += W) {
        const int64_t n = width - d;
        load<W>(to + d, n, sum);
        for (int64_t i = 0; i < lines; ++i) {
            load<W>(from + i * width + d, n, x);
            sum += x;
        }
        store<W>(to + d, n, sum);
    }
}

// ---- losses ----

// Logarithms of factors from 1 to 2 are taken of their products, of up to so many vectors.
constexpr int factors_at_once = 64;

template <int W>
WORLDFAST_INLINE double log_of_product(const typename Lanes<W, double>::Float& x) {
    double product = 1, sum = 0;
    for (int i = 0; i < W; ++i) {
        product *= x[i];
        if (i % 8 == 7) sum += std::log(product), product = 1;
    }
    return W % 8 ? sum + std::log(product) : sum;
}

// A sum of numbers and of logarithms, for outputs whose factor is the same.
template <int W>
struct Total {
    using Double = typename Lanes<W, double>::Float;
    Double linear{}, product = Double{} + 1;
    int factors = 0;
    double logs = 0;

    WORLDFAST_INLINE void add(const typename Lanes<W>::Float& term) { linear += __builtin_convertvector(term, Double); }
    WORLDFAST_INLINE void add_log(const typename Lanes<W>::Float& more) {  // of 1 + more
        product *= 1 + __builtin_convertvector(more, Double);
        if (++factors == factors_at_once) take_logs();
    }
    WORLDFAST_INLINE void take_logs() {
        logs += log_of_product<W>(product);
        product = Double{} + 1;
        factors = 0;
    }
    WORLDFAST_INLINE double end() {
        take_logs();
        double sum = logs;
        for (int i = 0; i < W; ++i) sum += linear[i];
        *this = Total{};
        return sum;
    }
};

// -y log s - (1 - y) log(1 - s) = max(z, 0) - z y + log(1 + e^-|z|), where s = 1 / (1 + e^-z).
template <int W>
WORLDFAST_INLINE void losses_body(const NumberLosses& l, float* outputs, double& total) {
    using Float = typename Lanes<W>::Float;
    const bool logistic = l.kind == NumberLoss::logistic;
    constexpr float certain = 128;  // of lanes behind the last output: their loss is 0, and e^-|z| too; tanh is 1
    Total<W> sum;
    float weight = 1;
    for (int64_t k = 0; k < l.positions; ++k) {
        float* z_at = outputs + k * l.outputs;
        const float *y_at = l.targets + k * l.outputs, *weight_at = l.each ? l.weights + k * l.outputs : nullptr;
        if (l.weights && !l.each && l.weights[k] != weight) {
            total += double(weight) * sum.end();
            weight = l.weights[k];
        }
        for (int64_t j = 0; j < l.outputs; j += W) {
            const int64_t n = l.outputs - j;
            Float z, y, factor = Float{} + weight;
            load<W>(z_at + j, n, z, certain);
            load<W>(y_at + j, n, y, logistic || l.kind == NumberLoss::tanh_square ? 1 : certain);
            if (weight_at) load<W>(weight_at + j, n, factor);
            if (!logistic) {
                Float slope = Float{} + 1;
                if (l.kind == NumberLoss::tanh_square) tanh_of<W>(z), slope = 1 - z * z;
                const Float away = z - y;
                store<W>(z_at + j, n, away * slope * factor);
                sum.add(0.5f * (weight_at ? factor : Float{} + 1) * (away * away));
                continue;
            }
            Float e = z < 0 ? z : -z;
            e *= log2_e;
            exp2_of<W, float, true>(e);
            const Float s = (z < 0 ? e : Float{} + 1) / (1 + e), term = (z < 0 ? Float{} : z) - z * y;
            store<W>(z_at + j, n, (s - y) * factor);
            if (weight_at) {
                for (int i = 0; i < W; ++i) total += double(factor[i]) * (double(term[i]) + std::log1p(double(e[i])));
                continue;
            }
            sum.add(term);
            sum.add_log(e);
        }
    }
    total += double(weight) * sum.end();
}

WORLDFAST_DISPATCH(run_forward, units_forward, (const UnitStep& s, const float* before, float* h), (s, before, h))
WORLDFAST_DISPATCH(run_backward, units_backward, (const UnitStep& s, const float* dh, float* dpre), (s, dh, dpre))
WORLDFAST_DISPATCH(run_cells_forward, cells_forward, (const CellStep& s, float* h), (s, h))
WORLDFAST_DISPATCH(run_cells_backward, cells_backward, (const CellStep& s, const float* dh, float* dc), (s, dh, dc))
WORLDFAST_DISPATCH(run_sums, sums_body, (const float* from, int64_t lines, int64_t width, float* to),
                   (from, lines, width, to))
WORLDFAST_DISPATCH(add_losses, losses_body, (const NumberLosses& l, float* outputs, double& total), (l, outputs, total))

}  // namespace

void forward(const UnitStep& step, const float* before, float* h) { run_forward(step, before, h); }
void backward(const UnitStep& step, const float* dh, float* dpre) { run_backward(step, dh, dpre); }
void forward(const CellStep& step, float* h) { run_cells_forward(step, h); }
void backward(const CellStep& step, const float* dh, float* dc) { run_cells_backward(step, dh, dc); }

void add_sums(const float* from, int64_t n, int64_t width, float* to) { run_sums(from, n, width, to); }

double loss_of(const NumberLosses& losses, float* outputs) {
    double total = 0;
    add_losses(losses, outputs, total);
    return total;
}

}  // namespace worldfast
