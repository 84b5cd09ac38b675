// The thread pool: spins briefly, then parks. No OpenMP. The caller takes part in the work.
#pragma once
#include <cstdint>
#include <memory>
#include <type_traits>

namespace hr {

class ThreadPool {
public:
    explicit ThreadPool(int threads);   // including the caller; 1 means that nothing is started
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;

    int threads() const { return threads_; }

    // Runs body(begin, end) over [0, n) in pieces whose bounds are multiples of `grain` (the last one ends at n). Which
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

    // The process's pool with that many threads; pools are shared by all programs.
    static std::shared_ptr<ThreadPool> shared(int threads);

private:
    using Call = void (*)(void* body, int64_t begin, int64_t end);
    void run(int64_t n, int64_t grain, Call call, void* body);

    struct State;
    State* state_ = nullptr;
    int threads_;
};

}  // namespace hr
