// A borrowed array and its checks.
//
// Array holds one numpy, torch or cupy array for the length of a call. It comes in by DLPack; the capsule keeps the
// memory alive, and since nobody renames it ("used_dltensor"), its own destructor frees it. Every error names the
// argument, what came, and what was expected.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "base/dlpack.h"
#include "base/float16.h"

namespace worldfast {

namespace py = pybind11;

template <class T>
struct dtype_of;
template <>
struct dtype_of<uint8_t> {
    static constexpr dlpack::DataType value{dlpack::kUInt, 8, 1};
};
template <>
struct dtype_of<int32_t> {
    static constexpr dlpack::DataType value{dlpack::kInt, 32, 1};
};
template <>
struct dtype_of<int64_t> {
    static constexpr dlpack::DataType value{dlpack::kInt, 64, 1};
};
template <>
struct dtype_of<float> {
    static constexpr dlpack::DataType value{dlpack::kFloat, 32, 1};
};
template <>
struct dtype_of<BFloat16> {
    static constexpr dlpack::DataType value{dlpack::kBfloat, 16, 1};
};
template <>
struct dtype_of<Float16> {
    static constexpr dlpack::DataType value{dlpack::kFloat, 16, 1};
};
template <>
struct dtype_of<double> {
    static constexpr dlpack::DataType value{dlpack::kFloat, 64, 1};
};

inline std::string to_string(dlpack::DataType t) {
    static const char* names[] = {"int", "uint", "float", "handle", "bfloat", "complex", "bool"};
    const std::string name = t.code <= 6 ? names[t.code] : "type" + std::to_string(t.code) + "_";
    return t.code == dlpack::kBool ? name : name + std::to_string(t.bits);
}

inline std::string to_string(dlpack::Device d) {
    if (d.type == dlpack::kCPU || d.type == dlpack::kCUDAHost) return "cpu";
    if (d.type == dlpack::kCUDA || d.type == dlpack::kCUDAManaged) return "cuda:" + std::to_string(d.id);
    return "device type " + std::to_string(d.type);
}

class Array {
public:
    // A dimension that may have any size. No size that is computed, and may have come out negative, is this.
    static constexpr int64_t any = std::numeric_limits<int64_t>::min();

    // object: anything with __dlpack__. name: the argument's name in the caller's words.
    Array(const py::handle& object, const char* name) : name_(name) {
        if (!py::hasattr(object, "__dlpack__"))
            throw py::type_error(message("an array (numpy, torch or cupy)", "a " + type_name(object)));
        try {
            const py::object export_ = object.attr("__dlpack__");
            py::dict arguments;
            // All work is queued on the producer's own current stream, so no other has to wait for it.
            if (is_cuda(py::tuple(object.attr("__dlpack_device__")())[0].cast<int>())) arguments["stream"] = -1;
            try {
                capsule_ = export_(py::arg("max_version") = py::make_tuple(1, 1), **arguments);
            } catch (py::error_already_set& e) {  // a producer older than DLPack 1 does not know the argument
                if (!e.matches(PyExc_TypeError)) throw;
                capsule_ = export_(**arguments);
            }
        } catch (py::error_already_set& e) {
            throw py::type_error(message("an array that can be shared", std::string("one that refuses: ") + e.what()));
        }
        PyObject* c = capsule_.ptr();
        if (PyCapsule_IsValid(c, "dltensor_versioned")) {
            auto* managed = static_cast<dlpack::ManagedTensorVersioned*>(PyCapsule_GetPointer(c, "dltensor_versioned"));
            if (managed->version.major != 1)
                throw py::type_error(message("DLPack version 1", "version " + std::to_string(managed->version.major)));
            tensor_ = &managed->tensor;
            read_only_ = managed->flags & dlpack::kReadOnly;
        } else if (PyCapsule_IsValid(c, "dltensor")) {
            tensor_ = &static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(c, "dltensor"))->tensor;
        } else {
            throw py::type_error(message("a DLPack capsule", "a " + type_name(capsule_)));
        }
        if (size() == 0) return;
        if (tensor_->data == nullptr) throw py::value_error(message("memory", "an array without any"));
        const uintptr_t width = std::min(8, std::max(1, tensor_->dtype.bits * tensor_->dtype.lanes / 8));
        if (!is_cuda() && reinterpret_cast<uintptr_t>(data<char>()) % width)
            throw py::value_error(
                message("memory that begins at a multiple of " + std::to_string(width) + " bytes", "another address"));
    }

