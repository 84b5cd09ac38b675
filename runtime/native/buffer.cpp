#include "buffer.h"

#include <malloc.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <new>
#include <vector>

#include "huge_pages.h"

namespace hr {

namespace {

constexpr size_t kCacheLimit = size_t(256) << 20;   // idle bytes kept for the next call
constexpr size_t kHuge = size_t(4) << 20;
constexpr size_t kTrim = size_t(1) << 20;           // freed by a program that ends: worth a look through the heap

// Size classes: four steps per power of two from 256 bytes on, so that at most a quarter of a block is unused.
struct Class {
    int index;
    size_t bytes;
};

Class class_of(size_t bytes) {
    if (bytes <= 256) return {0, 256};
    if (bytes > std::numeric_limits<size_t>::max() / 4) throw std::bad_alloc();
    const int power = 63 - std::countl_zero(bytes - 1);     // 2^power < bytes <= 2^(power + 1)
    const size_t step = size_t(1) << (power - 2);
    const size_t base = size_t(1) << power;
    const int quarter = int((bytes - base + step - 1) / step);
    return {1 + (power - 8) * 4 + quarter - 1, base + quarter * step};
}

struct Pool {
    std::mutex lock;
    std::vector<Buffer*> idle[4 * 60];
    size_t cached = 0;
    int programs = 0;
};

Pool& pool() {
    static auto* it = new Pool;     // never destroyed: output arrays may outlive every static
    return *it;
}

// After `freed` bytes: the allocator keeps blocks of some MiB for itself, which no later model may need.
void trim(size_t freed) {
#if defined(__GLIBC__)
    if (freed >= kTrim) malloc_trim(0);
#endif
}

}  // namespace

void* aligned_memory(size_t bytes) {
    const size_t align = bytes >= kHuge ? kHugePage : kAlign;
    if (bytes > std::numeric_limits<size_t>::max() - align) throw std::bad_alloc();
    void* data = nullptr;
    if (posix_memalign(&data, align, std::max<size_t>(bytes, 1))) throw std::bad_alloc();
    // Whole huge pages only: the one that the end lies in would be memory that nobody uses.
    if (bytes >= kHuge) advise_huge(data, bytes);
    return data;
}

Buffer* take_buffer(size_t bytes) {
    const Class size = class_of(bytes);
    Pool& p = pool();
    {
        std::lock_guard guard(p.lock);
        auto& idle = p.idle[size.index];
        if (!idle.empty()) {
            Buffer* buffer = idle.back();
            idle.pop_back();
            p.cached -= buffer->capacity;
            buffer->refs = 1;
            return buffer;
        }
    }
    auto* buffer = new Buffer;
    try {
        buffer->data = aligned_memory(size.bytes);
    } catch (...) {
        delete buffer;
        throw;
    }
    buffer->capacity = size.bytes;
    return buffer;
}

void release_buffer(Buffer* buffer) {
    if (--buffer->refs) return;
    Pool& p = pool();
    bool idle;      // no program is left
    {
        std::lock_guard guard(p.lock);
        idle = !p.programs;
        if (p.programs && p.cached + buffer->capacity <= kCacheLimit) {
            p.idle[class_of(buffer->capacity).index].push_back(buffer);
            p.cached += buffer->capacity;
            return;
        }
    }
    const size_t freed = buffer->capacity;
    std::free(buffer->data);
    delete buffer;
    if (idle) trim(freed);
}

void buffers_wanted(bool begins, size_t held) {
    {
        std::lock_guard guard(pool().lock);
        pool().programs += begins ? 1 : -1;
    }
    if (!begins) release_idle(held);
}

void release_idle(size_t held) {
    Pool& p = pool();
    std::vector<Buffer*> gone;
    {
        std::lock_guard guard(p.lock);
        for (auto& idle : p.idle) {
            gone.insert(gone.end(), idle.begin(), idle.end());
            idle.clear();
        }
        held += p.cached;
        p.cached = 0;
    }
    for (Buffer* buffer : gone) {
        std::free(buffer->data);
        delete buffer;
    }
    trim(held);
}

}  // namespace hr
