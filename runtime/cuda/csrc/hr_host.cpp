// The emulator: runs the threads of one block after another as fibers, in a chosen order, and keeps device memory whose
// overruns fault. One launch at a time.
#include "hr_host.h"

#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>
#if !defined(__x86_64__) || defined(HR_PORTABLE)
#define HR_UCONTEXT
#include <ucontext.h>
#endif

Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace hr::host {
namespace {

constexpr size_t kStack = 64 << 10, kSharedLimit = 48 << 10;
constexpr unsigned char kPoison = 0x7f;
size_t page() { return size_t(sysconf(_SC_PAGESIZE)); }
size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// ---- switching between stacks -------------------------------------------------------------------------------------------

#ifndef HR_UCONTEXT
struct Context { void* sp = nullptr; };
extern "C" void hr_switch_stack(void** from, void* to);
asm(R"(
    .text
    .local hr_switch_stack
    .type hr_switch_stack, @function
hr_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size hr_switch_stack, .-hr_switch_stack
)");
void go(Context& from, Context& to) { hr_switch_stack(&from.sp, to.sp); }
void prepare(Context& c, char* stack, size_t bytes, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + bytes);
    *--top = nullptr;                                // where the entry would return to; it never does
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;    // rbp rbx r12..r15
    c.sp = top;
}
#else
struct Context { ucontext_t c; };
void go(Context& from, Context& to) { swapcontext(&from.c, &to.c); }
void prepare(Context& c, char* stack, size_t bytes, void (*entry)()) {
    getcontext(&c.c);
    c.c.uc_stack.ss_sp = stack, c.c.uc_stack.ss_size = bytes, c.c.uc_link = nullptr;
    makecontext(&c.c, entry, 0);
}
#endif

// ---- fibers -------------------------------------------------------------------------------------------------------------

struct Copy { void* to; const void* from; int bytes; };

struct Fiber {
    Context context;
    char* stack = nullptr;
    bool started = false, done = false;
    const unsigned* gate = nullptr;    // waits while *gate == seen
    unsigned seen = 0;
    const char* where = "";
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
};

struct Barrier {
    unsigned arrived = 0, live = 0, generation = 0;
    const char* what = nullptr;
    int line = 0;
};

struct Warp {
    Barrier barrier;
    alignas(64) unsigned char in[32][kSlot], out[32][kSlot];
};

struct Kernel { Trampoline run; const char* signature; };

struct Machine {
    Context scheduler;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<char*> stacks;         // free ones
    Barrier block;
    unsigned current = 0;
    Trampoline run = nullptr;
    void** arguments = nullptr;
    std::string error;
    unsigned char* shared = nullptr;
    size_t shared_bytes = 0;
} m;

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> table;
    return table;
}

void leave() { go(m.fibers[m.current].context, m.scheduler); }

void release(Barrier& b) {
    b.arrived = 0, b.what = nullptr;
    b.generation++;
}

void wait(Barrier& b, const char* what) {
    Fiber& f = m.fibers[m.current];
    f.gate = &b.generation, f.seen = b.generation, f.where = what;
    leave();
    f.gate = nullptr;
}

// True for the last to arrive; the others wait for its release().
bool arrive(Barrier& b, const char* what, int line, unsigned expected) {
    if (b.arrived && (line != b.line || strcmp(what, b.what)))
        fail("threads wait for each other at different places: %s (line %d) and %s (line %d)", b.what, b.line, what, line);
    b.what = what, b.line = line;
    if (++b.arrived == expected) return true;
    wait(b, what);
    return false;
}

void fiber_main() {
    m.run(m.arguments);
    Fiber& f = m.fibers[m.current];
    f.done = true;
    Barrier& warp = m.warps[m.current / 32].barrier;
    warp.live--;
    if (warp.arrived) fail("a lane ended while others of its warp wait at %s", warp.what);
    if (--m.block.live && m.block.arrived == m.block.live) release(m.block);
    leave();
    __builtin_unreachable();
}