    template <class T>
    bool holds() const {
        const dlpack::DataType want = dtype_of<T>::value, got = tensor_->dtype;
        return got.code == want.code && got.bits == want.bits && got.lanes == want.lanes;
    }

    // Asks for element type T, a shape (Array::any matches each size) and the device of *this or `like`.
    template <class T>
    const Array& require(std::initializer_list<int64_t> shape) const {
        if (!holds<T>())
            throw py::type_error(
                message("dtype " + to_string(dtype_of<T>::value), "dtype " + to_string(tensor_->dtype)));
        bool fits = tensor_->ndim == static_cast<int32_t>(shape.size());
        std::ostringstream expected;
        expected << "shape [";
        int axis = 0;
        for (const int64_t n : shape) {
            expected << (axis ? ", " : "") << (n == any ? std::string("any") : std::to_string(n));
            fits = fits && (n == any || n == tensor_->shape[axis]);
            ++axis;
        }
        expected << "]";
        if (!fits) throw py::value_error(message(expected.str(), "shape " + shape_string()));
        return *this;
    }

    const Array& on_cpu() const {
        const auto type = tensor_->device.type;
        if (type != dlpack::kCPU && type != dlpack::kCUDAHost)
            throw py::value_error(message("device cpu", "device " + to_string(tensor_->device)));
        return *this;
    }

    const Array& on_device_of(const Array& other) const {
        const bool same =
            is_cuda() == other.is_cuda() && (!is_cuda() || tensor_->device.id == other.tensor_->device.id);
        if (!same)
            throw py::value_error(message("the device of " + other.name_ + ", " + to_string(other.tensor_->device),
                                          "device " + to_string(tensor_->device)));
        return *this;
    }

    const Array& contiguous() const {
        if (size() == 0) return *this;
        int64_t expected = 1;
        for (int axis = ndim() - 1; axis >= 0; --axis) {
            if (shape(axis) != 1 && stride(axis) != expected)
                throw py::value_error(message("a contiguous array", "shape " + shape_string() + " with gaps"));
            expected *= shape(axis);
        }
        return *this;
    }

    const Array& unit_last_stride() const {
        if (size() > 0 && shape(ndim() - 1) > 1 && stride(ndim() - 1) != 1)
            throw py::value_error(
                message("unit stride on the last axis", "stride " + std::to_string(stride(ndim() - 1))));
        return *this;
    }

    const Array& writable() const {
        if (read_only_) throw py::value_error(message("a writable array", "a read-only one"));
        if (size() > 0 && !nested(layout()))
            throw py::value_error(message("each element in memory of its own", "elements that share memory"));
        return *this;
    }

    // Refuses what is written here and read, or written, there. Slices of one array may lie between one another.
    const Array& apart_from(const Array& other) const {
        if (overlaps(other))
            throw py::value_error(message("memory apart from that of " + other.name_, "memory that they share"));
        return *this;
    }

    template <class T>
    T* data() const {
        return reinterpret_cast<T*>(static_cast<char*>(tensor_->data) + tensor_->byte_offset);
    }

    int ndim() const { return tensor_->ndim; }
    int64_t shape(int axis) const { return tensor_->shape[there(axis)]; }
    dlpack::DataType dtype() const { return tensor_->dtype; }
    int device_id() const { return tensor_->device.id; }
    bool is_cuda() const { return is_cuda(tensor_->device.type); }

    int64_t stride(int axis) const {  // in elements
        if (tensor_->strides) return tensor_->strides[there(axis)];
        int64_t s = 1;
        for (int i = ndim() - 1; i > axis; --i) s *= shape(i);
        return s;
    }

    int64_t size() const {
        int64_t n = 1;
        for (int axis = 0; axis < ndim(); ++axis)
            if (shape(axis) == 0) return 0;
        for (int axis = 0; axis < ndim(); ++axis)
            if (__builtin_mul_overflow(n, shape(axis), &n))
                throw py::value_error(message("fewer than 2^63 elements", "shape " + shape_string()));
        return n;
    }

    std::string message(const std::string& expected, const std::string& came) const {
        return name_ + ": expected " + expected + ", got " + came;
    }

