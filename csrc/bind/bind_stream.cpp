// Streams of rows as Python sees them.
#include <limits>
#include <map>
#include <mutex>
#include <optional>

#include "bind/given_task.h"
#include "rows/stream.h"

namespace worldfast {
namespace {

// Different cities: of some that are all the same no row could be drawn.
std::vector<int32_t> copy_indices(const py::object& object, const char* name, int64_t world_size) {
    const Array array(object, name);
    array.require<int32_t>({Array::any}).on_cpu();
    std::vector<int32_t> indices;
    std::vector<bool> seen(static_cast<size_t>(world_size));
    for (int64_t i = 0; i < array.shape(0); ++i) {
        const int32_t city = array.data<int32_t>()[i * array.stride(0)];
        if (city < 0 || city >= world_size) throw py::index_error(std::string(name) + ": index outside the world");
        if (seen[static_cast<size_t>(city)])
            throw py::value_error(std::string(name) + ": city " + std::to_string(city) + " is repeated");
        seen[static_cast<size_t>(city)] = true;
        indices.push_back(city);
    }
    return indices;
}

// A start as it comes from Python: an integer, or an int64 array of one element on the device of the rows.
class StartArgument {
public:
    // `last`: no row is at this position, nor behind it. What stands on a GPU is the caller's care.
    StartArgument(const py::object& object, const Array& rows, int64_t n, int64_t last) {
        if (!py::hasattr(object, "__dlpack__")) {
            start_.value = object.cast<int64_t>();
        } else {
            array_.emplace(object, "start");
            array_->require<int64_t>({1}).on_device_of(rows);
            start_.at = array_->data<int64_t>();
            if (array_->is_cuda()) return;
        }
        if (n > last) within("n", n, 0, last);
        within("start", start_(), 0, last - n);
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
        within("cities of a world", xy.shape(0), 0, most_world);
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
        stream_.order = static_cast<Order>(within("order", order, 0, static_cast<int>(Order::interleaved)));
        stream_.shuffle_key = shuffle_key;
        for (const py::handle& item : components) add(item.cast<py::dict>());
        width_ = stream_.width();
        cities_width_ = stream_.cities_width();
        if (stream_.components.empty()) throw py::value_error("components: a stream needs at least one");
        const auto turns = static_cast<int64_t>(stream_.components.size());
        int64_t rows = 0;
        for (const Component& c : stream_.components) {
            rows = within("rows of all components", rows + c.rows, 1, last_row);
            // Interleaved components are endless, but for their pairs.
            const int64_t left = c.pairs.size() ? static_cast<int64_t>(c.pairs.size()) - c.pair_offset : last_row;
            if (stream_.order == Order::interleaved && left - c.first < last_ / turns)
                last_ = std::max<int64_t>(left - c.first, 0) * turns;
            else if (stream_.order != Order::interleaved)
                within("first + rows", c.first + c.rows, 1, left);
        }
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
        within("n", n, 0, last_row);
        stream_.entity ? tokens.require<int32_t>({n, width_}) : tokens.require<uint8_t>({n, width_});
        length.require<int32_t>({n});
        answer.require<int32_t>({n});
        cities.require<int32_t>({n, cities_width_});
        label.require<int64_t>({n});
        task.require<uint8_t>({n});
        failed.require<int64_t>({1});
        for (const Array* array : {&tokens, &length, &answer, &cities, &label, &task, &failed})
            array->on_device_of(tokens).contiguous().writable();
        apart({&tokens, &length, &answer, &cities, &label, &task, &failed}, {});
        const StartArgument start(start_object, tokens, n, last_);
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
                const auto queue = reinterpret_cast<void*>(cuda_stream);
                const DeviceStream& stream = on_device(tokens.device_id());
                if (reset) forget_failures_cuda(first, tokens.device_id(), queue);
                generate_rectangle_cuda(stream, start.get(), n, out, first, queue);
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
        apart({&tokens, &row_start, &answer, &failed, &scratch}, {});
        const StartArgument start(start_object, tokens, n, last_);
        const Packed out{tokens.data<int32_t>(), row_start.data<int32_t>(), answer.data<int32_t>(),
                         scratch.data<uint8_t>()};
        int64_t* const first = failed.data<int64_t>();
        require_no_given(tokens.is_cuda() || in_tiles);
        py::gil_scoped_release nogil;
        if (tokens.is_cuda()) {
            const auto queue = reinterpret_cast<void*>(cuda_stream);
            const DeviceStream& stream = on_device(tokens.device_id());
            if (reset) forget_failures_cuda(first, tokens.device_id(), queue);
            const auto pack = stream_.entity ? generate_packed_cuda<int32_t> : generate_packed_cuda<uint8_t>;
            pack(stream, start.get(), n, width_, out, first, queue);
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
        within("n", n, 0, last_row);
        if (n > (std::numeric_limits<int32_t>::max() - slack) / width_)
            throw py::value_error("n: " + std::to_string(n) + " rows of up to " + std::to_string(width_) +
                                  " tokens are more than int32 can count; pack fewer");
        return n * width_ + slack;
    }
    int64_t packed_scratch(int64_t n) const {
        packed_room(n);
        return stream_.entity ? PackScratch<int32_t>(nullptr, n, width_).bytes
                              : PackScratch<uint8_t>(nullptr, n, width_).bytes;
    }

    int64_t width() const { return width_; }
    int64_t cities_width() const { return cities_width_; }

private:
    static constexpr int64_t most_world = 1 << 20;

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
        if (c.pool.size < c.max_cities)
            throw py::value_error("the world is too small: task " + name + " needs " + std::to_string(c.max_cities) +
                                  " cities, rows may use " + std::to_string(c.pool.size));
        c.key = get("key").cast<uint64_t>();
        c.first = within("first", get("first").cast<int64_t>(), 0, last_row - 1);
        c.rows = within("rows", get("rows").cast<int64_t>(), 1, last_row - c.first);
        const auto pair_count = get("pair_count").cast<int64_t>();
        const int64_t size = c.pool.size, held = c.group.size;
        const int64_t pairs = held ? held * (held - 1) / 2 + held * c.rest.size : size * (size - 1) / 2;
        within("pair_count", pair_count, !given_rule && tasks[index].unique_pairs, pairs);
        if (pair_count > 0) c.pairs = Permutation(get("pair_key").cast<uint64_t>(), static_cast<uint64_t>(pair_count));
        c.pair_offset = within("pair_offset", get("pair_offset").cast<int64_t>(), 0, pair_count);
        c.noise = get("noise").cast<uint64_t>();
        c.noise_key = get("noise_key").cast<uint64_t>();
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
    int64_t width_ = 0, cities_width_ = 0, last_ = last_row;
    const DeviceStream& on_device(int device) {  // is called without the GIL; a copy stays where it is
        const std::lock_guard<std::mutex> guard(copying_);
        DeviceStreamPtr& copy = copies_[device];
        if (!copy) copy = upload(stream_, device);
        return *copy;
    }

    std::mutex copying_;
    std::map<int, DeviceStreamPtr> copies_;
};

}  // namespace

void bind_stream(py::module_& m) {
    m.attr("max_tries") = max_tries;
    m.attr("row_capacity") = row_capacity;
    m.attr("last_row") = last_row;
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
}

}  // namespace worldfast
