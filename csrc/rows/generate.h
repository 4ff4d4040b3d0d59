// One row: sample its cities, label them, encode the text. Both drivers are loops over `sample` and `encode`.
//
// A stream is a mixture of components. A component is one task over one pool of cities; its row r is a function of its
// key and r. The stream's order says which component and row stand at a position:
//   sequential   the components one after the other
//   shuffled     the same rows in the order of a keyed permutation, a new one each epoch
//   interleaved  row r of each component in turn, without end
#pragma once

#include <functional>

#include "rows/tokens.h"

namespace worldfast {

// Cities as indices into the world. Null: all of them, 0 .. size-1.
struct Pool {
    const int32_t* index;
    int32_t size;

    WF_HD int32_t operator[](uint64_t i) const { return index ? index[i] : static_cast<int32_t>(i); }
};

struct Component {
    int32_t task;  // an index into `tasks`; from task_count on, one whose rule is given by the caller (given.h)
    int32_t min_cities, max_cities;
    int32_t reshuffled;   // crossing: permute the four cities once more and relabel, as the later published data did
    int32_t balanced;     // given: how many choices are equally frequent, by rejection; 0: as they come
    int32_t digits;       // given: of the longest number
    Pool pool;            // where cities come from
    Pool group;           // size > 0: at least one city of each row is from here (a part of the pool)
    Pool rest;            // the pool without the group; used by pairs only
    uint64_t key;         // random numbers of this task and split
    int64_t first, rows;  // rows first .. first+rows-1 of the component's own stream
    Permutation pairs;    // unique pairs: the order in which all pairs are walked, the same for every split ...
    int64_t pair_offset;  // ... and where this split's share begins
    uint64_t noise;       // a row in 2^64 / noise has the answer of another row; 0: none
    uint64_t noise_key;   // random numbers of which they are and of the others, whatever `noise` is
    RowFormat format;
};

enum class Order : int32_t { sequential, shuffled, interleaved };

struct StreamView {
    const Point* xy;
    const uint64_t* words;  // city_word of each city; null: the entity vocabulary, one token per city
    const Component* components;
    int32_t component_count;
    Order order;
    int64_t rows;  // in an epoch
    uint64_t shuffle_key;
    Permutation shuffle;  // of an epoch's rows; the key is the epoch's
    bool noisy;           // has a component noise?
    bool given;           // has a component a given rule? Then no row is made without it, nor on a GPU
};

struct Row {
    int32_t cities[max_cities];  // -1 behind the n-th
    int32_t n;
    int64_t label;
};

// The chance of more tries than this is below 1e-200 for the cities of the world; a world that needs them has no row.
constexpr int max_tries = 20000;

template <int N>
WF_HD void shuffle_cities(int32_t* cities, Random& random) {
    for (int i = N - 1; i > 0; --i) {
        const int other = static_cast<int>(random.below(static_cast<uint32_t>(i + 1)));
        for (int j = 0; j < i; ++j) {  // by masks, not by index: so the cities can stay in registers
            const int32_t swapped = (cities[i] ^ cities[j]) & -static_cast<int32_t>(j == other);
            cities[i] ^= swapped;
            cities[j] ^= swapped;
        }
    }
}

template <int T, int N>
WF_HD int64_t label_cities(const StreamView& stream, const int32_t* cities) {
    Point points[N];
    for (int i = 0; i < N; ++i) points[i] = stream.xy[cities[i]];
    return label<T, N>(points);
}

// The p-th unordered pair of 0 .. n-1: all neighbours at distance 1 around a circle, then at distance 2, ... For even n
// the last distance is its own opposite and has half as many.
WF_HD void pair_at(uint64_t p, uint64_t n, uint64_t& i, uint64_t& j) {
    const uint64_t step = divide(p, n, i) + 1;
    j = i + step < n ? i + step : i + step - n;
}

WF_HD void draw_pair(const Component& c, uint64_t place, Random& random, int32_t* cities) {
    const uint64_t p = c.pairs(place);
    const uint64_t g = static_cast<uint64_t>(c.group.size), within = g * (g - 1) / 2;
    uint64_t i, j;
    if (g == 0) {
        pair_at(p, static_cast<uint64_t>(c.pool.size), i, j);
        cities[0] = c.pool[i];
        cities[1] = c.pool[j];
    } else if (p < within) {
        pair_at(p, g, i, j);
        cities[0] = c.group[i];
        cities[1] = c.group[j];
    } else {
        i = divide(p - within, static_cast<uint64_t>(c.rest.size), j);
        cities[0] = c.group[i];
        cities[1] = c.rest[j];
    }
    shuffle_cities<2>(cities, random);
}

// N cities, uniformly; with a group: one from the group, the others from the whole pool, in random order.
template <int N>
WF_HD void draw_cities(const Component& c, Random& random, int32_t* cities) {
    uint32_t drawn[N];
    random.below<N>(static_cast<uint32_t>(c.pool.size), drawn);
    for (int i = 0; i < N; ++i) cities[i] = c.pool[drawn[i]];
    if (c.group.size > 0) {
        cities[0] = c.group[random.below(static_cast<uint32_t>(c.group.size))];
        shuffle_cities<N>(cities, random);
    }
}

template <int N>
WF_HD bool repeated(const int32_t* cities) {
    bool any = false;
    for (int i = 1; i < N; ++i)
        for (int j = 0; j < i; ++j) any |= cities[i] == cities[j];
    return any;
}

// Fills in a row of task T with N cities; false where none with the wanted answer was found.
struct SampleRow {
    const StreamView& stream;
    const Component& c;
    uint64_t pair;  // unique pairs: the place in their order
    Random& random;
    Row& row;

