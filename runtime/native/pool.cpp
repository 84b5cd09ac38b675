#include "pool.h"

#include <pthread.h>
#include <sched.h>

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

using Call = void (*)(void* body, int64_t begin, int64_t end);

// The CPUs that a thread may use: one of `cpus`, or all of `everywhere` where there are none.
cpu_set_t cpus_of(int worker, const std::vector<int>& cpus, const cpu_set_t& everywhere) {
    if (cpus.empty()) return everywhere;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpus[size_t(worker) % cpus.size()], &one);
    return one;
}

// The worker threads of the process and the job that they have.
struct Workers {
    // The job in progress. `ticket` packs a job number (high half) and the next piece (low half), so that a worker that
    // wakes late can never take a piece of a job that it did not see begin.
    std::atomic<uint64_t> ticket{0};
    std::atomic<uint32_t> epoch{0};     // job number; workers wait for it to change
    std::atomic<int64_t> left{0};       // pieces not finished yet
    std::atomic<int> width{1};          // threads that may take part, the caller included
    int64_t n = 0, grain = 1;
    uint32_t pieces = 0;
    Call call = nullptr;
    void* body = nullptr;
    std::exception_ptr error;
    std::mutex error_lock;
    std::mutex busy;                    // one job at a time; a second caller runs alone
    uint32_t generation = fork_generation;
    bool spin = !has_cpu_quota();
    std::atomic<int> threads_started{0};
    std::mutex threads_lock;            // guards what follows
    std::vector<std::thread> threads;
    std::vector<int> cpus;              // where workers are pinned; empty: nowhere
    cpu_set_t everywhere;

    Workers() {
        if (sched_getaffinity(0, sizeof everywhere, &everywhere)) CPU_ZERO(&everywhere);
    }

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

    void worker(int index) {
        uint32_t seen = epoch.load(std::memory_order_acquire);  // a job that runs already can do without this thread
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
            seen = now;
            // The width read here is that of job `now`, or of a later one: then `now` has no piece left.
            if (index < width.load(std::memory_order_acquire)) work(now);
        }
    }

    // Has at least `count` threads.
    void grow(int count) {
        std::lock_guard guard(threads_lock);
        while (int(threads.size()) < count) {
            const int index = int(threads.size()) + 1;
            threads.emplace_back([this, index] { worker(index); });
            if (!cpus.empty()) place(index);
            threads_started = index;
        }
    }

    void place(int index) {
        const cpu_set_t set = cpus_of(index - 1, cpus, everywhere);
        pthread_setaffinity_np(threads[size_t(index) - 1].native_handle(), sizeof set, &set);
    }
};

// Never destroyed: its threads are parked until the process ends. A forked child has none of them; it leaves the old
// state, whose locks may be held, alone and starts anew.
Workers& the_workers() {
    static std::atomic<Workers*> current{nullptr};
    static std::mutex making;
    static const int registered = pthread_atfork([] { making.lock(); }, [] { making.unlock(); }, [] { fork_generation++, making.unlock(); });
    (void)registered;
    Workers* found = current.load(std::memory_order_acquire);
    if (found && found->generation == fork_generation) return *found;
    std::lock_guard lock(making);
    found = current.load(std::memory_order_acquire);
    if (!found || found->generation != fork_generation) {
        found = new Workers;
        current.store(found, std::memory_order_release);
    }
    return *found;
}

}  // namespace

ThreadPool::ThreadPool(int threads) : threads_(std::max(1, threads)) {
    if (threads_ > 1) the_workers().grow(threads_ - 1);
}

void ThreadPool::run(int64_t n, int64_t grain, Call call, void* body) {
    Workers& s = the_workers();
    if (s.threads_started.load(std::memory_order_relaxed) < threads_ - 1) s.grow(threads_ - 1);   // after a fork
    std::unique_lock lock(s.busy, std::defer_lock);
    if (inside_pool || !lock.try_lock()) {
        call(body, 0, n);
        return;
    }
    const int64_t blocks = (n + grain - 1) / grain;
    s.pieces = uint32_t(std::min<int64_t>(blocks, std::min(4 * threads_, 0x7fff)));
    s.n = n, s.grain = grain, s.call = call, s.body = body, s.error = nullptr;
    s.left.store(s.pieces, std::memory_order_relaxed);
    s.width.store(threads_, std::memory_order_relaxed);
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

int ThreadPool::workers() { return the_workers().threads_started.load(); }

bool ThreadPool::pin(const std::vector<int>& cpus) {
    Workers& s = the_workers();
    std::lock_guard guard(s.threads_lock);
    for (int cpu : cpus)
        if (cpu < 0 || cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &s.everywhere)) return false;
    s.cpus = cpus;
    for (size_t i = 0; i < s.threads.size(); i++) s.place(int(i) + 1);
    return true;
}

}  // namespace hr