char* take_stack() {
    if (!m.stacks.empty()) {
        char* s = m.stacks.back();
        m.stacks.pop_back();
        return s;
    }
    void* at = mmap(nullptr, kStack + page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return nullptr;
    mprotect(at, page(), PROT_NONE);
    return static_cast<char*>(at) + page();
}

enum Order { kForward, kReverse, kShuffled };

void set_thread(unsigned index) {
    m.current = index;
    threadIdx = {index, 0, 0};
}

// Runs the block whose index is set. False: m.error says why.
bool run_block(unsigned threads, Order order, std::mt19937& random) {
    memset(m.shared, kPoison, round_up(m.shared_bytes, 128));
    m.fibers.resize(threads), m.warps.resize(threads / 32);
    m.block = Barrier{0, threads};
    for (Warp& w : m.warps) w.barrier = Barrier{0, 32};
    std::vector<unsigned> turn(threads);
    for (unsigned i = 0; i < threads; i++) {
        turn[i] = order == kReverse ? threads - 1 - i : i;
        Fiber& f = m.fibers[i];
        f.started = f.done = false, f.gate = nullptr;
        f.groups.clear(), f.open.clear();
    }
    // Forward and reverse: each warp runs as far as it can before the next one, so that a missing barrier between warps
    // shows; shuffled: every thread takes its turn.
    const unsigned group = order == kShuffled ? threads : 32;
    for (unsigned done = 0; done < threads;) {
        if (order == kShuffled) std::shuffle(turn.begin(), turn.end(), random);
        bool progress = false;
        for (unsigned first = 0; first < threads; first += group)
            for (bool again = true; again;) {
                again = false;
                for (unsigned i = first; i < first + group; i++) {
                    Fiber& f = m.fibers[turn[i]];
                    if (f.done || (f.gate && *f.gate == f.seen)) continue;
                    if (!f.started) {
                        if (!(f.stack = take_stack())) return m.error = "no memory for the stack of a fiber", false;
                        prepare(f.context, f.stack, kStack - turn[i] % 32 * 128, fiber_main);
                        f.started = true;
                    }
                    set_thread(turn[i]);
                    go(m.scheduler, f.context);
                    if (!m.error.empty()) return false;
                    if (f.done) m.stacks.push_back(f.stack), f.stack = nullptr, done++;
                    progress = true, again = order != kShuffled;
                }
            }
        if (!progress) {
            unsigned waiting = 0;
            const char* where = "";
            for (Fiber& f : m.fibers)
                if (!f.done) waiting++, where = f.where;
            m.error = "deadlock: " + std::to_string(waiting) + " of " + std::to_string(threads) + " threads wait, one of them at " + where;
            return false;
        }
    }
    return true;
}

// ---- faults -------------------------------------------------------------------------------------------------------------

sigjmp_buf fault_jump;
volatile sig_atomic_t in_launch = 0;
struct sigaction old_segv, old_bus;
pthread_t launcher;
void* volatile fault_address;

void on_fault(int signal, siginfo_t* info, void*) {
    if (in_launch && pthread_equal(pthread_self(), launcher)) {
        fault_address = info->si_addr;
        siglongjmp(fault_jump, 1);
    }
    sigaction(signal, signal == SIGBUS ? &old_bus : &old_segv, nullptr);    // not ours: the old handler gets it on return
}

std::string place() {
    char text[160];
    snprintf(text, sizeof text, "block (%u, %u, %u), thread %u", blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x);
    return text;
}

// ---- device memory: ends at a page that may not be touched; the slack before and after holds a pattern ------------------

struct Buffer { char* mapping; size_t mapped; char* data; size_t bytes; };
std::map<uintptr_t, Buffer> buffers;
std::mutex memory_lock, launch_lock;

}  // namespace

// ---- what kernels call ---------------------------------------------------------------------------------------------------

void fail(const char* format, ...) {
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    m.error = text;
    leave();
    __builtin_unreachable();
}

unsigned char* shared_memory() { return m.shared; }

bool in_shared(const void* p, size_t bytes) {
    const unsigned char* at = static_cast<const unsigned char*>(p);
    return at >= m.shared && at + bytes <= m.shared + m.shared_bytes;
}

void sync_block(const char*, int line) {
    if (arrive(m.block, "__syncthreads", line, m.block.live)) release(m.block);
}

const unsigned char* meet(const char* what, const void* in, size_t bytes, void (*run)(Slots, Slots)) {
    Warp& w = m.warps[m.current / 32];
    const unsigned lane = m.current % 32;
    if (bytes > kSlot) fail("%s: a lane may leave %d bytes", what, kSlot);
    if (w.barrier.live != 32) fail("%s: some lanes of the warp have ended", what);
    memcpy(w.in[lane], in, bytes);
    if (arrive(w.barrier, what, 0, 32)) {
        run(w.in, w.out);
        release(w.barrier);
    }
    return w.out[lane];
}

void sync_warp(const char*, int) { meet("__syncwarp", "", 0, [](Slots, Slots) {}); }

void cp_async(void* to, const void* from, int bytes) {
    if (reinterpret_cast<uintptr_t>(to) % 16 || !in_shared(to, 16)) fail("cp.async: the destination is misaligned or outside shared memory");
    if (bytes < 0 || bytes > 16 || (bytes && reinterpret_cast<uintptr_t>(from) % 16)) fail("cp.async: misaligned source or %d bytes", bytes);
    m.fibers[m.current].open.push_back({to, from, bytes});
}

void cp_commit() {
    Fiber& f = m.fibers[m.current];
    f.groups.push_back(std::move(f.open));
    f.open.clear();
}

void cp_wait(int newest) {
    Fiber& f = m.fibers[m.current];
    while (int(f.groups.size()) > newest) {
        for (const Copy& c : f.groups.front()) {
            memset(c.to, 0, 16);
            memcpy(c.to, c.from, size_t(c.bytes));
        }
        f.groups.erase(f.groups.begin());
    }
}

