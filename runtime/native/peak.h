// What this machine can do, measured: multiply-adds a second by precision, bytes read a second. The profiler's yardstick.
#pragma once
#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace hr {

// Works `steps` times through a fixed piece of arithmetic in registers, and answers how many operations that was (a
// multiply and an add are two).
using PeakLoop = double (*)(long steps);

// Reads `lines` lines of 64 bytes, a multiple of four, `times` times.
using ReadLoop = void (*)(const void* memory, long lines, long times);

struct PeakEntry {
    PeakLoop loop;
    int tier;
};

// "float32", "int8", "bf16" -> loops of the tiers, filled by static registration (kernels/peak).
std::map<std::string, std::vector<PeakEntry>>& peak_table();

// The loops of reading, by tier.
std::map<int, ReadLoop>& read_table();

// Operations a second of `threads` threads together on the tier in use; 0 where there is no loop for `precision`. Over
// thread CPU time, the best of several short runs, so that other work on the machine counts little.
double measured_peak(const std::string& precision, int threads);

// Bytes a second that `threads` threads together read, each again and again the same `bytes` of its own: what a cache holds
// comes from there. Throws std::invalid_argument for threads < 1, and for bytes below kLeastRead or above kMostRead.
constexpr size_t kLeastRead = 1024, kMostRead = size_t(1) << 30;
double measured_bandwidth(int threads, size_t bytes);

struct PeakRegistration {
    PeakRegistration(const char* precision, PeakLoop loop, int tier) { peak_table()[precision].push_back({loop, tier}); }
};

struct ReadRegistration {
    ReadRegistration(ReadLoop loop, int tier) { read_table()[tier] = loop; }
};

}  // namespace hr
