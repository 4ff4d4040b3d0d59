// Recurrent networks as Python sees them: a shape that knows what to do with parameters and rows in arrays on the CPU.
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "base/array.h"
#include "base/limits.h"
#include "base/parallel.h"
#include "recurrent/recurrent.h"

namespace worldfast {
namespace {

// Rows of one member in arrays that are held for the length of a call: (inputs, row_start, scored, targets, weights,
// noise), the last three of which may be None.
class RowArrays {
public:
    explicit RowArrays(const py::tuple& rows) {
        if (rows.size() != 6)
            throw py::value_error("rows: expected inputs, row_start, scored, targets, weights and noise, got " +
                                  std::to_string(rows.size()) + " arrays");
        const char* names[] = {"inputs", "row_start", "scored", "targets", "weights", "noise"};
        for (size_t i = 0; i < 6; ++i)
            if (i < 3 || !rows[i].is_none()) arrays_[i].emplace(rows[i], names[i]);
    }

    RecurrentRows checked(const RecurrentShape& shape) const {
        const Array &inputs = *arrays_[0], &row_start = *arrays_[1], &scored = *arrays_[2];
        RecurrentRows r{};
        r.size = inputs.shape(0);
        if (shape.vectors)
            r.vectors = input<float>(inputs, {Array::any, shape.inputs});
        else
            r.tokens = input<int32_t>(inputs, {Array::any});
        r.row_start = input<int32_t>(row_start, {Array::any});
        r.rows = row_start.shape(0) - 1;
        if (r.rows < 0) throw py::value_error(row_start.message("at least one entry", "none"));
        r.scored = input<int64_t>(scored, {Array::any});
        const int64_t K = r.positions = scored.shape(0);
        if (arrays_[3]) {
            if (shape.loss == RecurrentLoss::cross_entropy)
                r.classes = input<int64_t>(*arrays_[3], {K});
            else
                r.numbers = input<float>(*arrays_[3], {K, shape.outputs});
        }
        if (arrays_[4]) {
            r.each = shape.loss != RecurrentLoss::cross_entropy && arrays_[4]->ndim() == 2;
            r.weights = r.each ? input<float>(*arrays_[4], {K, shape.outputs}) : input<float>(*arrays_[4], {K});
        }
        if (arrays_[5]) {
            if (shape.lstm) throw py::value_error(arrays_[5]->message("None of an LSTM", "an array"));
            r.noise = input<float>(*arrays_[5], {r.size, shape.layers * shape.hidden});
        }
        require_values(shape, r);
        return r;
    }

    void apart_from(const Array& written) const {
        for (const auto& array : arrays_)
            if (array) apart({&written}, {&*array});
    }

private:
    void require_values(const RecurrentShape& shape, const RecurrentRows& r) const {
        for (int64_t i = 0; i <= r.rows; ++i)
            if (r.row_start[i] < (i ? r.row_start[i - 1] : 0) || (i == 0 && r.row_start[i] != 0))
                throw py::value_error(
                    arrays_[1]->message("offsets that ascend from 0", std::to_string(r.row_start[i])));
        if (r.row_start[r.rows] != r.size)
            throw py::value_error(
                arrays_[1]->message("the number of inputs, " + std::to_string(r.size) + ", as last entry",
                                    std::to_string(r.row_start[r.rows])));
        const auto among = [](const Array& array, const auto* values, int64_t n, int64_t below) {
            for (int64_t i = 0; i < n; ++i)
                if (values[i] < 0 || values[i] >= below)
                    throw py::index_error(
                        array.message("0 to " + std::to_string(below - 1), std::to_string(values[i])));
        };
        if (r.tokens) among(*arrays_[0], r.tokens, r.size, shape.inputs);
        among(*arrays_[2], r.scored, r.positions, r.size);
        if (r.classes) among(*arrays_[3], r.classes, r.positions, shape.outputs);
    }