Register::Register(const char* name, Trampoline run, const char* signature) { kernels()[name] = {run, signature}; }

}  // namespace hr::host

using namespace hr::host;

extern "C" {

const char* hr_signature(const char* name) {
    const auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : found->second.signature;
}

// The names of all kernels, one a line.
const char* hr_kernels() {
    static std::string names;
    names.clear();
    for (const auto& [name, kernel] : kernels()) names += name + "\n";
    return names.c_str();
}

void* hr_alloc(size_t bytes, size_t alignment) {
    const size_t body = round_up(bytes ? bytes : 1, page()), mapped = body + 2 * page();
    void* at = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return nullptr;
    char* mapping = static_cast<char*>(at);
    memset(mapping + page(), kPoison, body);
    mprotect(mapping, page(), PROT_NONE), mprotect(mapping + page() + body, page(), PROT_NONE);
    char* data = mapping + page() + (body - round_up(bytes, alignment));
    std::lock_guard<std::mutex> lock(memory_lock);
    buffers[reinterpret_cast<uintptr_t>(data)] = {mapping, mapped, data, bytes};
    return data;
}

// 0: freed; 1: not an allocation; 2: freed, but bytes beside it were overwritten.
int hr_free(void* data) {
    std::lock_guard<std::mutex> lock(memory_lock);
    const auto found = buffers.find(reinterpret_cast<uintptr_t>(data));
    if (found == buffers.end()) return 1;
    const Buffer b = found->second;
    buffers.erase(found);
    int damaged = 0;
    for (const char* p = b.mapping + page(); p < b.mapping + b.mapped - page(); p++)
        if ((p < b.data || p >= b.data + b.bytes) && *p != char(kPoison)) damaged = 2;
    munmap(b.mapping, b.mapped);
    return damaged;
}

// 0, or -1 with the reason in `message`.
int hr_launch(const char* name, void** arguments, const unsigned* grid, unsigned threads, size_t shared, int order, unsigned seed, char* message, size_t size) {
    std::lock_guard<std::mutex> lock(launch_lock);
    const auto refuse = [&](const std::string& why) { return snprintf(message, size, "%s", why.c_str()), -1; };
    const auto found = kernels().find(name);
    if (found == kernels().end()) return refuse("no such kernel");
    if (threads == 0 || threads > 1024 || threads % 32) return refuse("a block has " + std::to_string(threads) + " threads; allowed: multiples of 32 to 1024");
    if (shared > kSharedLimit) return refuse(std::to_string(shared) + " bytes of shared memory; allowed: " + std::to_string(kSharedLimit));
    if (!grid[0] || !grid[1] || !grid[2] || grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535)
        return refuse("a grid of " + std::to_string(grid[0]) + " x " + std::to_string(grid[1]) + " x " + std::to_string(grid[2]) + "; allowed: 1 to 2147483647 x 65535 x 65535");
    static char* shared_end = [] {
        char* at = static_cast<char*>(mmap(nullptr, kSharedLimit + 2 * page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        mprotect(at, page(), PROT_NONE), mprotect(at + page() + kSharedLimit, page(), PROT_NONE);
        return at + page() + kSharedLimit;
    }();
    static char* signal_stack = new char[64 << 10];
    m.shared = reinterpret_cast<unsigned char*>(shared_end - round_up(shared, 128)), m.shared_bytes = shared;
    m.run = found->second.run, m.arguments = arguments;
    m.error.clear();
    gridDim = {grid[0], grid[1], grid[2]}, blockDim = {threads, 1, 1};

    stack_t own{}, before{};
    own.ss_sp = signal_stack, own.ss_size = 64 << 10;
    sigaltstack(&own, &before);
    struct sigaction action{};
    action.sa_sigaction = on_fault, action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &old_segv), sigaction(SIGBUS, &action, &old_bus);
    launcher = pthread_self();
    bool good = true;
    if (sigsetjmp(fault_jump, 1) == 0) {
        in_launch = 1;
        std::mt19937 random(seed);
        for (unsigned z = 0; z < grid[2] && good; z++)
            for (unsigned y = 0; y < grid[1] && good; y++)
                for (unsigned x = 0; x < grid[0] && good; x++) {
                    blockIdx = {x, y, z};
                    good = run_block(threads, Order(order), random);
                }
    } else {
        char text[80];
        snprintf(text, sizeof text, "an access outside of every buffer, at %p", static_cast<void*>(fault_address));
        m.error = text;
        good = false;
    }
    in_launch = 0;
    sigaction(SIGSEGV, &old_segv, nullptr), sigaction(SIGBUS, &old_bus, nullptr);
    sigaltstack(&before, nullptr);
    if (good) return 0;
    for (Fiber& f : m.fibers)
        if (f.stack) m.stacks.push_back(f.stack), f.stack = nullptr;    // abandoned where they stood
    return refuse(m.error + " (" + place() + ")");
}

}  // extern "C"
