#include "later.h"

#include <utility>

#include "cpu.h"
#include "give_way.h"

namespace hr {

namespace {

constexpr size_t kWorth = 256 << 10;    // bytes that take about as long as a thread to start

}  // namespace

void Later::ask(size_t bytes, std::function<void()> task) {
    if (!thread_.joinable()) {
        bytes_ += bytes;
        if (bytes_ < kWorth) return run(task);
        if (!processors_) processors_ = usable_threads();
        if (processors_ < 2) return run(task);
        thread_ = std::thread([this, on = gives_way()] {
            GivingWay as_who_asks(on);
            work();
        });
    }
    {
        std::lock_guard guard(lock_);
        tasks_.push_back(std::move(task));
    }
    more_.notify_one();
}

void Later::work() {
    std::unique_lock guard(lock_);
    for (;;) {
        more_.wait(guard, [&] { return ending_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        std::function<void()> task = std::move(tasks_.front());
        tasks_.pop_front();
        guard.unlock();
        run(task);
        task = nullptr;
        guard.lock();
    }
}

void Later::run(const std::function<void()>& task) {
    if (failure_) return;
    try {
        task();
    } catch (...) {
        failure_ = std::current_exception();
    }
}

void Later::join() {
    if (!thread_.joinable()) return;
    {
        std::lock_guard guard(lock_);
        ending_ = true;
    }
    more_.notify_one();
    thread_.join();
    ending_ = false;
}

void Later::finish() {
    join();
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

}  // namespace hr
