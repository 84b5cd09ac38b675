// The host's side of hr.cuh: CUDA threads as fibers of one OS thread. Every mistake that hardware would forgive or hide
// (divergent barriers, misaligned or stray addresses, a wait that is too weak) ends the launch with a message.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#ifndef HR_ARCH
#define HR_ARCH 800    // the instructions that are emulated; below: Turing's
#endif
#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define HR_DEVICE inline
#define HR_SHARED(T, name) T* const name = reinterpret_cast<T*>(hr::host::shared_memory())
#define __syncthreads() hr::host::sync_block(__FILE__, __LINE__)
#define __syncwarp() hr::host::sync_warp(__FILE__, __LINE__)
#define HR_EXPORT(name) static const hr::host::Register register_##name(#name, &hr::host::Call<decltype(&name)>::template run<&name>, hr::host::Call<decltype(&name)>::signature());

struct Index3 { unsigned x, y, z; };
extern Index3 threadIdx, blockIdx, blockDim, gridDim;
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };

namespace hr::host {

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
unsigned char* shared_memory();
bool in_shared(const void* p, size_t bytes);
void sync_block(const char* file, int line);

// A warp's meeting point. Each lane leaves up to 64 bytes; the last to arrive runs `meet(in, out)` for all of them, so that
// the collective happens at one instant, as on the hardware; then each takes its 64 bytes of `out`.
constexpr int kSlot = 64;
using Slots = unsigned char (*)[kSlot];
const unsigned char* meet(const char* what, const void* in, size_t bytes, void (*run)(Slots in, Slots out));
void sync_warp(const char* file, int line);

void cp_async(void* to, const void* from, int bytes);
void cp_commit();
void cp_wait(int newest);

using Trampoline = void (*)(void**);
struct Register { Register(const char* name, Trampoline run, const char* signature); };

// P: pointer, i: 32-bit, l: 64-bit integer, f: float; a structure is S<bytes>.
template <class F> struct Call;
template <class... A> struct Call<void (*)(A...)> {
    template <void (*kernel)(A...)> static void run(void** arguments) { apply<kernel>(arguments, std::index_sequence_for<A...>{}); }
    template <void (*kernel)(A...), size_t... I> static void apply(void** arguments, std::index_sequence<I...>) {
        kernel(*static_cast<std::remove_cv_t<A>*>(arguments[I])...);
    }
    static const char* signature() {
        static char text[16 * (sizeof...(A) + 1)];
        char* at = text;
        const auto add = [&](char kind, size_t bytes) {
            *at++ = kind;
            if (kind == 'S') {
                char digits[8];
                int n = 0;
                for (; bytes; bytes /= 10) digits[n++] = char('0' + bytes % 10);
                while (n) *at++ = digits[--n];
            }
            *at++ = ' ';
        };
        (add(std::is_pointer_v<A> ? 'P' : std::is_same_v<A, float> ? 'f' : !std::is_integral_v<A> ? 'S' : sizeof(A) == 4 ? 'i' : 'l', sizeof(A)), ...);
        *at = 0;
        return text;
    }
};

inline int dot4(bool signed_a, uint32_t a, uint32_t b) {
    int sum = 0;
    for (int i = 0; i < 32; i += 8) sum += (signed_a ? int(int8_t(a >> i)) : int(uint8_t(a >> i))) * int(int8_t(b >> i));
    return sum;
}

}  // namespace hr::host

namespace hr {

inline float mul_rn(float a, float b) { return a * b; }
inline float add_rn(float a, float b) { return a + b; }
inline float div_rn(float a, float b) { return a / b; }

template <class T> T shfl_xor(T value, int mask) {
    struct In { T value; int mask; } in{value, mask};
    const unsigned char* out = host::meet("shfl_xor", &in, sizeof in, [](host::Slots given, host::Slots answers) {
        for (int lane = 0; lane < 32; lane++) {
            In one, other;
            memcpy(&one, given[lane], sizeof one);
            memcpy(&other, given[(lane ^ one.mask) & 31], sizeof other);
            memcpy(answers[lane], &other.value, sizeof(T));
        }
    });
    T answer;
    memcpy(&answer, out, sizeof answer);
    return answer;
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    if (reinterpret_cast<uintptr_t>(row) % 16 || !host::in_shared(row, 16)) host::fail("ldmatrix: the row address is misaligned or outside shared memory");
    const unsigned char* out = host::meet("ldmatrix", &row, sizeof row, [](host::Slots given, host::Slots answers) {
        for (int matrix = 0; matrix < 4; matrix++)
            for (int lane = 0; lane < 32; lane++) {
                const unsigned char* from;
                memcpy(&from, given[8 * matrix + lane / 4], sizeof from);
                memcpy(answers[lane] + 4 * matrix, from + 4 * (lane % 4), 4);
            }
    });
    memcpy(r, out, sizeof r);
}

template <bool SIGNED_A> int dp4a(uint32_t a, uint32_t b, int c) { return c + host::dot4(SIGNED_A, a, b); }

#if HR_ARCH >= 800
inline void cp_async16(void* to, const void* from, int bytes) { host::cp_async(to, from, bytes); }
inline void cp_async_commit() { host::cp_commit(); }
template <int N> void cp_async_wait() { host::cp_wait(N); }

template <bool SIGNED_A> void mma_16832(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    struct In { uint32_t a[4], b[2]; int c[4]; } in;
    memcpy(in.a, a, sizeof a), memcpy(in.b, b, sizeof b), memcpy(in.c, c, sizeof c);
    const unsigned char* out = host::meet("mma", &in, sizeof in, [](host::Slots given, host::Slots answers) {
        const auto at = [&](int lane) { return reinterpret_cast<const In*>(given[lane]); };
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 4; i++) {
                const int column = 2 * (lane % 4) + i % 2;
                int sum = at(lane)->c[i];
                for (int t = 0; t < 4; t++)
                    for (int half = 0; half < 2; half++)
                        sum += host::dot4(SIGNED_A, at(lane / 4 * 4 + t)->a[i / 2 + 2 * half], at(4 * column + t)->b[half]);
                memcpy(answers[lane] + 4 * i, &sum, 4);
            }
    });
    memcpy(c, out, sizeof c);
}
#else
// a: row lane / 4, b: column lane / 4, k = 4 * (lane % 4) ..+3; c: row lane / 4, columns 2 * (lane % 4) ..+1.
template <bool SIGNED_A> void mma_8816(int (&c)[2], uint32_t a, uint32_t b) {
    struct In { uint32_t a, b; int c[2]; } in{a, b, {c[0], c[1]}};
    const unsigned char* out = host::meet("mma", &in, sizeof in, [](host::Slots given, host::Slots answers) {
        const auto at = [&](int lane) { return reinterpret_cast<const In*>(given[lane]); };
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 2; i++) {
                const int column = 2 * (lane % 4) + i;
                int sum = at(lane)->c[i];
                for (int t = 0; t < 4; t++) sum += host::dot4(SIGNED_A, at(lane / 4 * 4 + t)->a, at(4 * column + t)->b);
                memcpy(answers[lane] + 4 * i, &sum, 4);
            }
    });
    memcpy(c, out, sizeof c);
}
#endif

}  // namespace hr
