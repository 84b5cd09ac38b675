// Carries what happened to Python on a thread of its own: neither the loop nor a run waits for the interpreter lock, which a load
// or a page of metrics may hold for milliseconds.
#pragma once
#include <condition_variable>
#include <functional>
#include <iterator>
#include <mutex>
#include <thread>
#include <vector>

namespace hr::serve {

template <class Item>
class Courier {
public:
    using Deliver = std::function<void(std::vector<Item>)>;
    explicit Courier(Deliver deliver) : deliver_(std::move(deliver)) {}
    ~Courier() { stop(); }

    void start() {
        thread_ = std::thread([this] { work(); });
    }

    // From any thread. What comes while Python is busy goes to it together, in its order.
    void send(std::vector<Item> items) {
        {
            std::lock_guard guard(lock_);
            if (items_.empty()) items_ = std::move(items);
            else std::move(items.begin(), items.end(), std::back_inserter(items_));
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
            changed_.wait(guard, [this] { return stopped_ || !items_.empty(); });
            if (items_.empty()) return;
            std::vector<Item> items;
            items.swap(items_);
            guard.unlock();
            deliver_(std::move(items));
            guard.lock();
        }
    }

    const Deliver deliver_;
    std::mutex lock_;
    std::condition_variable changed_;
    std::vector<Item> items_;
    bool stopped_ = false;
    std::thread thread_;
};

}  // namespace hr::serve
