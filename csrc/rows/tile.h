// What one block of the CUDA driver does, as phases: each of its threads goes through a phase before any begins the next.
// There is nothing of CUDA in here but the atomics, so that a test can take the threads one after the other, phase by
// phase, where there is no GPU (run_block).
//
// A tile is 256 rows. Threads that run side by side should do the same, so the block first sorts its rows by kind, a task
// and a number of cities; each row is written in memory that the block shares, and from there to its place in whole words.
#pragma once

#include "rows/generate.h"

namespace worldfast {

constexpr int tile_rows = 256;  // also the threads of a block
constexpr int most_counts = 4;  // numbers of cities that a task may leave open
constexpr int kind_count = task_count * most_counts;

constexpr bool kinds_are_enough() {
    for (const Task& task : tasks)
        if (task.max_cities - task.min_cities >= most_counts) return false;
    return true;
}
static_assert(kinds_are_enough());

WF_HD int64_t tiles_of(int64_t n) { return (n + tile_rows - 1) / tile_rows; }

WF_HD int rows_in_tile(int64_t tile, int64_t n) {
    const int64_t left = n - tile * tile_rows;
    return static_cast<int>(left < tile_rows ? left : tile_rows);
}

// Adds, and returns what was there before.
WF_HD int32_t fetch_add(int32_t* counter, int32_t amount) {
#ifdef __CUDA_ARCH__
    return atomicAdd(counter, amount);
#else
    const int32_t before = *counter;
    *counter += amount;
    return before;
#endif
}

// -1 is none: as an unsigned number it is the largest.
WF_HD void keep_first(int64_t* position, int64_t candidate) {
    auto* const at = reinterpret_cast<unsigned long long*>(position);
    const auto value = static_cast<unsigned long long>(candidate);
#ifdef __CUDA_ARCH__
    atomicMin(at, value);
#else
    if (value < *at) *at = value;
#endif
}

// The tokens of a tile's rows in shared memory are this far apart: room for each, and so many 32-bit words that the
// threads of a warp, each in its own row, find different banks.
template <class Token>
WF_HD constexpr int tile_pitch(int64_t width) {
    const int words = (row_room(width) * static_cast<int>(sizeof(Token)) + 3) / 4;
    return (words | 1) * 4 / static_cast<int>(sizeof(Token));
}

struct Words {
    alignas(16) uint32_t word[4];
};

// Rows of `width` tokens, `pitch` apart, to `to`, without gaps: sixteen bytes at a time, between the sixteenths of memory.
template <class Token>
WF_HD void store_rows(const Token* from, int pitch, Token* to, int rows, int width, int thread) {
    constexpr int chunk = 16 / sizeof(Token), in_word = 4 / sizeof(Token);
    const int before = static_cast<int>(reinterpret_cast<uintptr_t>(to) % 16 / sizeof(Token));
    const int size = rows * width;
    for (int at = thread * chunk - before; at < size; at += tile_rows * chunk) {
        const int begin = at < 0 ? 0 : at, row = begin / width;
        int column = begin - row * width;
        const Token* token = from + row * pitch + column;
        const auto next = [&] {
            const Token value = *token++;
            if (++column == width) {
                column = 0;
                token += pitch - width;
            }
            return value;
        };
        if (at >= 0 && at + chunk <= size) {
            Words words{};
            for (int k = 0; k < chunk; ++k)
                words.word[k / in_word] |= static_cast<uint32_t>(next()) << (k % in_word * 8 * sizeof(Token));
            __builtin_memcpy(__builtin_assume_aligned(static_cast<void*>(to + at), 16), &words, sizeof words);
        } else {
            for (int k = begin; k < at + chunk && k < size; ++k) to[k] = next();
        }
    }
}

// What the threads of a block share while they make a tile of rows. The rows' tokens stand behind it.
struct alignas(16) Tile {
    int64_t number[tile_rows];  // of the row among its component's
    const Component* component[tile_rows];
    Row row[tile_rows];
    Span span[tile_rows];
    int32_t of_kind[kind_count];
    int32_t tokens;                            // of all rows
    uint8_t kind[tile_rows], rank[tile_rows];  // rank: among the rows of its kind
    uint8_t by_kind[tile_rows];                // the rows, those of a kind side by side
};

template <class Token>
constexpr size_t tile_bytes(int64_t width) {
    return sizeof(Tile) + static_cast<size_t>(tile_rows) * tile_pitch<Token>(width) * sizeof(Token);
}

// The first row's position: a number, or where the number stands when the rows are made.
struct Start {
    int64_t value;
    const int64_t* at;  // null: `value`

