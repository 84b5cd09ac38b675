#include "kernels/shape/strided.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace hr {

void strides_of(const Shape& shape, size_t item, int64_t* strides) {
    int64_t step = int64_t(item);
    for (int i = shape.rank - 1; i >= 0; i--) strides[i] = step, step *= shape.d[i];
}

int resolve_axis(int64_t axis, int rank) {
    if (axis < -rank || axis >= rank) throw std::invalid_argument("axis " + std::to_string(axis) + " is outside [" + std::to_string(-rank) + ", " + std::to_string(rank - 1) + "]");
    return int(axis < 0 ? axis + rank : axis);
}

void View::pack(size_t item) {
    int64_t step = int64_t(item);
    for (int i = rank - 1; i >= 0; i--) axes[i].to = step, step *= axes[i].size;
}

namespace {

// Drops axes of size 1 and merges neighbours that are one run in both views.
void simplify(View& v) {
    int kept = 0;
    for (int i = 0; i < v.rank; i++) {
        const Axis& axis = v.axes[i];
        if (axis.size == 1) continue;
        if (kept) {
            Axis& before = v.axes[kept - 1];
            if (before.to == axis.to * axis.size && before.from == axis.from * axis.size) {
                before = {before.size * axis.size, axis.to, axis.from};
                continue;
            }
        }
        v.axes[kept++] = axis;
    }
    v.rank = kept;
}

// One run of elements.
template <class T>
void copy_run(char* to, const char* from, const Axis& a) {
    if (a.to == sizeof(T) && a.from == sizeof(T)) {
        std::memcpy(to, from, size_t(a.size) * sizeof(T));
    } else if (a.to == sizeof(T) && a.from == 0) {
        T value;
        std::memcpy(&value, from, sizeof(T));
        for (int64_t i = 0; i < a.size; i++) std::memcpy(to + i * int64_t(sizeof(T)), &value, sizeof(T));
    } else {
        for (int64_t i = 0; i < a.size; i++) std::memcpy(to + i * a.to, from + i * a.from, sizeof(T));
    }
}

constexpr int64_t kTile = 16;

// A 4x4 block of 4-byte elements: rows of the source become columns of the destination.
void transpose4(char* to, int64_t to_step, const char* from, int64_t from_step) {
    typedef uint32_t Four __attribute__((vector_size(16)));
    Four a, b, c, d;
    std::memcpy(&a, from, 16), std::memcpy(&b, from + from_step, 16), std::memcpy(&c, from + 2 * from_step, 16), std::memcpy(&d, from + 3 * from_step, 16);
    const Four ab = __builtin_shuffle(a, b, Four{0, 4, 1, 5}), ab2 = __builtin_shuffle(a, b, Four{2, 6, 3, 7});
    const Four cd = __builtin_shuffle(c, d, Four{0, 4, 1, 5}), cd2 = __builtin_shuffle(c, d, Four{2, 6, 3, 7});
    a = __builtin_shuffle(ab, cd, Four{0, 1, 4, 5}), b = __builtin_shuffle(ab, cd, Four{2, 3, 6, 7});
    c = __builtin_shuffle(ab2, cd2, Four{0, 1, 4, 5}), d = __builtin_shuffle(ab2, cd2, Four{2, 3, 6, 7});
    std::memcpy(to, &a, 16), std::memcpy(to + to_step, &b, 16), std::memcpy(to + 2 * to_step, &c, 16), std::memcpy(to + 3 * to_step, &d, 16);
}

// An 8x8 block of bytes, likewise.
void transpose8(char* to, int64_t to_step, const char* from, int64_t from_step) {
    typedef uint8_t Bytes __attribute__((vector_size(16)));
    typedef uint16_t Pairs __attribute__((vector_size(16)));
    typedef uint32_t Fours __attribute__((vector_size(16)));
    Bytes rows[8] = {};
    for (int i = 0; i < 8; i++) std::memcpy(&rows[i], from + i * from_step, 8);
    Pairs pairs[4];     // of rows 2i and 2i + 1
    for (int i = 0; i < 4; i++) pairs[i] = (Pairs)__builtin_shuffle(rows[2 * i], rows[2 * i + 1], Bytes{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
    Fours fours[2][2];
    for (int i = 0; i < 2; i++) {
        fours[i][0] = (Fours)__builtin_shuffle(pairs[2 * i], pairs[2 * i + 1], Pairs{0, 8, 1, 9, 2, 10, 3, 11});
        fours[i][1] = (Fours)__builtin_shuffle(pairs[2 * i], pairs[2 * i + 1], Pairs{4, 12, 5, 13, 6, 14, 7, 15});
    }
    for (int half = 0; half < 2; half++) {
        const Fours columns[2] = {__builtin_shuffle(fours[0][half], fours[1][half], Fours{0, 4, 1, 5}), __builtin_shuffle(fours[0][half], fours[1][half], Fours{2, 6, 3, 7})};
        for (int i = 0; i < 4; i++) std::memcpy(to + (half * 4 + i) * to_step, reinterpret_cast<const char*>(columns) + i * 8, 8);
    }
}

// Four pixels of three channels of 4 bytes.
void interleave3(char* to, const char* from, int64_t plane) {
    typedef uint32_t Four __attribute__((vector_size(16)));
    Four a, b, c;
    std::memcpy(&a, from, 16), std::memcpy(&b, from + plane, 16), std::memcpy(&c, from + 2 * plane, 16);
    const Four ab = __builtin_shuffle(a, b, Four{0, 4, 1, 5}), bc = __builtin_shuffle(b, c, Four{1, 5, 2, 6}), last = __builtin_shuffle(a, b, Four{3, 7, 3, 7});
    const Four out[3] = {__builtin_shuffle(ab, c, Four{0, 1, 4, 2}), __builtin_shuffle(bc, a, Four{0, 1, 6, 2}), __builtin_shuffle(last, c, Four{6, 0, 1, 7})};
    std::memcpy(to, out, sizeof out);
}

// Two axes of which one is contiguous in the destination and the other in the source: tile by tile.
template <class T>
void copy_tile(char* to, const char* from, const Axis& outer, const Axis& inner, int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; o += kTile) {
        const int64_t rows = std::min(kTile, end - o);
        for (int64_t i = 0; i < inner.size; i += kTile) {
            const int64_t columns = std::min(kTile, inner.size - i);
            char* t = to + o * outer.to + i * inner.to;
            const char* f = from + o * outer.from + i * inner.from;
            int64_t done = 0;       // columns that blocks have covered
            if constexpr (sizeof(T) == 4)
                if (rows == kTile)
                    for (; done + 4 <= columns; done += 4)
                        for (int64_t r = 0; r < kTile; r += 4) transpose4(t + r * outer.to + done * 4, outer.to, f + r * 4 + done * inner.from, inner.from);
            if constexpr (sizeof(T) == 1)
                if (rows == kTile)
                    for (; done + 8 <= columns; done += 8)
                        for (int64_t r = 0; r < kTile; r += 8) transpose8(t + r * outer.to + done, outer.to, f + r + done * inner.from, inner.from);
            for (int64_t r = 0; r < rows; r++)
                for (int64_t c = done; c < columns; c++) std::memcpy(t + r * outer.to + c * inner.to, f + r * outer.from + c * inner.from, sizeof(T));
        }
    }
}

// Rows of N elements that lie together in the destination, from N planes: how two to four channels interleave.
template <class T, int N>
void interleave(char* to, const char* from, int64_t plane, int64_t rows) {
    int64_t r = 0;
    if constexpr (sizeof(T) == 4 && N == 3)
        for (; r + 4 <= rows; r += 4) interleave3(to + r * 12, from + r * 4, plane);
    for (; r < rows; r++)
        for (int c = 0; c < N; c++) std::memcpy(to + (r * N + c) * int64_t(sizeof(T)), from + r * int64_t(sizeof(T)) + c * plane, sizeof(T));
}

template <class T>
void copy_typed(char* to, const char* from, View& v, ThreadPool& pool) {
    int64_t total = 1;
    for (int i = 0; i < v.rank; i++) total *= v.axes[i].size;
    const Axis inner = v.axes[v.rank - 1];
    // Where the last axis jumps in the source, an axis that does not is brought next to it.
    int partner = -1;
    if (inner.to == sizeof(T) && inner.from != sizeof(T) && inner.from != 0)
        for (int i = 0; i < v.rank - 1; i++)
            if (v.axes[i].from == sizeof(T) && v.axes[i].size >= 4) partner = i;
    Axis outer{1, 0, 0};
    if (partner >= 0) {
        outer = v.axes[partner];
        for (int i = partner; i < v.rank - 2; i++) v.axes[i] = v.axes[i + 1];
    }
    const int loops = v.rank - 1 - (partner >= 0);
    const int64_t blocks = total / (inner.size * outer.size);
    const auto offsets = [&](int64_t index, int64_t& t, int64_t& f) {
        t = f = 0;
        for (int d = loops - 1; d >= 0; d--) {
            const int64_t at = index % v.axes[d].size;
            index /= v.axes[d].size, t += at * v.axes[d].to, f += at * v.axes[d].from;
        }
    };
    const int64_t grain = 32768 / int64_t(sizeof(T));
    if (partner >= 0) {
        const bool together = inner.size <= 4 && outer.to == inner.size * int64_t(sizeof(T));
        const int64_t kTile = together ? 1024 : hr::kTile, strips = (outer.size + kTile - 1) / kTile;   // of that many rows each
        pool.parallel(blocks * strips, std::max<int64_t>(1, grain / (kTile * inner.size)), [&](int64_t begin, int64_t end) {
            for (int64_t at = begin; at < end; at++) {
                int64_t t, f;
                offsets(at / strips, t, f);
                const int64_t row = at % strips * kTile, rows = std::min(outer.size, row + kTile) - row;
                if (together) {
                    char* there = to + t + row * outer.to;
                    const char* here = from + f + row * outer.from;
                    if (inner.size == 2) interleave<T, 2>(there, here, inner.from, rows);
                    else if (inner.size == 3) interleave<T, 3>(there, here, inner.from, rows);
                    else interleave<T, 4>(there, here, inner.from, rows);
                    continue;
                }
                copy_tile<T>(to + t, from + f, outer, inner, row, std::min(outer.size, row + kTile));
            }
        });
    } else if (blocks == 1) {
        pool.parallel(inner.size, grain, [&](int64_t begin, int64_t end) {
            copy_run<T>(to + begin * inner.to, from + begin * inner.from, {end - begin, inner.to, inner.from});
        });
    } else {
        pool.parallel(blocks, std::max<int64_t>(1, grain / inner.size), [&](int64_t begin, int64_t end) {
            int64_t at[2 * kMaxRank], t, f, rest = begin;
            offsets(begin, t, f);
            for (int d = loops - 1; d >= 0; d--) at[d] = rest % v.axes[d].size, rest /= v.axes[d].size;
            for (int64_t block = begin; block < end; block++) {
                copy_run<T>(to + t, from + f, inner);
                for (int d = loops - 1; d >= 0; d--) {      // count on, from the last axis
                    t += v.axes[d].to, f += v.axes[d].from;
                    if (++at[d] < v.axes[d].size) break;
                    t -= v.axes[d].to * at[d], f -= v.axes[d].from * at[d], at[d] = 0;
                }
            }
        });
    }
}

struct Wide {
    char bytes[16];
};

// Rows of a size known here: no call for each.
template <int64_t kBytes>
void copy_rows(const Part& p, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) std::memcpy(p.to + i * p.to_step, p.from + i * p.from_step, size_t(kBytes ? kBytes : p.bytes));
}

void copy_rows_of(const Part& p, int64_t begin, int64_t end) {
    switch (p.bytes) {
        case 16: return copy_rows<16>(p, begin, end);
        case 32: return copy_rows<32>(p, begin, end);
        case 64: return copy_rows<64>(p, begin, end);
        case 128: return copy_rows<128>(p, begin, end);
        default: return copy_rows<0>(p, begin, end);
    }
}

constexpr int64_t kTogether = 16 << 10;     // bytes of all parts: half of L1

}  // namespace