    std::optional<Array> arrays_[6];
};

// Parameters [P], or those of members, [M, P].
const float* weights_of(const RecurrentShape& shape, const Array& parameters, std::initializer_list<int64_t> axes) {
    const float* p = input<float>(parameters, axes);
    const int64_t P = parameters.shape(static_cast<int>(axes.size()) - 1);
    if (P < shape.parameters)
        throw py::value_error(
            parameters.message("at least " + std::to_string(shape.parameters) + " numbers", std::to_string(P)));
    return p;
}

// The losses of `members` of [M, P], each with rows of its own: a thread for each arena takes one after another.
std::vector<double> learn_recurrent(const RecurrentShape& shape, const py::object& parameters_,
                                    const std::vector<int64_t>& members, const std::vector<py::tuple>& rows_,
                                    const py::object& gradients_, const std::vector<Arena*>& arenas) {
    const Array parameters(parameters_, "parameters"), gradients(gradients_, "gradients");
    const float* p = weights_of(shape, parameters, {Array::any, Array::any});
    const int64_t M = parameters.shape(0), P = parameters.shape(1);
    float* g = output<float>(gradients, {M, P});
    apart({&gradients}, {&parameters});
    if (rows_.size() != members.size())
        throw py::value_error("rows: expected those of " + std::to_string(members.size()) + " members, got " +
                              std::to_string(rows_.size()));
    const std::set<Arena*> unlike(arenas.begin(), arenas.end());
    if (arenas.empty() || unlike.size() < arenas.size() || unlike.count(nullptr))
        throw py::value_error("arenas: expected one for each thread");
    std::vector<RowArrays> held;
    std::vector<RecurrentRows> rows;
    std::vector<bool> taken(static_cast<size_t>(M));
    held.reserve(members.size());
    for (size_t i = 0; i < members.size(); ++i) {
        if (members[i] < 0 || members[i] >= M || taken[static_cast<size_t>(members[i])])
            throw py::index_error("members: expected numbers from 0 to " + std::to_string(M - 1) + ", each once, got " +
                                  std::to_string(members[i]));
        taken[static_cast<size_t>(members[i])] = true;
        held.emplace_back(rows_[i]);
        rows.push_back(held[i].checked(shape));
        if (!rows[i].classes && !rows[i].numbers) throw py::value_error("targets: expected an array, got None");
        held[i].apart_from(gradients);
    }
    std::vector<std::unique_ptr<Arena::Use>> uses;
    for (Arena* arena : arenas) uses.push_back(std::make_unique<Arena::Use>(*arena));
    std::vector<double> losses(members.size());
    std::atomic<size_t> next{0};
    py::gil_scoped_release nogil;
    Interruption interruption;
    const auto threads = static_cast<int>(std::min(arenas.size(), members.size()));
    const auto range = [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t)
            for (size_t i; (i = next++) < members.size();) {
                float* gradient = g + members[i] * P;
                std::fill(gradient, gradient + P, 0.0f);
                losses[i] = learn_rows(shape, p + members[i] * P, rows[i], gradient, *arenas[static_cast<size_t>(t)],
                                       interruption, begin == 0);
            }
    };
    parallel_for(threads, 1, threads, range, &interruption);
    return losses;
}

void read_recurrent(const RecurrentShape& shape, const py::object& parameters_, const py::tuple& rows_,
                    const std::vector<int64_t>& layers, const std::vector<py::object>& states_,
                    const py::object& outputs_, Arena& arena) {
    const Array parameters(parameters_, "parameters");
    const RowArrays held(rows_);
    const float* p = weights_of(shape, parameters, {Array::any});
    const RecurrentRows rows = held.checked(shape);
    if (layers.size() != states_.size())
        throw py::value_error("states: expected one for each of " + std::to_string(layers.size()) + " layers, got " +
                              std::to_string(states_.size()));
    std::vector<Array> written;
    std::vector<float*> states;
    for (size_t i = 0; i < states_.size(); ++i) {
        if (layers[i] < 0 || layers[i] > shape.layers)
            throw py::index_error("layers: expected 0 to " + std::to_string(shape.layers) + ", got " +
                                  std::to_string(layers[i]));
        written.emplace_back(states_[i], "states");
        states.push_back(output<float>(written.back(), {rows.positions, shape.read_by(layers[i])}));
    }
    float* outputs = nullptr;
    if (!outputs_.is_none()) {
        written.emplace_back(outputs_, "outputs");
        outputs = output<float>(written.back(), {rows.positions, shape.outputs});
    }
    for (size_t i = 0; i < written.size(); ++i) {
        for (size_t j = 0; j < i; ++j) written[i].apart_from(written[j]);
        apart({&written[i]}, {&parameters});
        held.apart_from(written[i]);
    }
    const Arena::Use use(arena);
    py::gil_scoped_release nogil;
    read_rows(shape, p, rows, layers, states, outputs, arena);
}

}  // namespace

void bind_recurrent(py::module_& m) {
    py::class_<RecurrentShape>(m, "Recurrent")
        .def(py::init([](int64_t inputs, int64_t hidden, int64_t layers, int64_t outputs, bool vectors, bool lstm,
                         bool relu, bool bias, float keep, float share, int loss, const std::vector<int64_t>& offsets) {
                 within("loss", loss, 0, recurrent_losses - 1);
                 return checked({inputs, hidden, layers, outputs, vectors, lstm, relu, bias, keep, share,
                                 static_cast<RecurrentLoss>(loss), offsets});
             }),
             py::kw_only(), py::arg("inputs"), py::arg("hidden"), py::arg("layers"), py::arg("outputs"),
             py::arg("vectors"), py::arg("lstm"), py::arg("relu"), py::arg("bias"), py::arg("keep"), py::arg("share"),
             py::arg("loss"), py::arg("offsets"))
        .def("learn", &learn_recurrent)
        .def("read", &read_recurrent);
}

}  // namespace worldfast
