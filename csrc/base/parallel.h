// One loop over threads, for every driver of the core. Work is cut into contiguous ranges, one per thread,
// so an f that writes only its own range gives the same bits whatever the number of threads.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/interrupt.h"

namespace worldfast {

constexpr int most_threads =
    256;  // or the processors, where there are more: whoever asks for 10^9 gets the same answer

// Asked once: each time the system reads a file, which takes as long as a small matrix product.
inline int hardware_threads() {
    static const int threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    return threads;
}

// Calls f(begin, end) on disjoint contiguous ranges that cover [0, n); the calling thread takes the first.
// No range is shorter than `grain` unless n is; threads <= 0 means one per processor. The first range's
// exception wins, as it would in a serial loop. Where f's ranges end by an interruption, the caller may be given it to
// ask while it waits for the others.
template <class F>
void parallel_for(int64_t n, int64_t grain, int threads, F&& f, Interruption* interruption = nullptr) {
    if (n <= 0) return;
    if (threads <= 0) threads = hardware_threads();
    threads = std::min(threads, std::max(most_threads, hardware_threads()));
    const int64_t parts = std::clamp<int64_t>(n / std::max<int64_t>(grain, 1), 1, threads);
    if (parts == 1) {
        f(int64_t{0}, n);
        return;
    }
    // [begin, end) of a part, without the overflow of n * part
    const auto begin = [n, parts](int64_t part) { return n / parts * part + std::min(part, n % parts); };
    std::vector<std::exception_ptr> errors(static_cast<size_t>(parts));
    const auto run = [&](int64_t part) noexcept {
        try {
            f(begin(part), begin(part + 1));
        } catch (...) {
            errors[static_cast<size_t>(part)] = std::current_exception();
        }
    };
    std::mutex mutex;
    std::condition_variable one_less;
    int64_t at_work = 0;
    const auto work = [&](int64_t part) {
        run(part);
        const std::lock_guard<std::mutex> lock(mutex);
        --at_work;
        one_less.notify_one();
    };
    std::vector<std::thread> workers;
    workers.reserve(static_cast<size_t>(parts - 1));
    int64_t started = 1;
    try {
        for (; started < parts; ++started) {
            workers.emplace_back(work, started);
            const std::lock_guard<std::mutex> lock(mutex);
            ++at_work;
        }
    } catch (...) {  // no more threads to be had: the caller does the rest
    }
    run(0);
    const auto done = [&] {
        std::unique_lock<std::mutex> lock(mutex);
        return one_less.wait_for(lock, std::chrono::milliseconds(50), [&] { return at_work == 0; });
    };
    try {
        for (int64_t part = started; part < parts; ++part) {
            if (interruption) interruption->end(true, true);
            run(part);
        }
        while (interruption && !done()) interruption->end(true, true);
    } catch (...) {
        errors[0] = std::current_exception();
    }
    for (auto& worker : workers) worker.join();
    for (const auto& error : errors)
        if (error) std::rethrow_exception(error);
}

}  // namespace worldfast
