// The CUDA driver: a block makes a tile of rows (tile.h), on the caller's stream. Nothing waits for the device, and no
// memory is allocated but a stream's own copy, so that a CUDA graph can hold all of it.
#include <cuda_runtime.h>

#include <stdexcept>

#include "rows/stream.h"

namespace worldfast {

namespace {

void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

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

template <class T>
class DeviceBuffer {
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

template <int phase = 0, class Work>
__device__ __forceinline__ void run_phases(const Work& work) {
    if constexpr (phase > 0) __syncthreads();
    work.template run<phase>(static_cast<int>(threadIdx.x));
    if constexpr (phase + 1 < Work::phases) run_phases<phase + 1>(work);
}

template <class Token, bool noisy>
__global__ void __launch_bounds__(tile_rows) rectangle_kernel(const RectangleJob<Token> job) {
    extern __shared__ __align__(16) char shared[];
    Tile& tile = *reinterpret_cast<Tile*>(shared);
    run_phases(RectangleWork<Token, noisy>{job, blockIdx.x, tile, reinterpret_cast<Token*>(shared + sizeof(Tile))});
}

template <class Token>
__global__ void __launch_bounds__(tile_rows) place_tiles_kernel(const PackJob<Token> job) {
    __shared__ Scan scan;
    run_phases(PlaceTilesWork<Token>{job, scan});
}

template <class Token>
__global__ void __launch_bounds__(tile_rows) pack_kernel(const PackJob<Token> job) {
    __shared__ Scan scan;
    run_phases(PackWork<Token>{job, blockIdx.x, scan});
}

unsigned blocks_for(int64_t n) {
    if (tiles_of(n) > 0x7FFFFFFF) throw std::runtime_error("too many rows for one launch");
    return static_cast<unsigned>(tiles_of(n));
}

template <class Token>
void launch(const RectangleJob<Token>& job, cudaStream_t queue) {
    if (job.n == 0) return;
    const int bytes = static_cast<int>(tile_bytes<Token>(job.out.width));
    const auto kernel = job.stream.noisy ? rectangle_kernel<Token, true> : rectangle_kernel<Token, false>;
    if (bytes > 48 * 1024)  // what a block gets unasked
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              "shared memory for rows");
    kernel<<<blocks_for(job.n), tile_rows, static_cast<size_t>(bytes), queue>>>(job);
    check(cudaGetLastError(), "generating rows");
}

template <class Token>
void launch(const PackJob<Token>& job, cudaStream_t queue) {
    place_tiles_kernel<Token><<<1, tile_rows, 0, queue>>>(job);
    check(cudaGetLastError(), "placing packed rows");
    pack_kernel<Token><<<std::max(blocks_for(job.n), 1u), tile_rows, 0, queue>>>(job);
    check(cudaGetLastError(), "packing rows");
}

constexpr int label_block = 128;

__global__ void __launch_bounds__(label_block) label_kernel(LabelInput in, int64_t* out, int64_t* failed) {
    const int64_t i = int64_t{blockIdx.x} * label_block + threadIdx.x;
    if (i >= in.n) return;
    Point points[max_cities];
    int n = 0;
    const bool bad = read_row(in, i, points, n).fault != Fault::none;
    if (bad && failed) keep_first(failed, i);
    out[i] = bad ? -1 : label(in.task, points, n);
}

// Why the first bad row is bad is asked by one thread, once it is known which it is.
__global__ void fault_kernel(LabelInput in, LabelResult* result) {
    if (result->row < 0) return;
    Point points[max_cities];
    int n;
    result->fault = read_row(in, result->row, points, n);
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
        check(cudaDeviceSynchronize(),
              "copying a stream's world");  // its readers are on streams that wait for no other
    }

    const int device;
    StreamView view{};

private:
    DeviceBuffer<Point> xy_;
    DeviceBuffer<uint64_t> words_;
    std::vector<DeviceBuffer<int32_t>> pools_;
    DeviceBuffer<Component> components_;
};

const bool has_cuda = true;

void DeviceStreamDeleter::operator()(DeviceStream* stream) const { delete stream; }

DeviceStreamPtr upload(const Stream& stream, int device) {
    const DeviceGuard guard(device);
    return DeviceStreamPtr(new DeviceStream(stream, device));
}

void forget_failures_cuda(int64_t* failed, int device, void* cuda_stream) {
    const DeviceGuard guard(device);
    check(cudaMemsetAsync(failed, 0xFF, sizeof *failed, static_cast<cudaStream_t>(cuda_stream)), "cudaMemsetAsync");
}

template <class Token>
void generate_rectangle_cuda(const DeviceStream& stream, const Start& start, int64_t n, const Rectangle<Token>& out,
                             int64_t* failed, void* cuda_stream) {
    const DeviceGuard guard(stream.device);
    launch(RectangleJob<Token>{stream.view, start, n, out, nullptr, failed}, static_cast<cudaStream_t>(cuda_stream));
}

template <class Token>
void generate_packed_cuda(const DeviceStream& stream, const Start& start, int64_t n, int64_t width, const Packed& out,
                          int64_t* failed, void* cuda_stream) {
    const DeviceGuard guard(stream.device);
    const PackedJobs<Token> jobs(stream.view, start, n, width, out, failed);
    launch(jobs.rectangle, static_cast<cudaStream_t>(cuda_stream));
    launch(jobs.pack, static_cast<cudaStream_t>(cuda_stream));
}

template void generate_rectangle_cuda(const DeviceStream&, const Start&, int64_t, const Rectangle<uint8_t>&, int64_t*,
                                      void*);
template void generate_rectangle_cuda(const DeviceStream&, const Start&, int64_t, const Rectangle<int32_t>&, int64_t*,
                                      void*);
template void generate_packed_cuda<uint8_t>(const DeviceStream&, const Start&, int64_t, int64_t, const Packed&,
                                            int64_t*, void*);
template void generate_packed_cuda<int32_t>(const DeviceStream&, const Start&, int64_t, int64_t, const Packed&,
                                            int64_t*, void*);

void label_rows_cuda(const LabelInput& in, int64_t* out, LabelResult* result, int device, void* cuda_stream) {
    const DeviceGuard guard(device);
    const auto queue = static_cast<cudaStream_t>(cuda_stream);
    const int64_t blocks = (in.n + label_block - 1) / label_block;
    if (blocks > 0x7FFFFFFF) throw std::runtime_error("too many rows for one launch");
    if (result) check(cudaMemsetAsync(result, 0xFF, sizeof *result, queue), "cudaMemsetAsync");
    int64_t* const failed = result ? &result->row : nullptr;
    if (in.n > 0) label_kernel<<<static_cast<unsigned>(blocks), label_block, 0, queue>>>(in, out, failed);
    if (result) fault_kernel<<<1, 1, 0, queue>>>(in, result);
    check(cudaGetLastError(), "labelling rows");
}

LabelResult read_cuda(const LabelResult* result, int device, void* cuda_stream) {
    const DeviceGuard guard(device);
    const auto queue = static_cast<cudaStream_t>(cuda_stream);
    LabelResult here;
    check(cudaMemcpyAsync(&here, result, sizeof here, cudaMemcpyDeviceToHost, queue), "cudaMemcpyAsync");
    check(cudaStreamSynchronize(queue), "labelling rows");
    return here;
}

}  // namespace worldfast
