// Tasks that one thread of their own does in the order in which they were asked for, while who asks goes on.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace hr {

class Later {
public:
    Later() = default;
    ~Later() { join(); }
    Later(const Later&) = delete;

    // `bytes` says how much there is to do. At once until a thread is worth its start; always where this process has one processor.
    void ask(size_t bytes, std::function<void()> task);
    // All is done, and the thread has ended. Throws what the first task that failed threw; those after it were left out.
    void finish();
    void join();        // the same, but it throws nothing

private:
    void work();
    void run(const std::function<void()>& task);    // unless one failed before

    size_t bytes_ = 0;
    int processors_ = 0;    // 0: nobody looked
    std::thread thread_;
    std::exception_ptr failure_;    // of who runs the tasks; the caller's before there is a thread, and after it
    std::mutex lock_;               // guards what follows
    std::condition_variable more_;
    std::deque<std::function<void()>> tasks_;
    bool ending_ = false;
};

}  // namespace hr
