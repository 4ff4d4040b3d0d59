// The part of the DLPack ABI (version 1, https://dmlc.github.io/dlpack) by which arrays of numpy, torch and cupy come in.
#pragma once

#include <cstdint>

namespace dlpack {

enum DeviceType : int32_t { kCPU = 1, kCUDA = 2, kCUDAHost = 3, kCUDAManaged = 13 };
enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kComplex = 5, kBool = 6 };
constexpr uint64_t kReadOnly = 1;  // bit of ManagedTensorVersioned::flags

struct Device {
    DeviceType type;
    int32_t id;
};

struct DataType {
    uint8_t code;
    uint8_t bits;
    uint16_t lanes;
};

struct Tensor {
    void* data;
    Device device;
    int32_t ndim;
    DataType dtype;
    int64_t* shape;
    int64_t* strides;  // in elements; null where the array is contiguous
    uint64_t byte_offset;
};

struct ManagedTensor {  // a capsule named "dltensor"
    Tensor tensor;
    void* manager;
    void (*deleter)(ManagedTensor*);
};

struct Version {
    uint32_t major, minor;
};

struct ManagedTensorVersioned {  // a capsule named "dltensor_versioned"
    Version version;
    void* manager;
    void (*deleter)(ManagedTensorVersioned*);
    uint64_t flags;
    Tensor tensor;
};

}  // namespace dlpack
