// The scored positions of a tile: rows that share tokens may score the same place.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "transformer/transformer.h"

namespace worldfast {

// The places that are scored, each once: K' of them, ascending; and of each, its targets
// and their weights.
struct Scored {
    std::vector<int64_t> places, first, targets;
    std::vector<float> weights;  // of the targets; empty: ones
    std::vector<int64_t> order;  // [K]: which of the K' each scored position is
    std::vector<int32_t> query;  // [rows]: a row's first token whose attention is used in the last block

    explicit Scored(const TileRows& rows) : query(static_cast<size_t>(rows.rows)) {
        std::vector<int64_t> count(static_cast<size_t>(rows.computed) + 1);
        const auto at = [&](int64_t place) -> int64_t& { return count[static_cast<size_t>(place)]; };
        for (int64_t k = 0; k < rows.scored; ++k) {
            if (rows.sources[k] < 0 || rows.sources[k] >= rows.computed)
                throw std::invalid_argument("sources: expected places among " + std::to_string(rows.computed));
            ++at(rows.sources[k]);
        }
        first.push_back(0);
        for (int64_t place = 0; place < rows.computed; ++place) {
            if (at(place) == 0) {
                at(place) = -1;
                continue;
            }
            first.push_back(first.back() + at(place));
            at(place) = static_cast<int64_t>(places.size());
            places.push_back(place);
        }
        std::vector<int64_t> next(first.begin(), first.end() - 1);
        order.resize(static_cast<size_t>(rows.scored));
        targets.resize(rows.targets ? order.size() : 0);
        weights.resize(rows.weights ? targets.size() : 0);
        for (int64_t k = 0; k < rows.scored; ++k) {
            const int64_t group = at(rows.sources[k]);
            order[static_cast<size_t>(k)] = group;
            if (!rows.targets) continue;
            const auto to = static_cast<size_t>(next[static_cast<size_t>(group)]++);
            targets[to] = rows.targets[k];
            if (rows.weights) weights[to] = rows.weights[k];
        }
        for (int64_t r = 0; r < rows.rows; ++r) {
            const int32_t* place = rows.place + rows.row_start[r];
            const int32_t length = rows.row_start[r + 1] - rows.row_start[r];
            int32_t i = rows.shared[r];
            while (i < length && at(place[i]) < 0) ++i;
            query[static_cast<size_t>(r)] = i;
        }
    }
    int64_t size() const { return static_cast<int64_t>(places.size()); }
};

}  // namespace worldfast
