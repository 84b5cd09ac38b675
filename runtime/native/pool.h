// The thread pool: spins briefly, then parks. No OpenMP. The caller takes part in the work.
#pragma once
#include <cstdint>
#include <functional>

namespace hr {

class ThreadPool {
public:
    explicit ThreadPool(int threads);   // including the caller; 1 means that nothing is started
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;

    int threads() const { return threads_; }
    // Runs body(begin, end) over [0, n) in pieces of at least `grain`. Which thread runs a piece never changes results:
    // kernels split rows and columns, never a reduction. Exceptions in body are re-thrown in the caller.
    void parallel(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

private:
    struct State;
    State* state_;
    int threads_;
};

}  // namespace hr
