// Large blocks of memory, kept for the next message: a fresh one costs a page fault every 4 KiB, more than copying into it.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdlib>
#include <mutex>
#include <vector>

namespace hr::serve {

class Blocks {
public:
    static constexpr size_t kSmallest = 64 << 10, kLargest = 16 << 20;      // kept sizes: powers of two between
    static constexpr size_t kKept = 32 << 20;                               // bytes of idle blocks at most

    static bool keeps(size_t capacity) { return capacity >= kSmallest && capacity <= kLargest; }
    static size_t rounded(size_t capacity) { return keeps(capacity) ? std::bit_ceil(capacity) : capacity; }

    // `capacity` as `rounded` gives it; nullptr: no memory.
    static void* take(size_t capacity) {
        Blocks& blocks = instance();
        {
            std::lock_guard guard(blocks.lock_);
            auto& idle = blocks.idle_[std::countr_zero(capacity)];
            if (!idle.empty()) {
                void* block = idle.back();
                idle.pop_back();
                blocks.kept_ -= capacity;
                return block;
            }
        }
        return std::malloc(capacity);
    }
    static void give(void* block, size_t capacity) {
        Blocks& blocks = instance();
        {
            std::lock_guard guard(blocks.lock_);
            if (blocks.kept_ + capacity <= kKept) {
                blocks.idle_[std::countr_zero(capacity)].push_back(block);
                blocks.kept_ += capacity;
                return;
            }
        }
        std::free(block);
    }

private:
    static Blocks& instance() {
        static auto* it = new Blocks;       // never destroyed: threads may give back until the end
        return *it;
    }
    std::mutex lock_;
    std::vector<void*> idle_[64];
    size_t kept_ = 0;
};

}  // namespace hr::serve
