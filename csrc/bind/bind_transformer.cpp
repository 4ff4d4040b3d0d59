// The transformer as Python sees it: a shape that knows what to do with parameters and rows in arrays on the
// CPU.
#include <pybind11/stl.h>

#include <algorithm>
#include <vector>

#include "base/array.h"
#include "transformer/forward.h"
#include "transformer/linear.h"
#include "transformer/transformer.h"

namespace worldfast {
namespace {

using Object = const py::object&;

// The arrays of a Tile, held for the length of a call, with what can be checked without reading them.
struct Rows {
    const Array tokens, row_start, place, shared, sources;
    std::vector<Array> targets, weights;

    explicit Rows(const py::tuple& tile)
        : tokens(tile[0], "tokens"),
          row_start(tile[1], "row_start"),
          place(tile[2], "place"),
          shared(tile[3], "shared"),
          sources(tile[4], "sources") {
        if (!tile[5].is_none()) targets.emplace_back(tile[5], "targets");
        if (!tile[6].is_none()) weights.emplace_back(tile[6], "weights");
    }

    TileRows checked() const {
        row_start.require<int32_t>({Array::any});
        const int64_t rows = row_start.shape(0) - 1;
        if (rows < 0) throw py::value_error(row_start.message("at least one entry", "none"));
        TileRows t{input<int32_t>(tokens, {Array::any}),    tokens.shape(0),
                   input<int32_t>(row_start, {Array::any}), rows,
                   input<int32_t>(place, {Array::any}),     input<int32_t>(shared, {rows}),
                   input<int64_t>(sources, {Array::any}),   sources.shape(0)};
        if (!targets.empty()) t.targets = input<int64_t>(targets[0], {sources.shape(0)});
        if (!weights.empty()) t.weights = input<float>(weights[0], {sources.shape(0)});
        for (int64_t r = 0; r <= rows; ++r)
            if (t.row_start[r] < (r ? t.row_start[r - 1] : 0) || (r == 0 && t.row_start[r] != 0))
                throw py::value_error(row_start.message("offsets that ascend from 0", std::to_string(t.row_start[r])));
        if (t.row_start[rows] != place.shape(0))
            throw py::value_error(row_start.message(
                "the number of places, " + std::to_string(place.shape(0)) + ", as last entry", "another"));
        require_each_computed_once(t);
        return t;
    }

    std::vector<const Array*> all() const {
        std::vector<const Array*> arrays{&tokens, &row_start, &place, &shared, &sources};
        for (const auto* some : {&targets, &weights})
            for (const Array& array : *some) arrays.push_back(&array);
        return arrays;
    }

private:
    // A row's first tokens stand where an earlier row has computed them, all others in places of their own.
    void require_each_computed_once(const TileRows& t) const {
        std::vector<bool> seen(static_cast<size_t>(t.computed));
        for (int64_t r = 0; r < t.rows; ++r) {
            const int64_t length = t.row_start[r + 1] - t.row_start[r];
            if (t.shared[r] < 0 || t.shared[r] > length)
                throw py::value_error(shared.message("no more tokens than row " + std::to_string(r) + " has",
                                                     std::to_string(t.shared[r])));
            for (int64_t i = 0; i < length; ++i) {
                const int64_t at = t.place[t.row_start[r] + i];
                if (at < 0 || at >= t.computed)
                    throw py::value_error(place.message("0 to " + std::to_string(t.computed - 1), std::to_string(at)));
                if (seen[static_cast<size_t>(at)] != (i < t.shared[r]))
                    throw py::value_error(
                        place.message(i < t.shared[r] ? "a place of an earlier row" : "a place of no other token",
                                      std::to_string(at) + " in row " + std::to_string(r)));
                seen[static_cast<size_t>(at)] = true;
            }
        }
        const auto unused = std::find(seen.begin(), seen.end(), false) - seen.begin();
        if (unused < t.computed)
            throw py::value_error(place.message("each of the tokens in a row", "none for " + std::to_string(unused)));
    }
};

struct Weights {
    const Array parameters, packed;

