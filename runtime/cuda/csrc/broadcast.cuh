// How a thread of an elementwise kernel finds its operands.
#pragma once
#include "hr.cuh"

namespace hr {

constexpr int kRank = 6;

// The result's shape, outermost first, and the operands' strides in elements (0 along a broadcast dimension). Python packs
// it as kernels.elementwise.BROADCAST.
struct Broadcast {
    long long n;
    int rank, unused;
    long long shape[kRank], stride[3][kRank];
};

struct Places { long long of[3]; };

HR_DEVICE Places places(const Broadcast& b, long long i) {
    Places p = {{0, 0, 0}};
    for (int d = b.rank - 1; d > 0; d--) {
        const long long outer = i / b.shape[d], at = i - outer * b.shape[d];
        for (int k = 0; k < 3; k++) p.of[k] += at * b.stride[k][d];
        i = outer;
    }
    for (int k = 0; k < 3; k++) p.of[k] += i * b.stride[k][0];
    return p;
}

}  // namespace hr
