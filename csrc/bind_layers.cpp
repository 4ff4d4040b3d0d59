#include <pybind11/pybind11.h>

namespace worldfast {

void bind_layers(pybind11::module_&) {}

}  // namespace worldfast
