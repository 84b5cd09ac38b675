// Memory for results whose size is known only at run time, and for large output arrays: reference-counted blocks from
// one process-wide pool, so that a repeated call meets warm pages.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace hr {

struct Buffer {
    void* data = nullptr;
    size_t capacity = 0;
    uint32_t refs = 1;      // touched by one call at a time
};

constexpr size_t kAlign = 64;
inline size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// 64-byte aligned memory, huge pages advised for large blocks; throws std::bad_alloc. Free with std::free.
void* aligned_memory(size_t bytes);

Buffer* take_buffer(size_t bytes);      // refs = 1
void release_buffer(Buffer* buffer);    // drops one reference; the last one gives the block back to the pool

// Room for n elements while a kernel runs, as the pool left it: a repeated call allocates nothing.
template <class T>
class Temporary {
    static_assert(std::is_trivially_copyable_v<T>);

public:
    explicit Temporary(size_t n) : buffer_(take_buffer(n * sizeof(T))), size_(n) {}
    Temporary(const Temporary&) = delete;
    ~Temporary() { release_buffer(buffer_); }

    T* data() { return static_cast<T*>(buffer_->data); }
    T* begin() { return data(); }
    T* end() { return data() + size_; }
    T& operator[](size_t i) { return data()[i]; }
    const T& operator[](size_t i) const { return static_cast<const T*>(buffer_->data)[i]; }
    size_t size() const { return size_; }

private:
    Buffer* buffer_;
    size_t size_;
};

// A program begins, or ends, having freed `held` bytes. With one that ends all idle blocks go back to the system, and
// without any none is kept.
void buffers_wanted(bool begins, size_t held = 0);
// All idle blocks go back to the system, and what the allocator keeps of `held` bytes that were freed otherwise.
void release_idle(size_t held);

}  // namespace hr
