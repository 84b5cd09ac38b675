// Multiply-add throughput of one core: chains of independent FMAs (SSE2: multiplies and adds) in registers, for
// benchmarks/kernels.py. Answers GFLOP/s over thread CPU time.
#include <immintrin.h>
#include <time.h>

namespace {

double now() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

template <int LANES> using Vector = float __attribute__((vector_size(LANES * 4)));

template <int LANES> __attribute__((always_inline)) inline double chains(long n) {
    Vector<LANES> acc[10] = {}, x = {}, y = {};
    asm volatile("" : "+x"(x), "+x"(y));
    const double start = now();
    for (long i = 0; i < n; i++) {
#pragma GCC unroll 10
        for (auto& a : acc) {
            a = x * y + a;
            asm volatile("" : "+x"(a));
        }
    }
    return 10.0 * LANES * 2 * double(n) / (now() - start) / 1e9;
}

}  // namespace

extern "C" double peak_baseline(long n) { return chains<4>(n); }
extern "C" __attribute__((target("avx2,fma"))) double peak_avx2(long n) { return chains<8>(n); }
extern "C" __attribute__((target("avx512f"))) double peak_avx512_vnni(long n) { return chains<16>(n); }
