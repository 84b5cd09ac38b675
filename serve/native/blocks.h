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
    static constexpr size_t kSmallest = 64 << 10, kLargest = 16 << 20;      // kept sizes, four to each power of two
    static constexpr size_t kKept = 32 << 20;                               // bytes of idle blocks at most

    static bool keeps(size_t capacity) { return capacity >= kSmallest && capacity <= kLargest; }
    static size_t rounded(size_t capacity) {
        if (!keeps(capacity)) return capacity;
        return (capacity + step_of(capacity) - 1) / step_of(capacity) * step_of(capacity);
    }

    // At least `capacity` bytes, as `rounded` gives it, and how many: an idle block of up to twice the size serves too. nullptr: no memory.
    static void* take(size_t& capacity) {
        Blocks& blocks = instance();
        {
            std::lock_guard guard(blocks.lock_);
            for (size_t larger = capacity, n = 0; n <= kSteps && keeps(larger); larger = rounded(larger + 1), n++) {
                auto& idle = blocks.idle_[class_of(larger)];
                if (idle.empty()) continue;
                void* block = idle.back();
                idle.pop_back();
                blocks.kept_ -= larger;
                capacity = larger;
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
                blocks.idle_[class_of(capacity)].push_back(block);
                blocks.kept_ += capacity;
                return;
            }
        }
        std::free(block);
    }

private:
    static constexpr size_t kSteps = 4;     // from a power of two to the next
    static size_t step_of(size_t capacity) { return std::bit_ceil(capacity) / (2 * kSteps); }
    static size_t class_of(size_t rounded) { return size_t(std::countr_zero(step_of(rounded))) * kSteps + rounded / step_of(rounded) % kSteps; }
    static Blocks& instance() {
        static auto* it = new Blocks;       // never destroyed: threads may give back until the end
        return *it;
    }
    std::mutex lock_;
    std::vector<void*> idle_[64 * kSteps];
    size_t kept_ = 0;
};

}  // namespace hr::serve
