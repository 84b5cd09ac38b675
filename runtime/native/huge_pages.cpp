#include "huge_pages.h"

#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace hr {

namespace {

constexpr size_t kProbed = size_t(16) << 20;    // of these bytes the first huge page is tried
constexpr int64_t kDear = 1'000'000;            // nanoseconds of processor for one huge page; a machine's own takes 0.05 to 0.3 ms

int64_t processor_time() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return int64_t(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

// What a virtual machine has free in pieces of this size it may have handed back to its host: the first touch of each then takes
// some ms, in which the host finds memory for it. Small pages come first from what is free between used ones, which is there.
void advise_huge(void* data, size_t bytes) {
    static std::atomic<bool> dear{false};
    char* at = static_cast<char*>(data);
    for (size_t left = bytes / kHugePage * kHugePage; left && !dear.load(std::memory_order_relaxed);) {
        const size_t piece = std::min(left, kProbed);
        madvise(at, kHugePage, MADV_HUGEPAGE);
        const int64_t start = processor_time();
        *const_cast<volatile char*>(at) = 0;
        if (processor_time() - start > kDear) return dear.store(true, std::memory_order_relaxed);
        madvise(at, piece, MADV_HUGEPAGE);
        at += piece, left -= piece;
    }
}

}  // namespace hr