    template <int T, int N>
    WF_HD bool operator()() const {
        int32_t cities[N];
        int64_t found;
        if constexpr (tasks[T].unique_pairs) {
            draw_pair(c, pair, random, cities);
            found = label_cities<T, N>(stream, cities);
        } else if constexpr (tasks[T].balanced) {
            const int64_t wanted = static_cast<int64_t>(random.next() >> 63);
            int tries = 0;
            do {
                if (++tries > max_tries) return false;
                draw_cities<N>(c, random, cities);
                found = label_cities<T, N>(stream, cities);
            } while (found != wanted || repeated<N>(cities));
            if (T == crossing && c.reshuffled) {
                shuffle_cities<N>(cities, random);
                found = label_cities<T, N>(stream, cities);
            }
        } else {
            do draw_cities<N>(c, random, cities);
            while (repeated<N>(cities));
            found = label_cities<T, N>(stream, cities);
        }
        for (int i = 0; i < max_cities; ++i) row.cities[i] = i < N ? cities[i] : -1;
        row.n = N;
        row.label = found;
        return true;
    }
};

// How many cities a row has: its first random number, where the task leaves a choice.
WF_HD int32_t draw_count(const Component& c, Random& random) {
    if (c.max_cities == c.min_cities) return c.min_cities;
    return c.min_cities + static_cast<int32_t>(random.below(static_cast<uint32_t>(c.max_cities - c.min_cities + 1)));
}

// Row r of the component. False as in SampleRow.
//
// Noise: with a probability of noise / 2^64 the row's answer is that of another row of as many cities, drawn
// independently from all rows that the component's cities allow. So answers are as frequent as without noise, and some
// of those drawn again are right by chance. Which rows these are does not depend on the probability: those of a small one
// are among those of a large one, with the same answers. `noisy`: may any be? Known where code is compiled, since on a
// GPU the registers that noise needs would slow down the rows of all streams.
template <bool noisy = true>
WF_HD bool sample_row(const StreamView& stream, const Component& c, int64_t r, Row& row) {
    Random random(c.key, static_cast<uint64_t>(r));
    const int32_t n = draw_count(c, random);
    const uint64_t pair = static_cast<uint64_t>(c.pair_offset + r);
    if (!with_constants(c.task, n, SampleRow{stream, c, pair, random, row})) return false;
    if constexpr (noisy) {
        Random noise(c.noise_key, static_cast<uint64_t>(r));
        if (c.noise == 0 || noise.next() >= c.noise) return true;
        Row other;
        const uint64_t any_pair = multiply_high(noise.next(), c.pairs.size());
        if (!with_constants(c.task, n, SampleRow{stream, c, any_pair, noise, other})) return false;
        row.label = other.label;
    }
    return true;
}

// Which component and which of its rows stand at a position.
WF_HD const Component& locate(const StreamView& stream, int64_t position, int64_t& r) {
    uint64_t i = 0, rest;
    if (stream.order == Order::interleaved) {
        rest = divide(static_cast<uint64_t>(position), static_cast<uint64_t>(stream.component_count), i);
    } else {
        const uint64_t epoch = divide(static_cast<uint64_t>(position), static_cast<uint64_t>(stream.rows), rest);
        if (stream.order == Order::shuffled) rest = stream.shuffle.keyed(mix(stream.shuffle_key + epoch))(rest);
        while (rest >= static_cast<uint64_t>(stream.components[i].rows))
            rest -= static_cast<uint64_t>(stream.components[i++].rows);
    }
    r = stream.components[i].first + static_cast<int64_t>(rest);
    return stream.components[i];
}

// The row at a position, and the component it is from. False as in SampleRow.
struct Sampled {
    const Component* component;
    Row row;
};

WF_HD bool sample(const StreamView& stream, int64_t position, Sampled& sampled) {
    int64_t r;
    sampled.component = &locate(stream, position, r);
    return sample_row(stream, *sampled.component, r, sampled.row);
}

// Its tokens, in a buffer of row_capacity + row_slack.
template <class Token>
WF_HD Span encode(Token* tokens, const RowFormat& format, const Row& row, const uint64_t* words) {
    return encode(tokens, format, row.cities, row.n, row.label, words);
}

// Where rows go. A rectangle: row i at tokens + i * width, padded with pad_token. The CUDA driver takes null for `cities`,
// `label` and `task`: not asked for.
template <class Token>
struct Rectangle {
    Token* tokens;
    int64_t width;
    int32_t* length;
    int32_t* answer_start;
    int32_t* cities;  // [n, cities_width], -1 where unused
    int64_t cities_width;
    int64_t* label;
    uint8_t* task;
};

// Labels of n rows of `count` points each, by a component's rule that is not in `tasks`. It may throw.
using Rule =
    std::function<void(const Component& component, const Point* points, int64_t n, int count, int64_t* labels)>;

// Rows start .. start+n-1 of the stream; the first position without a row, or -1. `threads` <= 0: one per processor; of
// a stream with given rules it is one. `rule`: of such a stream.
template <class Token>
int64_t generate_rectangle(const StreamView& stream, int64_t start, int64_t n, const Rectangle<Token>& out, int threads,
                           const Rule& rule = {});

// The same rows end to end without padding: row i is tokens[row_start[i] .. row_start[i+1]). `tokens` has room for the
// longest rows there can be and one row_capacity + row_slack more. One thread: a batch is thousands of rows, not millions.
template <class Token>
int64_t generate_packed(const StreamView& stream, int64_t start, int64_t n, Token* tokens, int32_t* row_start,
                        int32_t* answer_start, const Rule& rule = {});

// Labels of given cities, or of given points. xy and cities may have any strides (in elements).
struct LabelInput {
    int task, min_cities, max_cities;
    int64_t n, width;   // rows, cities in a row
    const int32_t* xy;  // [N, 2], or [n, width, 2] where cities is null
    int64_t xy_stride[3];
    const int32_t* cities;  // [n, width], -1 behind the last city of a row
    int64_t cities_stride[2];
    int64_t world_size;
    const int32_t* count;  // [n] points in each row; null: all of them
    int64_t count_stride;
};

enum class Fault : int64_t { none, index, repeated, arity, coordinate };

struct RowFault {
    Fault fault;
    int64_t value;  // the index, city, number of cities or coordinate that does not fit
};

// Row i's points, and the first thing that is wrong with the row. Loops run to max_cities, whatever the row has, so that
// they unroll and the points stay in registers.
WF_HD RowFault read_row(const LabelInput& in, int64_t i, Point* points, int& n) {
    int64_t count = in.width;
    int32_t cities[max_cities];
    if (in.count) {
        count = in.count[i * in.count_stride];
    } else if (in.cities) {
        const int32_t* row = in.cities + i * in.cities_stride[0];
        while (count > 0 && row[(count - 1) * in.cities_stride[1]] == -1) --count;
    }
    if (count < in.min_cities || count > in.max_cities || count > in.width) return {Fault::arity, count};
    n = static_cast<int>(count);
    for (int k = 0; k < max_cities; ++k) {
        if (k >= n) break;
        const int32_t* p;
        if (in.cities) {
            cities[k] = in.cities[i * in.cities_stride[0] + k * in.cities_stride[1]];
            if (cities[k] < 0 || cities[k] >= in.world_size) return {Fault::index, cities[k]};
            for (int j = 0; j < k; ++j)
                if (cities[j] == cities[k]) return {Fault::repeated, cities[k]};
            p = in.xy + cities[k] * in.xy_stride[0];
        } else {
            p = in.xy + i * in.xy_stride[0] + k * in.xy_stride[1];
        }
        points[k] = {p[0], p[in.xy_stride[2]]};
        if (!in_bounds(points[k])) return {Fault::coordinate, in_bounds({points[k].x, 0}) ? points[k].y : points[k].x};
    }
    return {Fault::none, 0};
}

struct LabelPoints {
    const Point* points;

    template <int T, int N>
    WF_HD int64_t operator()() const {
        return label<T, N>(points);
    }
};

WF_HD int64_t label(int task, const Point* points, int n) { return with_constants(task, n, LabelPoints{points}); }

struct LabelResult {
    int64_t row = -1;  // the first bad row, or -1
    RowFault fault{};
};

// A bad row's label is -1.
LabelResult label_rows(const LabelInput& input, int64_t* out, int threads);

}  // namespace worldfast
