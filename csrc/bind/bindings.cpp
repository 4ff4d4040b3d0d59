// The Python module. What comes in is checked in the files beside this one, a file a room; no arithmetic stands here.
#include "base/array.h"
#include "base/interrupt.h"
#include "rows/stream.h"

namespace worldfast {

void bind_attention(py::module_& m);
void bind_gram(py::module_& m);
void bind_label(py::module_& m);
void bind_layers(py::module_& m);
void bind_recurrent(py::module_& m);
void bind_stream(py::module_& m);
void bind_transformer(py::module_& m);
void bind_trials(py::module_& m);
void bind_walks(py::module_& m);

const char* sources_digest();  // made by csrc/sources.cmake

namespace {

// Long loops of the core run without the GIL: now and then they ask here whether Ctrl-C was pressed.
void ask_python() {
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

}  // namespace

PYBIND11_MODULE(_core, m) {
    m.doc() = "worldfast's native core. Its users are the modules of the package, not scripts.";
    m.attr("cuda") = has_cuda;
    m.attr("sources") = sources_digest();
    interruption() = &ask_python;
    // A field of a dict that is of another type, as an argument that is.
    py::register_local_exception_translator([](std::exception_ptr thrown) {
        try {
            if (thrown) std::rethrow_exception(thrown);
        } catch (const py::cast_error& error) {
            py::set_error(PyExc_TypeError, error.what());
        }
    });
    bind_attention(m);
    bind_gram(m);
    bind_label(m);
    bind_layers(m);
    bind_recurrent(m);
    bind_stream(m);
    bind_transformer(m);
    bind_trials(m);
    bind_walks(m);
}

}  // namespace worldfast
