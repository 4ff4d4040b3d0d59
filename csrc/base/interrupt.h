// Ctrl-C in loops that may run for minutes.
#pragma once

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
    bool end(bool asks) {
        if (asks && interruption() && Clock::now() - asked_ > seldom) {
            asked_ = Clock::now();
            try {
                interruption()();
            } catch (...) {
                ended_ = true;
                throw;
            }
        }
        return ended_.load(std::memory_order_relaxed);
    }

private:
    using Clock = std::chrono::steady_clock;
    static constexpr std::chrono::milliseconds seldom{200};  // to ask may mean to wait for Python's lock

    Clock::time_point asked_ = Clock::now();
    std::atomic<bool> ended_{false};
};

}  // namespace worldfast
