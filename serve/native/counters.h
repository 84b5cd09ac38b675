// Counters of one version, taken over by the statistics in Python whenever somebody looks.
#pragma once
#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "call.h"

namespace hr::serve {

enum class Front : uint8_t { grpc, http };

// Counts by upper bound; the last count is above every bound. The bounds are Python's (statistics.py).
struct Histogram {
    const std::vector<double>* bounds = nullptr;
    std::vector<uint64_t> counts;
    double total = 0;

    void add(double value) {
        size_t i = 0;
        while (i < bounds->size() && value > (*bounds)[i]) i++;
        counts[i]++, total += value;
    }
};

struct Sum {
    uint64_t count = 0, ns = 0;
    void add(double seconds) { count++, ns += uint64_t(seconds * 1e9); }
};

struct BatchSums {
    Sum assemble, compute, scatter;
};

// What one run of the model did; `number` counts the runs of a version.
struct Execution {
    uint64_t number = 0;
    int64_t rows = 0;
    const char* reason = "";
    Time started, assembled, computed, finished;
    bool failed = false;
};

// What a request was, for the records of some.
struct Asked {
    std::string_view id, principal;
    size_t request_bytes = 0, response_bytes = 0;
};

// The record of a request that has ended: one of the slowest, or a line of the access log.
struct Ended {
    double seconds, queued, assemble = 0, compute = 0, scatter = 0;
    int64_t ended_ms, rows = 0;
    uint64_t batch = 0;
    size_t request_bytes, response_bytes;
    std::string meaning, id, reason, principal;
    bool operator>(const Ended& other) const { return seconds > other.seconds; }
};

// Which requests the access log gets (serve/access.py).
struct AccessPolicy {
    bool errors = false;
    double slow_s = 0;              // those that took longer; 0: none for that
    uint64_t every = 0;             // one of so many; 0: none for that
    size_t most = 0;                // records kept until somebody takes them; what is over is counted
    bool wants(bool ok, double seconds, uint64_t nth) const {
        return (errors && !ok) || (slow_s > 0 && seconds > slow_s) || (every && nth % every == 0);
    }
};

struct Counts {
    Sum success, fail, cancel, queue, assemble, compute, scatter;
    uint64_t inferences = 0, executions = 0, expired = 0, cancelled = 0;
    int64_t last_ms = 0;
    std::map<int64_t, BatchSums> batches;
    std::map<std::string, uint64_t> releases, meanings;
    std::vector<Ended> slow;                    // a heap, the fastest first
    Time slow_since{};
    Histogram request_seconds, queue_seconds, assemble_seconds, compute_seconds, scatter_seconds, batch_rows;
};

class Counters {
public:
    Counters(std::vector<double> seconds, std::vector<double> rows) : seconds_(std::move(seconds)), rows_(std::move(rows)) { reset(counts_); }

    void observe(const Execution& run) {
        std::lock_guard guard(lock_);
        counts_.releases[run.reason]++;
        if (run.failed) return;
        const double assemble = seconds_between(run.started, run.assembled), compute = seconds_between(run.assembled, run.computed),
                     scatter = seconds_between(run.computed, run.finished);
        counts_.executions++, counts_.inferences += uint64_t(run.rows);
        BatchSums& row = counts_.batches[run.rows];
        row.assemble.add(assemble), row.compute.add(compute), row.scatter.add(scatter);
        counts_.assemble_seconds.add(assemble), counts_.compute_seconds.add(compute), counts_.scatter_seconds.add(scatter);
        counts_.batch_rows.add(double(run.rows));
    }

    // One request: `meaning` is "ok" or why not; `run` null where it never ran.
    void finish(const char* meaning, double seconds, double queued, const Execution* run, const Asked& asked = {}) {
        std::lock_guard guard(lock_);
        const std::string_view what = meaning;
        if (is_slow(seconds)) keep_slow(record(meaning, seconds, queued, run, asked));
        if (access_policy_.wants(what == "ok", seconds, ++finished_)) {
            if (access_.size() < access_policy_.most) access_.push_back(record(meaning, seconds, queued, run, asked));
            else access_lost_++;
        }
        counts_.meanings[meaning]++;
        counts_.request_seconds.add(seconds);
        if (what != "ok") {
            (what == "cancelled" ? counts_.cancel : counts_.fail).add(seconds);
            if (!run) counts_.expired += what == "expired", counts_.cancelled += what == "cancelled";
            return;
        }
        counts_.success.add(seconds);
        counts_.last_ms = now_ms();
        counts_.queue.add(queued), counts_.queue_seconds.add(queued);
        if (!run) return;
        counts_.assemble.add(seconds_between(run->started, run->assembled));
        counts_.compute.add(seconds_between(run->assembled, run->computed));
        counts_.scatter.add(seconds_between(run->computed, run->finished));
    }

    // Everything since the last call.
    Counts take() {
        Counts fresh, out;
        reset(fresh);
        std::lock_guard guard(lock_);
        out = std::move(counts_);
        counts_ = std::move(fresh);
        return out;
    }

    void set_access(const AccessPolicy& policy) {
        std::lock_guard guard(lock_);
        access_policy_ = policy;
    }

    // The records for the access log since the last call, and how many there was no room for.
    std::pair<std::vector<Ended>, uint64_t> take_access() {
        std::lock_guard guard(lock_);
        return {std::exchange(access_, {}), std::exchange(access_lost_, 0)};
    }

private:
    static constexpr size_t kSlow = 100;
    static constexpr auto kSlowWindow = std::chrono::seconds(300);

    static int64_t now_ms() { return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count(); }

    // The slowest since somebody looked, or of the last window where nobody does (slow.py remembers longer).
    bool is_slow(double seconds) {
        const Time now = Clock::now();
        if (now - counts_.slow_since > kSlowWindow) counts_.slow.clear(), counts_.slow_since = now;
        return counts_.slow.size() < kSlow || seconds > counts_.slow.front().seconds;
    }

    void keep_slow(Ended one) {
        if (counts_.slow.size() == kSlow) {
            std::pop_heap(counts_.slow.begin(), counts_.slow.end(), std::greater<>());
            counts_.slow.pop_back();
        }
        counts_.slow.push_back(std::move(one));
        std::push_heap(counts_.slow.begin(), counts_.slow.end(), std::greater<>());
    }

    static Ended record(const char* meaning, double seconds, double queued, const Execution* run, const Asked& asked) {
        Ended one{seconds, queued, 0, 0, 0, now_ms(), 0, 0, asked.request_bytes, asked.response_bytes, meaning, std::string(asked.id), {}, std::string(asked.principal)};
        if (run) {
            one.assemble = seconds_between(run->started, run->assembled), one.compute = seconds_between(run->assembled, run->computed);
            one.scatter = seconds_between(run->computed, run->finished), one.rows = run->rows, one.batch = run->number, one.reason = run->reason;
        }
        return one;
    }

    void reset(Counts& counts) const {
        counts.slow_since = Clock::now();
        for (Histogram* h : {&counts.request_seconds, &counts.queue_seconds, &counts.assemble_seconds, &counts.compute_seconds, &counts.scatter_seconds})
            h->bounds = &seconds_, h->counts.assign(seconds_.size() + 1, 0);
        counts.batch_rows.bounds = &rows_, counts.batch_rows.counts.assign(rows_.size() + 1, 0);
    }
    const std::vector<double> seconds_, rows_;
    std::mutex lock_;
    Counts counts_;
    AccessPolicy access_policy_;
    std::vector<Ended> access_;
    uint64_t access_lost_ = 0, finished_ = 0;
};

}  // namespace hr::serve
