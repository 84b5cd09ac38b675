// Tensors as kernels see them: a dtype, a shape, a pointer. Contiguous, row-major, never owning.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace hr {

// Codes of ONNX's TensorProto.DataType.
enum class DType : uint8_t {
    none = 0, f32 = 1, u8 = 2, i8 = 3, u16 = 4, i16 = 5, i32 = 6, i64 = 7, str = 8, boolean = 9,
    f16 = 10, f64 = 11, u32 = 12, u64 = 13, c64 = 14, c128 = 15, bf16 = 16,
    f8e4m3fn = 17, f8e4m3fnuz = 18, f8e5m2 = 19, f8e5m2fnuz = 20, u4 = 21, i4 = 22, f4e2m1 = 23, f8e8m0 = 24, u2 = 25, i2 = 26
};

// Bytes of one element in memory; types narrower than a byte take a whole one.
inline size_t item_size(DType t) {
    switch (t) {
        case DType::f64: case DType::i64: case DType::u64: case DType::c64: return 8;
        case DType::f32: case DType::i32: case DType::u32: return 4;
        case DType::f16: case DType::bf16: case DType::u16: case DType::i16: return 2;
        case DType::c128: return 16;
        case DType::str: return sizeof(void*);
        default: return 1;
    }
}

constexpr int kMaxRank = 12;

struct Shape {
    int rank = 0;
    int64_t d[kMaxRank] = {};

    Shape() = default;
    Shape(std::initializer_list<int64_t> dims) { for (int64_t x : dims) push(x); }

    void push(int64_t x) {
        if (rank == kMaxRank) throw std::length_error("a tensor has more than 12 dimensions");
        d[rank++] = x;
    }
    int64_t operator[](int i) const { return d[i < 0 ? i + rank : i]; }
    int64_t& operator[](int i) { return d[i < 0 ? i + rank : i]; }
    bool operator==(const Shape& o) const {
        if (rank != o.rank) return false;
        for (int i = 0; i < rank; i++) if (d[i] != o.d[i]) return false;
        return true;
    }
    bool operator!=(const Shape& o) const { return !(*this == o); }

    // Product of dimensions [from, to); throws if it does not fit 63 bits.
    int64_t count(int from, int to) const {
        int64_t n = 1;
        for (int i = from; i < to; i++)
            if (__builtin_mul_overflow(n, d[i], &n)) throw std::overflow_error("a shape has more than 2^63 elements");
        return n;
    }
    int64_t count() const { return count(0, rank); }
};

struct Tensor {
    DType dtype = DType::none;   // none: absent
    Shape shape;
    void* data = nullptr;

    explicit operator bool() const { return dtype != DType::none; }
    int64_t count() const { return shape.count(); }
    size_t bytes() const { return size_t(count()) * item_size(dtype); }
    // Whether a result of this form may be written where the other is, element over element. Equal bytes alone say nothing: 4
    // int64 that are stretched over 32 bools would be read after they are gone.
    bool fits(const Tensor& result) const { return count() == result.count() && bytes() == result.bytes(); }
    template <class T> T* as() { return static_cast<T*>(data); }
    template <class T> const T* as() const { return static_cast<const T*>(data); }
};

}  // namespace hr
