// One model version that takes requests: its queue, its batches, its runs. The contract is scheduler.py's, which is the
// oracle of the tests: one queue a version, what fits is merged, each job ends exactly once, a failed batch is run again
// row by row.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
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
    double timeout_s = 0;           // 0: no limit of the model's own
    bool inline_runs = true;        // short runs may happen on the loop's thread
};

enum class Meaning : uint8_t { ok, unavailable, overloaded, expired, cancelled, internal };
const char* text_of(Meaning meaning);

// A request in the queue. `end` is called exactly once, from any thread, by whoever wins `take`.
class Job {
public:
    virtual ~Job() = default;
    virtual bool gone() const { return false; }                         // nobody waits any more
    virtual bool counted() const { return true; }                       // as a request, in the counters
    virtual void succeed(const hr_outputs& outputs, int64_t from, const Execution& run) = 0;
    virtual void fail(Meaning meaning, const std::string& text, const Execution* run) = 0;
    bool take() { return !ended_.exchange(true); }
    bool ended() const { return ended_.load(); }

    Fitted request;
    Time arrived{}, deadline = kNever;

private:
    std::atomic<bool> ended_{false};
};

class Version {
public:
    Version(std::string name, std::string number, Interface interface, Policy policy, const hr_door* door, std::vector<double> seconds, std::vector<double> rows);
    ~Version();

    const std::string& name() const { return name_; }
    const std::string& number() const { return number_; }
    const Interface& interface() const { return interface_; }
    const Policy& policy() const { return policy_; }
    Counters& counters() { return counters_; }

    // Queues; false (and `why`) where it is refused: full, or closed. The caller then ends the job.
    bool submit(std::shared_ptr<Job> job, Meaning& why);
    void pump(bool on_loop);        // runs what is short here, wakes a worker for the rest
    void close();                   // refuse new jobs, end the waiting ones, let running ones finish; waits for them
    size_t pending() const;
    size_t inflight() const { return inflight_.load(std::memory_order_relaxed); }

    using OnFailure = std::function<void(const std::string& incident, const std::string& text)>;
    void set_on_failure(OnFailure told);

private:
    struct Batch {
        std::vector<std::shared_ptr<Job>> jobs;
        const char* reason = "alone";
    };
    bool pop(Batch& batch, std::unique_lock<std::mutex>& locked, bool may_wait);
    void drop_ended(Time now);
    bool is_short() const;          // the next batch does not hold the loop up
    static bool alike(const Fitted& a, const Fitted& b);
    int64_t rows_waiting(const Fitted& head) const;
    void execute(Batch& batch);
    void run(std::vector<std::shared_ptr<Job>>& jobs, const char* reason);
    bool merge(const std::vector<std::shared_ptr<Job>>& jobs, std::vector<hr_tensor>& inputs, std::vector<Bytes>& memory, int64_t& rows) const;
    void end(Job& job, Meaning meaning, const std::string& text, const Execution* run);
    void work();

    const std::string name_, number_;
    const Interface interface_;
    const Policy policy_;
    const hr_door* door_;
    Counters counters_;

    mutable std::mutex lock_;
    std::condition_variable arrived_, idle_;
    std::deque<std::shared_ptr<Job>> queue_;
    OnFailure on_failure_;
    int busy_ = 0;
    bool closed_ = false;
    double run_seconds_ = 1;        // of recent runs; pessimistic before the first
    double row_seconds_ = 1;
    std::vector<std::thread> workers_;
    std::atomic<size_t> inflight_{0};
};

}  // namespace hr::serve
