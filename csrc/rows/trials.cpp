// Each number of a layer is added up in the order of what it reads, product and sum rounded together; all else is rounded
// one after the other: so that a trial has the same bits at every width of vectors, and in every batch.
#include "rows/trials.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/interrupt.h"
#include "base/normal.h"
#include "base/parallel.h"
#include "base/simd.h"

namespace worldfast {
namespace {

constexpr int64_t thread_trials = 16;  // that a thread takes at least
constexpr double persistence = 0.7;    // of autoregressive noise, from step to step

// ---- the encoder ----

enum class Activation : int { none, rectify, square };

// sum + w x, rounded once: by an instruction, which processors without AVX2 lack. There the product is exact in double, and
// where the sum is not, the digit that it ends in is made odd, so that rounding it once more to float errs on neither side.
template <int W>
WORLDFAST_INLINE void add_product(typename Lanes<W>::Float& sum, const typename Lanes<W>::Float& w, float x) {
    const typename Lanes<W>::Float all = x - typename Lanes<W>::Float{};  // 0 + x would be a sum
    typename Lanes<W>::Float total = sum;  // a reference in an asm would keep the sums in memory
#if defined(__x86_64__)
    if constexpr (W == 16) {
        asm("vfmadd231ps %2, %1, %0" : "+v"(total) : "v"(w), "v"(all));
    } else if constexpr (W == 8) {
        asm("vfmadd231ps %2, %1, %0" : "+x"(total) : "x"(w), "x"(all));
    } else {
        using Double = typename Lanes<W, double>::Float;
        const Double product = __builtin_convertvector(w, Double) * double(x),
                     old = __builtin_convertvector(sum, Double);
        Double exact = product + old;
        const Double of_old = exact - product, error = (product - (exact - of_old)) + (old - of_old);
        typename Lanes<W, double>::Int bits;
        std::memcpy(&bits, &exact, sizeof bits);
        const auto inexact = (error != 0) & ((bits & 1) == 0);
        bits += inexact & (((error > 0) == (exact > 0)) ? bits - bits + 1 : bits - bits - 1);
        std::memcpy(&exact, &bits, sizeof exact);
        total = __builtin_convertvector(exact, typename Lanes<W>::Float);
    }
#elif defined(__aarch64__)
    asm("fmla %0.4s, %1.4s, %2.4s" : "+w"(total) : "w"(w), "w"(all));
#else
#error "a product and a sum that are rounded once: of this processor it is not known how"
#endif
    sum = total;
}

// M rows, `line` numbers apart, of V vectors of outputs: out <- activation(bias + x weight).
template <int W, int M, int V>
WORLDFAST_INLINE void unit_tile(const EncoderLayer& layer, const float* x, int64_t line, int64_t unit, float* out,
                                Activation activation) {
    using Float = typename Lanes<W>::Float;
    Float sum[M][V];
    for (int i = 0; i < M; ++i)
        for (int v = 0; v < V; ++v) sum[i][v] = at<W>(layer.bias + unit + v * W);
    const float* weight = layer.weight + unit;
    for (int64_t k = 0; k < layer.reads; ++k, weight += layer.writes) {
        Float w[V];
        WORLDFAST_UNROLL
        for (int v = 0; v < V; ++v) w[v] = at<W>(weight + v * W);
        WORLDFAST_UNROLL
        for (int i = 0; i < M; ++i) {
            const float value = x[i * line + k];
            WORLDFAST_UNROLL
            for (int v = 0; v < V; ++v) add_product<W>(sum[i][v], w[v], value);
        }
    }
    for (int i = 0; i < M; ++i)
        for (int v = 0; v < V; ++v) {
            Float y = sum[i][v];
            if (activation == Activation::rectify) y = y > 0 ? y : Float{};
            if (activation == Activation::square) y = y * y;
            at<W>(out + i * line + unit + v * W) = y;
        }
}

// All rows of V vectors of outputs, whose weights stay in the first cache.
template <int W, int V>
WORLDFAST_INLINE void unit_rows(const EncoderLayer& layer, int64_t m, const float* x, int64_t unit, float* out,
                                int64_t line, Activation activation) {
    constexpr int M = W == 16 ? 10 : 5;  // 10 vectors of sums and more, which hide the latency of a multiply-add
    int64_t i = 0;
    for (; i + M <= m; i += M) unit_tile<W, M, V>(layer, x + i * line, line, unit, out + i * line, activation);
    for (; i < m; ++i) unit_tile<W, 1, V>(layer, x + i * line, line, unit, out + i * line, activation);
}

template <int W>
WORLDFAST_INLINE void layer_body(const EncoderLayer& layer, int64_t m, const float* x, float* out, int64_t line,
                                 Activation activation) {
    constexpr int V = static_cast<int>(unit_block) / W;
    int64_t unit = 0;
    if constexpr (V == 1)  // 32 registers hold twice as many sums, which read each x half as often
        for (; unit + 2 * unit_block <= layer.writes; unit += 2 * unit_block)
            unit_rows<W, 2>(layer, m, x, unit, out, line, activation);
    for (; unit < layer.writes; unit += unit_block) unit_rows<W, V>(layer, m, x, unit, out, line, activation);
}
WORLDFAST_DISPATCH(run_layer, layer_body,
                   (const EncoderLayer& layer, int64_t m, const float* x, float* out, int64_t line,
                    Activation activation),
                   (layer, m, x, out, line, activation))

// Two buffers of m rows, which the layers fill in turn.
struct Buffers {
    explicit Buffers(const TrialRule& rule) : line(unit_block + std::max(rule.latents, rule.channels)) {
        for (int i = 0; i < rule.layers; ++i) line = std::max(line, rule.encoder[i].writes + unit_block);
        for (auto& one : rows) one.resize(static_cast<size_t>(line * std::max<int64_t>(rule.steps, 1)));
    }

