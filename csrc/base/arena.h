// Memory for one piece of work, used again for the next: fresh memory costs more than the arithmetic done in
// it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

namespace worldfast {

class Arena {
public:
    // n numbers, uninitialised, on a cache line's boundary; they last until `clear` or the end of their
    // `Scope`.
    template <class T>
    T* take(int64_t n) {
        if (n < 0 || n > (int64_t{1} << 48)) throw std::bad_alloc();
        const size_t bytes = (static_cast<size_t>(n) * sizeof(T) + line - 1) / line * line;
        if (blocks_.empty() || used_ + bytes > size_) grow(bytes);  // also of no numbers there is a place
        char* p = blocks_.back().get() + used_;
        used_ += bytes;
        return reinterpret_cast<T*>(p);
    }

    // Frees everything; what took several blocks has one of their size from now on.
    void clear() {
        if (blocks_.size() > 1) {
            const size_t all = total_;
            blocks_.clear();
            size_ = total_ = 0;
            grow(all);
        }
        used_ = 0;
    }

    // Frees at its end what was taken since its beginning, where that is in one block.
    class Scope {
    public:
        explicit Scope(Arena& arena) : arena_(arena), block_(arena.blocks_.size()), used_(arena.used_) {}
        ~Scope() {
            if (arena_.blocks_.size() == block_) arena_.used_ = used_;
        }
        Scope(const Scope&) = delete;
        Scope& operator=(const Scope&) = delete;

    private:
        Arena& arena_;
        size_t block_, used_;
    };

    // Of one caller for its lifetime; for a second one there is an error.
    class Use {
    public:
        explicit Use(Arena& arena) : arena_(arena) {
            if (arena.used_by_someone_.test_and_set()) throw std::runtime_error("arena: another thread is using it");
        }
        ~Use() { arena_.used_by_someone_.clear(); }
        Use(const Use&) = delete;
        Use& operator=(const Use&) = delete;

    private:
        Arena& arena_;
    };

    size_t bytes() const { return total_; }

private:
    static constexpr size_t line = 64;
    struct Free {
        void operator()(char* p) const { ::operator delete(p, std::align_val_t{line}); }
    };

    void grow(size_t bytes) {
        size_ = bytes > 2 * size_ ? bytes : 2 * size_;
        blocks_.emplace_back(static_cast<char*>(::operator new(size_, std::align_val_t{line})));
        total_ += size_;
        used_ = 0;
    }

    std::vector<std::unique_ptr<char, Free>> blocks_;
    size_t used_ = 0, size_ = 0, total_ = 0;
    std::atomic_flag used_by_someone_ = ATOMIC_FLAG_INIT;
};

}  // namespace worldfast
