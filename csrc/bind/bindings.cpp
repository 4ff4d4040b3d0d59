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

const char* sources_digests();  // made by csrc/sources.cmake

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
    py::dict sources;  // room -> digest of what its numbers come from
    const py::list words = py::str(sources_digests()).attr("split")();
    for (size_t i = 0; i < words.size(); i += 2) sources[words[i]] = words[i + 1];
    m.attr("sources") = sources;
    interruption() = &ask_python;
    // A field of a dict that is of another type, as an argument that is.
    py::register_local_exception_translator([](std::exception_ptr thrown) {
        try {
            if (thrown) std::rethrow_exception(thrown);
        } catch (const py::cast_error& error) {
            py::set_error(PyExc_TypeError, error.what());
        }
    });
    py::dict rooms;  // name -> room that computes what it gives
    const py::dict names = m.attr("__dict__");
    const auto bind = [&](void (*add_to)(py::module_&), const char* room) {
        const py::set before(names);
        add_to(m);
        for (const auto& name : py::list(names))
            if (!before.contains(name)) rooms[name] = room;
    };
    bind(bind_attention, "transformer");
    bind(bind_gram, "gram");
    bind(bind_label, "rows");
    bind(bind_layers, "transformer");
    bind(bind_recurrent, "recurrent");
    bind(bind_stream, "rows");
    bind(bind_transformer, "transformer");
    bind(bind_trials, "rows");
    bind(bind_walks, "rows");
    m.attr("rooms") = rooms;
}

}  // namespace worldfast
