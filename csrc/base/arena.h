// Memory for one piece of work, used again for the next: fresh memory costs more than the arithmetic done in
// it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace worldfast {

class Arena {
public:
    // n numbers, uninitialised, on a cache line's boundary; they last until `clear` or the end of their
    // `Scope`.
    template <class T>
    T* take(int64_t n) {
        const size_t bytes = (static_cast<size_t>(n) * sizeof(T) + line - 1) / line * line;
        if (used_ + bytes > size_) grow(bytes);
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
};

}  // namespace worldfast
