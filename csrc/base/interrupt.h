// Ctrl-C in loops that may run for minutes.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>

namespace worldfast {

// What throws where the user wants no more, or null. Python's module sets it; no other room knows of Python.
inline void (*&interruption())() {
    static void (*ask)() = nullptr;
    return ask;
}

// Of one loop in several threads, of which one asks.
class Interruption {
public:
    // Is called many times a second in a loop; now and then `asks` lets this thread ask. True: another has thrown, so end.
    // `heavy`: before what may take as long as all rounds of a while.
    bool end(bool asks, bool heavy = false) {
        if (asks && interruption() && (--left_ <= 0 || heavy)) look(heavy);
        return ended_.load(std::memory_order_relaxed);
    }

    // Thrown by `go_on` where another thread has thrown: that one's error is what the caller of both sees.
    struct Ended {};

    // As `end`, for work too deep to be left by a return.
    void go_on(bool asks, bool heavy) {
        if (end(asks, heavy)) throw Ended{};
    }

private:
    using Clock = std::chrono::steady_clock;
    static constexpr std::chrono::milliseconds seldom{200};  // to ask may mean to wait for Python's lock
    static constexpr std::chrono::milliseconds soon{1};

    // To look at the clock takes as long as a row: where rounds are short, it is looked at in every second, fourth ...
    // What is heavy says nothing of rounds.
    void look(bool heavy) {
        const Clock::time_point now = Clock::now();
        if (!heavy) rounds_ = now - looked_ < soon ? std::min(2 * rounds_, 256) : std::max(rounds_ / 2, 1);
        left_ = rounds_;
        looked_ = now;
        if (now - asked_ <= seldom) return;
        asked_ = now;
        try {
            interruption()();
        } catch (...) {
            ended_ = true;
            throw;
        }
    }

    Clock::time_point asked_ = Clock::now(), looked_ = asked_;
    int rounds_ = 1, left_ = 1;
    std::atomic<bool> ended_{false};
};

}  // namespace worldfast
