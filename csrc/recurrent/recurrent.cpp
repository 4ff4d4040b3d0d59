#include "recurrent/recurrent.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "base/limits.h"
#include "recurrent/gates.h"
#include "transformer/layers.h"
#include "transformer/linear.h"

namespace worldfast {
namespace {

constexpr int64_t widest = int64_t{1} << 20, deepest = int64_t{1} << 12;  // as in worldfast/models/ensemble.py
constexpr int64_t beyond = int64_t{1} << 48;

// Rows of a product after which it may end: whole register tiles of any height, of a tenth of a second and less.
int64_t piece_of(int64_t lines, int64_t depth) {
    constexpr int64_t tiles = 24, terms = int64_t{1} << 31;
    return tiles * std::clamp<int64_t>(terms / (tiles * lines * depth), 1, 128);
}

// Where a layer's parameters stand; biases are -1 where it has none.
struct LayerAt {
    int64_t input, recurrent, input_bias = -1, recurrent_bias = -1;
};

struct Places {
    int64_t embedding = -1, head, head_bias, end = 0;
    std::vector<LayerAt> layers;

    // Throws std::invalid_argument where offsets are not those of so many layers, or one is negative.
    explicit Places(const RecurrentShape& s) {
        const int64_t expected = !s.vectors + s.layers * (s.bias ? 4 : 2) + 2;
        if (static_cast<int64_t>(s.offsets.size()) != expected)
            throw std::invalid_argument("offsets: expected " + std::to_string(expected) + " of so many layers, got " +
                                        std::to_string(s.offsets.size()));
        const int64_t* offset = s.offsets.data();
        const auto next = [&](int64_t numbers) {
            end = std::max(end, within("offsets", *offset, 0, beyond) + numbers);
            return *offset++;
        };
        if (!s.vectors) embedding = next(s.inputs * s.hidden);
        for (int64_t i = 0; i < s.layers; ++i) {
            LayerAt at;
            at.input = next(s.gates() * s.read_by(i));
            at.recurrent = next(s.gates() * s.hidden);
            if (s.bias) at.input_bias = next(s.gates()), at.recurrent_bias = next(s.gates());
            layers.push_back(at);
        }
        head = next(s.outputs * s.hidden);
        head_bias = next(s.outputs);
    }
};

// The order of the L inputs: step after step, the rows that have not ended side by side.
struct Steps {
    std::vector<int64_t> position, place;  // of the i-th among the rows, and the inverse
    std::vector<int64_t> start;            // [T + 1], of each step; its rows are the first ones of the step before

    explicit Steps(const RecurrentRows& rows) : place(static_cast<size_t>(rows.size)), start{0} {
        std::vector<int64_t> order(static_cast<size_t>(rows.rows));
        std::iota(order.begin(), order.end(), 0);
        const auto length = [&](int64_t r) { return rows.row_start[r + 1] - rows.row_start[r]; };
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return length(a) > length(b); });
        position.reserve(place.size());
        for (int64_t t = 0; !order.empty() && t < length(order[0]); ++t) {
            for (const int64_t r : order) {
                if (length(r) <= t) break;
                place[static_cast<size_t>(rows.row_start[r] + t)] = static_cast<int64_t>(position.size());
                position.push_back(rows.row_start[r] + t);
            }
            start.push_back(static_cast<int64_t>(position.size()));
        }
    }

    int64_t count() const { return static_cast<int64_t>(start.size()) - 1; }
    int64_t first(int64_t t) const { return start[static_cast<size_t>(t)]; }
    int64_t rows(int64_t t) const { return first(t + 1) - first(t); }
    int64_t size() const { return static_cast<int64_t>(position.size()); }
};

// Lines [L, width] and the way from one to the next.
struct Lines {
    const float* first;
    int64_t stride;
};

// What the backward pass needs of a layer.
struct Kept {
    Lines read;
    float* gates;  // [L, G]: f of an RNN
    float *c, *squashed;
    Lines states;
};

class Network {
public:
    Network(const RecurrentShape& shape, const float* parameters, const RecurrentRows& rows, Arena& arena,
            Interruption& interruption, bool asks)
        : s(shape),
          w(parameters),
          at(shape),
          rows(rows),
          steps(rows),
          arena(arena),
          interruption(interruption),
          asks(asks),
          L(rows.size),
          D(shape.hidden),
          every(all_are_scored()) {}

