#include "rows/given.h"

#include <algorithm>
#include <vector>

namespace worldfast {

namespace {

// A row that is not drawn yet.
struct Wanted {
    Random random;
    uint64_t pair;     // as in SampleRow
    int64_t position;  // in the stream
    Row* row;          // where it goes
    int64_t answer;    // balanced: the one it must have
};

constexpr int64_t least_draws =
    512;  // of a round in which rows are rejected: a call of the rule costs as much as these

// Memory of the rows that are labelled in one call.
struct Drawn {
    std::vector<int32_t> cities;
    std::vector<Point> points;
    std::vector<int64_t> labels, of;  // of: which of the rows that are wanted this may be

    void clear() {
        cities.clear();
        points.clear();
        of.clear();
    }

    void add(const StreamView& stream, const int32_t* drawn, int count, int64_t wanted) {
        cities.insert(cities.end(), drawn, drawn + count);
        for (int i = 0; i < count; ++i) points.push_back(stream.xy[drawn[i]]);
        of.push_back(wanted);
    }

    void label(const Component& c, int count, const Rule& rule) {
        labels.resize(of.size());
        if (!of.empty()) rule(c, points.data(), static_cast<int64_t>(of.size()), count, labels.data());
    }

    void put(size_t i, int count, Row& row) const {
        for (int k = 0; k < max_cities; ++k) row.cities[k] = k < count ? cities[i * count + k] : -1;
        row.n = count;
        row.label = labels[i];
    }
};

// Draws and labels the wanted rows of a component that have N cities. The first position of one without a row, or -1.
template <int N>
int64_t draw_rows(const StreamView& stream, const Component& c, std::vector<Wanted>& wanted, Drawn& drawn,
                  const Rule& rule) {
    int32_t cities[N];
    drawn.clear();
    if (!c.balanced) {
        for (size_t w = 0; w < wanted.size(); ++w) {
            if (N == 2 && c.pairs.size() > 0) {
                draw_pair(c, wanted[w].pair, wanted[w].random, cities);
            } else {
                do draw_cities<N>(c, wanted[w].random, cities);
                while (repeated<N>(cities));
            }
            drawn.add(stream, cities, N, static_cast<int64_t>(w));
        }
        drawn.label(c, N, rule);
        for (size_t w = 0; w < wanted.size(); ++w) drawn.put(w, N, *wanted[w].row);
        return -1;
    }
    for (Wanted& row : wanted) row.answer = row.random.below(static_cast<uint32_t>(c.balanced));
    // The first draw with the wanted answer is the row, however many draws are labelled at a time.
    for (int64_t tries = 0; !wanted.empty();) {
        const int64_t each =
            std::min(std::max<int64_t>(1, least_draws / static_cast<int64_t>(wanted.size())), max_tries - tries);
        if (each == 0) break;
        tries += each;
        drawn.clear();
        for (size_t w = 0; w < wanted.size(); ++w)
            for (int64_t i = 0; i < each; ++i) {
                draw_cities<N>(c, wanted[w].random, cities);
                if (!repeated<N>(cities)) drawn.add(stream, cities, N, static_cast<int64_t>(w));
            }
        drawn.label(c, N, rule);
        for (size_t i = 0; i < drawn.of.size(); ++i) {
            Wanted& row = wanted[drawn.of[i]];
            if (!row.row || drawn.labels[i] != row.answer) continue;
            drawn.put(i, N, *row.row);
            row.row = nullptr;
        }
        wanted.erase(std::remove_if(wanted.begin(), wanted.end(), [](const Wanted& row) { return !row.row; }),
                     wanted.end());
    }
    int64_t failed = -1;
    for (const Wanted& row : wanted) keep_first(&failed, row.position);
    return failed;
}

int64_t draw_rows(const StreamView& stream, const Component& c, int count, std::vector<Wanted>& wanted, Drawn& drawn,
                  const Rule& rule) {
    switch (count) {
        case 1:
            return draw_rows<1>(stream, c, wanted, drawn, rule);
        case 2:
            return draw_rows<2>(stream, c, wanted, drawn, rule);
        case 3:
            return draw_rows<3>(stream, c, wanted, drawn, rule);
        case 4:
            return draw_rows<4>(stream, c, wanted, drawn, rule);
        case 5:
            return draw_rows<5>(stream, c, wanted, drawn, rule);
        default:
            return draw_rows<6>(stream, c, wanted, drawn, rule);
    }
}

}  // namespace

int64_t sample_given(const StreamView& stream, int64_t start, int64_t n, Sampled* sampled, const Rule& rule) {
    std::vector<std::vector<Wanted>> wanted(static_cast<size_t>(stream.component_count) * (max_cities + 1));
    std::vector<Row> others(static_cast<size_t>(stream.noisy ? n : 0));  // whose answers noise gives to rows
    std::vector<int64_t> noisy;
    int64_t failed = -1;
    for (int64_t i = 0; i < n; ++i) {
        int64_t r;
        const Component& c = locate(stream, start + i, r);
        sampled[i].component = &c;
        if (c.task < task_count) {
            if (!sample_row(stream, c, r, sampled[i].row)) keep_first(&failed, start + i);
            continue;
        }
        Random random(c.key, static_cast<uint64_t>(r));
        const int32_t count = draw_count(c, random);
        auto& rows = wanted[static_cast<size_t>((&c - stream.components) * (max_cities + 1) + count)];
        rows.push_back({random, static_cast<uint64_t>(c.pair_offset + r), start + i, &sampled[i].row, 0});
        Random noise(c.noise_key, static_cast<uint64_t>(r));  // as in sample_row
        if (c.noise == 0 || noise.next() >= c.noise) continue;
        const uint64_t any_pair = multiply_high(noise.next(), c.pairs.size());
        rows.push_back({noise, any_pair, start + i, &others[i], 0});
        noisy.push_back(i);
    }
    Drawn drawn;
    for (size_t group = 0; group < wanted.size(); ++group) {
        if (wanted[group].empty()) continue;
        const Component& c = stream.components[group / (max_cities + 1)];
        keep_first(&failed, draw_rows(stream, c, group % (max_cities + 1), wanted[group], drawn, rule));
    }
    if (failed < 0)
        for (const int64_t i : noisy) sampled[i].row.label = others[i].label;
    return failed;
}

LabelResult label_given(const LabelInput& in, const Component& component, int64_t* out, const Rule& rule) {
    std::vector<Point> points[max_cities + 1];
    std::vector<int64_t> rows[max_cities + 1], labels;
    LabelResult result;
    for (int64_t begin = 0; begin < in.n; begin += given_rows) {
        for (int count = 1; count <= max_cities; ++count) {
            points[count].clear();
            rows[count].clear();
        }
        for (int64_t i = begin; i < std::min(begin + given_rows, in.n); ++i) {
            Point row[max_cities];
            int count;
            const RowFault fault = read_row(in, i, row, count);
            out[i] = -1;
            if (fault.fault != Fault::none) {
                if (result.row < 0) result = {i, fault};
                continue;
            }
            points[count].insert(points[count].end(), row, row + count);
            rows[count].push_back(i);
        }
        for (int count = 1; count <= max_cities; ++count) {
            if (rows[count].empty()) continue;
            labels.resize(rows[count].size());
            rule(component, points[count].data(), static_cast<int64_t>(labels.size()), count, labels.data());
            for (size_t k = 0; k < labels.size(); ++k) out[rows[count][k]] = labels[k];
        }
    }
    return result;
}

}  // namespace worldfast
