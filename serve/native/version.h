// One model version that takes requests: its queue, its batches, its runs. The contract is scheduler.py's, which is the
// oracle of the tests: one queue a version, what fits is merged, each job ends exactly once, a failed batch is run again
// row by row.
#pragma once
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "pending.h"
#include "quarantine.h"

namespace hr::serve {

// When the callers of the batch that this thread runs have all given up: for a door that waits for another process.
extern thread_local Time running_until;

class Version {
public:
    Version(std::string name, std::string number, Interface interface, Policy policy, const hr_door* door, std::vector<double> seconds, std::vector<double> rows);
    ~Version();

    const std::string& name() const { return name_; }
    const std::string& number() const { return number_; }
    const Interface& interface() const { return interface_; }
    const Policy& policy() const { return policy_; }
    Counters& counters(Front front) { return front == Front::http ? http_counters_ : counters_; }        // of runs: gRPC's
    std::atomic<size_t>& last_answer() { return last_answer_; }         // bytes of the latest answer over HTTP

    // Queues; false (and `why`) where it is refused: full, or closed. The caller then ends the job.
    bool submit(JobPtr job, Meaning& why, std::string& text);
    // Queues a request of a front by the model's own rules, or ends it where it is refused; false: the version is being unloaded.
    bool accept(const JobPtr& job, Time now);
    // Runs what is short here (until `own` has ended, where it is given), wakes a worker for the rest.
    void pump(bool may_run, const Job* own = nullptr);
    bool is_instant() const;        // what waits would run in less time than a change of threads takes
    void expect(double seconds, int64_t rows);      // what a run of so many rows took before there were requests
    void close(const std::string& why = "the model was unloaded before the request ran");    // refuse new jobs, end the waiting ones with these words, let running ones finish; waits for them
    size_t pending() const;
    double oldest_s() const;        // how long the one that has waited longest waits; 0: none does
    size_t inflight() const { return inflight_.load(std::memory_order_relaxed); }      // of those that are counted here

    using OnFailure = std::function<void(const std::string& incident, const std::string& text)>;
    void set_on_failure(OnFailure told);

private:
    using Batch = Pending::Batch;
    bool pop(Batch& batch, std::unique_lock<std::mutex>& locked, bool may_wait);
    void drop(std::vector<JobPtr>& jobs, Time now);
    bool is_short(double seconds) const;    // the next batch takes no longer
    void run(std::vector<JobPtr>& jobs, const char* reason);
    void merge(const std::vector<JobPtr>& jobs, std::vector<hr_tensor>& inputs, std::vector<Bytes>& memory, int64_t& rows) const;
    void lose(std::vector<JobPtr>& jobs, const Execution& execution, const char* how, bool was_running);
    void tell(const std::string& incident, const std::string& text);
    void end(Job& job, Meaning meaning, const std::string& text, const Execution* run);
    void work(size_t instance);

    const std::string name_, number_;
    const Interface interface_;
    const Policy policy_;
    const hr_door* door_;
    Counters counters_, http_counters_;
    std::atomic<size_t> last_answer_{0};

    mutable std::mutex lock_;
    std::condition_variable arrived_, idle_;
    Pending queue_;
    OnFailure on_failure_;
    Quarantine quarantine_;
    int busy_ = 0;
    bool closed_ = false;
    double run_seconds_ = 1;        // of recent runs; pessimistic before the first, where nobody said what to expect
    double row_seconds_ = 1;
    double best_row_ = 0;           // seconds of a row in the best run of late; 0: nothing ran yet
    std::vector<std::thread> workers_;
    std::atomic<size_t> inflight_{0};
    std::atomic<uint64_t> runs_{0};
};

}  // namespace hr::serve
