// operator new of builds with the address sanitizer. The sanitizer's own ends the process where memory is not to be had, even
// with allocator_may_return_null=1; this one throws, as that of every other build does.
#include <cstdint>
#include <cstdlib>
#include <new>

namespace {

void* get(std::size_t bytes) {
    if (void* found = std::malloc(bytes ? bytes : 1)) return found;
    throw std::bad_alloc();
}

void* get(std::size_t bytes, std::align_val_t to) {
    const std::size_t edge = static_cast<std::size_t>(to);
    if (bytes <= PTRDIFF_MAX)
        if (void* found = std::aligned_alloc(edge, (bytes / edge + 1) * edge)) return found;
    throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t bytes) { return get(bytes); }
void* operator new[](std::size_t bytes) { return get(bytes); }
void* operator new(std::size_t bytes, std::align_val_t to) { return get(bytes, to); }
void* operator new[](std::size_t bytes, std::align_val_t to) { return get(bytes, to); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
