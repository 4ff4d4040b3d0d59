// In place of generate.cu where there is no nvcc, so that the bindings are the same with and without.
#include <stdexcept>

#include "rows/stream.h"

namespace worldfast {
namespace {

[[noreturn]] void refuse() {
    throw std::runtime_error("worldfast was built without CUDA: reinstall it where nvcc is found (WORLDFAST_CUDA=ON)");
}

}  // namespace

const bool has_cuda = false;

void DeviceStreamDeleter::operator()(DeviceStream*) const {}

DeviceStreamPtr upload(const Stream&, int) { refuse(); }

void forget_failures_cuda(int64_t*, int, void*) { refuse(); }

template <class Token>
void generate_rectangle_cuda(const DeviceStream&, const Start&, int64_t, const Rectangle<Token>&, int64_t*, void*) {
    refuse();
}

template <class Token>
void generate_packed_cuda(const DeviceStream&, const Start&, int64_t, int64_t, const Packed&, int64_t*, void*) {
    refuse();
}

template void generate_rectangle_cuda(const DeviceStream&, const Start&, int64_t, const Rectangle<uint8_t>&, int64_t*,
                                      void*);
template void generate_rectangle_cuda(const DeviceStream&, const Start&, int64_t, const Rectangle<int32_t>&, int64_t*,
                                      void*);
template void generate_packed_cuda<uint8_t>(const DeviceStream&, const Start&, int64_t, int64_t, const Packed&,
                                            int64_t*, void*);
template void generate_packed_cuda<int32_t>(const DeviceStream&, const Start&, int64_t, int64_t, const Packed&,
                                            int64_t*, void*);

void label_rows_cuda(const LabelInput&, int64_t*, LabelResult*, int, void*) { refuse(); }

LabelResult read_cuda(const LabelResult*, int, void*) { refuse(); }

}  // namespace worldfast
