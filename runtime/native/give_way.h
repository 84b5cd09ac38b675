// Long work beside requests that gives way: a thread that says so offers its processor again and again to whoever waits for it.
//
// A scheduler looks whether someone waits at its tick, 4 ms apart where it has 250 of them a second, and lets the one that has the
// processor keep it until then, however low its priority is: that long a request waits behind a load. A timer interrupts the thread
// instead, wherever it is (Python, kernels, other libraries), and the handler yields. It gives away half of its time at most, so
// that it comes to an end on a machine that is always busy. Where nobody waits all that costs about 1 %.
// The signal is SIGURG, which nothing happens of where nobody handles it; where somebody else does, threads do not give way.
#pragma once
#include <cstdint>

namespace hr {

bool gives_way();               // whether this thread does
bool give_way(bool on);         // from here on; answers what it did before
uint64_t times_given_way();     // of all threads of this process

// For the time of a block.
class GivingWay {
public:
    explicit GivingWay(bool on) : before_(give_way(on)) {}
    ~GivingWay() { give_way(before_); }
    GivingWay(const GivingWay&) = delete;

private:
    const bool before_;
};

}  // namespace hr
