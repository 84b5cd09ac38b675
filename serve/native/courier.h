// Carries events from the loop to Python on a thread of its own: the loop never waits for the interpreter lock, which a load or
// a page of metrics may hold for milliseconds.
#pragma once
#include <condition_variable>
#include <functional>
#include <iterator>
#include <mutex>
#include <thread>
#include <vector>

#include "plane.h"

namespace hr::serve {

class Courier {
public:
    explicit Courier(Plane::Deliver deliver) : deliver_(std::move(deliver)) {}
    ~Courier() { stop(); }

    void start() {
        thread_ = std::thread([this] { work(); });
    }

    // From any thread. What comes while Python is busy goes to it together, in its order.
    void send(std::vector<Event> events) {
        {
            std::lock_guard guard(lock_);
            if (events_.empty()) events_ = std::move(events);
            else std::move(events.begin(), events.end(), std::back_inserter(events_));
        }
        changed_.notify_one();
    }

    // Returns when what was sent has been delivered. Not under the interpreter lock.
    void stop() {
        {
            std::lock_guard guard(lock_);
            stopped_ = true;
        }
        changed_.notify_one();
        if (thread_.joinable()) thread_.join();
    }

private:
    void work() {
        std::unique_lock guard(lock_);
        while (true) {
            changed_.wait(guard, [this] { return stopped_ || !events_.empty(); });
            if (events_.empty()) return;
            std::vector<Event> events;
            events.swap(events_);
            guard.unlock();
            deliver_(std::move(events));
            guard.lock();
        }
    }

    const Plane::Deliver deliver_;
    std::mutex lock_;
    std::condition_variable changed_;
    std::vector<Event> events_;
    bool stopped_ = false;
    std::thread thread_;
};

}  // namespace hr::serve
