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
constexpr auto kSettle = std::chrono::milliseconds(1);  // between two times that workers are kept off a caller's CPU
constexpr int kShares = 64, kPieces = 4;                // of a job at most; pieces for a thread

using Call = void (*)(void* body, int64_t begin, int64_t end);

// The pieces of a job that one thread takes first, from the front, so that in every job a thread works on the same part of
// the rows, which its cache holds already. Who has none left takes from the back of another's. Packs a job number (high
// half), the next piece and the end (16 bits each): a worker that wakes late can never take a piece of a job that it did not
// see begin.
struct alignas(64) Share {
    std::atomic<uint64_t> pieces{0};

    void fill(uint32_t job, uint32_t begin, uint32_t end) {
        pieces.store(uint64_t(job) << 32 | uint64_t(begin) << 16 | end, std::memory_order_release);
    }
    // The next piece of job `job`; -1: there is none.
    int take(uint32_t job, bool front) {
        uint64_t now = pieces.load(std::memory_order_acquire);
        for (;;) {
            const int begin = int(now >> 16 & 0xffff), end = int(now & 0xffff);
            if (uint32_t(now >> 32) != job || begin >= end) return -1;
            const uint64_t next = front ? now + (1 << 16) : now - 1;
            if (pieces.compare_exchange_weak(now, next, std::memory_order_acq_rel)) return front ? begin : end - 1;
        }
    }
};

// The worker threads of the process and the job that they have.
struct Workers {
    // The job in progress. What many threads write or wait for lies in lines of its own.
    Share shares[kShares];
    alignas(64) std::atomic<uint32_t> epoch{0};     // job number; workers wait for it to change
    std::atomic<int> width{1};          // threads that may take part, the caller included
    alignas(64) std::atomic<int64_t> left{0};       // pieces not finished yet
    alignas(64) int64_t n = 0;
    int64_t grain = 1;
    uint32_t pieces = 0;
    Call call = nullptr;
    void* body = nullptr;
    std::exception_ptr error;
    std::mutex error_lock;
    std::mutex busy;                    // one job at a time; a second caller runs alone. Guards what follows, too
    std::chrono::steady_clock::time_point settled;
    uint32_t generation = fork_generation;
    bool spin = !has_cpu_quota();
    std::atomic<int> threads_started{0};
    std::atomic<int> avoided{-1};       // the CPU that workers which are not pinned keep off: that of a caller. -1: none yet
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
        left.fetch_sub(1, std::memory_order_acq_rel);
    }

    // Takes pieces of job `job` until none is left, thread `index` of those that `threads` counts.
    void work(uint32_t job, int index, int threads) {
        inside_pool = true;
        const int n_shares = std::min(threads, kShares);
        for (int i = 0; i < n_shares; i++) {
            Share& share = shares[(index + i) % n_shares];
            for (int next; (next = share.take(job, i == 0)) >= 0;) piece(uint32_t(next));
        }
        inside_pool = false;
    }

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
            if (const int threads = width.load(std::memory_order_acquire); index < threads) work(now, index, threads);
        }
    }

    // Has at least `count` threads.
    void grow(int count) {
        std::lock_guard guard(threads_lock);
        const cpu_set_t was = cpus_of(0, avoided);
        while (int(threads.size()) < count) {
            const int index = int(threads.size()) + 1;
            threads.emplace_back([this, index] { worker(index); });
            place(threads.back(), cpus.empty() ? was : cpus_of(index, -1));
            threads_started = index;
        }
        move(was, cpus_of(0, avoided));
    }

    // Where worker `index` may run: on its CPU where workers are pinned, else anywhere but on CPU `not_here`, if they are not
    // more than the other CPUs.
    cpu_set_t cpus_of(int index, int not_here) const {
        cpu_set_t set = everywhere;
        if (!cpus.empty()) {
            CPU_ZERO(&set);
            CPU_SET(cpus[size_t(std::max(0, index - 1)) % cpus.size()], &set);
        } else if (not_here >= 0 && int(threads.size()) < CPU_COUNT(&set)) {
            CPU_CLR(not_here, &set);
        }
        return set;
    }

    static void place(std::thread& thread, const cpu_set_t& set) { pthread_setaffinity_np(thread.native_handle(), sizeof set, &set); }

    // Workers that are not pinned, except where somebody else has set their CPUs.
    void move(const cpu_set_t& was, const cpu_set_t& set) {
        if (!cpus.empty() || CPU_EQUAL(&was, &set)) return;
        for (std::thread& thread : threads) {
            cpu_set_t found;
            if (!pthread_getaffinity_np(thread.native_handle(), sizeof found, &found) && CPU_EQUAL(&found, &was)) place(thread, set);
        }
    }

    // A worker that the system wakes on the caller's CPU runs only when the caller does not, until the system moves one of
    // them, milliseconds later: workers keep off it. Not for every job, where callers on several CPUs take turns.
    void settle() {
        const int cpu = sched_getcpu(), before = avoided;
        if (cpu == before || cpu < 0) return;
        const auto now = std::chrono::steady_clock::now();
        if (now < settled + kSettle) return;
        settled = now, avoided = cpu;
        std::lock_guard guard(threads_lock);
        move(cpus_of(0, before), cpus_of(0, cpu));
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
    s.settle();
    s.pieces = uint32_t(std::min<int64_t>(blocks, std::min(kPieces * threads_, 0x7fff)));
    s.n = n, s.grain = grain, s.call = call, s.body = body, s.error = nullptr;
    s.left.store(s.pieces, std::memory_order_relaxed);
    s.width.store(threads_, std::memory_order_relaxed);
    const uint32_t job = s.epoch.load(std::memory_order_relaxed) + 1;
    const uint32_t shares = uint32_t(std::min(threads_, kShares));
    for (uint32_t i = 0; i < shares; i++) s.shares[i].fill(job, s.pieces * i / shares, s.pieces * (i + 1) / shares);
    s.epoch.store(job, std::memory_order_release);
    s.epoch.notify_all();
    s.work(job, 0, threads_);
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
    s.cpus = cpus, s.avoided = -1;
    for (size_t i = 0; i < s.threads.size(); i++) s.place(s.threads[i], s.cpus_of(int(i) + 1, -1));
    return true;
}

}  // namespace hr