    // What the first layer reads, and every layer up to `layers`.
    std::vector<Kept> forward(int64_t layers) {
        const int64_t I = s.read_by(0), stride = round_up(I, 2 * strip);  // so that a gradient reads it as it stands
        float* read = take(L * stride);
        for (int64_t i = 0; i < L; ++i) {
            const int64_t from = position(i);
            float* to = read + i * stride;
            copy(s.vectors ? rows.vectors + from * I : w + at.embedding + rows.tokens[from] * I, I, to);
            std::fill(to + I, to + stride, 0.0f);
        }
        std::vector<Kept> kept{{{nullptr, 0}, nullptr, nullptr, nullptr, {read, stride}}};
        for (int64_t layer = 0; layer < layers; ++layer) kept.push_back(run(layer, kept.back().states));
        return kept;
    }

    // [K, width] <- lines at the scored positions.
    float* scored(const Lines& from, int64_t width, float* to) const {
        for (int64_t k = 0; k < rows.positions; ++k) copy(from.first + place(k) * from.stride, width, to + k * width);
        return to;
    }

    void head(const float* states, float* outputs) {
        product({states, rows.positions, D, packed(at.head, s.outputs, D), s.outputs, D, outputs, s.outputs,
                 w + at.head_bias});
    }

    double learn(float* gradients) {
        const std::vector<Kept> kept = forward(s.layers);
        const int64_t K = rows.positions, O = s.outputs;
        // where every position is scored, outputs stand in the order of the steps, and no state moves
        const float* last = every ? kept.back().states.first : scored(kept.back().states, D, take(K * D));
        float* outputs = take(K * O);
        head(last, outputs);
        const double loss = loss_and_gradient(outputs);
        gradient(outputs, O, O, last, D, D, K, gradients + at.head);
        add_sums(outputs, K, O, gradients + at.head_bias);
        float *dh = every ? take(L * D) : zeros(L * D), *of_scored = every ? dh : take(K * D);
        product({outputs, K, O, turned(at.head, O, D), D, O, of_scored, D});
        if (!every)
            for (int64_t k = 0; k < K; ++k) add(of_scored + k * D, D, dh + place(k) * D);
        for (int64_t layer = s.layers - 1; layer >= 0; --layer)
            dh = run_back(layer, kept[static_cast<size_t>(layer + 1)], dh, gradients);
        if (!s.vectors)
            for (int64_t i = 0; i < L; ++i) add(dh + i * D, D, gradients + at.embedding + rows.tokens[position(i)] * D);
        return loss;
    }

private:
    float* take(int64_t n) { return arena.take<float>(n); }
    float* zeros(int64_t n) {
        float* p = take(n);
        std::fill(p, p + n, 0.0f);
        return p;
    }
    void product(const Product<float, float>& whole) const {
        const int64_t piece = piece_of(whole.lines, whole.depth);
        for (int64_t r = 0; r < whole.rows; r += piece) {
            interruption.go_on(asks, heavy(std::min(whole.rows, piece), whole.lines, whole.depth));
            multiply(part_of(whole, r, std::min(r + piece, whole.rows)));
        }
    }
    void gradient(const float* a, int64_t a_stride, int64_t a_lines, const float* b, int64_t b_stride, int64_t b_lines,
                  int64_t n, float* to) {
        interruption.go_on(asks, heavy(n, a_lines, b_lines));
        add_gradient(a, a_stride, a_lines, b, b_stride, b_lines, n, to, arena, 1, interruption, asks);
    }
    static void copy(const float* from, int64_t n, float* to) { std::copy(from, from + n, to); }
    static void add(const float* from, int64_t n, float* to) {
        for (int64_t i = 0; i < n; ++i) to[i] += from[i];
    }
    bool all_are_scored() const {
        int64_t k = 0;
        while (k < rows.positions && rows.scored[k] == k) ++k;
        return k == rows.size;
    }
    int64_t place(int64_t k) const { return steps.place[static_cast<size_t>(rows.scored[k])]; }
    int64_t position(int64_t i) const { return steps.position[static_cast<size_t>(i)]; }

