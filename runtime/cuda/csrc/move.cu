// Moving items of 1, 2, 4 or 8 bytes. Grid ceil(n / 256), block 256, one thread an item.
//
//   copy_{1,2,4,8}(x, y, Walk)    y[places by its strides] = x[places by its strides]: transpose, slice (also backwards),
//                                 expand (stride 0), and the parts of concat, split and pad. x and y point at item 0
//   gather_{1,2,4,8}(data [outer, size, inner], indices int64 [count], y [outer, count, inner], outer, size, count, inner,
//                    status)      negative indices count from the end; one that lies outside gives zero and sets *status
//                                 (may be null) to 1
#include "hr.cuh"

namespace hr {

constexpr int kWalkRank = 8;

// The sizes walked, outermost first, with the strides of x and y in items. Python packs it as kernels.move.WALK.
struct Walk {
    long long n;
    int rank, unused;
    long long shape[kWalkRank], x[kWalkRank], y[kWalkRank];
};

template <class T> HR_DEVICE void copy(const T* x, T* y, const Walk& walk) {
    long long i = global_id(), from = 0, to = 0;
    if (i >= walk.n) return;
    for (int d = walk.rank - 1; d >= 0; d--) {
        const long long outer = i / walk.shape[d], at = i - outer * walk.shape[d];
        from += at * walk.x[d], to += at * walk.y[d];
        i = outer;
    }
    y[to] = x[from];
}

template <class T> HR_DEVICE void gather(const T* data, const long long* indices, T* y, long long n, long long size, long long count, long long inner, int* status) {
    const long long i = global_id();
    if (i >= n) return;
    const long long row = i / inner, outer = row / count;
    long long index = indices[row - outer * count];
    if (index < 0) index += size;
    if (index < 0 || index >= size) {
        y[i] = 0;
        if (status) *status = 1;
    } else {
        y[i] = data[(outer * size + index) * inner + (i - row * inner)];
    }
}

}  // namespace hr

using namespace hr;

#define HR_MOVE(BYTES, T)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256) copy_##BYTES(const T* x, T* y, Walk walk) { copy(x, y, walk); }       \
    HR_EXPORT(copy_##BYTES)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256) gather_##BYTES(const T* data, const long long* indices, T* y, long long n, long long size, \
                                                                     long long count, long long inner, int* status) {      \
        gather(data, indices, y, n, size, count, inner, status);                                                            \
    }                                                                                                                       \
    HR_EXPORT(gather_##BYTES)
HR_MOVE(1, uint8_t)
HR_MOVE(2, uint16_t)
HR_MOVE(4, uint32_t)
HR_MOVE(8, uint64_t)
