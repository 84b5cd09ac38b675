// The jobs of one model version that wait: their order, their limits, the next batch. No thread and no clock; its owner's lock
// guards it. It decides as serve/pending.py does, which is a property that the tests check.
#pragma once
#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "call.h"
#include "counters.h"
#include "interface.h"

namespace hr::serve {

struct Policy {
    int64_t max_rows = 0;           // 0: never merged
    double max_delay_s = 0;
    int instances = 1;
    size_t max_queue = 1024;
    std::vector<int64_t> preferred; // sizes of batches that need not wait for the delay
    std::vector<size_t> levels{0};  // of every priority, the first goes first: its own limit (0: none)
    int default_level = 1;          // of jobs that come without Python, counted from 1
    double timeout_s = 0;           // of theirs; 0: no limit of the model's own
    bool delays = false;            // ... after which they go behind; else they are refused
    bool any_delays = false;        // some level does that
    bool ordered = false;           // those of a level by arrival, whatever their deadlines
    bool inline_runs = true;        // short runs may happen on the loop's thread
    std::vector<int> cpus;          // instance i runs on cpus[i % size]; empty: anywhere
};

enum class Meaning : uint8_t { ok, unavailable, overloaded, expired, cancelled, internal };
const char* text_of(Meaning meaning);

// A request in the queue. Whoever wins `take` ends it, once, on any thread.
class Job {
public:
    virtual ~Job() = default;
    virtual bool gone() const { return false; }                         // nobody waits any more
    virtual bool counted() const { return true; }                       // as a request, in the counters ...
    virtual Front front() const { return Front::grpc; }                 // ... of this front
    virtual void prepare(const hr_outputs& outputs, int64_t from) = 0;  // its answer, of the rows from `from` on ...
    virtual void deliver(const Execution& run) = 0;                     // ... goes out, after everything is counted ...
    virtual void push() {}                                              // ... and after those of its run
    virtual void fail(Meaning meaning, const std::string& text, const Execution* run) = 0;
    virtual Asked asked() const { return {request.id, {}, 0, 0}; }       // for the records of some requests
    bool take() { return !ended_.exchange(true); }
    bool ended() const { return ended_.load(); }

    Fitted request;
    Time arrived{}, deadline = kNever;
    Time urgency = kNever;          // its place among those of its level
    int64_t retry_ms = 50;          // where it is refused: when to come back
    Time delay_at = kNever;         // behind the others of its level from then on
    int level = 1;
    bool delayed = false;
    bool alone = false;             // never merged: it may be what ends the process that runs it

private:
    std::atomic<bool> ended_{false};
};

using JobPtr = std::shared_ptr<Job>;

class Pending {
public:
    explicit Pending(const Policy& policy) : policy_(policy) {}

    struct Batch {
        std::vector<JobPtr> jobs;
        const char* reason = "alone";
    };

    // `dropped` gets the jobs that were over, to be ended by the caller.
    bool push(JobPtr job, Time now, std::vector<JobPtr>& dropped);      // false: one too many
    void settle(Time now, std::vector<JobPtr>& dropped);                // the order as it is now; the head is not over
    bool is_formed(Time now) const;                                     // more waiting would not make the batch better
    Batch pop(Time now, bool waited, std::vector<JobPtr>& dropped);     // there is a head

    // By how many seconds a job would be late if it waited for those before it, where rows take so long each and a run at least
    // `run_seconds`; 0 where it is in time, or would be late even without the queue.
    double lateness(const Job& job, Time now, double row_seconds, double run_seconds) const;
    std::string refusal(int level) const;                               // why one more of that level is one too many

    bool empty() const { return jobs_.empty(); }
    size_t size() const { return jobs_.size(); }
    const Job& head() const { return *jobs_.front(); }
    const std::deque<JobPtr>& jobs() const { return jobs_; }
    std::deque<JobPtr> take_all() { return std::exchange(jobs_, {}); }

private:
    struct Scan {
        std::vector<size_t> at;     // of what fits in one batch with the head
        size_t best = 0;            // so many of these make the largest preferred size
        bool full = false;          // one more was there that did not fit
        int64_t rows = 0;
    };
    Scan scan(Time now) const;
    bool is_full(int level) const;
    bool is_preferred(int64_t rows) const;
    Time urgency_of(const Job& job, Time now) const;
    void sort();

    const Policy& policy_;
    std::deque<JobPtr> jobs_;
};

}  // namespace hr::serve
