// What recurrent networks do between their matrix products, each one pass over memory: a step of an RNN or an LSTM,
// forwards and backwards, and losses of numbers. Arrays are contiguous.
#pragma once

#include <cstdint>

namespace worldfast {

// h = keep before + share f(pre) of an RNN's units, one by one. `before` may be null: it is 0 then.
struct UnitStep {
    int64_t units;
    bool relu;  // f: else tanh
    float keep, share;
    float* f;  // before `forward` pre, then f(pre)
};
void forward(const UnitStep& step, const float* before, float* h);  // h may be f, where keep is 0 and share 1
// The gradient at pre, from that at h.
void backward(const UnitStep& step, const float* dh, float* dpre);

// A step of n rows of an LSTM with D units: c = keep before + into new, h = out tanh(c). gates [n, 4 D] are into, keep,
// new, out, in the order of torch.nn.LSTM.
struct CellStep {
    int64_t n, width;
    float* gates;         // before `forward` what goes into them; after `backward` the gradient at that
    const float* before;  // c of the step before, or null: it is 0 then
    float *c, *squashed;  // [n, D] each; tanh(c)
};
void forward(const CellStep& step, float* h);
// From the gradient at h, and at c from the step behind; dc becomes that at `before`.
void backward(const CellStep& step, const float* dh, float* dc);

// to [width] += each line of [n, width], the first one first.
void add_sums(const float* from, int64_t n, int64_t width, float* to);

// The summed loss of outputs [K, O], which become its gradient: of a logistic unit each, or half of the squared
// differences of the outputs or of their tanh.
enum class NumberLoss : int { logistic, square, tanh_square };
// weights: factors of the losses, [K], or [K, O] where `each`; null: ones.
struct NumberLosses {
    int64_t positions, outputs;
    NumberLoss kind;
    bool each;
    const float *targets, *weights;
};
double loss_of(const NumberLosses& losses, float* outputs);

}  // namespace worldfast