void Parts::copy() {
    const Part *first = parts_, *end = parts_ + count_;
    int64_t row = 0;
    for (const Part* p = first; p < end; p++) row += p->bytes;
    count_ = 0;
    if (row > kTogether) {      // long runs, which may be few
        for (const Part* p = first; p < end; p++) {
            View view;
            view.push(rows_, p->to_step, p->from_step), view.push(p->bytes, 1, 1);
            copy_strided(p->to, p->from, view, 1, pool_);
        }
    } else if (row) {
        const int64_t each = kTogether / row;
        pool_.parallel((rows_ + each - 1) / each, 2, [&](int64_t begin, int64_t stop) {
            for (int64_t block = begin; block < stop; block++)
                for (const Part* p = first; p < end; p++) copy_rows_of(*p, block * each, std::min(rows_, (block + 1) * each));
        });
    }
}

void copy_strided(void* to, const void* from, View view, size_t item, ThreadPool& pool) {
    for (int i = 0; i < view.rank; i++)
        if (view.axes[i].size == 0) return;
    simplify(view);
    if (!view.rank) view.push(1, int64_t(item), int64_t(item));
    auto* t = static_cast<char*>(to);
    auto* f = static_cast<const char*>(from);
    switch (item) {
        case 1: return copy_typed<uint8_t>(t, f, view, pool);
        case 2: return copy_typed<uint16_t>(t, f, view, pool);
        case 4: return copy_typed<uint32_t>(t, f, view, pool);
        case 8: return copy_typed<uint64_t>(t, f, view, pool);
        case 16: return copy_typed<Wide>(t, f, view, pool);
        default: throw std::invalid_argument("elements of " + std::to_string(item) + " bytes cannot be moved");
    }
}

}  // namespace hr
