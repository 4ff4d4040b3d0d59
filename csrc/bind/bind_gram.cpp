// The Gram statistics as Python sees them: lists of arrays of M representations on the CPU, results float64.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/array.h"
#include "base/float16.h"
#include "base/interrupt.h"
#include "base/limits.h"
#include "base/parallel.h"
#include "gram/gram.h"

namespace worldfast {
namespace {

using Doubles = py::array_t<double, py::array::c_style>;
using Objects = std::vector<py::object>;

Element element_of(const Array& array) {
    if (array.holds<Float16>()) return Element::float16;
    if (array.holds<BFloat16>()) return Element::bfloat16;
    if (array.holds<float>()) return Element::float32;
    if (array.holds<double>()) return Element::float64;
    throw py::type_error(array.message("float16, bfloat16, float32 or float64", "dtype " + to_string(array.dtype())));
}

// The same rows of every representation, held for the length of a call.
struct Blocks {
    explicit Blocks(const py::list& objects) {
        for (size_t a = 0; a < objects.size(); ++a) {
            const Array& array = *arrays.emplace_back(std::make_unique<Array>(objects[a], "a representation"));
            array.on_cpu();
            if (array.ndim() != 2 || array.shape(0) != arrays[0]->shape(0))
                throw py::value_error(array.message("shape [n, d], the same n for each", array.shape_string()));
            within("rows", array.shape(0), 0, int64_t{1} << 36);  // so that no product of these overflows
            within("columns", array.shape(1), 0, 1 << 22);
            rows.push_back({array.data<char>(), element_of(array), array.shape(0), array.shape(1), array.stride(0),
                            array.stride(1)});
        }
    }
    std::vector<std::unique_ptr<Array>> arrays;
    std::vector<Rows> rows;
};

// Vectors of float64, one for each representation with a value for each of its columns, held for the length of a call.
struct Vectors {
    Vectors(const Objects& objects, const Blocks& blocks, const char* name) {
        if (objects.size() != blocks.rows.size())
            throw py::value_error(std::string(name) + ": expected one for each representation");
        for (size_t a = 0; a < objects.size(); ++a) {
            const Array& array = *arrays.emplace_back(std::make_unique<Array>(objects[a], name));
            data.push_back(input<double>(array, {blocks.rows[a].width}));
        }
    }
    std::vector<std::unique_ptr<Array>> arrays;
    std::vector<double*> data;
};

std::vector<double> add_columns_of(const py::list& objects, const Objects& origins_, const Objects& sums_,
                                   int threads) {
    const Blocks blocks(objects);
    const Vectors origins(origins_, blocks, "origins"), sums(sums_, blocks, "sums");
    const size_t models = blocks.rows.size();
    for (size_t a = 0; a < models; ++a) {
        const Array& sum = sums.arrays[a]->writable();
        for (size_t b = 0; b < models; ++b) {
            apart({&sum}, {blocks.arrays[b].get(), origins.arrays[b].get()});
            if (a != b) sum.apart_from(*sums.arrays[b]);
        }
    }
    constexpr int64_t at_once = 1 << 18;  // rows
    std::vector<double> largest(models);
    Interruption interruption;
    const py::gil_scoped_release nogil;
    const auto range = [&](int64_t first, int64_t last) {
        for (size_t a = static_cast<size_t>(first); a < static_cast<size_t>(last); ++a)
            for (int64_t row = 0; row < blocks.rows[a].rows; row += at_once) {
                if (interruption.end(first == 0)) return;
                const int64_t count = std::min(at_once, blocks.rows[a].rows - row);
                const double found = add_columns(blocks.rows[a].from(row, count), origins.data[a], sums.data[a]);
                if (found > largest[a] || found != found) largest[a] = found;
            }
    };
    parallel_for(static_cast<int64_t>(models), 1, threads, range, &interruption);
    return largest;
}

std::vector<Centring> centrings_of(const Vectors& means, const std::vector<double>& scales) {
    if (scales.size() != means.data.size()) throw py::value_error("scales: expected one for each representation");
    std::vector<Centring> centrings;
    for (size_t a = 0; a < scales.size(); ++a) centrings.push_back({means.data[a], scales[a]});
    return centrings;
}

template <class T>
std::unique_ptr<Panel<T>> make_panel(const py::list& objects, const Objects& means_, const std::vector<double>& scales,
                                     int threads) {
    const Blocks blocks(objects);
    const Vectors means(means_, blocks, "means");
    const std::vector<Centring> centrings = centrings_of(means, scales);
    const py::gil_scoped_release nogil;
    auto panel = std::make_unique<Panel<T>>();
    panel->fill(blocks.rows, centrings, Along::rows, threads);
    return panel;
}

// Returns the squared norms [M, n] of the rows.
template <class T>
Doubles add_features(FeatureProducts<T>& products, const py::list& objects, const Objects& means_,
                     const std::vector<double>& scales, int threads) {
    const Blocks blocks(objects);
    const Vectors means(means_, blocks, "means");
    const std::vector<Centring> centrings = centrings_of(means, scales);
    const int64_t n = blocks.rows.empty() ? 0 : blocks.rows[0].rows;
    Doubles squared_norms({static_cast<int64_t>(blocks.rows.size()), n});
    double* norms = squared_norms.mutable_data();
    const py::gil_scoped_release nogil;
    products.add(blocks.rows, centrings, norms, n, threads);
    return squared_norms;
}

template <class T>
void bind(py::module_& m, const std::string& suffix) {
    py::class_<Panel<T>>(m, ("Panel" + suffix).c_str())
        .def(py::init(&make_panel<T>), py::arg("arrays"), py::arg("means"), py::arg("scales"), py::arg("threads"))
        .def_property_readonly("squared_norms", [](const Panel<T>& panel) {  // [M, n]
            return Doubles({panel.models(), panel.rows()}, panel.squared_norms(0));
        });
    py::class_<GramOfGrams<T>>(m, ("GramOfGrams" + suffix).c_str())
        .def(py::init([](int64_t models, int64_t n, bool linear, const std::optional<std::vector<double>>& gamma,
                         const std::vector<double>& level) {
                 if (gamma && (static_cast<int64_t>(gamma->size()) != models || level.size() != gamma->size()))
                     throw py::value_error("gamma, level: expected one for each representation");
                 return std::make_unique<GramOfGrams<T>>(models, n, linear, gamma ? gamma->data() : nullptr,
                                                         level.data());
             }),
             py::arg("models"), py::arg("n"), py::arg("linear"), py::arg("gamma"), py::arg("level"))
        .def("add", &GramOfGrams<T>::add, py::arg("p"), py::arg("p_start"), py::arg("q"), py::arg("q_start"),
             py::arg("threads"), py::call_guard<py::gil_scoped_release>())
        .def("linear",
             [](const GramOfGrams<T>& gram) {
                 Doubles products({gram.models(), gram.models()});
                 gram.linear(products.mutable_data());
                 return products;
             })
        .def("rbf", [](const GramOfGrams<T>& gram) {
            Doubles products({gram.models(), gram.models()}), row_sums({gram.models(), gram.rows()});
            gram.rbf(products.mutable_data(), row_sums.mutable_data());
            return py::make_tuple(products, row_sums);
        });
    py::class_<FeatureProducts<T>>(m, ("FeatureProducts" + suffix).c_str())
        .def(py::init<const std::vector<int64_t>&>(), py::arg("widths"))
        .def("add", &add_features<T>, py::arg("arrays"), py::arg("means"), py::arg("scales"), py::arg("threads"))
        .def("linear", [](const FeatureProducts<T>& products) {
            Doubles out({products.models(), products.models()});
            products.linear(out.mutable_data());
            return out;
        });
    m.def("median_distances", &median_distances<T>, py::arg("panel"), py::arg("threads"),
          py::call_guard<py::gil_scoped_release>());
}

}  // namespace

void bind_gram(py::module_& m) {
    m.def("add_columns", &add_columns_of, py::arg("arrays"), py::arg("origins"), py::arg("sums"), py::arg("threads"));
    bind<float>(m, "32");
    bind<double>(m, "64");
}

}  // namespace worldfast
