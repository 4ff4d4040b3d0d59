// The Gram statistics as Python sees them: lists of arrays of M representations on the CPU, results float64.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/array.h"
#include "base/float16.h"
#include "base/parallel.h"
#include "gram/gram.h"

namespace worldfast {
namespace {

using Doubles = py::array_t<double, py::array::c_style>;
using Means = std::vector<Doubles>;

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
            rows.push_back({array.data<char>(), element_of(array), array.shape(0), array.shape(1), array.stride(0),
                            array.stride(1)});
        }
    }
    std::vector<std::unique_ptr<Array>> arrays;
    std::vector<Rows> rows;
};

double* of_width(Doubles& vector, const Rows& rows, const char* name) {
    if (vector.ndim() != 1 || vector.size() != rows.width)
        throw py::value_error(std::string(name) + ": expected one value for each column");
    return vector.mutable_data();
}

std::vector<double> add_columns_of(const py::list& objects, Means origins, Means sums, int threads) {
    const Blocks blocks(objects);
    const size_t models = blocks.rows.size();
    if (origins.size() != models || sums.size() != models)
        throw py::value_error("origins, sums: expected one for each representation");
    std::vector<double*> origin, sum;
    for (size_t a = 0; a < models; ++a) {
        origin.push_back(of_width(origins[a], blocks.rows[a], "origins"));
        sum.push_back(of_width(sums[a], blocks.rows[a], "sums"));
    }
    std::vector<double> largest(models);
    const py::gil_scoped_release nogil;
    parallel_for(static_cast<int64_t>(models), 1, threads, [&](int64_t first, int64_t last) {
        for (size_t a = static_cast<size_t>(first); a < static_cast<size_t>(last); ++a)
            largest[a] = add_columns(blocks.rows[a], origin[a], sum[a]);
    });
    return largest;
}

std::vector<Centring> centrings_of(const Blocks& blocks, Means& means, const std::vector<double>& scales) {
    if (means.size() != blocks.rows.size() || scales.size() != blocks.rows.size())
        throw py::value_error("means, scales: expected one for each representation");
    std::vector<Centring> centrings;
    for (size_t a = 0; a < means.size(); ++a)
        centrings.push_back({of_width(means[a], blocks.rows[a], "means"), scales[a]});
    return centrings;
}

template <class T>
std::unique_ptr<Panel<T>> make_panel(const py::list& objects, Means means, const std::vector<double>& scales,
                                     int threads) {
    const Blocks blocks(objects);
    const std::vector<Centring> centrings = centrings_of(blocks, means, scales);
    const py::gil_scoped_release nogil;
    auto panel = std::make_unique<Panel<T>>();
    panel->fill(blocks.rows, centrings, Along::rows, threads);
    return panel;
}

// Returns the squared norms [M, n] of the rows.
template <class T>
Doubles add_features(FeatureProducts<T>& products, const py::list& objects, Means means,
                     const std::vector<double>& scales, int threads) {
    const Blocks blocks(objects);
    const std::vector<Centring> centrings = centrings_of(blocks, means, scales);
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
