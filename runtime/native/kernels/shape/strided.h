// Copies between two strided views of the same dimensions: what Transpose, Slice, Expand, Tile, Concat and Pad come to.
#pragma once
#include <cstddef>
#include <cstdint>

#include "pool.h"
#include "tensor.h"

namespace hr {

// One dimension: its size, and the distance in bytes between neighbours in either view (0 repeats, negative reverses).
struct Axis {
    int64_t size, to, from;
};

struct View {
    int rank = 0;
    Axis axes[2 * kMaxRank];

    void push(int64_t size, int64_t to, int64_t from) { axes[rank++] = {size, to, from}; }
    // A view whose destination is contiguous in the order of the axes; call after all pushes.
    void pack(size_t item);
};

// Copies every element of `item` bytes (1, 2, 4, 8 or 16). The result does not depend on the number of threads.
void copy_strided(void* to, const void* from, View view, size_t item, ThreadPool& pool);

// Rows of bytes of one tensor that are runs of another's: each of `rows` from one to the other, which step on by as many bytes.
struct Part {
    char* to;
    const char* from;
    int64_t to_step, from_step, bytes;
};

// Copies all parts, some rows of each at a time: what Concat gathers, and Split reads, is met while it is in the cache.
class Parts {
public:
    Parts(int64_t rows, ThreadPool& pool) : rows_(rows), pool_(pool) {}
    void push(const Part& part) {
        if (count_ == kMost) copy();
        if (part.bytes) parts_[count_++] = part;
    }
    void copy();

private:
    static constexpr int kMost = 32;
    int64_t rows_;
    ThreadPool& pool_;
    int count_ = 0;
    Part parts_[kMost];
};

// Byte strides of a contiguous shape.
void strides_of(const Shape& shape, size_t item, int64_t* strides);

// An axis attribute counted from the front; throws std::invalid_argument outside [-rank, rank).
int resolve_axis(int64_t axis, int rank);

}  // namespace hr
