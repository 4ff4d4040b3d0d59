// The Python module: checks what comes in, dispatches by device, turns errors into Python's. No arithmetic stands here.
#include <pybind11/stl.h>

#include <limits>
#include <map>
#include <mutex>
#include <optional>

#include "base/array.h"
#include "rows/given.h"
#include "rows/stream.h"

namespace worldfast {

void bind_attention(py::module_& m);
void bind_gram(py::module_& m);
void bind_layers(py::module_& m);
void bind_transformer(py::module_& m);

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

#ifndef WORLDFAST_CUDA
[[noreturn]] void no_cuda() {
    throw std::runtime_error("worldfast was built without CUDA: reinstall it where nvcc is found (WORLDFAST_CUDA=ON)");
}
#endif

// A task whose rule is a Python function of two buffers: int32 points [n, count, 2] to read, int64 labels [n] to write.
class GivenTask {
public:
    explicit GivenTask(const py::dict& given)
        : name(given["name"].cast<std::string>()),
          answers(given["answers"].cast<std::vector<std::string>>()),
          rule(given["rule"].cast<py::function>()) {
        const auto prompt = given["prompt"].cast<std::string>();
        const auto semicolon = given["semicolon"].cast<int>();
        component.min_cities = given["min_cities"].cast<int32_t>();
        component.max_cities = given["max_cities"].cast<int32_t>();
        component.digits = given["digits"].cast<int32_t>();
        component.balanced = given["balanced"].cast<bool>() ? static_cast<int32_t>(answers.size()) : 0;
        bool fits = 1 <= component.min_cities && component.min_cities <= component.max_cities &&
                    component.max_cities <= max_cities && prompt.size() <= prompt_room &&
                    answers.size() <= most_answers && semicolon < component.min_cities - 1;
        for (const std::string& answer : answers) fits &= answer.size() <= answer_room;
        if (!fits) throw py::value_error("task: " + name + " has more cities or longer text than rows have room for");
        component.format = row_format(prompt, semicolon, component.max_cities, answers);
    }

    // Is called without the GIL.
    void operator()(const Point* points, int64_t n, int count, int64_t* labels) const {
        static_assert(sizeof(Point) == 2 * sizeof(int32_t));
        const py::gil_scoped_acquire gil;
        rule(py::memoryview::from_memory(static_cast<const void*>(points), n * count * py::ssize_t{sizeof(Point)}),
             py::memoryview::from_memory(static_cast<void*>(labels), n * py::ssize_t{sizeof(int64_t)}), count);
    }

