// Small helpers of the compute kernels: owned aligned memory, scratch in pieces, broadcasting.
#pragma once
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "buffer.h"
#include "kernel.h"
#include "pack_store.h"

namespace hr {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Memory for constants in the order of a kernel. With a count alone it is the kernel's own, zeroed, to be written at any time;
// what `pack_once` made is read only afterwards: others may use it as well.
template <class T>
class Packed {
public:
    Packed() = default;
    explicit Packed(int64_t count) : bytes_(room(count)), data_(packed_memory(bytes_)) {}
    Packed(std::shared_ptr<char> data, size_t bytes) : bytes_(bytes), data_(std::move(data)) {}
    T* get() { return reinterpret_cast<T*>(data_.get()); }
    const T* get() const { return reinterpret_cast<const T*>(data_.get()); }
    T& operator[](int64_t i) { return get()[i]; }
    const T& operator[](int64_t i) const { return get()[i]; }
    size_t bytes() const { return bytes_; }
    explicit operator bool() const { return bool(data_); }
    static size_t room(int64_t count) { return aligned(size_t(count) * sizeof(T) + 64); }   // vector loads may look past the end

private:
    size_t bytes_ = 0;
    std::shared_ptr<char> data_;
};

template <class T>
struct Part {
    Packed<T>& packed;
    int64_t count;
};

// Arrays of a node's constants that one `fill()` writes, which is called only where nobody has packed them before.
template <class Fill, class... T>
void pack_once(Fill&& fill, Part<T>... part) {
    uint64_t sizes = 0;
    ((sizes = mixed(mixed(sizes, sizeof(T)), uint64_t(part.count))), ...);
    const Packing::Place place = packed_place((Packed<T>::room(part.count) + ...), sizes);
    size_t at = 0;
    ((part.packed = Packed<T>(std::shared_ptr<char>(place.data, place.data.get() + at), Packed<T>::room(part.count)), at += part.packed.bytes()), ...);
    if (!place.filled) fill();
}

// Hands out pieces of a node's scratch. Run once with null to measure (shape()), once with the memory (run()).
class Scratch {
public:
    explicit Scratch(void* base = nullptr) : base_(static_cast<char*>(base)) {}
    template <class T> T* take(int64_t count) {
        size_t n = 0;
        if (count < 0 || __builtin_mul_overflow(size_t(count), sizeof(T), &n) || n > (size_t(1) << 46))
            throw std::length_error("a kernel's scratch memory would have " + std::to_string(count) + " elements");
        char* at = base_ ? base_ + used_ : nullptr;
        used_ += aligned(n + 64);   // vector loads may look one vector past the end
        return reinterpret_cast<T*>(at);
    }
    size_t used() const { return used_; }

private:
    char* base_;
    size_t used_ = 0;
};

// The NumPy rule for two shapes; throws std::invalid_argument naming both.
inline std::string text(const Shape& s) {
    std::string t = "[";
    for (int i = 0; i < s.rank; i++) t += (i ? ", " : "") + std::to_string(s.d[i]);
    return t + "]";
}

inline Shape broadcast(const Shape& a, const Shape& b) {
    Shape out;
    out.rank = a.rank > b.rank ? a.rank : b.rank;
    for (int i = 1; i <= out.rank; i++) {
        const int64_t x = i <= a.rank ? a.d[a.rank - i] : 1, y = i <= b.rank ? b.d[b.rank - i] : 1;
        if (x != y && x != 1 && y != 1) throw std::invalid_argument("shapes " + text(a) + " and " + text(b) + " do not broadcast");
        out.d[out.rank - i] = x == 1 ? y : x;
    }
    return out;
}

// Index into a tensor of shape `s` for flat position `flat` of the broadcast shape `to` (leading dimensions of size 1 added).
inline int64_t broadcast_index(const Shape& s, const Shape& to, int64_t flat) {
    int64_t index = 0, step = 1;
    for (int i = 1; i <= to.rank; i++) {
        const int64_t at = flat % to.d[to.rank - i];
        flat /= to.d[to.rank - i];
        if (i <= s.rank) {
            if (s.d[s.rank - i] != 1) index += at * step;
            step *= s.d[s.rank - i];
        }
    }
    return index;
}

}  // namespace hr