    // A matrix [lines, depth] of parameters as it is multiplied, and its transpose.
    const float* packed(int64_t offset, int64_t lines, int64_t depth) {
        float* panel = take(panel_size<float>(lines, depth));
        pack_rows(w + offset, depth, lines, depth, panel);
        return panel;
    }
    const float* turned(int64_t offset, int64_t lines, int64_t depth) {
        float* panel = take(panel_size<float>(depth, lines));
        pack_columns(w + offset, depth, depth, lines, panel);
        return panel;
    }

    Kept run(int64_t layer, const Lines& read) {
        const LayerAt& of = at.layers[static_cast<size_t>(layer)];
        const int64_t G = s.gates(), I = s.read_by(layer);
        Kept kept{read, take(L * G), nullptr, nullptr, {nullptr, D}};
        float* bias = nullptr;
        if (s.bias) {
            bias = take(G);
            for (int64_t g = 0; g < G; ++g) bias[g] = w[of.input_bias + g] + w[of.recurrent_bias + g];
        }
        product({read.first, L, read.stride, packed(of.input, G, I), G, I, kept.gates, G, bias});
        if (rows.noise)
            for (int64_t i = 0; i < L; ++i)
                add(rows.noise + (position(i) * s.layers + layer) * D, D, kept.gates + i * G);
        float* states = s.lstm || s.keep != 0 || s.share != 1 ? take(L * D) : kept.gates;
        kept.states.first = states;
        if (s.lstm) kept.c = take(L * D), kept.squashed = take(L * D);
        const float* recurrent = packed(of.recurrent, G, D);
        for (int64_t t = 0; t < steps.count(); ++t) {
            const int64_t first = steps.first(t), n = steps.rows(t);
            float* gates = kept.gates + first * G;
            const float* before = t ? states + steps.first(t - 1) * D : nullptr;
            if (t) product({before, n, D, recurrent, G, D, gates, G, nullptr, gates});
            if (s.lstm)
                worldfast::forward(cells(kept, t), states + first * D);
            else
                worldfast::forward(units(kept, t), before, states + first * D);
        }
        return kept;
    }

    UnitStep units(const Kept& kept, int64_t t) const {
        return {steps.rows(t) * D, s.relu, s.keep, s.share, kept.gates + steps.first(t) * D};
    }
    CellStep cells(const Kept& kept, int64_t t) const {
        const int64_t first = steps.first(t) * D;
        return {steps.rows(t),          D,
                kept.gates + 4 * first, t ? kept.c + steps.first(t - 1) * D : nullptr,
                kept.c + first,         kept.squashed + first};
    }

    // dh [L, D], the gradient at a layer's states -> that at what it reads; of vectors there is none.
    float* run_back(int64_t layer, const Kept& kept, float* dh, float* gradients) {
        const LayerAt& of = at.layers[static_cast<size_t>(layer)];
        const int64_t G = s.gates(), I = s.read_by(layer);
        const float* recurrent = turned(of.recurrent, G, D);
        float* dc = s.lstm && steps.count() ? zeros(steps.rows(0) * D) : nullptr;
        float* gates = s.lstm ? kept.gates : take(L * G);  // the gradient at what goes into them
        for (int64_t t = steps.count() - 1; t >= 0; --t) {
            const float* here = dh + steps.first(t) * D;
            if (s.lstm)
                worldfast::backward(cells(kept, t), here, dc);
            else
                worldfast::backward(units(kept, t), here, gates + steps.first(t) * G);
            if (!t) break;
            const int64_t n = steps.rows(t);
            float* before = dh + steps.first(t - 1) * D;
            if (!s.lstm && s.keep != 0)
                for (int64_t i = 0; i < n * D; ++i) before[i] += s.keep * here[i];
            product({gates + steps.first(t) * G, n, G, recurrent, D, G, before, D, nullptr, before});
        }
        const int64_t stride = kept.read.stride;
        float* of_input = stride == I ? gradients + of.input : zeros(G * stride);
        gradient(gates, G, G, kept.read.first, stride, stride, L, of_input);
        for (int64_t g = 0; stride != I && g < G; ++g) add(of_input + g * stride, I, gradients + of.input + g * I);
        if (steps.count() > 1) {
            const int64_t later = steps.first(1);
            gradient(gates + later * G, G, G, before_each(kept.states.first), D, D, L - later,
                     gradients + of.recurrent);
        }
        if (s.bias) {
            add_sums(gates, L, G, gradients + of.input_bias);
            copy(gradients + of.input_bias, G, gradients + of.recurrent_bias);
        }
        if (s.vectors && layer == 0) return nullptr;
        product({gates, L, G, turned(of.input, G, I), I, G, dh, I});  // I is D
        return dh;
    }

