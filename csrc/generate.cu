// The CUDA driver: grid-stride loops over the same row as the CPU driver's, on the caller's stream.
#include <cuda_runtime.h>

#include <stdexcept>

#include "stream.h"

namespace worldfast {

namespace {

void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

constexpr int block = 128;
constexpr unsigned long long none = ~0ull;

int blocks_for(int64_t n) { return static_cast<int>(std::min<int64_t>((n + block - 1) / block, 1 << 20)); }

class DeviceGuard {
public:
    explicit DeviceGuard(int device) {
        check(cudaGetDevice(&before_), "cudaGetDevice");
        check(cudaSetDevice(device), "cudaSetDevice");
    }
    ~DeviceGuard() { cudaSetDevice(before_); }

private:
    int before_ = 0;
};

template <class T> class DeviceBuffer {
public:
    DeviceBuffer() = default;
    DeviceBuffer(const T* host, size_t n) {
        if (n == 0) return;
        check(cudaMalloc(&data_, n * sizeof(T)), "cudaMalloc");
        check(cudaMemcpy(data_, host, n * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
    }
    DeviceBuffer(DeviceBuffer&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
    DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
        std::swap(data_, other.data_);
        return *this;
    }
    ~DeviceBuffer() { cudaFree(data_); }
    T* get() const { return data_; }

private:
    T* data_ = nullptr;
};

// The first row that failed, in device memory: asked for once, after the kernel.
class FirstFailure {
public:
    explicit FirstFailure(cudaStream_t stream) : stream_(stream), position_(&none, 1) {}
    unsigned long long* get() const { return position_.get(); }
    unsigned long long read() const {
        unsigned long long position = none;
        check(cudaMemcpyAsync(&position, position_.get(), sizeof position, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
        check(cudaStreamSynchronize(stream_), "generating rows");
        return position;
    }

private:
    cudaStream_t stream_;
    DeviceBuffer<unsigned long long> position_;
};

template <class Token>
__global__ void rectangle_kernel(StreamView stream, int64_t start, int64_t n, Rectangle<Token> out, unsigned long long* failed) {
    const int64_t stride = int64_t{blockDim.x} * gridDim.x;
    for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += stride) {
        Token tokens[row_capacity + row_slack];
        Sampled sampled;
        if (!sample(stream, start + i, sampled)) {
            atomicMin(failed, static_cast<unsigned long long>(start + i));
            continue;
        }
        const Row& row = sampled.row;
        const Span span = encode(tokens, sampled.component->format, row, stream.words);
        for (int64_t k = 0; k < out.width; ++k) out.tokens[i * out.width + k] = k < span.length ? tokens[k] : Token{pad_token};
        for (int64_t k = 0; k < out.cities_width; ++k) out.cities[i * out.cities_width + k] = row.cities[k];
        out.length[i] = span.length;
        out.answer_start[i] = span.answer_start;
        out.label[i] = row.label;
        out.task[i] = static_cast<uint8_t>(sampled.component->task);
    }
}

__global__ void label_kernel(LabelInput in, int64_t* out, unsigned long long* failed) {
    const int64_t stride = int64_t{blockDim.x} * gridDim.x;
    for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < in.n; i += stride) {
        Point points[max_cities];
        int n;
        if (read_row(in, i, points, n).fault != Fault::none)
            atomicMin(failed, static_cast<unsigned long long>(i));
        else
            out[i] = label(in.task, points, n);
    }
}

// Why a row is bad is asked of one thread, once it is known which.
__global__ void reason_kernel(LabelInput in, int64_t i, RowFault* reason) {
    Point points[max_cities];
    int n;
    *reason = read_row(in, i, points, n);
}

}  // namespace

class DeviceStream {
public:
    DeviceStream(const Stream& stream, int device) : device(device) {
        view = stream.view();
        xy_ = DeviceBuffer<Point>(stream.xy.data(), stream.xy.size());
        words_ = DeviceBuffer<uint64_t>(stream.words.data(), stream.words.size());
        std::vector<Component> components = stream.components;
        for (Component& c : components)
            for (Pool* pool : {&c.pool, &c.group, &c.rest})
                if (pool->index) {
                    pools_.emplace_back(pool->index, static_cast<size_t>(pool->size));
                    pool->index = pools_.back().get();
                }
        components_ = DeviceBuffer<Component>(components.data(), components.size());
        view.xy = xy_.get();
        if (view.words) view.words = words_.get();
        view.components = components_.get();
    }

    const int device;
    StreamView view{};

private:
    DeviceBuffer<Point> xy_;
    DeviceBuffer<uint64_t> words_;
    std::vector<DeviceBuffer<int32_t>> pools_;
    DeviceBuffer<Component> components_;
};

void DeviceStreamDeleter::operator()(DeviceStream* stream) const { delete stream; }

DeviceStreamPtr upload(const Stream& stream, int device) {
    const DeviceGuard guard(device);
    return DeviceStreamPtr(new DeviceStream(stream, device));
}

template <class Token>
int64_t generate_rectangle_cuda(const DeviceStream& stream, int64_t start, int64_t n, const Rectangle<Token>& out,
                                void* cuda_stream) {
    if (n == 0) return -1;
    const DeviceGuard guard(stream.device);
    const auto queue = static_cast<cudaStream_t>(cuda_stream);
    const FirstFailure failed(queue);
    rectangle_kernel<<<blocks_for(n), block, 0, queue>>>(stream.view, start, n, out, failed.get());
    check(cudaGetLastError(), "generating rows");
    const unsigned long long position = failed.read();
    return position == none ? -1 : static_cast<int64_t>(position);
}

template int64_t generate_rectangle_cuda(const DeviceStream&, int64_t, int64_t, const Rectangle<uint8_t>&, void*);
template int64_t generate_rectangle_cuda(const DeviceStream&, int64_t, int64_t, const Rectangle<int32_t>&, void*);

LabelResult label_rows_cuda(const LabelInput& in, int64_t* out, int device, void* cuda_stream) {
    if (in.n == 0) return {};
    const DeviceGuard guard(device);
    const auto queue = static_cast<cudaStream_t>(cuda_stream);
    const FirstFailure failed(queue);
    label_kernel<<<blocks_for(in.n), block, 0, queue>>>(in, out, failed.get());
    check(cudaGetLastError(), "labelling rows");
    const unsigned long long position = failed.read();
    if (position == none) return {};
    const int64_t row = static_cast<int64_t>(position);
    RowFault fault{};
    const DeviceBuffer<RowFault> reason(&fault, 1);
    reason_kernel<<<1, 1, 0, queue>>>(in, row, reason.get());
    check(cudaMemcpyAsync(&fault, reason.get(), sizeof fault, cudaMemcpyDeviceToHost, queue), "cudaMemcpyAsync");
    check(cudaStreamSynchronize(queue), "labelling rows");
    return {row, fault};
}

}  // namespace worldfast