    WF_HD int64_t operator()() const { return at ? *at : value; }
};

// Rows start .. start+n-1 of a stream into a rectangle.
template <class Token>
struct RectangleJob {
    StreamView stream;
    Start start;
    int64_t n;
    Rectangle<Token> out;
    int32_t* tile_tokens;  // [tiles] tokens of each tile's rows; null: not asked for
    int64_t* failed;       // the first position without a row is kept here
};

// `noisy`: as in sample_row; the stream's, or true.
template <class Token, bool noisy>
struct RectangleWork {
    static constexpr int phases = 5;

    const RectangleJob<Token>& job;
    int64_t tile;
    Tile& shared;
    Token* tokens;

    template <int phase>
    WF_HD void run(int thread) const {
        const int rows = rows_in_tile(tile, job.n);
        if constexpr (phase == 0) {
            if (thread < kind_count) shared.of_kind[thread] = 0;
            if (thread == 0) shared.tokens = 0;
        } else if constexpr (phase == 4) {
            store(thread, rows);
        } else if (thread < rows) {
            if constexpr (phase == 1) find(thread);
            if constexpr (phase == 2) line_up(thread);
            if constexpr (phase == 3) make(shared.by_kind[thread]);
        }
    }

private:
    WF_HD int64_t position(int row) const { return job.start() + tile * tile_rows + row; }

    WF_HD void find(int row) const {
        int64_t number;
        const Component& c = locate(job.stream, position(row), number);
        Random random(c.key, static_cast<uint64_t>(number));
        const int kind = c.task * most_counts + draw_count(c, random) - c.min_cities;
        shared.component[row] = &c;
        shared.number[row] = number;
        shared.kind[row] = static_cast<uint8_t>(kind);
        shared.rank[row] = static_cast<uint8_t>(fetch_add(&shared.of_kind[kind], 1));
    }

    WF_HD void line_up(int row) const {
        int place = shared.rank[row];
        for (int kind = 0; kind < shared.kind[row]; ++kind) place += shared.of_kind[kind];
        shared.by_kind[place] = static_cast<uint8_t>(row);
    }

    WF_HD void make(int r) const {
        const Component& c = *shared.component[r];
        Row& row = shared.row[r];
        Token* const at = tokens + r * tile_pitch<Token>(job.out.width);
        Span span{0, 0};
        if (sample_row<noisy>(job.stream, c, shared.number[r], row)) {
            span = encode(at, c.format, row, job.stream.words);
        } else {
            keep_first(job.failed, position(r));
            for (int i = 0; i < max_cities; ++i) row.cities[i] = -1;
            row.label = -1;
        }
        for (int k = span.length; k < job.out.width; ++k) at[k] = Token{pad_token};
        shared.span[r] = span;
        if (job.tile_tokens) fetch_add(&shared.tokens, span.length);
    }

    WF_HD void store(int thread, int rows) const {
        const Rectangle<Token>& out = job.out;
        const int64_t first = tile * tile_rows;
        const int width = static_cast<int>(out.width), cities_width = static_cast<int>(out.cities_width);
        store_rows(tokens, tile_pitch<Token>(width), out.tokens + first * width, rows, width, thread);
        if (thread < rows) {
            const int64_t i = first + thread;
            out.length[i] = shared.span[thread].length;
            out.answer_start[i] = shared.span[thread].answer_start;
            if (out.label) out.label[i] = shared.row[thread].label;
            if (out.task) out.task[i] = static_cast<uint8_t>(shared.component[thread]->task);
        }
        if (out.cities)
            for (int at = thread; at < rows * cities_width; at += tile_rows)
                out.cities[first * cities_width + at] = shared.row[at / cities_width].cities[at % cities_width];
        if (job.tile_tokens && thread == 0) job.tile_tokens[tile] = shared.tokens;
    }
};

// Running sums of 256 numbers, one a thread: after eight steps, sum[0][i] is that of the numbers 0 .. i.
struct Scan {
    static constexpr int steps = 8;
    static_assert(1 << steps == tile_rows);

    int32_t sum[2][tile_rows];

    WF_HD void step(int k, int i) {
        const int32_t* from = sum[k % 2];
        sum[(k + 1) % 2][i] = from[i] + (i >= 1 << k ? from[i - (1 << k)] : 0);
    }

    WF_HD int32_t before(int i) const { return i ? sum[0][i - 1] : 0; }
};

// A rectangle's rows end to end. Two launches: one block turns the number of tokens in each tile into where the tile
// begins, then a block for each tile moves its rows there.
template <class Token>
struct PackJob {
    int64_t n, width;
    const Token* tokens;    // [n, width]
    const int32_t* length;  // [n]
    int32_t* tile_tokens;   // [tiles] tokens in each; then where each begins
    int32_t* packed;
    int32_t* row_start;  // [n + 1]
};

template <class Token>
struct PlaceTilesWork {
    static constexpr int phases = 1 + Scan::steps + 1;

