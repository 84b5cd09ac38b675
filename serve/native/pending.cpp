#include "pending.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace hr::serve {

namespace {

bool is_over(const Job& job, Time now) { return job.gone() || job.deadline <= now; }

// By level, in time before delayed, then by deadline; one without, or with a late one, as if it had one so long after it came.
constexpr auto kPatience = std::chrono::seconds(10);

std::tuple<int, bool, Time> place(const JobPtr& job) { return {job->level, job->delayed, job->urgency}; }

bool alike(const Fitted& a, const Fitted& b) {
    for (size_t i = 0; i < a.inputs.size(); i++) {
        const hr_tensor &x = a.inputs[i], &y = b.inputs[i];
        if (x.rank != y.rank || !std::equal(x.dims + 1, x.dims + x.rank, y.dims + 1)) return false;
    }
    return true;
}

}  // namespace

bool Pending::is_preferred(int64_t rows) const { return std::find(policy_.preferred.begin(), policy_.preferred.end(), rows) != policy_.preferred.end(); }

bool Pending::is_full(int level) const {
    if (jobs_.size() >= policy_.max_queue) return true;
    const size_t most = policy_.levels[size_t(level - 1)];
    return most && size_t(std::count_if(jobs_.begin(), jobs_.end(), [level](const JobPtr& job) { return job->level == level; })) >= most;
}

std::string Pending::refusal(int level) const {
    const size_t most = policy_.levels[size_t(level - 1)];
    if (jobs_.size() >= policy_.max_queue || !most) return "the queue of the model is full (" + std::to_string(policy_.max_queue) + " requests)";
    return "the queue of the model is full for priority " + std::to_string(level) + " (" + std::to_string(most) + " requests)";
}

void Pending::sort() {
    std::stable_sort(jobs_.begin(), jobs_.end(), [](const JobPtr& a, const JobPtr& b) { return place(a) < place(b); });
}

Time Pending::urgency_of(const Job& job, Time now) const { return policy_.ordered ? now : std::min(job.deadline, now + kPatience); }

double Pending::lateness(const Job& job, Time now, double row_seconds, double run_seconds) const {
    if (job.deadline == kNever) return 0;
    const double own = std::max(double(job.request.rows) * row_seconds, run_seconds), left = seconds_between(now, job.deadline);
    if (own > left) return 0;
    const std::tuple<int, bool, Time> mine{job.level, false, urgency_of(job, now)};
    int64_t rows = 0;
    for (const JobPtr& other : jobs_) {
        if (mine < place(other)) break;
        if (!is_over(*other, now)) rows += other->request.rows;
    }
    return std::max(0.0, own + double(rows) * row_seconds / policy_.instances - left);
}

bool Pending::push(JobPtr job, Time now, std::vector<JobPtr>& dropped) {
    if (is_full(job->level)) {
        for (const JobPtr& other : jobs_)
            if (is_over(*other, now)) dropped.push_back(other);
        std::erase_if(jobs_, [now](const JobPtr& other) { return is_over(*other, now); });
        if (is_full(job->level)) return false;
    }
    job->urgency = urgency_of(*job, now);
    const auto at = std::upper_bound(jobs_.begin(), jobs_.end(), job, [](const JobPtr& a, const JobPtr& b) { return place(a) < place(b); });
    jobs_.insert(at, std::move(job));
    return true;
}

void Pending::settle(Time now, std::vector<JobPtr>& dropped) {
    if (policy_.any_delays) {
        for (const JobPtr& job : jobs_) job->delayed |= job->delay_at <= now;
        sort();
    }
    for (; !jobs_.empty() && is_over(head(), now); jobs_.pop_front()) dropped.push_back(std::move(jobs_.front()));
}

Pending::Scan Pending::scan(Time now) const {
    Scan out{{0}, is_preferred(head().request.rows) ? size_t(1) : 0, false, head().request.rows};
    for (size_t i = 1; !head().alone && policy_.max_rows && i < jobs_.size() && out.rows < policy_.max_rows; i++) {
        const Job& job = *jobs_[i];
        if (job.alone || is_over(job, now) || !alike(head().request, job.request)) continue;
        if (out.rows + job.request.rows > policy_.max_rows) {
            out.full = true;
            break;
        }
        out.at.push_back(i), out.rows += job.request.rows;
        if (is_preferred(out.rows)) out.best = out.at.size();
    }
    return out;
}

bool Pending::is_formed(Time now) const {
    const Scan found = scan(now);
    return found.full || found.best || found.rows >= policy_.max_rows;
}

Pending::Batch Pending::pop(Time now, bool waited, std::vector<JobPtr>& dropped) {
    const Scan found = scan(now);
    const size_t count = found.best ? found.best : found.at.size(), passed = found.at[count - 1] + 1;
    Batch batch;
    std::deque<JobPtr> kept;
    int64_t rows = 0;
    for (size_t i = 0; i < passed; i++) {
        JobPtr& job = jobs_[i];
        if (batch.jobs.size() < count && found.at[batch.jobs.size()] == i) rows += job->request.rows, batch.jobs.push_back(std::move(job));
        else if (is_over(*job, now)) dropped.push_back(std::move(job));
        else kept.push_back(std::move(job));
    }
    jobs_.erase(jobs_.begin(), jobs_.begin() + long(passed));
    jobs_.insert(jobs_.begin(), std::make_move_iterator(kept.begin()), std::make_move_iterator(kept.end()));
    if (policy_.max_rows && rows == policy_.max_rows) batch.reason = "full";
    else if (found.best) batch.reason = "preferred";
    else batch.reason = found.full ? "full" : waited ? "delay" : batch.jobs.size() > 1 ? "turn" : "alone";
    return batch;
}

}  // namespace hr::serve