    std::string shape_string() const {
        std::string s = "[";
        for (int axis = 0; axis < ndim(); ++axis) s += (axis ? ", " : "") + std::to_string(shape(axis));
        return s + "]";
    }

private:
    struct Axis {
        int64_t stride, count;  // stride: of bytes, not negative
        bool operator<(const Axis& other) const { return stride < other.stride; }
        bool operator==(const Axis& other) const { return stride == other.stride; }
    };

    // The axes along which there is more than one element, the narrowest stride first.
    std::vector<Axis> layout() const {
        std::vector<Axis> axes{{1, tensor_->dtype.bits * tensor_->dtype.lanes / 8}};
        for (int axis = 0; axis < ndim(); ++axis)
            if (shape(axis) > 1) axes.push_back({std::abs(stride(axis)) * axes[0].count, shape(axis)});
        std::sort(axes.begin() + 1, axes.end());
        return axes;
    }

    // Does each axis step over all that lies along those before it?
    static bool nested(const std::vector<Axis>& axes) {
        int64_t span = 0;
        for (const Axis& axis : axes) {
            if (axis.stride < span) return false;
            span = axis.stride * (axis.count - 1) + std::max<int64_t>(span, 1);
        }
        return true;
    }

    // The first byte and the one after the last.
    std::pair<intptr_t, intptr_t> bytes() const {
        intptr_t first = reinterpret_cast<intptr_t>(data<char>()), last = first;
        const int64_t width = tensor_->dtype.bits * tensor_->dtype.lanes / 8;
        for (int axis = 0; axis < ndim(); ++axis)
            (stride(axis) < 0 ? first : last) += stride(axis) * (shape(axis) - 1) * width;
        return {first, last + width};
    }

    bool overlaps(const Array& other) const {
        if (size() == 0 || other.size() == 0 || is_cuda() != other.is_cuda()) return false;
        const auto [begin, end] = bytes();
        const auto [other_begin, other_end] = other.bytes();
        if (end <= other_begin || other_end <= begin) return false;
        const std::vector<Axis> axes = layout(), others = other.layout();
        return !(axes == others) || !nested(axes) || !nested(others) ||
               meet(axes, others, axes.size() - 1, std::abs(begin - other_begin));
    }

    // Do slices with the same strides meet, `way` bytes apart? What is left of the way, stride after stride, tells.
    static bool meet(const std::vector<Axis>& axes, const std::vector<Axis>& others, size_t i, int64_t way) {
        if (i == 0) return way < axes[0].count;
        int64_t span = 1;  // of what lies along the axes within this one, in either
        for (size_t k = 0; k < i; ++k) span += axes[k].stride * (std::max(axes[k].count, others[k].count) - 1);
        const int64_t after = way % axes[i].stride, before = axes[i].stride - after;
        return (after < span && meet(axes, others, i - 1, after)) ||
               (before < span && meet(axes, others, i - 1, before));
    }

    int there(int axis) const {
        if (axis >= ndim())
            throw py::value_error(message("at least " + std::to_string(axis + 1) + " dimensions", shape_string()));
        return axis;
    }

    static bool is_cuda(int device_type) { return device_type == dlpack::kCUDA || device_type == dlpack::kCUDAManaged; }

    static std::string type_name(const py::handle& object) {
        return py::str(py::type::handle_of(object).attr("__name__")).cast<std::string>();
    }

    std::string name_;
    py::object capsule_;
    const dlpack::Tensor* tensor_ = nullptr;
    bool read_only_ = false;
};

// A contiguous array on the CPU that is read, or written.
template <class T = float>
T* input(const Array& array, std::initializer_list<int64_t> shape) {
    return array.require<T>(shape).contiguous().on_cpu().template data<T>();
}
template <class T = float>
T* output(const Array& array, std::initializer_list<int64_t> shape) {
    array.writable();
    return input<T>(array, shape);
}

// Refuses written arrays that share memory with each other or with those that are read.
inline void apart(std::initializer_list<const Array*> written, std::initializer_list<const Array*> read) {
    for (auto one = written.begin(); one != written.end(); ++one) {
        for (auto other = one + 1; other != written.end(); ++other) (*one)->apart_from(**other);
        for (const Array* other : read) (*one)->apart_from(*other);
    }
}

}  // namespace worldfast