    // f of m observations that stand in the first buffer.
    const float* encode(const TrialRule& rule, int64_t m) {
        const Activation between = rule.square ? Activation::square : Activation::rectify;
        for (int i = 0; i < rule.layers; ++i)
            run_layer(rule.encoder[i], m, rows[i % 2].data(), rows[(i + 1) % 2].data(), line,
                      i + 1 < rule.layers ? between : Activation::none);
        return rows[rule.layers % 2].data();
    }

    int64_t line;
    std::vector<float> rows[2];
};

// ---- a trial ----

class Trial {
public:
    // `point`: its latents, or null to draw them.
    Trial(const TrialRule& rule, uint64_t row, const float* point) : rule_(rule), random_(rule.key, row) {
        for (int64_t j = 0; j < rule.latents; ++j) x_[j] = short_uniform(random_.next());
        if (point) {
            std::copy(point, point + rule.latents, x_);
            return;
        }
        if (rule.correlation != 0) {
            const double rest = std::sqrt(1 - rule.correlation * rule.correlation);
            x_[1] = normal_share(rule.correlation * normal(x_[0]) + rest * normal(x_[1]));
        }
        for (int64_t j = 0; j < rule.latents; ++j) x_[j] = static_cast<float>(x_[j] - 0.5);
    }

    const double* latents() const { return x_; }

    // Observations of all steps.
    void observe(float* seen, int64_t line) {
        double before[most_latents] = {};
        const double fresh = std::sqrt(1 - persistence * persistence);
        for (int64_t t = 0; t < rule_.steps; ++t)
            for (int64_t j = 0; j < rule_.latents; ++j) {
                double noise = 0;
                switch (rule_.noise) {
                    case TrialNoise::isotropic:
                        noise = normal(uniform(random_.next()));
                        break;
                    case TrialNoise::gumbel:
                        noise = gumbel(uniform(random_.next()));
                        break;
                    case TrialNoise::autoregressive:
                        noise = normal(uniform(random_.next()));
                        if (t > 0) noise = persistence * before[j] + fresh * noise;
                        before[j] = noise;
                        break;
                    case TrialNoise::encoded:
                        break;
                }
                seen[t * line + j] = static_cast<float>(x_[j] + rule_.scale[j] * noise);
            }
    }

