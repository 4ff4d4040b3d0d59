// Labels in bulk, and the table of tasks, as Python sees them.
#include <optional>

#include "bind/given_task.h"
#include "rows/stream.h"

namespace worldfast {
namespace {

py::list task_table() {
    py::list table;
    for (const Task& task : tasks) {
        py::list answers;
        for (int i = 0; i < 8 && task.answers[i]; ++i) answers.append(task.answers[i]);
        py::dict row;
        row["name"] = task.name;
        row["prompt"] = task.prompt;
        row["min_cities"] = task.min_cities;
        row["max_cities"] = task.max_cities;
        row["semicolon"] = task.semicolon;
        row["unique_pairs"] = task.unique_pairs;
        row["balanced"] = task.balanced;
        row["failure"] = task.failure;
        row["unit"] = task.unit;
        row["answers"] = py::tuple(answers);
        table.append(row);
    }
    return table;
}

void label_rows_or_throw(const py::object& task_object, const py::object& xy_object, const py::object& cities_object,
                         const py::object& count_object, const py::object& out_object, const py::object& result_object,
                         int threads, uintptr_t cuda_stream) {
    const Array xy(xy_object, "xy"), out(out_object, "out");
    std::optional<Array> first_bad;
    std::optional<Array> cities, count;
    LabelInput in{};
    std::optional<GivenTask> given;
    if (py::isinstance<py::dict>(task_object)) given.emplace(task_object.cast<py::dict>());
    in.task =
        given ? task_count : static_cast<int>(within("task", task_object.cast<int64_t>(), 0, int64_t{task_count} - 1));
    const std::string name = given ? given->name : tasks[in.task].name;
    in.min_cities = given ? given->component.min_cities : tasks[in.task].min_cities;
    in.max_cities = given ? given->component.max_cities : tasks[in.task].max_cities;
    in.xy = xy.data<int32_t>();
    if (!cities_object.is_none()) {
        xy.require<int32_t>({Array::any, 2});
        cities.emplace(cities_object, "cities");
        cities->require<int32_t>({Array::any, Array::any}).on_device_of(xy);
        in.n = cities->shape(0);
        in.width = cities->shape(1);
        in.cities = cities->data<int32_t>();
        in.cities_stride[0] = cities->stride(0);
        in.cities_stride[1] = cities->stride(1);
        in.world_size = xy.shape(0);
        in.xy_stride[0] = xy.stride(0);
        in.xy_stride[2] = xy.stride(1);
    } else {
        xy.require<int32_t>({Array::any, Array::any, 2});
        in.n = xy.shape(0);
        in.width = xy.shape(1);
        for (int axis = 0; axis < 3; ++axis) in.xy_stride[axis] = xy.stride(axis);
        if (!count_object.is_none()) {
            count.emplace(count_object, "count");
            count->require<int32_t>({in.n}).on_device_of(xy);
            in.count = count->data<int32_t>();
            in.count_stride = count->stride(0);
        }
    }
    out.require<int64_t>({in.n}).on_device_of(xy).contiguous().writable();
    if (!result_object.is_none()) {
        first_bad.emplace(result_object, "result");
        first_bad->require<int64_t>({sizeof(LabelResult) / sizeof(int64_t)}).on_device_of(xy).contiguous().writable();
    }
    for (const auto* other : {&cities, &count})
        if (*other) apart({&out}, {&xy, &**other});
    first_bad ? apart({&out, &*first_bad}, {&xy}) : apart({&out}, {&xy});
    LabelResult result;
    if (given) xy.on_cpu();
    {
        py::gil_scoped_release nogil;
        if (given) {
            const Rule rule = [&](const Component&, const Point* points, int64_t n, int count, int64_t* labels) {
                (*given)(points, n, count, labels);
            };
            result = label_given(in, given->component, out.data<int64_t>(), rule);
        } else if (xy.is_cuda()) {
            const auto there = first_bad ? first_bad->data<LabelResult>() : nullptr;
            const auto queue = reinterpret_cast<void*>(cuda_stream);
            label_rows_cuda(in, out.data<int64_t>(), there, xy.device_id(), queue);
            if (there) result = read_cuda(there, xy.device_id(), queue);
        } else {
            result = label_rows(in, out.data<int64_t>(), threads);
        }
    }
    if (result.row < 0 || !first_bad) return;
    const std::string row = " in row " + std::to_string(result.row), value = std::to_string(result.fault.value);
    switch (result.fault.fault) {
        case Fault::none:
            return;
        case Fault::index:
            throw py::index_error("cities: city index " + value + row + " is outside 0.." +
                                  std::to_string(in.world_size - 1) + " (-1 may only fill the end of a row)");
        case Fault::repeated:
            throw py::value_error("cities: city " + value + " is repeated" + row +
                                  "; all cities of a row are distinct");
        case Fault::arity: {
            const std::string range = in.min_cities == in.max_cities
                                          ? std::to_string(in.min_cities)
                                          : std::to_string(in.min_cities) + " to " + std::to_string(in.max_cities);
            throw py::value_error(std::string(in.count    ? "count"
                                              : in.cities ? "cities"
                                                          : "xy") +
                                  ": task " + name + " takes " + range + " cities, got " + value + row);
        }
        case Fault::coordinate:
            throw py::value_error("xy: coordinate " + value + row + " is larger than 2^20 in size");
    }
}

}  // namespace

void bind_label(py::module_& m) {
    m.def("task_table", &task_table);
    m.def("label", &label_rows_or_throw, py::arg("task"), py::arg("xy"), py::arg("cities"), py::arg("count"),
          py::arg("out"), py::arg("result"), py::arg("threads"), py::arg("cuda_stream"));
    m.attr("prompt_room") = prompt_room;
    m.attr("answer_room") = answer_room;
    m.attr("most_digits") = most_digits;
    m.attr("most_answers") = most_answers;
    m.attr("most_cities") = max_cities;
}

}  // namespace worldfast
