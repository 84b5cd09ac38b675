#include "peak.h"

#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <thread>

#include "buffer.h"
#include "cpu.h"

namespace hr {

namespace {

constexpr double kSlice = 2e-3;                     // seconds of one run
constexpr int kSlices = 5;
constexpr size_t kReadBytes = size_t(128) << 20;    // of all threads; more than the caches of usual machines

double cpu_seconds() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// The best rate of `work(amount)`, which answers how much it did; the amount grows until a run lasts a slice.
double best_rate(const std::function<double(long)>& work) {
    long amount = 1;
    double best = 0;
    for (int slice = 0; slice < kSlices;) {
        const double start = cpu_seconds(), done = work(amount), seconds = cpu_seconds() - start;
        if (seconds < kSlice && amount < (1L << 40)) {
            amount *= seconds > kSlice / 64 ? 2 : 16;
            continue;
        }
        best = std::max(best, done / seconds);
        slice++;
    }
    return best;
}

double of_threads(int threads, const std::function<double(int)>& rate) {
    std::vector<double> rates(size_t(std::max(1, threads)));
    std::vector<std::thread> others;
    for (size_t i = 1; i < rates.size(); i++) others.emplace_back([&, i] { rates[i] = rate(int(i)); });
    rates[0] = rate(0);
    for (auto& thread : others) thread.join();
    double sum = 0;
    for (double one : rates) sum += one;
    return sum;
}

}  // namespace

std::map<std::string, std::vector<PeakEntry>>& peak_table() {
    static auto* table = new std::map<std::string, std::vector<PeakEntry>>;
    return *table;
}

double measured_peak(const std::string& precision, int threads) {
    const PeakEntry* best = nullptr;
    const auto found = peak_table().find(precision);
    if (found == peak_table().end()) return 0;
    for (const PeakEntry& entry : found->second)
        if (entry.tier <= cpu_tier() && (!best || entry.tier > best->tier)) best = &entry;
    if (!best) return 0;
    return of_threads(threads, [&](int) { return best_rate(best->loop); });
}

double measured_bandwidth(int threads) {
    const size_t share = kReadBytes / size_t(std::max(1, threads)) / 64 * 8;    // in words
    std::unique_ptr<uint64_t, decltype(&std::free)> memory(static_cast<uint64_t*>(aligned_memory(kReadBytes)), &std::free);
    std::fill_n(memory.get(), kReadBytes / sizeof(uint64_t), uint64_t(1));
    return of_threads(threads, [&](int index) {
        const uint64_t* begin = memory.get() + share * size_t(index);
        return best_rate([&](long times) {
            typedef uint64_t Lanes __attribute__((vector_size(64)));
            for (long i = 0; i < times; i++) {
                Lanes sum{};
                for (size_t at = 0; at < share; at += 8) sum += *reinterpret_cast<const Lanes*>(begin + at);
                asm volatile("" ::"m"(sum));
            }
            return double(times) * double(share) * sizeof(uint64_t);
        });
    });
}

}  // namespace hr
