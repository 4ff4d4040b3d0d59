// The training step's kernels as Python sees them: float32 arrays on the CPU, outputs among the arguments.
#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "base/array.h"
#include "base/simd.h"
#include "transformer/layers.h"

namespace worldfast {
namespace {

using Object = const py::object&;

Members members_of(const Array& x, const Array& weight, const std::vector<int64_t>& offsets) {
    const int64_t count = static_cast<int64_t>(offsets.size()) - 1;
    const std::string expected = "offsets: expected " + std::to_string(weight.shape(0) + 1) +
                                 " ascending token offsets from 0 to " + std::to_string(x.shape(0)) + ", got ";
    if (count != weight.shape(0)) throw py::value_error(expected + std::to_string(offsets.size()));
    for (size_t m = 0; m < offsets.size(); ++m)
        if (offsets[m] < (m ? offsets[m - 1] : 0) || (m == 0 && offsets[m] != 0))
            throw py::value_error(expected + std::to_string(offsets[m]) + " at " + std::to_string(m));
    if (offsets.back() != x.shape(0)) throw py::value_error(expected + "the end " + std::to_string(offsets.back()));
    return {offsets.data(), count, x.shape(1)};
}

void forward_rms_norm(Object x_, Object weight_, const std::vector<int64_t>& offsets, float eps, Object out_,
                      Object scale_, int threads) {
    const Array x(x_, "x"), weight(weight_, "weight"), out(out_, "out"), scale(scale_, "scale");
    const float* px = input(x, {Array::any, Array::any});
    const float* pw = input(weight, {Array::any, x.shape(1)});
    float *po = output(out, {x.shape(0), x.shape(1)}), *ps = output(scale, {x.shape(0)});
    const Members members = members_of(x, weight, offsets);
    apart({&out, &scale}, {&x, &weight});
    py::gil_scoped_release nogil;
    rms_norm_forward(members, px, pw, eps, po, ps, threads);
}

void backward_rms_norm(Object grad_out_, Object x_, Object weight_, Object scale_, const std::vector<int64_t>& offsets,
                       Object grad_x_, Object grad_weight_, int threads) {
    const Array grad_out(grad_out_, "grad_out"), x(x_, "x"), weight(weight_, "weight"), scale(scale_, "scale"),
        grad_x(grad_x_, "grad_x"), grad_weight(grad_weight_, "grad_weight");
    const float* px = input(x, {Array::any, Array::any});
    const float *pw = input(weight, {Array::any, x.shape(1)}), *ps = input(scale, {x.shape(0)}),
                *pg = input(grad_out, {x.shape(0), x.shape(1)});
    float *gx = output(grad_x, {x.shape(0), x.shape(1)}), *gw = output(grad_weight, {weight.shape(0), x.shape(1)});
    const Members members = members_of(x, weight, offsets);
    apart({&grad_x, &grad_weight}, {&grad_out, &x, &weight, &scale});
    py::gil_scoped_release nogil;
    rms_norm_backward(members, pg, px, pw, ps, gx, gw, threads);
}

int64_t half_width(const Array& gate_up) {
    gate_up.require<float>({Array::any, Array::any});
    if (gate_up.shape(1) % 2 || gate_up.shape(1) == 0)
        throw py::value_error(
            gate_up.message("an even number of columns, gate beside up", std::to_string(gate_up.shape(1))));
    return gate_up.shape(1) / 2;
}

void forward_swiglu(Object gate_up_, Object out_, int threads) {
    const Array gate_up(gate_up_, "gate_up"), out(out_, "out");
    const int64_t width = half_width(gate_up), tokens = gate_up.shape(0);
    const float* pg = input(gate_up, {tokens, 2 * width});
    float* po = output(out, {tokens, width});
    apart({&out}, {&gate_up});
    py::gil_scoped_release nogil;
    swiglu_forward(tokens, width, pg, po, width, threads);
}

void backward_swiglu(Object grad_out_, Object gate_up_, Object grad_gate_up_, Object out_, int threads) {
    const Array grad_out(grad_out_, "grad_out"), gate_up(gate_up_, "gate_up"),
        grad_gate_up(grad_gate_up_, "grad_gate_up");
    const int64_t width = half_width(gate_up), tokens = gate_up.shape(0);
    const float *pg = input(gate_up, {tokens, 2 * width}), *po = input(grad_out, {tokens, width});
    float *gg = output(grad_gate_up, {tokens, 2 * width}), *y = nullptr;
    std::optional<Array> out;
    if (!out_.is_none()) y = output(out.emplace(out_, "out"), {tokens, width});
    apart({&grad_gate_up}, {&grad_out, &gate_up});
    if (out) apart({&*out}, {&grad_gate_up, &grad_out, &gate_up});
    py::gil_scoped_release nogil;
    swiglu_backward(tokens, width, po, pg, gg, y, threads);
}

double loss_and_gradient(Object logits_, Object first_, Object targets_, Object weights_, Object grad_, int threads) {
    const Array logits(logits_, "logits"), first(first_, "first"), targets(targets_, "targets"), grad(grad_, "grad");
    const float* pl = input(logits, {Array::any, Array::any});
    targets.require<int64_t>({Array::any});
    if (logits.shape(1) == 0) throw py::value_error(logits.message("at least one class", logits.shape_string()));
    const int64_t G = logits.shape(0), V = logits.shape(1), T = targets.shape(0);
    const int64_t *pf = input<int64_t>(first, {G + 1}), *pt = input<int64_t>(targets, {T});
    float* pg = output(grad, {G, V});
    const float* pw = nullptr;
    std::optional<Array> weights;
    if (!weights_.is_none()) pw = input(weights.emplace(weights_, "weights"), {T});
    for (int64_t g = 0; g <= G; ++g)
        if (pf[g] < (g ? pf[g - 1] : 0) || pf[g] > T || (g == G && pf[g] != T))
            throw py::value_error(first.message("offsets that ascend from 0 to " + std::to_string(T),
                                                std::to_string(pf[g]) + " at " + std::to_string(g)));
    for (int64_t t = 0; t < T; ++t)
        if (pt[t] < 0 || pt[t] >= V)
            throw py::index_error(targets.message("classes 0 to " + std::to_string(V - 1),
                                                  std::to_string(pt[t]) + " at position " + std::to_string(t)));
    apart({&grad}, {&first, &targets});
    if (weights) apart({&grad}, {&*weights});
    if (pg != pl) apart({&grad}, {&logits});
    py::gil_scoped_release nogil;
    return cross_entropy(G, V, pl, pf, pt, pw, pg, threads);
}

// Rows of [M, P]: which, ascending.
void require_members(const std::vector<int64_t>& members, int64_t M) {
    for (size_t i = 0; i < members.size(); ++i)
        if (members[i] < (i ? members[i - 1] + 1 : 0) || members[i] >= M)
            throw py::index_error("members: expected ascending numbers from 0 to " + std::to_string(M - 1) + ", got " +
                                  std::to_string(members[i]));
}

void step_adamw(Object param_, Object grad_, Object exp_avg_, Object exp_avg_sq_, Object decay_mask_,
                const std::vector<int64_t>& members, const std::vector<double>& learning_rate,
                const std::vector<int64_t>& step, double weight_decay, double beta1, double beta2, double eps,
                const std::vector<double>& grad_scale, int threads) {
    const Array param(param_, "param"), grad(grad_, "grad"), exp_avg(exp_avg_, "exp_avg"),
        exp_avg_sq(exp_avg_sq_, "exp_avg_sq"), decay_mask(decay_mask_, "decay_mask");
    float* pp = output(param, {Array::any, Array::any});
    const int64_t M = param.shape(0), P = param.shape(1);
    const float *pg = input(grad, {M, P}), *pd = input(decay_mask, {P});
    float *pa = output(exp_avg, {M, P}), *ps = output(exp_avg_sq, {M, P});
    require_members(members, M);
    const auto one_each = [&](const char* name, size_t n) {
        if (n != members.size())
            throw py::value_error(std::string(name) + ": expected one for each of " + std::to_string(members.size()) +
                                  " members, got " + std::to_string(n));
    };
    one_each("learning_rate", learning_rate.size());
    one_each("step", step.size());
    one_each("grad_scale", grad_scale.size());
    for (const int64_t s : step)
        if (s < 1) throw py::value_error("step: expected a count from 1, got " + std::to_string(s));
    apart({&param, &exp_avg, &exp_avg_sq}, {&grad, &decay_mask});
    py::gil_scoped_release nogil;
    adamw({beta1, beta2, eps, weight_decay}, members, P, pp, pg, pa, ps, pd, learning_rate.data(), step.data(),
          grad_scale.data(), threads);
}

// The gradient of a member: its lanes' sums behind the embeddings, which are the first V D parameters, and
// theirs.
void gather_gradient(const std::vector<py::object>& lanes_, int64_t behind, Object tokens_, Object grad_embedded_,
                     Object embedding_) {
    std::vector<Array> held;
    for (const auto& lane : lanes_) held.emplace_back(lane, "lanes");
    if (held.empty()) throw py::value_error("lanes: expected at least one, got none");
    const Array tokens(tokens_, "tokens"), grad_embedded(grad_embedded_, "grad_embedded"),
        embedding(embedding_, "embedding");
    const int64_t P = held[0].shape(0), U = tokens.shape(0);
    float* gradient = output(embedding, {Array::any, Array::any});
    const int64_t V = embedding.shape(0), D = embedding.shape(1);
    const int32_t* pt = input<int32_t>(tokens, {Array::any});
    const float* pg = input(grad_embedded, {U, D});
    if (behind < 0 || behind > P)
        throw py::value_error("behind: expected 0 to " + std::to_string(P) + ", got " + std::to_string(behind));
    for (int64_t t = 0; t < U; ++t)
        if (pt[t] < 0 || pt[t] >= V)
            throw py::index_error(tokens.message("0 to " + std::to_string(V - 1), std::to_string(pt[t])));
    std::vector<const float*> others;
    for (size_t i = 1; i < held.size(); ++i) others.push_back(input(held[i], {P}) + behind);
    float* first = output(held[0], {P}) + behind;
    const float *begin = gradient, *end = gradient + V * D;
    for (size_t i = 0; i < held.size(); ++i)
        if (V * D > 0 && begin < held[i].data<float>() + P && held[i].data<float>() + behind < end)
            held[i].apart_from(embedding);
    for (size_t i = 1; i < held.size(); ++i) held[0].apart_from(held[i]);
    apart({&embedding}, {&tokens, &grad_embedded});
    apart({&held[0]}, {&tokens, &grad_embedded});
    py::gil_scoped_release nogil;
    add_lanes(P - behind, others, first);
    embedding_gradient(U, D, V, pt, pg, gradient);
}

std::vector<double> norms(Object grad_, const std::vector<int64_t>& members, int threads) {
    const Array grad(grad_, "grad");
    const float* pg = input(grad, {Array::any, Array::any});
    if (grad.shape(1) == 0) throw py::value_error(grad.message("at least one parameter", grad.shape_string()));
    require_members(members, grad.shape(0));
    std::vector<double> norm(members.size());
    py::gil_scoped_release nogil;
    gradient_norm(members, grad.shape(1), pg, norm.data(), threads);
    return norm;
}

}  // namespace

void bind_layers(py::module_& m) {
    m.def("rms_norm_forward", &forward_rms_norm);
    m.def("rms_norm_backward", &backward_rms_norm);
    m.def("swiglu_forward", &forward_swiglu);
    m.def("swiglu_backward", &backward_swiglu);
    m.def("cross_entropy", &loss_and_gradient);
    m.def("adamw", &step_adamw);
    m.def("gather_gradient", &gather_gradient);
    m.def("gradient_norm", &norms);
    m.def("limit_vector_width", [](int width) {
        if (width != 4 && width != 8 && width != 16)
            throw py::value_error("width: expected 4, 8 or 16 floats, got " + std::to_string(width));
        return limit_vector_width(width);
    });
}

}  // namespace worldfast
