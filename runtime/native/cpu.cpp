#include "cpu.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace hr {

const std::vector<std::string>& tier_names() {
    static const std::vector<std::string> names = {"baseline", "avx2", "avx512_vnni", "avx512_bf16"};
    return names;
}

int detected_tier() {
#if defined(__x86_64__)
    static const int tier = [] {
        __builtin_cpu_init();   // also asks the operating system (XGETBV) whether it saves the wide registers
        const auto has = [](bool found) { return found; };
        if (!(has(__builtin_cpu_supports("avx2")) && has(__builtin_cpu_supports("fma")))) return int(kBaseline);
#ifdef HR_EMULATE_VNNI
        return int(kAvx512Vnni);    // a test build: that tier is made of AVX2 instructions
#endif
        const bool wide = has(__builtin_cpu_supports("avx512f")) && has(__builtin_cpu_supports("avx512bw")) &&
                          has(__builtin_cpu_supports("avx512vl")) && has(__builtin_cpu_supports("avx512dq")) &&
                          has(__builtin_cpu_supports("avx512vnni"));
        return int(!wide ? kAvx2 : has(__builtin_cpu_supports("avx512bf16")) ? kAvx512Bf16 : kAvx512Vnni);
    }();
    return tier;
#else
    return kBaseline;
#endif
}

int cpu_tier() {
    const char* asked = std::getenv("HEADRACE_CPU_TIER");
    if (asked == nullptr || *asked == 0) return detected_tier();
    const auto& names = tier_names();
    std::string allowed;
    for (int i = 0; i <= detected_tier(); i++) {
        if (names[i] == asked) return i;
        allowed += (i ? ", " : "") + names[i];
    }
    const bool known = std::find(names.begin(), names.end(), asked) != names.end();
    throw std::invalid_argument("HEADRACE_CPU_TIER is '" + std::string(asked) + "', which " +
                                (known ? "this CPU does not have" : "is no CPU tier") + "; allowed here: " + allowed);
}

namespace {

// CPUs that a cgroup grants (quota / period), or 0 where there is no limit.
double quota_of(const std::string& folder) {
    std::ifstream v2(folder + "/cpu.max");
    std::string quota;
    double period = 0;
    if (v2 >> quota >> period && quota != "max" && period > 0) return std::atof(quota.c_str()) / period;
    std::ifstream v1q(folder + "/cpu.cfs_quota_us"), v1p(folder + "/cpu.cfs_period_us");
    double q = 0, p = 0;
    if (v1q >> q && v1p >> p && q > 0 && p > 0) return q / p;
    return 0;
}

// The tightest quota from this process's cgroup up to the root.
double cgroup_quota() {
    double tightest = 0;
    const auto note = [&](double cpus) { if (cpus > 0 && (tightest == 0 || cpus < tightest)) tightest = cpus; };
    std::ifstream file("/proc/self/cgroup");
    for (std::string line; std::getline(file, line);) {
        std::istringstream parts(line);
        std::string id, controllers, path;
        std::getline(parts, id, ':'), std::getline(parts, controllers, ':'), std::getline(parts, path);
        const bool v2 = controllers.empty();
        if (!v2 && controllers.find("cpu") == std::string::npos) continue;
        const std::string root = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
        for (std::string at = path; !at.empty() && at != "/"; at.erase(at.rfind('/'))) note(quota_of(root + at));
        note(quota_of(root));
    }
    return tightest;
}

}  // namespace

bool has_cpu_quota() {
    static const bool limited = cgroup_quota() > 0;
    return limited;
}

int usable_threads() {
    int cpus = int(std::max(1u, std::thread::hardware_concurrency()));
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) cpus = CPU_COUNT(&set);
    const double quota = cgroup_quota();
    if (quota > 0) cpus = std::min(cpus, int(std::ceil(quota)));
    return std::max(1, cpus);
}

}  // namespace hr