    const PackJob<Token>& job;
    Scan& scan;

    template <int phase>
    WF_HD void run(int thread) const {
        const int64_t tiles = tiles_of(job.n), share = (tiles + tile_rows - 1) / tile_rows;
        const int64_t begin = share * thread, end = begin + share < tiles ? begin + share : tiles;
        if constexpr (phase == 0) {
            int32_t sum = 0;
            for (int64_t tile = begin; tile < end; ++tile) sum += job.tile_tokens[tile];
            scan.sum[0][thread] = sum;
        } else if constexpr (phase <= Scan::steps) {
            scan.step(phase - 1, thread);
        } else {
            int32_t place = scan.before(thread);
            for (int64_t tile = begin; tile < end; ++tile) place += swap(job.tile_tokens[tile], place);
        }
    }

private:
    WF_HD static int32_t swap(int32_t& at, int32_t value) {
        const int32_t before = at;
        at = value;
        return before;
    }
};

template <class Token>
struct PackWork {
    static constexpr int phases = 1 + Scan::steps + 1;

    const PackJob<Token>& job;
    int64_t tile;
    Scan& scan;

    template <int phase>
    WF_HD void run(int thread) const {
        const int rows = rows_in_tile(tile, job.n);
        if constexpr (phase == 0) {
            scan.sum[0][thread] = thread < rows ? job.length[tile * tile_rows + thread] : 0;
        } else if constexpr (phase <= Scan::steps) {
            scan.step(phase - 1, thread);
        } else {
            move(thread, rows);
        }
    }

private:
    WF_HD void move(int thread, int rows) const {
        const int64_t first = tile * tile_rows;
        if (first == 0 && thread == 0) job.row_start[0] = 0;
        if (rows <= 0) return;
        const int32_t begin = job.tile_tokens[tile];
        if (thread < rows) job.row_start[first + thread + 1] = begin + scan.sum[0][thread];
        for (int row = thread / 32; row < rows; row += tile_rows / 32) {  // 32 threads a row, token beside token
            const Token* const from = job.tokens + (first + row) * job.width;
            int32_t* const to = job.packed + begin + scan.before(row);
            const int length = scan.sum[0][row] - scan.before(row);
            for (int k = thread % 32; k < length; k += 32) to[k] = from[k];
        }
    }
};

// The memory that packing needs: a rectangle's tokens and lengths, and the tiles' sums, each at a multiple of 16 bytes.
template <class Token>
struct PackScratch {
    static int64_t aligned(int64_t bytes) { return (bytes + 15) / 16 * 16; }

    PackScratch(void* memory, int64_t n, int64_t width) {
        const int64_t tokens_end = aligned(n * width * static_cast<int64_t>(sizeof(Token)));
        const int64_t length_end = tokens_end + aligned(n * 4);
        bytes = length_end + aligned(tiles_of(n) * 4);
        char* const at = static_cast<char*>(memory);
        tokens = reinterpret_cast<Token*>(at);
        length = reinterpret_cast<int32_t*>(at + tokens_end);
        tile_tokens = reinterpret_cast<int32_t*>(at + length_end);
    }

    Token* tokens;
    int32_t* length;
    int32_t* tile_tokens;
    int64_t bytes;
};

// Where packed rows go, and the memory that it takes (PackScratch). The CUDA driver's counterpart of generate_packed.
struct Packed {
    int32_t* tokens;
    int32_t* row_start;
    int32_t* answer_start;
    void* scratch;
};

// The jobs of the launches that make packed rows: rows as a rectangle in the scratch memory, then end to end.
template <class Token>
struct PackedJobs {
    PackedJobs(const StreamView& stream, const Start& start, int64_t n, int64_t width, const Packed& out,
               int64_t* failed) {
        const PackScratch<Token> scratch(out.scratch, n, width);
        Rectangle<Token> rows{};
        rows.tokens = scratch.tokens;
        rows.width = width;
        rows.length = scratch.length;
        rows.answer_start = out.answer_start;
        rectangle = {stream, start, n, rows, scratch.tile_tokens, failed};
        pack = {n, width, scratch.tokens, scratch.length, scratch.tile_tokens, out.tokens, out.row_start};
    }

    RectangleJob<Token> rectangle;
    PackJob<Token> pack;
};

// A block without a GPU: phase by phase, all threads one after the other, in an order far from their own, since within a
// phase no thread may rely on what another did.
template <int phase = 0, class Work>
void run_block(const Work& work) {
    for (int i = 0; i < tile_rows; ++i) work.template run<phase>(i * 101 % tile_rows);
    if constexpr (phase + 1 < Work::phases) run_block<phase + 1>(work);
}

}  // namespace worldfast