    // Noise behind the encoder.
    float channel_noise() { return static_cast<float>(rule_.scale[0] * normal(uniform(random_.next()))); }

    float answer(int64_t question) const {
        const double *c = rule_.boundary + question * rule_.latents, theta = rule_.threshold[question];
        if (theta >= 0) return c[0] * x_[0] > 0 && c[1] * x_[1] > 0 && std::fabs(x_[0] * x_[1]) > theta;
        double sum = 0;
        for (int64_t j = 0; j < rule_.latents; ++j) sum += c[j] * x_[j];
        return sum > 0;
    }

    // What the observations up to each step say of a question: held once it is beyond its bounds.
    void evidence(int64_t question, const float* seen, int64_t line, float* targets) const {
        const double* c = rule_.boundary + question * rule_.latents;
        double sum = 0;
        for (int64_t t = 0; t < rule_.steps; ++t) {
            if (std::fabs(sum) < most_evidence) {
                for (int64_t j = 0; j < rule_.latents; ++j) sum += c[j] * seen[t * line + j];
                sum = std::clamp(sum, -most_evidence, most_evidence);
            }
            targets[t * rule_.questions + question] = static_cast<float>(rule_.truncated ? std::trunc(sum) : sum);
        }
    }

private:
    const TrialRule& rule_;
    Random random_;
    double x_[most_latents];
};

}  // namespace

void make_trials(const TrialRule& rule, int64_t start, int64_t n, float* inputs, float* targets, float* latents,
                 int threads) {
    if (n == 0) return;
    const int64_t T = rule.length(), width = rule.width(), channels = rule.channels, N = rule.questions;
    const int64_t fixation = rule.free ? 0 : 1;              // its channel comes first, and its step
    std::vector<float> rest(static_cast<size_t>(channels));  // f(0), of the steps without an observation
    {
        Buffers buffers(rule);
        const float* found = buffers.encode(rule, 1);
        std::copy(found, found + channels, rest.begin());
    }
    Interruption interruption;
    const auto range = [&](int64_t begin, int64_t end) {
        Buffers buffers(rule);
        for (int64_t i = begin; i < end; ++i) {
            if (interruption.end(begin == 0)) return;
            const auto row = static_cast<uint64_t>(start + i);
            float* x = latents + i * rule.latents;
            Trial trial(rule, row, rule.given ? x : nullptr);
            float *in = inputs + i * T * width, *out = targets + i * rule.targets() * N;
            for (int64_t j = 0; j < rule.latents; ++j) x[j] = static_cast<float>(trial.latents()[j]);
            trial.observe(buffers.rows[0].data(), buffers.line);
            if (rule.free)
                for (int64_t q = 0; q < N; ++q) trial.evidence(q, buffers.rows[0].data(), buffers.line, out);
            const float* seen = buffers.encode(rule, rule.steps);
            const uint32_t asked = rule.block ? Random(~rule.key, row / static_cast<uint64_t>(rule.block)).below(2) : 0;
            for (int64_t t = 0; t < T; ++t) {
                float* at = in + t * width;
                const bool stimulus = rule.free || (t > 0 && t < T - 1);
                if (fixation) *at++ = t < T - 1;
                const float* from = stimulus ? seen + (t - fixation) * buffers.line : rest.data();
                std::copy(from, from + channels, at);
                if (stimulus && rule.noise == TrialNoise::encoded)
                    for (int64_t c = 0; c < channels; ++c) at[c] += trial.channel_noise();
                if (rule.block) {
                    at[channels] = asked == 0;
                    at[channels + 1] = asked == 1;
                }
            }
            if (rule.free) continue;
            float* decided = out + (rule.targets() - 1) * N;
            std::fill(out, decided, 0.5f);
            for (int64_t q = 0; q < N; ++q) decided[q] = trial.answer(q);
        }
    };
    parallel_for(n, thread_trials, threads, range, &interruption);
}

}  // namespace worldfast
