// The owner of everything a stream's rows read: a copy of the world, the pools of cities, the components.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "generate.h"

namespace worldfast {

struct Stream {
    std::vector<Point> xy;
    std::vector<uint64_t> words;
    std::vector<Component> components;          // their pools point into `pools`
    std::vector<std::vector<int32_t>> pools;
    Order order = Order::sequential;
    uint64_t shuffle_key = 0;
    bool entity = false;                        // one token per city

    StreamView view() const {
        int64_t rows = 0;
        for (const Component& c : components) rows += c.rows;
        return {xy.data(), entity ? nullptr : words.data(), components.data(), static_cast<int32_t>(components.size()), order, rows, shuffle_key,
                Permutation(shuffle_key, static_cast<uint64_t>(rows))};
    }

    // Tokens in the longest row there can be, and cities in the widest. Functions of the stream, not of its rows.
    int64_t width() const {
        int64_t widest = 0;
        for (const Component& c : components) {
            int64_t answer = 0;
            if (c.format.choice)
                for (const int64_t n : c.format.answer_length) answer = std::max(answer, n);
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

#ifdef WORLDFAST_CUDA
// Errors of the CUDA runtime are thrown as std::runtime_error. `cuda_stream` is a cudaStream_t.
DeviceStreamPtr upload(const Stream& stream, int device);

template <class Token>
int64_t generate_rectangle_cuda(const DeviceStream& stream, int64_t start, int64_t n, const Rectangle<Token>& out,
                                void* cuda_stream);

LabelResult label_rows_cuda(const LabelInput& input, int64_t* out, int device, void* cuda_stream);
#endif

}  // namespace worldfast
