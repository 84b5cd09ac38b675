// What this CPU and this container give us: instruction-set tier, threads.
#pragma once
#include <string>
#include <vector>

namespace hr {

// Tiers in rising order; a higher one includes the lower ones.
enum Tier { kBaseline = 0, kAvx2 = 1, kAvx512Vnni = 2, kAvx512Bf16 = 3 };

const std::vector<std::string>& tier_names();   // {"baseline", "avx2", "avx512_vnni", "avx512_bf16"}
int detected_tier();                            // the highest tier that the CPU and the operating system support
// The tier in use: the detected one, or a lower one that HEADRACE_CPU_TIER names. Throws std::invalid_argument where
// that name is unknown or above what the CPU has.
int cpu_tier();

// How many threads this process may use: min(CPU affinity, ceil(cgroup quota)), at least 1.
int usable_threads();
bool has_cpu_quota();   // under a quota spinning threads eat the budget of working ones

}  // namespace hr
