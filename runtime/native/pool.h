// The thread pool: spins briefly, then parks. No OpenMP. The caller takes part in the work.
//
// A process has one set of worker threads, as many as its widest pool needs. A ThreadPool is a width: how many of them,
// the caller included, may work on its jobs. One job at a time has the workers; whoever comes meanwhile runs its own job
// alone, so that many models and callers never run more threads than callers and workers together. Workers that are not
// pinned keep off the CPU that their caller runs on.
#pragma once
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

namespace hr {

class ThreadPool {
public:
    explicit ThreadPool(int threads);   // including the caller; 1 means that nothing is started
    ThreadPool(const ThreadPool&) = delete;

    int threads() const { return threads_; }

    // Runs body(begin, end) over [0, n) in pieces whose bounds are multiples of `grain` (the last one ends at n). A thread begins
    // with the same share of [0, n) every time, so that it meets again what its cache holds, then helps others. Which
    // thread runs a piece never changes results: kernels split rows and columns, never a reduction. Exceptions in body
    // are re-thrown in the caller. Called from inside a body, or while another caller uses the pool, it runs inline.
    template <class F>
    void parallel(int64_t n, int64_t grain, F&& body) {
        if (n <= 0) return;
        if (grain < 1) grain = 1;
        if (threads_ == 1 || n <= grain) {
            body(int64_t(0), n);
            return;
        }
        using Body = std::remove_reference_t<F>;
        run(n, grain, [](void* b, int64_t begin, int64_t end) { (*static_cast<Body*>(b))(begin, end); },
            const_cast<void*>(static_cast<const void*>(&body)));
    }

    // The process's pool of that width.
    static std::shared_ptr<ThreadPool> shared(int threads);
    // How many worker threads the process has now.
    static int workers();
    // Worker i runs on CPU cpus[i % size] from now on, those that are started later as well; empty: anywhere again. Answers
    // false where a CPU is not allowed to this process; nothing changes then.
    static bool pin(const std::vector<int>& cpus);

private:
    using Call = void (*)(void* body, int64_t begin, int64_t end);
    void run(int64_t n, int64_t grain, Call call, void* body);

    int threads_;
};

}  // namespace hr