    Weights(Object parameters, Object packed) : parameters(parameters, "parameters"), packed(packed, "packed") {}
    Model checked(const TransformerShape& shape) const {
        const Model model{shape, input<float>(parameters, {Array::any}), input<uint8_t>(packed, {shape.packed_bytes})};
        if (reinterpret_cast<uintptr_t>(model.packed) % sizeof(float))
            throw py::value_error(packed.message("memory that begins at a multiple of 4 bytes", "another address"));
        if (parameters.shape(0) < shape.parameters)
            throw py::value_error(parameters.message("at least " + std::to_string(shape.parameters) + " numbers",
                                                     std::to_string(parameters.shape(0))));
        return model;
    }
};

void pack_weights(const TransformerShape& shape, Object parameters_, Object packed_, int threads) {
    const Weights weights(parameters_, packed_);
    const Model model = weights.checked(shape);
    weights.packed.writable().apart_from(weights.parameters);
    py::gil_scoped_release nogil;
    pack_parameters(shape, model.parameters, weights.packed.data<uint8_t>(), threads);
}

double learn(const TransformerShape& shape, Object parameters_, Object packed_, const py::tuple& tile,
             Object gradients_, Object grad_embedded_, Arena& arena, int threads) {
    const Weights weights(parameters_, packed_);
    const Rows rows(tile);
    const Array gradients(gradients_, "gradients"), grad_embedded(grad_embedded_, "grad_embedded");
    const Model model = weights.checked(shape);
    const TileRows checked = rows.checked();
    if (!checked.targets) throw py::value_error("targets: expected an array, got None");
    float* g = output<float>(gradients, {weights.parameters.shape(0)});
    float* e = output<float>(grad_embedded, {checked.computed, shape.hidden});
    apart({&gradients, &grad_embedded}, {&weights.parameters, &weights.packed});
    for (const Array* array : rows.all()) apart({&gradients, &grad_embedded}, {array});
    const Arena::Use use(arena);
    py::gil_scoped_release nogil;
    return learn_tile(model, checked, g, e, arena, threads);
}

void read(const TransformerShape& shape, Object parameters_, Object packed_, const py::tuple& tile,
          const std::vector<int64_t>& layers, const std::vector<py::object>& states_, Object logits_, Arena& arena,
          int threads) {
    const Weights weights(parameters_, packed_);
    const Rows rows(tile);
    const Model model = weights.checked(shape);
    const TileRows checked = rows.checked();
    std::vector<Array> held;
    std::vector<float*> states;
    if (layers.size() != states_.size())
        throw py::value_error("states: expected one for each of " + std::to_string(layers.size()) + " layers, got " +
                              std::to_string(states_.size()));
    for (size_t i = 0; i < states_.size(); ++i) {
        if (layers[i] < 0 || layers[i] > shape.layers)
            throw py::index_error("layers: expected 0 to " + std::to_string(shape.layers) + ", got " +
                                  std::to_string(layers[i]));
        held.emplace_back(states_[i], "states");
        states.push_back(output<float>(held.back(), {checked.scored, shape.hidden}));
    }
    float* logits = nullptr;
    if (!logits_.is_none()) {
        held.emplace_back(logits_, "logits");
        logits = output<float>(held.back(), {checked.scored, shape.outputs});
    }
    for (size_t i = 0; i < held.size(); ++i) {
        apart({&held[i]}, {&weights.parameters, &weights.packed});
        for (const Array* array : rows.all()) held[i].apart_from(*array);
        for (size_t k = 0; k < i; ++k) held[i].apart_from(held[k]);
    }
    const Arena::Use use(arena);
    py::gil_scoped_release nogil;
    read_tile(model, checked, layers, states, logits, arena, threads);
}

void extend(const TransformerShape& shape, Object parameters_, Object packed_, Object tokens_, Object caches_,
            Object turn_, Object path_, Object length_, Object fresh_, int64_t first, Object following_, Arena& arena,
            int threads) {
    const Weights weights(parameters_, packed_);
    const Array tokens(tokens_, "tokens"), caches(caches_, "caches"), turn(turn_, "turn"), path(path_, "path"),
        length(length_, "length"), fresh(fresh_, "fresh"), following(following_, "following");
    const Model model = weights.checked(shape);
    const int64_t head_dim = shape.hidden / shape.heads;
    float* cache = output<float>(caches, {shape.layers, Array::any, 3 * shape.hidden});
    const CachedRows rows{path.shape(0),
                          path.shape(1),
                          input<int32_t>(path, {Array::any, Array::any}),
                          input<int32_t>(length, {path.shape(0)}),
                          input<int32_t>(fresh, {path.shape(0)}),
                          caches.shape(1),
                          shape.heads,
                          head_dim,
                          first,
                          tokens.shape(0),
                          turn.shape(0),
                          input<float>(turn, {Array::any, head_dim}),
                          threads};
    const int32_t* t = input<int32_t>(tokens, {Array::any});
    const bool all = following.holds<float>();  // logits of all tokens, in place of the likeliest one
    float* logits = all ? output(following, {path.shape(0), shape.outputs}) : nullptr;
    int32_t* out = all ? nullptr : output<int32_t>(following, {path.shape(0)});
    if (first < 0 || first > rows.places - rows.tokens)
        throw py::value_error("first: expected room for " + std::to_string(rows.tokens) + " tokens in " +
                              std::to_string(rows.places) + " places, got " + std::to_string(first));
    apart({&caches, &following}, {&weights.parameters, &weights.packed, &tokens, &turn, &path, &length, &fresh});
    const Arena::Use use(arena);
    py::gil_scoped_release nogil;
    extend_rows(model, rows, t, cache, out, logits, arena);
}

// A product and its gradient at the weight, in blocks of tokens as in training, for tests and for timing them
// alone. f takes the type that x holds and the one that is multiplied.
template <class F>
void with_multiplied(const Array& x, F&& f) {
    if (x.holds<float>()) return f(float{}, float{});
    if (!x.holds<BFloat16>())
        throw py::type_error(x.message("dtype float32 or bfloat16", "dtype " + to_string(x.dtype())));
    if (multiplies_pairs()) return f(BFloat16{}, BFloat16{});
    f(BFloat16{}, Rounded{});
}

// x [n, depth], as S and with its strides, or widened into the arena, contiguous.
template <class S, class In>
std::pair<const S*, int64_t> multiplied(const Array& x, Arena& arena) {
    const In* from = x.data<In>();
    if constexpr (std::is_same_v<S, In>) {
        return {from, x.stride(0)};
    } else {
        const int64_t n = x.shape(0), depth = x.shape(1);
        S* to = arena.take<S>(n * depth);
        for (int64_t i = 0; i < n; ++i)
            for (int64_t d = 0; d < depth; ++d) to[i * depth + d] = S(float(from[i * x.stride(0) + d]));
        return {to, depth};
    }
}

void linear(Object x_, Object weight_, Object out_) {
    const Array x(x_, "x"), weight(weight_, "weight"), out(out_, "out");
    weight.require<float>({Array::any, Array::any}).contiguous().on_cpu();
    const int64_t n = x.shape(0), lines = weight.shape(0), depth = weight.shape(1);
    float* to = output<float>(out, {n, lines});
    apart({&out}, {&x, &weight});
    with_multiplied(x, [&](auto in, auto operand) {
        using In = decltype(in);
        using S = decltype(operand);
        x.require<In>({Array::any, depth}).unit_last_stride().on_cpu();
        if (sizeof(In) == 2 && (x.stride(0) % 2 || depth % 2))
            throw py::value_error(x.message("an even number of columns", std::to_string(depth)));
        if (out.size() == 0) return;
        py::gil_scoped_release nogil;
        Arena arena;
        S* panel = arena.take<S>(panel_size<S>(lines, depth));
        pack_rows(weight.data<float>(), depth, lines, depth, panel);
        const auto [a, stride] = multiplied<S, In>(x, arena);
        Interruption interruption;
        multiply_rows(Product<S, float>{a, n, stride, panel, lines, depth, to, lines}, 1, interruption);
    });
}

void linear_gradient(Object grad_out_, Object x_, Object gradient_) {
    const Array grad_out(grad_out_, "grad_out"), x(x_, "x"), gradient(gradient_, "gradient");
    const int64_t n = x.shape(0), lines = grad_out.shape(1), depth = x.shape(1);
    float* to = output<float>(gradient, {lines, depth});
    with_multiplied(x, [&](auto in, auto operand) {
        using In = decltype(in);
        using S = decltype(operand);
        x.require<In>({Array::any, Array::any}).unit_last_stride().on_cpu();
        grad_out.require<In>({n, Array::any}).unit_last_stride().on_cpu();
        if (gradient.size() == 0) return;
        apart({&gradient}, {&grad_out, &x});
        py::gil_scoped_release nogil;
        Arena arena;
        const auto [a, a_stride] = multiplied<S, In>(grad_out, arena);
        const auto [b, b_stride] = multiplied<S, In>(x, arena);
        Interruption interruption;
        for (int64_t t = 0; t < n; t += block_tokens)
            add_gradient(a + t * a_stride, a_stride, lines, b + t * b_stride, b_stride, depth,
                         std::min(block_tokens, n - t), to, arena, 1, interruption);
    });
}

}  // namespace

void bind_transformer(py::module_& m) {
    py::class_<Arena>(m, "Arena").def(py::init<>()).def_property_readonly("bytes", &Arena::bytes);
    py::class_<TransformerShape>(m, "Transformer")
        .def(py::init([](int64_t hidden, int64_t layers, int64_t heads, int64_t intermediate, int64_t vocabulary,
                         int64_t outputs, double rope_base, float norm_eps, const std::vector<int64_t>& offsets,
                         bool bfloat16) {
                 const Operand operand = !bfloat16            ? Operand::float32
                                         : multiplies_pairs() ? Operand::bfloat16
                                                              : Operand::rounded;
                 return checked(
                     {hidden, layers, heads, intermediate, vocabulary, outputs, rope_base, norm_eps, operand, offsets});
             }),
             py::kw_only(), py::arg("hidden"), py::arg("layers"), py::arg("heads"), py::arg("intermediate"),
             py::arg("vocabulary"), py::arg("outputs"), py::arg("rope_base"), py::arg("norm_eps"), py::arg("offsets"),
             py::arg("bfloat16"))
        .def_readonly("packed_bytes", &TransformerShape::packed_bytes)
        .def("pack", &pack_weights)
        .def("learn", &learn)
        .def("read", &read)
        .def("extend", &extend);
    m.def("multiplies_pairs", &multiplies_pairs);
    m.def("vector_width", &vector_width);
    m.def("linear", &linear);
    m.def("linear_gradient", &linear_gradient);
}

}  // namespace worldfast