    // States that the inputs from the second step on read, [L - R, D].
    const float* before_each(const float* states) {
        if (steps.rows(steps.count() - 1) == steps.rows(0))
            return states;  // of rows of one length they lie as they are
        float *found = take((L - steps.first(1)) * D), *to = found;
        for (int64_t t = 1; t < steps.count(); ++t) {
            copy(states + steps.first(t - 1) * D, steps.rows(t) * D, to);
            to += steps.rows(t) * D;
        }
        return found;
    }

    // Lines of what belongs to the scored positions, `width` numbers each, in the order of their outputs.
    template <class T>
    const T* of_outputs(const T* from, int64_t width) {
        if (!every || !from) return from;
        T *found = arena.take<T>(L * width), *to = found;
        for (int64_t i = 0; i < L; ++i, to += width) std::copy_n(from + position(i) * width, width, to);
        return found;
    }

    // outputs [K, O] become the gradient of the summed loss.
    double loss_and_gradient(float* outputs) {
        const int64_t K = rows.positions, O = s.outputs;
        const float* weights = of_outputs(rows.weights, rows.each ? O : 1);
        if (s.loss != RecurrentLoss::cross_entropy) {
            const NumberLoss kind = s.loss == RecurrentLoss::binary_cross_entropy ? NumberLoss::logistic
                                    : s.loss == RecurrentLoss::mean_square        ? NumberLoss::square
                                                                                  : NumberLoss::tanh_square;
            return loss_of({K, O, kind, rows.each, of_outputs(rows.numbers, O), weights}, outputs);
        }
        int64_t* first = arena.take<int64_t>(K + 1);
        std::iota(first, first + K + 1, 0);
        return cross_entropy(K, O, outputs, first, of_outputs(rows.classes, 1), weights, outputs, 1);
    }

    const RecurrentShape& s;
    const float* w;
    const Places at;
    const RecurrentRows& rows;
    const Steps steps;
    Arena& arena;
    Interruption& interruption;
    const bool asks;
    const int64_t L, D;
    const bool every;  // position is scored
};

}  // namespace

RecurrentShape checked(RecurrentShape shape) {
    within("inputs", shape.inputs, 1, widest);
    within("hidden", shape.hidden, 1, widest);
    within("layers", shape.layers, 1, deepest);
    within("outputs", shape.outputs, 1, widest);
    shape.parameters = Places(shape).end;
    return shape;
}

double learn_rows(const RecurrentShape& shape, const float* parameters, const RecurrentRows& rows, float* gradients,
                  Arena& arena, Interruption& interruption, bool asks) {
    arena.clear();
    return Network(shape, parameters, rows, arena, interruption, asks).learn(gradients);
}

void read_rows(const RecurrentShape& shape, const float* parameters, const RecurrentRows& rows,
               const std::vector<int64_t>& layers, const std::vector<float*>& states, float* outputs, Arena& arena) {
    arena.clear();
    Interruption interruption;
    Network network(shape, parameters, rows, arena, interruption, true);
    const int64_t deepest_read = layers.empty() ? 0 : *std::max_element(layers.begin(), layers.end());
    const std::vector<Kept> kept = network.forward(outputs ? shape.layers : deepest_read);
    for (size_t i = 0; i < layers.size(); ++i)
        network.scored(kept[static_cast<size_t>(layers[i])].states, shape.read_by(layers[i]), states[i]);
    if (outputs)
        network.head(network.scored(kept.back().states, shape.hidden, arena.take<float>(rows.positions * shape.hidden)),
                     outputs);
}

}  // namespace worldfast
