// The CPU driver: threads over contiguous ranges of rows.
#include "rows/given.h"
#include "rows/stream.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>

#include "base/interrupt.h"
#include "base/parallel.h"

namespace worldfast {

namespace {

constexpr int64_t rows_per_thread = 8192;  // below this a thread costs more than it saves

void keep_smallest(std::atomic<int64_t>& smallest, int64_t value) {
    int64_t seen = smallest.load();
    while (value < seen && !smallest.compare_exchange_weak(seen, value)) {
    }
}

template <class Token>
void run_tiles(const RectangleJob<Token>& job) {
    std::vector<Words> memory(tile_bytes<Token>(job.out.width) / sizeof(Words) + 1);  // what a block shares
    char* const shared = reinterpret_cast<char*>(memory.data());
    Tile& tile = *reinterpret_cast<Tile*>(shared);
    Token* const tokens = reinterpret_cast<Token*>(shared + sizeof(Tile));
    for (int64_t i = 0; i < tiles_of(job.n); ++i)
        job.stream.noisy ? run_block(RectangleWork<Token, true>{job, i, tile, tokens})
                         : run_block(RectangleWork<Token, false>{job, i, tile, tokens});
}

// Rows first .. first+count-1 of a rectangle of which this thread makes those before `end`.
template <class Token>
void place_rows(const StreamView& stream, const Sampled* sampled, int64_t first, int64_t count, int64_t end,
                const Rectangle<Token>& out) {
    Token last[row_capacity + row_slack];
    for (int64_t b = 0; b < count; ++b) {
        const int64_t i = first + b;
        const Row& row = sampled[b].row;
        // A row is written in place, and what sticks out of its end is overwritten by the next; the last have none.
        Token* const place = out.tokens + i * out.width;
        Token* const tokens = (end - i) * out.width < row_capacity + row_slack ? last : place;
        const Span span = encode(tokens, sampled[b].component->format, row, stream.words);
        for (int64_t k = span.length; k < out.width; k += row_slack)
            std::memset(tokens + k, 0, row_slack * sizeof(Token));
        if (tokens == last) std::memcpy(place, last, out.width * sizeof(Token));
        for (int64_t k = 0; k < out.cities_width; ++k) out.cities[i * out.cities_width + k] = row.cities[k];
        out.length[i] = span.length;
        out.answer_start[i] = span.answer_start;
        out.label[i] = row.label;
        out.task[i] = static_cast<uint8_t>(sampled[b].component->task);
    }
}

// f(i, sampled, count) for blocks of rows of a stream with given rules, in order; the first position without a row, or -1.
template <class F>
int64_t each_given_block(const StreamView& stream, int64_t start, int64_t n, const Rule& rule, F&& f) {
    std::vector<Sampled> sampled(static_cast<size_t>(std::min(n, given_rows)));
    for (int64_t i = 0; i < n; i += given_rows) {
        const int64_t count = std::min(given_rows, n - i);
        const int64_t failed = sample_given(stream, start + i, count, sampled.data(), rule);
        if (failed >= 0) return failed;
        f(i, sampled.data(), count);
    }
    return -1;
}

}  // namespace

template <class Token>
int64_t generate_rectangle(const StreamView& stream, int64_t start, int64_t n, const Rectangle<Token>& out, int threads,
                           const Rule& rule) {
    if (stream.given)
        return each_given_block(stream, start, n, rule, [&](int64_t i, const Sampled* sampled, int64_t count) {
            place_rows(stream, sampled, i, count, n, out);
        });
    constexpr int64_t none = std::numeric_limits<int64_t>::max();
    std::atomic<int64_t> failed{none};
    Interruption interruption;
    const auto range = [&](int64_t begin, int64_t end) {
        // Sampling and encoding take turns on small blocks, since each loop alone is short enough for the processor to
        // work on several rows at once; and of tasks that take turns, each is sampled alone, as it can then be foreseen
        // which code is next.
        constexpr int64_t block = 112;
        const int64_t turns = stream.order == Order::interleaved ? stream.component_count : 1;
        Sampled sampled[block];
        for (int64_t first = begin; first < end; first += block) {
            const int64_t count = std::min(block, end - first);
            if (interruption.end(begin == 0)) return;  // a row may take a million tries
            for (int64_t turn = 0; turn < turns; ++turn)
                for (int64_t b = turn; b < count; b += turns)
                    if (!sample(stream, start + first + b, sampled[b])) return keep_smallest(failed, start + first + b);
            place_rows(stream, sampled, first, count, end, out);
        }
    };
    parallel_for(n, rows_per_thread, threads, range, &interruption);
    return failed == none ? -1 : failed.load();
}

template <class Token>
int64_t generate_packed(const StreamView& stream, int64_t start, int64_t n, Token* tokens, int32_t* row_start,
                        int32_t* answer_start, const Rule& rule) {
    row_start[0] = 0;
    const auto place = [&](int64_t i, const Sampled& sampled) {
        const Span span = encode(tokens + row_start[i], sampled.component->format, sampled.row, stream.words);
        row_start[i + 1] = row_start[i] + span.length;
        answer_start[i] = span.answer_start;
    };
    if (stream.given)
        return each_given_block(stream, start, n, rule, [&](int64_t first, const Sampled* sampled, int64_t count) {
            for (int64_t b = 0; b < count; ++b) place(first + b, sampled[b]);
        });
    Sampled sampled;
    Interruption interruption;
    for (int64_t i = 0; i < n; ++i) {
        if (i % 64 == 0) interruption.end(true);
        if (!sample(stream, start + i, sampled)) return start + i;
        place(i, sampled);
    }
    return -1;
}

template int64_t generate_rectangle(const StreamView&, int64_t, int64_t, const Rectangle<uint8_t>&, int, const Rule&);
template int64_t generate_rectangle(const StreamView&, int64_t, int64_t, const Rectangle<int32_t>&, int, const Rule&);
template int64_t generate_packed(const StreamView&, int64_t, int64_t, int32_t*, int32_t*, int32_t*, const Rule&);

template <class Token>
void rectangle_in_tiles(const StreamView& stream, const Start& start, int64_t n, const Rectangle<Token>& out,
                        int64_t* failed) {
    run_tiles(RectangleJob<Token>{stream, start, n, out, nullptr, failed});
}

template <class Token>
void packed_in_tiles(const StreamView& stream, const Start& start, int64_t n, int64_t width, const Packed& out,
                     int64_t* failed) {
    const PackedJobs<Token> jobs(stream, start, n, width, out, failed);
    run_tiles(jobs.rectangle);
    Scan scan;
    run_block(PlaceTilesWork<Token>{jobs.pack, scan});
    for (int64_t i = 0; i < std::max<int64_t>(tiles_of(n), 1); ++i) run_block(PackWork<Token>{jobs.pack, i, scan});
}

template void rectangle_in_tiles(const StreamView&, const Start&, int64_t, const Rectangle<uint8_t>&, int64_t*);
template void rectangle_in_tiles(const StreamView&, const Start&, int64_t, const Rectangle<int32_t>&, int64_t*);
template void packed_in_tiles<uint8_t>(const StreamView&, const Start&, int64_t, int64_t, const Packed&, int64_t*);
template void packed_in_tiles<int32_t>(const StreamView&, const Start&, int64_t, int64_t, const Packed&, int64_t*);

LabelResult label_rows(const LabelInput& in, int64_t* out, int threads) {
    std::atomic<int64_t> failed{in.n};
    Interruption interruption;
    const auto range = [&](int64_t begin, int64_t end) {
        Point points[max_cities];
        int n;
        for (int64_t i = begin; i < end; ++i) {
            if ((i - begin) % rows_per_thread == 0 && interruption.end(begin == 0)) return;
            const bool bad = read_row(in, i, points, n).fault != Fault::none;
            if (bad) keep_smallest(failed, i);
            out[i] = bad ? -1 : label(in.task, points, n);
        }
    };
    parallel_for(in.n, rows_per_thread, threads, range, &interruption);
    if (failed == in.n) return {};
    Point points[max_cities];
    int n;
    return {failed, read_row(in, failed, points, n)};
}

}  // namespace worldfast
