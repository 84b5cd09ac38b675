// One text, two compilers: intrinsics for nvcc and NVRTC, or (HR_HOST) their emulation by g++.
//
// Kernels are `extern "C" __global__`, one per name, followed by HR_EXPORT(name). They take pointers, int, long long, float
// and structures by value; blocks are one-dimensional and a multiple of 32; all shared memory is dynamic (HR_SHARED), at most
// 48 KiB, so that the emulator can poison it. Arithmetic that must equal the CPU's to the bit uses mul/add/div_rn below.
#pragma once

#ifdef HR_HOST
#include "hr_host.h"
#else

#ifdef __CUDACC_RTC__
using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long long;
using uint64_t = unsigned long long;
#define INFINITY __int_as_float(0x7f800000)
#else
#include <math.h>
#include <stdint.h>
#endif

#define HR_ARCH __CUDA_ARCH__
#define HR_EXPORT(name)
#define HR_DEVICE __device__ __forceinline__
#define HR_SHARED(T, name)                                   \
    extern __shared__ __align__(128) unsigned char hr_shared[]; \
    T* const name = reinterpret_cast<T*>(hr_shared)

namespace hr {

HR_DEVICE float mul_rn(float a, float b) { return __fmul_rn(a, b); }
HR_DEVICE float add_rn(float a, float b) { return __fadd_rn(a, b); }
HR_DEVICE float div_rn(float a, float b) { return __fdiv_rn(a, b); }

template <class T> HR_DEVICE T shfl_xor(T value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

HR_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Four 8x8 matrices of 16-bit values: lane i gives the address of row i % 8 of matrix i / 8 (16 bytes, aligned) and gets, of
// each matrix, word i % 4 of row i / 4.
HR_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

#if HR_ARCH >= 800
HR_DEVICE void cp_async16(void* to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(bytes) : "memory");
}
HR_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> HR_DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
#endif

// c += a . b of four 8-bit values; b signed, a as SIGNED_A says.
template <bool SIGNED_A> HR_DEVICE int dp4a(uint32_t a, uint32_t b, int c) {
    int d;
    if constexpr (SIGNED_A) asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    else asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

#if HR_ARCH >= 800
template <bool SIGNED_A> HR_DEVICE void mma_16832(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if constexpr (SIGNED_A)
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
template <bool SIGNED_A> HR_DEVICE void mma_8816(int (&c)[2], uint32_t a, uint32_t b) {
    if constexpr (SIGNED_A)
        asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};" : "+r"(c[0]), "+r"(c[1]) : "r"(a), "r"(b));
    else
        asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};" : "+r"(c[0]), "+r"(c[1]) : "r"(a), "r"(b));
}
#endif

}  // namespace hr
#endif  // HR_HOST

namespace hr {

// What both sides offer above:
//
// cp_async16(to, from, bytes): 16 bytes from global to shared memory, of which the first `bytes` are read and the rest is
// zero. cp_async_commit() ends a group of copies; cp_async_wait<N>() returns when at most the N newest groups are open.
//
// mma_16832<SIGNED_A>(c, a, b): c [16, 8] += a [16, 32] . b [32, 8], 8-bit factors, exact 32-bit sums. With group = lane / 4,
// t = lane % 4: a[i] holds row group + 8 * (i % 2), k = 16 * (i / 2) + 4 t ..+3; b[i] column group, k = 16 i + 4 t ..+3; c[i]
// row group + 8 * (i / 2), column 2 t + i % 2 (PTX ISA, "matrix fragments for mma.m16n8k32").
#if HR_ARCH < 800
// Turing copies at once, and has the quarter product mma_8816: c [8, 8] += a [8, 16] . b [16, 8].
HR_DEVICE void cp_async16(void* to, const void* from, int bytes) {
    if (bytes == 16) {
        *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
    } else {
        *static_cast<uint4*>(to) = {0, 0, 0, 0};
#pragma unroll 1
        for (int i = 0; i < bytes; i++) static_cast<uint8_t*>(to)[i] = static_cast<const uint8_t*>(from)[i];
    }
}
HR_DEVICE void cp_async_commit() {}
template <int N> HR_DEVICE void cp_async_wait() {}
template <bool SIGNED_A> HR_DEVICE void mma_16832(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    int upper[2] = {c[0], c[1]}, lower[2] = {c[2], c[3]};
    mma_8816<SIGNED_A>(upper, a[0], b[0]), mma_8816<SIGNED_A>(upper, a[2], b[1]);
    mma_8816<SIGNED_A>(lower, a[1], b[0]), mma_8816<SIGNED_A>(lower, a[3], b[1]);
    c[0] = upper[0], c[1] = upper[1], c[2] = lower[0], c[3] = lower[1];
}
#endif

HR_DEVICE int lane_id() { return int(threadIdx.x) & 31; }
HR_DEVICE int warp_id() { return int(threadIdx.x) >> 5; }
HR_DEVICE long long global_id() { return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; }

}  // namespace hr