    std::string name;
    std::vector<std::string> answers;
    py::function rule;
    Component component{};  // what follows from the task, of any stream
};

void label_rows_or_throw(const py::object& task_object, const py::object& xy_object, const py::object& cities_object,
                         const py::object& count_object, const py::object& out_object, const py::object& result_object,
                         int threads, uintptr_t cuda_stream) {
    const Array xy(xy_object, "xy"), out(out_object, "out");
    std::optional<Array> first_bad;
    std::optional<Array> cities, count;
    LabelInput in{};
    std::optional<GivenTask> given;
    if (py::isinstance<py::dict>(task_object)) given.emplace(task_object.cast<py::dict>());
    in.task = given ? task_count : task_object.cast<int>();
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
#ifdef WORLDFAST_CUDA
            const auto there = first_bad ? first_bad->data<LabelResult>() : nullptr;
            const auto queue = reinterpret_cast<void*>(cuda_stream);
            label_rows_cuda(in, out.data<int64_t>(), there, xy.device_id(), queue);
            if (there) result = read_cuda(there, xy.device_id(), queue);
#else
            (void)cuda_stream;
            no_cuda();
#endif
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

std::vector<int32_t> copy_indices(const py::object& object, const char* name, int64_t world_size) {
    const Array array(object, name);
    array.require<int32_t>({Array::any}).on_cpu();
    std::vector<int32_t> indices(static_cast<size_t>(array.shape(0)));
    for (size_t i = 0; i < indices.size(); ++i) {
        indices[i] = array.data<int32_t>()[static_cast<int64_t>(i) * array.stride(0)];
        if (indices[i] < 0 || indices[i] >= world_size)
            throw py::index_error(std::string(name) + ": index outside the world");
    }
    return indices;
}

// A start as it comes from Python: an integer, or an int64 array of one element on the device of the rows.
class StartArgument {
public:
    StartArgument(const py::object& object, const Array& rows) {
        if (!py::hasattr(object, "__dlpack__")) {
            start_.value = object.cast<int64_t>();
            return;
        }
        array_.emplace(object, "start");
        array_->require<int64_t>({1}).on_device_of(rows);
        start_.at = array_->data<int64_t>();
        if (!array_->is_cuda() && *start_.at < 0)
            throw py::value_error(array_->message("at least 0", std::to_string(*start_.at)));
    }

    const Start& get() const { return start_; }

private:
    std::optional<Array> array_;
    Start start_{};
};

// A stream, and its copies on the devices that asked for one.
class BoundStream {
public:
    // A component's task is an index into `tasks`, and after them into `given`.
    BoundStream(const py::object& xy_object, const py::object& id_object, bool entity, const py::list& given,
                const py::list& components, int order, uint64_t shuffle_key) {
        for (const py::handle& item : given) given_.emplace_back(item.cast<py::dict>());
        const Array xy(xy_object, "xy"), id(id_object, "city_id");
        xy.require<int32_t>({Array::any, 2}).on_cpu();
        id.require<int32_t>({xy.shape(0)}).on_cpu();
        for (int64_t i = 0; i < xy.shape(0); ++i) {
            const int32_t* p = xy.data<int32_t>() + i * xy.stride(0);
            const int32_t city = id.data<int32_t>()[i * id.stride(0)];
            if (city < 0 || city > 9999)
                throw py::value_error("city_id: " + std::to_string(city) + " does not fit 4 digits");
            stream_.xy.push_back({p[0], p[xy.stride(1)]});
            if (!in_bounds(stream_.xy.back())) throw py::value_error("xy: a coordinate is larger than 2^20 in size");
            stream_.words.push_back(city_word(city));
        }
        stream_.entity = entity;
        stream_.order = static_cast<Order>(order);
        stream_.shuffle_key = shuffle_key;
        for (const py::handle& item : components) add(item.cast<py::dict>());
        width_ = stream_.width();
        cities_width_ = stream_.cities_width();
        if (stream_.components.empty()) throw py::value_error("components: a stream needs at least one");
        if (width_ > row_capacity)
            throw py::value_error("a row of this world can take " + std::to_string(width_) + " tokens; the limit is " +
                                  std::to_string(row_capacity));
    }

    // Arrays are named as the fields of the Batch or Packed that they come from. `start`: an integer, or an int64 array
    // of one element on the device of the others. `reset`: -1 is written to `failed` first. `in_tiles`: for tests.
    void rectangle(const py::object& start_object, int64_t n, const py::object& tokens_object,
                   const py::object& length_object, const py::object& answer_object, const py::object& cities_object,
                   const py::object& label_object, const py::object& task_object, const py::object& failed_object,
                   bool reset, int threads, uintptr_t cuda_stream, bool in_tiles) {
        const Array tokens(tokens_object, "out.tokens"), length(length_object, "out.length"),
            answer(answer_object, "out.answer_start"), cities(cities_object, "out.cities"),
            label(label_object, "out.label"), task(task_object, "out.task"), failed(failed_object, "out.failed");
        stream_.entity ? tokens.require<int32_t>({n, width_}) : tokens.require<uint8_t>({n, width_});
        length.require<int32_t>({n});
        answer.require<int32_t>({n});
        cities.require<int32_t>({n, cities_width_});
        label.require<int64_t>({n});
        task.require<uint8_t>({n});
        failed.require<int64_t>({1});
        for (const Array* array : {&tokens, &length, &answer, &cities, &label, &task, &failed})
            array->on_device_of(tokens).contiguous().writable();
        const StartArgument start(start_object, tokens);
        require_no_given(tokens.is_cuda() || in_tiles);
        const auto fill = [&](auto* token_data) {
            const Rectangle<std::remove_pointer_t<decltype(token_data)>> out{token_data,
                                                                             width_,
                                                                             length.data<int32_t>(),
                                                                             answer.data<int32_t>(),
                                                                             cities.data<int32_t>(),
                                                                             cities_width_,
                                                                             label.data<int64_t>(),
                                                                             task.data<uint8_t>()};
            int64_t* const first = failed.data<int64_t>();
            py::gil_scoped_release nogil;
            if (tokens.is_cuda()) {
#ifdef WORLDFAST_CUDA
                const auto queue = reinterpret_cast<void*>(cuda_stream);
                const DeviceStream& stream = on_device(tokens.device_id());
                if (reset) forget_failures_cuda(first, tokens.device_id(), queue);
                generate_rectangle_cuda(stream, start.get(), n, out, first, queue);
#else
                (void)cuda_stream;
                no_cuda();
#endif
                return;
            }
            if (reset) *first = -1;
            if (in_tiles)
                rectangle_in_tiles(stream_.view(), start.get(), n, out, first);
            else
                keep_first(first, generate_rectangle(stream_.view(), start.get()(), n, out, threads, rule()));
        };
        stream_.entity ? fill(tokens.data<int32_t>()) : fill(tokens.data<uint8_t>());
    }

    void packed(const py::object& start_object, int64_t n, const py::object& tokens_object,
                const py::object& row_start_object, const py::object& answer_object, const py::object& failed_object,
                const py::object& scratch_object, bool reset, uintptr_t cuda_stream, bool in_tiles) {
        const Array tokens(tokens_object, "out.tokens"), row_start(row_start_object, "out.row_start"),
            answer(answer_object, "out.answer_start"), failed(failed_object, "out.failed"),
            scratch(scratch_object, "out.scratch");
        require_room(tokens.require<int32_t>({Array::any}), packed_room(n));
        require_room(scratch.require<uint8_t>({Array::any}), packed_scratch(n));
        row_start.require<int32_t>({n + 1});
        answer.require<int32_t>({n});
        failed.require<int64_t>({1});
        for (const Array* array : {&tokens, &row_start, &answer, &failed, &scratch})
            array->on_device_of(tokens).contiguous().writable();
        if (reinterpret_cast<uintptr_t>(scratch.data<uint8_t>()) % 16)
            throw py::value_error(scratch.message("memory that begins at a multiple of 16 bytes", "another address"));
        const StartArgument start(start_object, tokens);
        const Packed out{tokens.data<int32_t>(), row_start.data<int32_t>(), answer.data<int32_t>(),
                         scratch.data<uint8_t>()};
        int64_t* const first = failed.data<int64_t>();
        require_no_given(tokens.is_cuda() || in_tiles);
        py::gil_scoped_release nogil;
        if (tokens.is_cuda()) {
#ifdef WORLDFAST_CUDA
            const auto queue = reinterpret_cast<void*>(cuda_stream);
            const DeviceStream& stream = on_device(tokens.device_id());
            if (reset) forget_failures_cuda(first, tokens.device_id(), queue);
            const auto pack = stream_.entity ? generate_packed_cuda<int32_t> : generate_packed_cuda<uint8_t>;
            pack(stream, start.get(), n, width_, out, first, queue);
#else
            (void)cuda_stream;
            no_cuda();
#endif
            return;
        }
        if (reset) *first = -1;
        if (in_tiles) {
            const auto pack = stream_.entity ? packed_in_tiles<int32_t> : packed_in_tiles<uint8_t>;
            pack(stream_.view(), start.get(), n, width_, out, first);
        } else {
            keep_first(first, generate_packed(stream_.view(), start.get()(), n, out.tokens, out.row_start,
                                              out.answer_start, rule()));
        }
    }

    // Tokens that n packed rows need room for, and bytes of memory to make them in on a GPU.
    int64_t packed_room(int64_t n) const {
        constexpr int64_t slack = row_capacity + row_slack;
        if (n > (std::numeric_limits<int32_t>::max() - slack) / width_)
            throw py::value_error("n: " + std::to_string(n) + " rows of up to " + std::to_string(width_) +
                                  " tokens are more than int32 can count; pack fewer");
        return n * width_ + slack;
    }
    int64_t packed_scratch(int64_t n) const {
        return stream_.entity ? PackScratch<int32_t>(nullptr, n, width_).bytes
                              : PackScratch<uint8_t>(nullptr, n, width_).bytes;
    }

    int64_t width() const { return width_; }
    int64_t cities_width() const { return cities_width_; }

private:
    static void require_room(const Array& array, int64_t elements) {
        if (array.shape(0) < elements)
            throw py::value_error(
                array.message("room for " + std::to_string(elements), std::to_string(array.shape(0))));
    }

    void add(const py::dict& given) {
        const auto get = [&](const char* key) { return given[key]; };
        const auto index = get("task").cast<int32_t>();
        if (index < 0 || index >= task_count + static_cast<int32_t>(given_.size()))
            throw py::index_error("task: no such index");
        const bool given_rule = index >= task_count;
        const std::string name = given_rule ? given_[index - task_count].name : tasks[index].name;
        Component c{};
        if (given_rule) {
            c = given_[index - task_count].component;
        } else {
            c.min_cities = tasks[index].min_cities;
            c.max_cities = tasks[index].max_cities;
            c.format = row_format(tasks[index]);
        }
        c.task = index;
        c.reshuffled = get("reshuffled").cast<bool>();
        c.pool = pool(get("pool"), "pool", true);
        c.group = pool(get("group"), "group", false);
        c.rest = pool(get("rest"), "rest", false);
        c.key = get("key").cast<uint64_t>();
        c.first = get("first").cast<int64_t>();
        c.rows = get("rows").cast<int64_t>();
        const uint64_t pair_count = get("pair_count").cast<uint64_t>();
        if (pair_count > 0) c.pairs = Permutation(get("pair_key").cast<uint64_t>(), pair_count);
        c.pair_offset = get("pair_offset").cast<int64_t>();
        c.noise = get("noise").cast<uint64_t>();
        c.noise_key = get("noise_key").cast<uint64_t>();
        if (c.pool.size < c.max_cities)
            throw py::value_error("the world is too small: task " + name + " needs " + std::to_string(c.max_cities) +
                                  " cities, rows may use " + std::to_string(c.pool.size));
        stream_.components.push_back(c);
    }

    // None: the whole world for the pool, nobody for the others.
    Pool pool(const py::object& indices, const char* name, bool whole) {
        if (indices.is_none()) return {nullptr, whole ? static_cast<int32_t>(stream_.xy.size()) : 0};
        stream_.pools.push_back(copy_indices(indices, name, static_cast<int64_t>(stream_.xy.size())));
        return {stream_.pools.back().data(), static_cast<int32_t>(stream_.pools.back().size())};
    }

    void require_no_given(bool elsewhere) const {
        if (elsewhere && !given_.empty())
            throw py::value_error("task: rows of " + given_[0].name + " are made on the CPU, by its Python function");
    }

    Rule rule() const {
        return [this](const Component& c, const Point* points, int64_t n, int count, int64_t* labels) {
            given_[static_cast<size_t>(c.task - task_count)](points, n, count, labels);
        };
    }

    Stream stream_;
    std::vector<GivenTask> given_;
    int64_t width_ = 0, cities_width_ = 0;
#ifdef WORLDFAST_CUDA
    const DeviceStream& on_device(int device) {  // is called without the GIL; a copy stays where it is
        const std::lock_guard<std::mutex> guard(copying_);
        DeviceStreamPtr& copy = copies_[device];
        if (!copy) copy = upload(stream_, device);
        return *copy;
    }

    std::mutex copying_;
    std::map<int, DeviceStreamPtr> copies_;
#endif
};

}  // namespace

const char* sources_digest();  // made by csrc/sources.cmake

PYBIND11_MODULE(_core, m) {
    m.doc() = "worldfast's native core. Its users are the modules of the package, not scripts.";
#ifdef WORLDFAST_CUDA
    m.attr("cuda") = true;
#else
    m.attr("cuda") = false;
#endif
    m.attr("sources") = sources_digest();
    m.attr("max_tries") = max_tries;
    m.def("task_table", &task_table);
    m.def("label", &label_rows_or_throw, py::arg("task"), py::arg("xy"), py::arg("cities"), py::arg("count"),
          py::arg("out"), py::arg("result"), py::arg("threads"), py::arg("cuda_stream"));
    m.attr("prompt_room") = prompt_room;
    m.attr("answer_room") = answer_room;
    m.attr("most_answers") = most_answers;
    m.attr("most_cities") = max_cities;
    m.attr("row_capacity") = row_capacity;
    py::class_<BoundStream>(m, "Stream")
        .def(py::init<const py::object&, const py::object&, bool, const py::list&, const py::list&, int, uint64_t>(),
             py::arg("xy"), py::arg("city_id"), py::arg("entity"), py::arg("given"), py::arg("components"),
             py::arg("order"), py::arg("shuffle_key"))
        .def_property_readonly("width", &BoundStream::width)
        .def_property_readonly("cities_width", &BoundStream::cities_width)
        .def("packed_room", &BoundStream::packed_room)
        .def("packed_scratch", &BoundStream::packed_scratch)
        .def("rectangle", &BoundStream::rectangle, py::arg("start"), py::arg("n"), py::arg("tokens"), py::arg("length"),
             py::arg("answer_start"), py::arg("cities"), py::arg("label"), py::arg("task"), py::arg("failed"),
             py::arg("reset"), py::arg("threads"), py::arg("cuda_stream"), py::arg("in_tiles") = false)
        .def("packed", &BoundStream::packed, py::arg("start"), py::arg("n"), py::arg("tokens"), py::arg("row_start"),
             py::arg("answer_start"), py::arg("failed"), py::arg("scratch"), py::arg("reset"), py::arg("cuda_stream"),
             py::arg("in_tiles") = false);
    bind_attention(m);
    bind_gram(m);
    bind_layers(m);
    bind_transformer(m);
}

}  // namespace worldfast
