// The owner of everything a stream's rows read: a copy of the world, the pools of cities, the components.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "rows/tile.h"

namespace worldfast {

struct Stream {
    std::vector<Point> xy;
    std::vector<uint64_t> words;
    std::vector<Component> components;  // their pools point into `pools`
    std::vector<std::vector<int32_t>> pools;
    Order order = Order::sequential;
    uint64_t shuffle_key = 0;
    bool entity = false;  // one token per city

    StreamView view() const {
        int64_t rows = 0;
        bool noisy = false, given = false;
        for (const Component& c : components) {
            rows += c.rows;
            noisy |= c.noise != 0;
            given |= c.task >= task_count;
        }
        const auto count = static_cast<int32_t>(components.size());
        return {xy.data(),
                entity ? nullptr : words.data(),
                components.data(),
                count,
                order,
                rows,
                shuffle_key,
                Permutation(shuffle_key, static_cast<uint64_t>(rows)),
                noisy,
                given};
    }

    // Tokens in the longest row there can be, and cities in the widest. Functions of the stream, not of its rows.
    int64_t width() const {
        int64_t widest = 0;
        for (const Component& c : components) {
            int64_t answer = 0;
            if (c.format.choice)
                for (const int64_t n : c.format.answer_length) answer = std::max(answer, n);
            else if (c.task >= task_count)
                answer = 1 + c.digits;  // with the sign
            else
                answer = static_cast<int64_t>(std::to_string(largest_label(c.task, box())).size());
            const int64_t city = entity ? 2 : 7;  // with the separator behind it
            widest = std::max(widest, c.format.prefix_length + city * c.max_cities + 1 + answer + 1);
        }
        return widest;
    }

    int64_t cities_width() const {
        int64_t widest = 0;
        for (const Component& c : components) widest = std::max<int64_t>(widest, c.max_cities);
        return widest;
    }

private:
    Vector box() const {  // width and height of the world
        Point low{0, 0}, high{0, 0};
        if (!xy.empty()) low = high = xy[0];
        for (const Point p : xy) {
            low = {std::min(low.x, p.x), std::min(low.y, p.y)};
            high = {std::max(high.x, p.x), std::max(high.y, p.y)};
        }
        return high - low;
    }
};

// A stream's copy on the current CUDA device.
class DeviceStream;
struct DeviceStreamDeleter {
    void operator()(DeviceStream*) const;
};
using DeviceStreamPtr = std::unique_ptr<DeviceStream, DeviceStreamDeleter>;

// The tiles of the CUDA driver on the CPU, block after block and thread after thread. For tests, where there is no GPU.
template <class Token>
void rectangle_in_tiles(const StreamView& stream, const Start& start, int64_t n, const Rectangle<Token>& out,
                        int64_t* failed);

template <class Token>
void packed_in_tiles(const StreamView& stream, const Start& start, int64_t n, int64_t width, const Packed& out,
                     int64_t* failed);

// From here on generate.cu; or no_cuda.cpp, where there is no nvcc: then uploads and labels throw, and the others are not
// reached.
extern const bool has_cuda;

// Errors of the CUDA runtime are thrown as std::runtime_error. `cuda_stream` is a cudaStream_t; all work is queued on
// it, and only `read_cuda` waits. All pointers are to the device's memory.
DeviceStreamPtr upload(const Stream& stream, int device);

// *failed = -1.
void forget_failures_cuda(int64_t* failed, int device, void* cuda_stream);

// A position without a row is kept in `failed` where it is smaller than what stands there, as unsigned numbers.
template <class Token>
void generate_rectangle_cuda(const DeviceStream& stream, const Start& start, int64_t n, const Rectangle<Token>& out,
                             int64_t* failed, void* cuda_stream);

// `width`: of the stream. Token: as in its rectangle.
template <class Token>
void generate_packed_cuda(const DeviceStream& stream, const Start& start, int64_t n, int64_t width, const Packed& out,
                          int64_t* failed, void* cuda_stream);

// The first bad row goes to `result`, unless it is null.
void label_rows_cuda(const LabelInput& input, int64_t* out, LabelResult* result, int device, void* cuda_stream);
LabelResult read_cuda(const LabelResult* result, int device, void* cuda_stream);

}  // namespace worldfast
