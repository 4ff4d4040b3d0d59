// A task whose rule is Python's, as the bindings of labels and of streams take it.
#pragma once

#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/array.h"
#include "base/limits.h"
#include "rows/given.h"

namespace worldfast {

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
        within(name + ": digits", component.digits, 1, most_digits);
        bool fits = 1 <= component.min_cities && component.min_cities <= component.max_cities &&
                    component.max_cities <= max_cities && is_text(prompt, prompt_room) &&
                    answers.size() <= most_answers && -1 <= semicolon && semicolon < component.min_cities - 1;
        for (const std::string& answer : answers) fits &= is_text(answer, answer_room);
        if (!fits) throw py::value_error("task: " + name + " has more cities or other text than rows have room for");
        component.format = row_format(prompt, semicolon, component.max_cities, answers);
    }

    // Is called without the GIL.
    void operator()(const Point* points, int64_t n, int count, int64_t* labels) const {
        static_assert(sizeof(Point) == 2 * sizeof(int32_t));
        const py::gil_scoped_acquire gil;
        const auto from =
            py::memoryview::from_memory(static_cast<const void*>(points), n * count * py::ssize_t{sizeof(Point)});
        const auto to = py::memoryview::from_memory(static_cast<void*>(labels), n * py::ssize_t{sizeof(int64_t)});
        std::fill_n(labels, n, int64_t{0});
        const auto end = [&] {  // the memory is not there after this, which a rule may not know
            for (const auto& view : {from, to}) view.attr("release")();
        };
        try {
            rule(from, to, count);
        } catch (py::error_already_set&) {
            end();
            throw;
        }
        end();
        int64_t limit = 1;
        for (int digit = 0; digit < component.digits; ++digit) limit *= 10;
        const int64_t low = answers.empty() ? 1 - limit : 0;
        const int64_t high = answers.empty() ? limit - 1 : static_cast<int64_t>(answers.size()) - 1;
        for (int64_t i = 0; i < n; ++i) within(name, labels[i], low, high);
    }

    std::string name;
    std::vector<std::string> answers;
    py::function rule;
    Component component{};  // what follows from the task, of any stream

private:
    static bool is_text(const std::string& text, size_t room) {
        return 1 <= text.size() && text.size() <= room &&
               std::all_of(text.begin(), text.end(), [](char c) { return '!' <= c && c <= '~'; });
    }
};

}  // namespace worldfast
