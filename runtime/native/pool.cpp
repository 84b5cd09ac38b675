#include "pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu.h"

namespace hr {

namespace {

std::atomic<uint32_t> fork_generation{0};   // bumped in a forked child, where the worker threads do not exist
thread_local bool inside_pool = false;      // this thread is running a piece: nested calls run inline

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

constexpr auto kSpin = std::chrono::microseconds(40);

}  // namespace

struct ThreadPool::State {
    // The job in progress. `ticket` packs a job number (high half) and the next piece (low half), so that a worker that
    // wakes late can never take a piece of a job that it did not see begin.
    std::atomic<uint64_t> ticket{0};
    std::atomic<uint32_t> epoch{0};     // job number; workers wait for it to change
    std::atomic<int64_t> left{0};       // pieces not finished yet
    std::atomic<bool> stop{false};
    int64_t n = 0, grain = 1;
    uint32_t pieces = 0;
    Call call = nullptr;
    void* body = nullptr;
    std::exception_ptr error;
    std::mutex error_lock;
    std::mutex busy;                    // one job at a time; a second caller runs inline
    uint32_t generation = fork_generation;
    bool spin = !has_cpu_quota();
    std::vector<std::thread> workers;

    void piece(uint32_t index) {
        const int64_t blocks = (n + grain - 1) / grain;
        const int64_t begin = blocks * index / pieces * grain;
        const int64_t end = std::min(n, blocks * (index + 1) / pieces * grain);
        try {
            if (begin < end) call(body, begin, end);
        } catch (...) {
            std::lock_guard lock(error_lock);
            if (!error) error = std::current_exception();
        }
    }

    // Takes pieces of job `job` until none is left.
    void work(uint32_t job) {
        inside_pool = true;
        uint64_t now = ticket.load(std::memory_order_acquire);
        while (uint32_t(now >> 32) == job && uint32_t(now) < pieces_of(now)) {
            if (!ticket.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) continue;
            piece(uint32_t(now) & 0xffffu);
            left.fetch_sub(1, std::memory_order_acq_rel);
            now = ticket.load(std::memory_order_acquire);
        }
        inside_pool = false;
    }

    // The low half of a ticket is: pieces (16 bits), next piece (16 bits).
    static uint32_t pieces_of(uint64_t t) { return (uint32_t(t) & 0xffff0000u) | (uint32_t(t) >> 16); }

    void worker() {
        uint32_t seen = 0;
        for (;;) {
            uint32_t now = epoch.load(std::memory_order_acquire);
            if (now == seen && spin) {
                const auto until = std::chrono::steady_clock::now() + kSpin;
                do {
                    for (int i = 0; i < 64 && now == seen; i++) relax(), now = epoch.load(std::memory_order_acquire);
                } while (now == seen && std::chrono::steady_clock::now() < until);
            }
            while (now == seen) {
                epoch.wait(seen, std::memory_order_acquire);
                now = epoch.load(std::memory_order_acquire);
            }
            if (stop.load(std::memory_order_acquire)) return;
            seen = now;
            work(now);
        }
    }

    void start(int threads) {
        for (int i = 1; i < threads; i++) workers.emplace_back([this] { worker(); });
    }
};

ThreadPool::ThreadPool(int threads) : threads_(std::max(1, threads)) {
    static const int registered = pthread_atfork(nullptr, nullptr, [] { fork_generation++; });
    (void)registered;
    if (threads_ > 1) {
        state_ = new State;
        state_->start(threads_);
    }
}

ThreadPool::~ThreadPool() {
    if (!state_) return;
    if (state_->generation != fork_generation) return;   // a forked child: the threads are not here, the state is left alone
    state_->stop = true;
    state_->epoch++;
    state_->epoch.notify_all();
    for (auto& worker : state_->workers) worker.join();
    delete state_;
}

void ThreadPool::run(int64_t n, int64_t grain, Call call, void* body) {
    static std::mutex restart;
    if (state_->generation != fork_generation) {
        std::lock_guard lock(restart);
        if (state_->generation != fork_generation) {   // the old state's threads and locks belong to the parent: leave it
            auto* fresh = new State;
            fresh->start(threads_);
            state_ = fresh;
        }
    }
    State& s = *state_;
    std::unique_lock lock(s.busy, std::defer_lock);
    if (inside_pool || !lock.try_lock()) {
        call(body, 0, n);
        return;
    }
    const int64_t blocks = (n + grain - 1) / grain;
    s.pieces = uint32_t(std::min<int64_t>(blocks, std::min(4 * threads_, 0x7fff)));
    s.n = n, s.grain = grain, s.call = call, s.body = body, s.error = nullptr;
    s.left.store(s.pieces, std::memory_order_relaxed);
    const uint32_t job = s.epoch.load(std::memory_order_relaxed) + 1;
    s.ticket.store(uint64_t(job) << 32 | uint64_t(s.pieces) << 16, std::memory_order_release);
    s.epoch.store(job, std::memory_order_release);
    s.epoch.notify_all();
    s.work(job);
    for (int spins = 0; s.left.load(std::memory_order_acquire) > 0; spins++)
        spins < 2000 ? relax() : std::this_thread::yield();
    if (s.error) std::rethrow_exception(s.error);
}

std::shared_ptr<ThreadPool> ThreadPool::shared(int threads) {
    static auto* pools = new std::map<int, std::weak_ptr<ThreadPool>>;
    static auto* lock = new std::mutex;
    std::lock_guard guard(*lock);
    auto& known = (*pools)[threads];
    auto pool = known.lock();
    if (!pool) known = pool = std::make_shared<ThreadPool>(threads);
    return pool;
}

}  // namespace hr
