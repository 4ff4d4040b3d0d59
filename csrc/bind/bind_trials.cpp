// Trials of the world of factors as Python sees them.
#include <cmath>
#include <optional>

#include "base/array.h"
#include "base/limits.h"
#include "rows/trials.h"

namespace worldfast {
namespace {

template <class T>
T field(const py::dict& rule, const char* name) {
    if (!rule.contains(name)) throw py::value_error(std::string("rule: expected the field ") + name);
    return rule[name].cast<T>();
}

double finite(const char* name, double value, double low, double high) {
    if (!(value >= low && value <= high))
        throw py::value_error(std::string(name) + ": expected a number from " + std::to_string(low) + " to " +
                              std::to_string(high) + ", got " + std::to_string(value));
    return value;
}

// Rows that a model reads, of trials start .. start+n-1. `encoder`: none, or weight and bias of its three layers, whose
// units are filled up to a multiple of 16. `inputs` [n, length, width], `targets` [n, steps, questions], `latents`
// [n, latents], which are read where the rule says that they are given.
void trials(const py::dict& rule_, const std::vector<py::object>& encoder_, const py::object& boundary_,
            const py::object& threshold_, const py::object& scale_, int64_t start, int64_t n, const py::object& inputs_,
            const py::object& targets_, const py::object& latents_, int threads) {
    const Array boundary(boundary_, "boundary"), threshold(threshold_, "threshold"), scale(scale_, "scale");
    const Array inputs(inputs_, "inputs"), targets(targets_, "targets"), latents(latents_, "latents");
    TrialRule rule{};
    rule.key = field<uint64_t>(rule_, "key");
    rule.steps = within("steps", field<int64_t>(rule_, "steps"), 1, most_steps);
    rule.block = within("block", field<int64_t>(rule_, "block"), 0, last_row);
    rule.noise = static_cast<TrialNoise>(within("noise", field<int>(rule_, "noise"), 0, trial_noises - 1));
    rule.correlation = finite("correlation", field<double>(rule_, "correlation"), -most_correlation, most_correlation);
    rule.square = field<bool>(rule_, "square");
    rule.free = field<bool>(rule_, "free");
    rule.truncated = field<bool>(rule_, "truncated");
    rule.every = field<bool>(rule_, "every");
    rule.given = field<bool>(rule_, "given");
    rule.boundary = input<double>(boundary, {Array::any, Array::any});
    rule.questions = within("questions", boundary.shape(0), 1, most_questions);
    rule.latents = within("latents", boundary.shape(1), 1, most_latents);
    rule.threshold = input<double>(threshold, {rule.questions});
    rule.scale = input<double>(scale, {rule.latents});
    for (int64_t j = 0; j < rule.latents; ++j)  // anisotropic noise has twice the deviation in one of them
        if (rule.scale[j] != 0) finite("scale", rule.scale[j], least_noise, 2 * most_noise);
    if (rule.latents < 2) {
        if (rule.correlation != 0) throw py::value_error("correlation: expected 0 of one latent number");
        for (int64_t q = 0; q < rule.questions; ++q)
            if (rule.threshold[q] >= 0) throw py::value_error("threshold: expected none of one latent number");
    }
    rule.channels = rule.latents;
    std::vector<Array> held;
    if (!encoder_.empty() && encoder_.size() != 6)
        throw py::value_error("encoder: expected weight and bias of 3 layers, got " + std::to_string(encoder_.size()) +
                              " arrays");
    for (const auto& one : encoder_) held.emplace_back(one, "encoder");
    for (size_t i = 0; i < held.size(); i += 2) {
        EncoderLayer& layer = rule.encoder[rule.layers++];
        layer.weight = input(held[i], {Array::any, Array::any});
        layer.reads = held[i].shape(0);
        layer.writes = within("units of the encoder", held[i].shape(1), 1, most_units);
        layer.bias = input(held[i + 1], {layer.writes});
        const int64_t there = i ? rule.encoder[rule.layers - 2].writes : rule.latents;
        if (layer.writes % unit_block || (i ? layer.reads > there : layer.reads != there))
            throw py::value_error(held[i].message(
                "a layer that reads the " + std::to_string(there) + " before it, of a multiple of 16 units",
                "shape " + held[i].shape_string()));
        rule.channels = layer.writes;
    }
    within("n", n, 0, last_row);
    within("start", start, 0, last_row - n);
    float* out = output(inputs, {n, rule.length(), Array::any});
    const int64_t more = rule.width() - rule.channels, most = rule.channels;
    rule.channels = inputs.shape(2) - more;
    if (rule.channels < 1 || (rule.layers ? rule.channels > most : rule.channels != most))
        throw py::value_error(inputs.message("as many numbers as the observation has, and " + std::to_string(more),
                                             "shape " + inputs.shape_string()));
    float* answers = output(targets, {n, rule.targets(), rule.questions});
    float* points = output(latents, {n, rule.latents});
    apart({&inputs, &targets, &latents}, {&boundary, &threshold, &scale});
    for (const Array& one : held) apart({&inputs, &targets, &latents}, {&one});
    py::gil_scoped_release nogil;
    make_trials(rule, start, n, out, answers, points, threads);
}

}  // namespace

void bind_trials(py::module_& m) {
    m.def("trials", &trials);
    m.attr("unit_block") = unit_block;
    m.attr("trial_limits") =
        py::dict(py::arg("latents") = most_latents, py::arg("steps") = most_steps,
                 py::arg("questions") = most_questions, py::arg("evidence") = most_evidence,
                 py::arg("correlation") = most_correlation, py::arg("sigma") = py::make_tuple(least_noise, most_noise));
}

}  // namespace worldfast
