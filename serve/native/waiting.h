// A request whose caller blocks until it has ended.
#pragma once
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>

#include "pending.h"

namespace hr::serve {

class Waiting : public Job {
public:
    bool gone() const override { return cancelled.load(); }
    void deliver(const Execution& run) override { finish(Meaning::ok, "", &run); }
    void fail(Meaning why, const std::string& what, const Execution* run) override { finish(why, what, run); }

    // False: the time is up.
    bool wait(Time until) {
        std::unique_lock locked(lock_);
        if (until != kNever) return done_.wait_until(locked, until, [&] { return over_; });
        done_.wait(locked, [&] { return over_; });
        return true;
    }

    std::atomic<bool> cancelled{false};
    Meaning meaning = Meaning::internal;        // what follows is set when it has ended
    std::string text;
    std::optional<Execution> execution;

private:
    void finish(Meaning why, const std::string& what, const Execution* run) {
        std::lock_guard guard(lock_);
        meaning = why, text = what;
        if (run) execution = *run;
        over_ = true;
        done_.notify_all();
    }
    std::mutex lock_;
    std::condition_variable done_;
    bool over_ = false;
};

}  // namespace hr::serve
