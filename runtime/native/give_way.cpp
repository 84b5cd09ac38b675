#include "give_way.h"

#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace hr {

namespace {

constexpr int64_t kEvery = 200'000;     // nanoseconds: what a request may wait behind such a thread

std::atomic<uint64_t> times{0};

int64_t now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return int64_t(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

// The timer of one thread, made when it first gives way.
class Timer {
public:
    ~Timer() {
        if (made_) timer_delete(timer_);
    }
    void run(bool on) {
        if (!made_ && (!on || !make())) return;
        const timespec period{0, on ? kEvery : 0};
        const itimerspec both{period, period};
        timer_settime(timer_, 0, &both, nullptr);
    }
    bool on = false;

private:
    bool make();
    static bool has_signal();
    static void fired(int, siginfo_t* info, void*);

    timer_t timer_{};
    bool made_ = false;
    int64_t next_ = 0;      // not before: who was given way had as long before that
};

// Whether the signal is ours, now and for good.
bool Timer::has_signal() {
    static const bool ours = [] {
        struct sigaction action{};
        if (sigaction(SIGURG, nullptr, &action) || action.sa_handler != SIG_DFL) return false;
        action = {};
        action.sa_sigaction = fired, action.sa_flags = SA_SIGINFO | SA_RESTART;
        return sigaction(SIGURG, &action, nullptr) == 0;
    }();
    return ours;
}

bool Timer::make() {
    if (!has_signal()) return false;
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID, event.sigev_signo = SIGURG, event.sigev_value.sival_ptr = this;
    event._sigev_un._tid = pid_t(syscall(SYS_gettid));
    return made_ = timer_create(CLOCK_MONOTONIC, &event, &timer_) == 0;
}

void Timer::fired(int, siginfo_t* info, void*) {
    if (info->si_code != SI_TIMER) return;      // somebody sent it
    Timer& own = *static_cast<Timer*>(info->si_value.sival_ptr);
    const int64_t began = now();
    if (began < own.next_) return;
    const int error = errno;
    sched_yield();
    errno = error;
    const int64_t ended = now();
    own.next_ = ended + (ended - began);
    times.fetch_add(1, std::memory_order_relaxed);
}

thread_local Timer timer;

}  // namespace

bool gives_way() { return timer.on; }

bool give_way(bool on) {
    const bool before = timer.on;
    if (on != before) timer.run(timer.on = on);
    return before;
}

uint64_t times_given_way() { return times.load(std::memory_order_relaxed); }

}  // namespace hr
