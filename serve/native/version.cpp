#include "version.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

namespace hr::serve {

namespace {

constexpr double kInlineSeconds = 300e-6;       // runs up to here do not hold the caller up
constexpr double kInstantSeconds = 50e-6;
constexpr int kInlineBatches = 8;               // a turn
constexpr double kSmoothing = 0.2;
constexpr double kForgetting = 1.05;            // a run: the best time of a row counts for less and less

std::string make_incident() {
    static thread_local std::mt19937_64 random{std::random_device{}()};
    char text[13];
    std::snprintf(text, sizeof text, "%012llx", static_cast<unsigned long long>(random() & 0xffffffffffffull));
    return text;
}

}  // namespace

thread_local Time running_until = kNever;

const char* text_of(Meaning meaning) {
    switch (meaning) {
        case Meaning::ok: return "ok";
        case Meaning::unavailable: return "unavailable";
        case Meaning::overloaded: return "overloaded";
        case Meaning::expired: return "expired";
        case Meaning::cancelled: return "cancelled";
        case Meaning::internal: return "internal";
    }
    return "";
}

Version::Version(std::string name, std::string number, Interface interface, Policy policy, const hr_door* door, std::vector<double> seconds, std::vector<double> rows)
    : name_(std::move(name)), number_(std::move(number)), interface_(std::move(interface)), policy_(std::move(policy)), door_(door),
      counters_(seconds, rows), http_counters_(std::move(seconds), std::move(rows)), queue_(policy_) {}

Version::~Version() { close(); }

void Version::set_on_failure(OnFailure told) {
    std::lock_guard guard(lock_);
    on_failure_ = std::move(told);
}

double Version::oldest_s() const {
    std::lock_guard guard(lock_);
    Time oldest = kNever;
    for (const JobPtr& job : queue_.jobs()) oldest = std::min(oldest, job->arrived);
    return oldest == kNever ? 0 : seconds_between(oldest, Clock::now());
}

size_t Version::pending() const {
    std::lock_guard guard(lock_);
    return queue_.size();
}

bool Version::submit(JobPtr job, Meaning& why, std::string& text) {
    std::lock_guard guard(lock_);
    if (closed_) return why = Meaning::unavailable, false;
    std::vector<JobPtr> dropped;
    const Time now = job->arrived;
    const int level = job->level;
    const bool counted = job->counted();
    switch (quarantine_.look(interface_, job->request, now)) {
        case Quarantine::Verdict::refused:
            text = "this request was in progress when two workers of the model ended; it is refused for a while";
            return why = Meaning::unavailable, false;
        case Quarantine::Verdict::suspect: job->alone = true; break;
        case Quarantine::Verdict::clear: break;
    }
    if (const double late = queue_.lateness(*job, now, best_row_, run_seconds_); late > 0) {
        job->retry_ms = std::max<int64_t>(1, std::llround(late * 1000));
        text = "the queue is too long for the deadline of the request";
        return why = Meaning::overloaded, false;
    }
    const bool taken = queue_.push(std::move(job), now, dropped);
    drop(dropped, now);
    if (!taken) return why = Meaning::overloaded, text = queue_.refusal(level), false;
    inflight_ += counted;
    return true;
}

bool Version::accept(const JobPtr& job, Time now) {
    job->arrived = now, job->level = policy_.default_level;
    if (policy_.timeout_s > 0) {
        const Time late = now + span(policy_.timeout_s);
        if (policy_.delays) job->delay_at = late;
        else job->deadline = std::min(job->deadline, late);
    }
    Meaning why;
    std::string text;
    if (submit(job, why, text)) return true;
    if (why == Meaning::unavailable) return false;
    counters(job->front()).finish(text_of(why), 0, 0, nullptr, job->asked());
    if (job->take()) job->fail(why, text, nullptr);
    return true;
}

void Version::pump(bool may_run, const Job* own) {
    std::unique_lock locked(lock_);
    for (int n = 0; may_run && policy_.inline_runs && policy_.max_delay_s == 0 && n < kInlineBatches; n++) {
        if (queue_.empty() || busy_ >= policy_.instances || (own && own->ended()) || !is_short(kInlineSeconds)) break;
        Batch batch;
        if (!pop(batch, locked, false)) break;
        busy_++;
        locked.unlock();
        run(batch.jobs, batch.reason);
        locked.lock();
        busy_--;
    }
    if (queue_.empty() || closed_) return idle_.notify_all();
    if (busy_ >= policy_.instances && policy_.max_delay_s == 0) return;         // who is busy looks here next
    if (int(workers_.size()) < policy_.instances && int(workers_.size()) <= busy_) workers_.emplace_back([this, instance = workers_.size()] { work(instance); });
    arrived_.notify_one();
}

// Without this the first requests of a version would wait for a thread that is yet to start.
void Version::expect(double seconds, int64_t rows) {
    std::lock_guard guard(lock_);
    run_seconds_ = seconds;
    row_seconds_ = seconds / double(std::max<int64_t>(rows, 1));
}

void Version::work(size_t instance) {
    if (!policy_.cpus.empty()) {        // allowed when the version was made; else it runs anywhere
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(policy_.cpus[instance % policy_.cpus.size()], &set);
        pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    }
    std::unique_lock locked(lock_);
    for (;;) {
        arrived_.wait(locked, [&] { return closed_ || (!queue_.empty() && busy_ < policy_.instances); });
        if (closed_) return;
        busy_++;
        for (Batch batch; pop(batch, locked, true); batch = Batch()) {
            locked.unlock();
            run(batch.jobs, batch.reason);
            batch.jobs.clear();
            locked.lock();
        }
        busy_--;
        idle_.notify_all();
        if (closed_) return;
    }
}

void Version::close(const std::string& why) {
    std::deque<JobPtr> waiting;
    std::vector<std::thread> workers;
    {
        std::unique_lock locked(lock_);
        closed_ = true;
        waiting = queue_.take_all();
        arrived_.notify_all();
        idle_.wait(locked, [&] { return busy_ == 0; });
        workers.swap(workers_);
    }
    for (auto& job : waiting)
        if (job->take()) end(*job, Meaning::unavailable, why, nullptr);
    for (std::thread& worker : workers) worker.join();
}

// ---- batches (the lock is held) ----

void Version::drop(std::vector<JobPtr>& jobs, Time now) {
    for (const JobPtr& job : jobs)
        if (job->take()) end(*job, job->deadline <= now ? Meaning::expired : Meaning::cancelled, "the deadline passed before the request ran", nullptr);
    jobs.clear();
}

bool Version::is_instant() const {
    std::lock_guard guard(lock_);
    return is_short(kInstantSeconds);
}

bool Version::is_short(double seconds) const {
    if (run_seconds_ > seconds) return false;
    const int64_t limit = int64_t(seconds / std::max(row_seconds_, 1e-9));
    int64_t rows = 0;
    for (const auto& job : queue_.jobs()) {
        rows += job->request.rows;
        if (rows > limit) return false;
        if (rows >= policy_.max_rows) break;
    }
    return true;
}

bool Version::pop(Batch& batch, std::unique_lock<std::mutex>& locked, bool may_wait) {
    std::vector<JobPtr> dropped;
    bool waited = false;
    for (;;) {
        const Time now = Clock::now();
        queue_.settle(now, dropped);
        drop(dropped, now);
        if (queue_.empty() || closed_) return false;
        if (!may_wait || policy_.max_delay_s == 0 || policy_.max_rows < 2 || queue_.is_formed(now)) break;
        const Job& head = queue_.head();
        Time until = head.arrived + span(policy_.max_delay_s);
        if (head.deadline != kNever) until = std::min(until, head.deadline - span(run_seconds_));
        if (now >= until) {
            waited = true;
            break;
        }
        arrived_.wait_until(locked, until);
    }
    const Time now = Clock::now();
    batch = queue_.pop(now, waited, dropped);
    drop(dropped, now);
    return true;
}

// ---- running (without the lock) ----

void Version::merge(const std::vector<std::shared_ptr<Job>>& jobs, std::vector<hr_tensor>& inputs, std::vector<Bytes>& memory, int64_t& rows) const {
    rows = 0;
    for (const auto& job : jobs) rows += job->request.rows;
    inputs = jobs[0]->request.inputs;
    for (size_t i = 0; i < inputs.size(); i++) {
        const size_t item = interface_.inputs[i].item;
        const bool aligned = reinterpret_cast<uintptr_t>(inputs[i].data) % item == 0;
        if (jobs.size() == 1 && aligned) continue;          // the kernels read the message itself
        if (jobs.size() > 1) inputs[i].dims[0] = rows;
        size_t total = item;
        for (int d = 0; d < inputs[i].rank; d++) total *= size_t(inputs[i].dims[d]);
        Bytes joined(std::max<size_t>(total, 1));
        char* at = joined.data();
        for (const auto& job : jobs) {
            const size_t bytes = jobs.size() == 1 ? total : total / size_t(rows) * size_t(job->request.rows);
            if (bytes) std::memcpy(at, job->request.inputs[i].data, bytes);
            at += bytes;
        }
        inputs[i].data = joined.data();
        memory.push_back(std::move(joined));
    }
}

void Version::run(std::vector<std::shared_ptr<Job>>& jobs, const char* reason) {
    Execution execution;
    execution.number = ++runs_, execution.reason = reason, execution.started = Clock::now();
    std::vector<hr_tensor> inputs;
    std::vector<Bytes> memory;
    merge(jobs, inputs, memory, execution.rows);
    execution.assembled = Clock::now();
    hr_outputs* outputs = nullptr;
    char error[512] = "";
    running_until = Time::min();
    for (const auto& job : jobs) running_until = std::max(running_until, job->deadline);
    int outcome = door_->run(door_->program, inputs.data(), &outputs, error, sizeof error);
    execution.computed = Clock::now();
    if (outcome == HR_OK && interface_.max_batch_rows)
        for (int k = 0; k < outputs->count; k++)        // a wrong hand-out must be impossible
            if (outputs->tensors[k].rank == 0 || outputs->tensors[k].dims[0] != execution.rows) {
                std::snprintf(error, sizeof error, "output %s does not have %lld rows", interface_.outputs[k].name.c_str(), static_cast<long long>(execution.rows));
                outcome = HR_FAILED;
            }
    if (outcome == HR_DOES_NOT_FIT) std::snprintf(error, sizeof error, "the inputs do not fit the program");
    {
        std::lock_guard guard(lock_);
        const double took = seconds_between(execution.assembled, execution.computed);
        const double each = took / double(std::max<int64_t>(execution.rows, 1));
        const bool first = run_seconds_ >= 1;
        run_seconds_ = first ? took : run_seconds_ + kSmoothing * (took - run_seconds_);
        row_seconds_ = first ? each : row_seconds_ + kSmoothing * (each - row_seconds_);
        if (outcome == HR_OK) best_row_ = best_row_ == 0 ? each : std::min(each, best_row_ * kForgetting);
    }
    if (outcome == HR_LOST || outcome == HR_NOBODY) {
        lose(jobs, execution, error, outcome == HR_LOST);
    } else if (outcome != HR_OK && jobs.size() > 1) {          // find the guilty one: each alone, once
        for (auto& job : jobs) {
            std::vector<std::shared_ptr<Job>> one{job};
            if (!job->ended()) run(one, "isolated");
        }
    } else if (outcome != HR_OK) {
        execution.finished = Clock::now(), execution.failed = true;
        counters_.observe(execution);
        const std::string incident = make_incident();
        tell(incident, error);
        if (jobs[0]->take()) end(*jobs[0], Meaning::internal, "internal error, incident " + incident, &execution);
    } else {
        execution.finished = Clock::now();
        int64_t from = 0;
        std::vector<Job*> done;
        for (auto& job : jobs) {
            if (job->take()) {
                if (job->gone()) {
                    end(*job, job->deadline <= execution.finished ? Meaning::expired : Meaning::cancelled, "", &execution);
                } else {
                    job->prepare(*outputs, from);
                    done.push_back(job.get());
                }
            }
            from += job->request.rows;
        }
        execution.finished = Clock::now();
        counters_.observe(execution);
        // Counted before they go out: who has an answer finds it in the statistics.
        for (Job* job : done)
            if (job->counted()) counters(job->front()).finish("ok", seconds_between(job->arrived, execution.finished), seconds_between(job->arrived, execution.started), &execution, job->asked());
        for (Job* job : done) {
            inflight_ -= job->counted();
            job->deliver(execution);
        }
        for (Job* job : done) job->push();
    }
    if (outputs) door_->release(outputs);
}

// Those that ran fail at once, and are not tried again: who knows what they have done.
void Version::lose(std::vector<JobPtr>& jobs, const Execution& execution, const char* how, bool was_running) {
    Execution run = execution;
    run.finished = Clock::now(), run.failed = true;
    counters_.observe(run);
    int guilty = 0;
    if (was_running) {
        std::lock_guard guard(lock_);
        for (const auto& job : jobs) guilty += quarantine_.accuse(interface_, job->request, run.finished);
    }
    if (guilty) tell(make_incident(), std::to_string(guilty) + " requests were in progress at two deaths of workers, and are refused for a minute");
    for (auto& job : jobs)
        if (job->take()) end(*job, Meaning::unavailable, how, &run);
}

void Version::tell(const std::string& incident, const std::string& text) {
    OnFailure told;
    {
        std::lock_guard guard(lock_);
        told = on_failure_;
    }
    if (told) told(incident, text);
}

void Version::end(Job& job, Meaning meaning, const std::string& text, const Execution* run) {
    if (job.counted()) counters(job.front()).finish(text_of(meaning), seconds_between(job.arrived, Clock::now()), run ? seconds_between(job.arrived, run->started) : 0, run, job.asked());
    inflight_ -= job.counted();
    job.fail(meaning, text, run);
}

}  // namespace hr::serve
