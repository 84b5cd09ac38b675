// Small helpers of the compute kernels: owned aligned memory, scratch in pieces, broadcasting.
#pragma once
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "buffer.h"
#include "kernel.h"

namespace hr {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Memory for packed constants: 64-byte aligned, huge pages where large.
template <class T>
class Packed {
public:
    Packed() = default;
    explicit Packed(int64_t count) : bytes_(aligned(size_t(count) * sizeof(T) + 64)), data_(static_cast<T*>(aligned_memory(bytes_))) {
        std::memset(data_.get(), 0, bytes_);
    }
    T* get() { return data_.get(); }
    const T* get() const { return data_.get(); }
    T& operator[](int64_t i) { return data_.get()[i]; }
    const T& operator[](int64_t i) const { return data_.get()[i]; }
    size_t bytes() const { return bytes_; }
    explicit operator bool() const { return bool(data_); }

private:
    struct Free { void operator()(void* p) const { std::free(p); } };
    size_t bytes_ = 0;
    std::unique_ptr<T, Free> data_;
};

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
