// Trials of the world of factors: a latent point, seen step after step through noise and a frozen encoder, and yes-no
// questions about it. A trial is a function of (key, row): see worldfast/worlds/factors/dataset.py for what it holds.
#pragma once

#include <cstdint>

namespace worldfast {

constexpr int64_t most_latents = 64, most_steps = 1 << 16, most_units = 1 << 12, most_questions = 1 << 16;
constexpr double most_evidence = 5;  // of a question, at free reaction times
constexpr double most_correlation = 0.999999;
// Of the noise's deviation: what a model reads is in float, whose rounding in the encoder is 3% of the least; the most
// hides points, which lie within 1/2 of 0, even from means of 65,536 observations.
constexpr double least_noise = 1e-5, most_noise = 1e3;
constexpr int64_t unit_block = 16;  // numbers of outputs of a layer are multiples of it, the last ones padding

enum class TrialNoise : int { isotropic, gumbel, autoregressive, encoded };
constexpr int trial_noises = 4;

struct EncoderLayer {
    const float* weight;  // [reads, writes]: a row of each unit that is read
    const float* bias;    // [writes]
    int64_t reads, writes;
};

struct TrialRule {
    uint64_t key;
    int64_t latents, steps, channels, questions;  // channels: numbers of an observation as a model sees it
    int64_t block;                                // rows that share a rule; 0: all questions are asked
    TrialNoise noise;
    const double* scale;  // [latents], of the noise; 0: none
    double correlation;   // of the first two latents' normal numbers
    int layers;           // of the encoder; 0: none
    EncoderLayer encoder[3];
    bool square;              // units square instead of rectifying
    const double* boundary;   // [questions, latents]
    const double* threshold;  // [questions]; below 0: the answer is c.x > 0, else c1 x1 > 0, c2 x2 > 0, |x1 x2| > it
    bool free, truncated;     // evidence at every step in place of answers; in integers
    bool every;               // targets at every step, not at the decision alone
    bool given;               // points are those that stand in `latents`, rather than drawn

    int64_t length() const { return free ? steps : steps + 2; }
    int64_t width() const { return channels + (free ? 0 : 1) + (block ? 2 : 0); }
    int64_t targets() const { return every || free ? length() : 1; }
};

// Trials start .. start+n-1: inputs [n, length, width], targets [n, targets, questions], latents [n, latents], which are
// read where points are given: a trial of the point that it would draw has the same bits.
void make_trials(const TrialRule& rule, int64_t start, int64_t n, float* inputs, float* targets, float* latents,
                 int threads);

}  // namespace worldfast
