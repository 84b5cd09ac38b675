#include "peak.h"

#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <thread>

#include "buffer.h"
#include "cpu.h"

namespace hr {

namespace {

constexpr double kSlice = 2e-3;                     // seconds of one run
constexpr int kSlices = 5;

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

std::map<int, ReadLoop>& read_table() {
    static auto* table = new std::map<int, ReadLoop>;
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

double measured_bandwidth(int threads, size_t bytes) {
    if (threads < 1 || bytes < kLeastRead || bytes > kMostRead) throw std::invalid_argument("bandwidth takes threads from 1 and bytes from 1024 to 2^30");
    const auto past = read_table().upper_bound(cpu_tier());
    if (past == read_table().begin()) return 0;
    const ReadLoop read = std::prev(past)->second;
    const size_t lines = bytes / 256 * 4, own = lines * 64;
    std::unique_ptr<char, decltype(&std::free)> memory(static_cast<char*>(aligned_memory(own * size_t(threads))), &std::free);
    std::fill_n(memory.get(), own * size_t(threads), char(1));
    return of_threads(threads, [&](int index) {
        return best_rate([&](long times) {
            read(memory.get() + own * size_t(index), long(lines), times);
            return double(times) * double(own);
        });
    });
}

}  // namespace hr
