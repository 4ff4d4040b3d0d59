// The seven tasks: prompt, arity, answers, and the one rule that makes each label.
//
// To add a task: name it in TaskIndex, give it a row in `tasks`, write its rule as a function of the row's points, and
// give that a line in `label` (and in `largest_label`, where its numbers are not lengths). Everything else (sampling,
// text, tokens, the Python table, the command line) reads the row.
//
// Labels are exact. Rounding is half to even. Where a root is needed it is double precision, IEEE, with nothing
// contracted (see CMakeLists.txt), so that a CPU and a GPU agree on every bit; the angle needs no arc cosine.
#pragma once

#include <cmath>

#include "rows/geometry.h"

namespace worldfast {

constexpr int max_cities = 6;

struct Task {
    const char* name;
    const char* prompt;
    int min_cities, max_cities;
    int semicolon;      // the city after which ';' stands in place of ',' (-1: none)
    bool unique_pairs;  // rows walk the unordered pairs of cities, none of them twice
    bool balanced;      // half the rows TRUE, half FALSE
    double failure;     // what an answer that cannot be parsed scores (accuracies: 0)
    const char* unit;
    const char* answers[8];  // choices, in the order of their labels
};

enum TaskIndex { distance, trianglearea, angle, compass, inside, perimeter, crossing, task_count };

// sqrt(3600^2 + 1800^2), 3600 * 1800 / 2, 180 and 20,000 are the failure values of the published evaluation.
constexpr Task tasks[task_count] = {
    {"distance", "dist", 2, 2, -1, true, false, 4024.922359499621, "0.1 degree", {}},
    {"trianglearea", "triarea", 3, 3, -1, false, false, 3240000, "0.01 square degree", {}},
    {"angle", "angle", 3, 3, -1, false, false, 180, "degree", {}},
    {"compass", "compass", 2, 2, -1, true, false, 0, "", {"E", "NE", "N", "NW", "W", "SW", "S", "SE"}},
    {"inside", "inside", 4, 6, 0, false, true, 0, "", {"FALSE", "TRUE"}},
    {"perimeter", "perimeter", 2, 5, -1, false, false, 20000, "0.1 degree", {}},
    {"crossing", "cross", 4, 4, 1, false, true, 0, "", {"FALSE", "TRUE"}},
};

constexpr bool is_choice(const Task& task) { return task.answers[0] != nullptr; }

WF_HD double length(Vector v) { return sqrt(static_cast<double>(dot(v, v))); }

WF_HD int64_t round_half_even(double value) { return llrint(value); }

WF_HD int64_t distance_label(const Point* p) { return round_half_even(length(p[1] - p[0])); }

WF_HD int64_t trianglearea_label(const Point* p) {
    const int64_t signed_area = cross(p[1] - p[0], p[2] - p[0]);
    const int64_t twice = signed_area < 0 ? -signed_area : signed_area;
    return (twice >> 1) + (twice & twice >> 1 & 1);  // a half goes to the even neighbour
}

// sin(k + 1/2 degrees), 0 <= k < 90.
WF_HD double sine_of_half_degree(int k) {
    static constexpr double table[90] = {
        0.008726535498373935, 0.026176948307873153, 0.043619387365336,   0.06104853953485687, 0.07845909572784494,
        0.095845752520224,    0.11320321376790672,  0.1305261922200516,  0.14780941112961063, 0.16504760586067765,
        0.18223552549214744,  0.1993679344171972,   0.21643961393810288, 0.23344536385590542, 0.25038000405444144,
        0.2672383760782569,   0.2840153447039226,   0.3007057995042731,  0.31730465640509214, 0.3338068592337709,
        0.3502073812594675,   0.3665012267242973,   0.3826834323650898,  0.3987490689252462,  0.414693242656239,
        0.43051109680829514,  0.44619781310980877,  0.4617486132350339,  0.4771587602596084,  0.4924235601034671,
        0.5075383629607042,   0.5224985647159489,   0.5372996083468239,  0.5519369853120581,  0.5664062369248328,
        0.5807029557109398,   0.5948227867513413,   0.6087614290087207,  0.6225146366376195,  0.636078220277764,
        0.6494480483301837,   0.6626200482157375,   0.6755902076156602,  0.688354575693754,   0.7009092642998509,
        0.7132504491541816,   0.7253743710122876,   0.7372773368101241,  0.7489557207890022,  0.7604059656000309,
        0.77162458338772,     0.7826081568524139,   0.7933533402912352,  0.8038568606172173,  0.8141155183563192,
        0.8241261886220157,   0.8338858220671682,   0.8433914458128857,  0.8526401643540922,  0.8616291604415257,
        0.8703556959398997,   0.8788171126619654,   0.8870108331782217,  0.8949343616020251,  0.9025852843498606,
        0.9099612708765432,   0.917060074385124,    0.9238795325112867,  0.9304175679820246,  0.9366721892483976,
        0.9426414910921784,   0.9483236552061993,   0.9537169507482269,  0.958819734868193,   0.963630453208623,
        0.9681476403781077,   0.9723699203976766,   0.9762960071199334,  0.9799247046208296,  0.9832549075639546,
        0.9862856015372314,   0.9890158633619168,   0.9914448613738104,  0.9935718556765875,  0.9953961983671789,
        0.996917333733128,    0.9981347984218669,   0.9990482215818578,  0.9996573249755573,  0.9999619230641713,
    };
    return table[k];
}

// The angle at p[1] is k or k + 1 degrees, by a crude arc tangent (wrong by at most 0.3 degrees); which of the two is
// the sign of sin(angle - (k + 1/2) degrees). No angle between integer vectors is an odd multiple of half a degree.
WF_HD int64_t angle_label(const Point* p) {
    const Vector a = p[0] - p[1], b = p[2] - p[1];
    const double x = static_cast<double>(dot(a, b));
    const double y = fabs(static_cast<double>(cross(a, b)));
    if (y == 0) return x < 0 ? 180 : 0;  // also where an arm has no length
    // Without branches: which octant a row's angle is in cannot be foreseen.
    const double wide = fabs(x);
    const int steep = y > wide, obtuse = x < 0;
    const double ratio = (wide < y ? wide : y) / (wide < y ? y : wide);
    double degrees = ratio * (60.642 - 15.642 * ratio);
    degrees = 90 * steep + (1 - 2 * steep) * degrees;
    degrees = 180 * obtuse + (1 - 2 * obtuse) * degrees;
    int k = static_cast<int>(degrees);
    k = k < 0 ? 0 : k > 179 ? 179 : k;
    const int right = k < 90;
    const double sine = sine_of_half_degree(right ? k : 179 - k);
    const double cosine = (2 * right - 1) * sine_of_half_degree(right ? 89 - k : k - 90);
    return k + (y * cosine > x * sine);
}

// Eight sectors of 45 degrees around the axes: |dy| < tan(22.5 deg) |dx| is (|dx| + |dy|)^2 < 2 dx^2.
WF_HD int64_t compass_label(const Point* p) {
    const Vector d = p[1] - p[0];
    const int64_t east = d.x < 0 ? -d.x : d.x, north = d.y < 0 ? -d.y : d.y;
    const int64_t square = (east + north) * (east + north);
    if (square == 0) return 2;
    const int sector = square < 2 * east * east ? 0 : square < 2 * north * north ? 1 : 2;  // along x, along y, between
    static constexpr int8_t direction[3][2][2] = {{{4, 4}, {0, 0}}, {{6, 2}, {6, 2}}, {{5, 3}, {7, 1}}};
    return direction[sector][d.x > 0][d.y > 0];
}

template <int N>
WF_HD int64_t inside_label(const Point* p) {
    return in_hull<N - 1>(p[0], p + 1);
}

template <int N>
WF_HD int64_t perimeter_label(const Point* p) {
    double sum = 0;
    for (int i = 1; i < N; ++i) sum += length(p[i] - p[i - 1]);
    if (N > 2) sum += length(p[0] - p[N - 1]);
    return round_half_even(sum);
}

WF_HD int64_t crossing_label(const Point* p) {
    return left(p[0], p[2], p[3]) != left(p[1], p[2], p[3]) && left(p[0], p[1], p[2]) != left(p[0], p[1], p[3]);
}

// The label of a row of N points. Task and N are constants so that loops unroll and, on a GPU, points stay in registers.
template <int T, int N>
WF_HD int64_t label(const Point* p) {
    if constexpr (T == distance) return distance_label(p);
    if constexpr (T == trianglearea) return trianglearea_label(p);
    if constexpr (T == angle) return angle_label(p);
    if constexpr (T == compass) return compass_label(p);
    if constexpr (T == inside) return inside_label<N>(p);
    if constexpr (T == perimeter) return perimeter_label<N>(p);
    if constexpr (T == crossing) return crossing_label(p);
}

// No label of the task is larger, in a world whose cities lie in a box of this width and height.
inline int64_t largest_label(int task, Vector box) {
    switch (task) {
        case trianglearea:
            return box.x * box.y / 2 + 1;
        case angle:
            return 180;
        case perimeter:
            return round_half_even(length(box) * tasks[task].max_cities) + 1;
        default:
            return round_half_even(length(box)) + 1;
    }
}

// Calls f.operator()<T, N>() for a task and a number of cities known only now; N within the task's range.
template <int T = 0, int N = tasks[T].min_cities, class F>
WF_HD auto with_constants(int task, int n, F&& f) {
    if constexpr (T + 1 < task_count)
        if (task != T) return with_constants<T + 1, tasks[T + 1].min_cities>(task, n, f);
    if constexpr (N < tasks[T].max_cities)
        if (n != N) return with_constants<T, N + 1>(task, n, f);
    return f.template operator()<T, N>();
}

}  // namespace worldfast
