// Cast and CastLike, between all element types that are numbers.
#include <type_traits>

#include "kernels/elementwise/broadcast.h"
#include "pool.h"
#include "types.h"

namespace hr {
namespace {

// Casts as C converts: floats truncate to integers, integers wrap, everything but zero is true.
template <class To, class From>
To convert(From x) {
    if constexpr (std::is_same_v<From, Half> || std::is_same_v<From, BFloat16>) return convert<To>(to_float(x));
    else if constexpr (std::is_same_v<To, Half>) return to_half(float(x));
    else if constexpr (std::is_same_v<To, BFloat16>) return to_bfloat16(float(x));
    else if constexpr (std::is_same_v<To, bool>) return x != From(0);
    else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To> && sizeof(To) < 4) return To(int32_t(x));
    else return To(x);
}

template <class To, class From>
void cast_row(const Row& row) {
    const From* x = static_cast<const From*>(row.in[0]);
    To* y = static_cast<To*>(row.out);
    const int64_t n = row.n;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) y[i] = convert<To>(x[i]);
}

template <class To, class... From>
RowFn cast_from(DType from) {
    RowFn found = nullptr;
    ((from == code_of<From> ? void(found = cast_row<To, From>) : void()), ...);
    return found;
}
#define HR_CASTABLE float, double, Half, BFloat16, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, bool
template <class... To>
RowFn cast_to(DType to, DType from) {
    RowFn found = nullptr;
    ((to == code_of<To> ? void(found = cast_from<To, HR_CASTABLE>(from)) : void()), ...);
    return found;
}

class SameType : public Kernel {
public:
    void shape(ShapeContext& c) const override { c.out(0, c.in(0).dtype, c.in(0).shape), c.alias = 0; }
    void run(RunContext&) const override {}
    std::string variant() const override { return "view"; }
};

class CastKernel : public Kernel {
public:
    CastKernel(RowFn row, DType to) : row_(row), to_(to) {}
    void shape(ShapeContext& c) const override { c.out(0, to_, c.in(0).shape); }
    std::string variant() const override { return "cast"; }
    void run(RunContext& c) const override {
        const size_t from = item_size(c.in(0).dtype), to = item_size(to_);
        c.pool->parallel(c.out(0).count(), 16384, [&](int64_t begin, int64_t end) {
            Row row{};
            row.in[0] = c.in(0).as<char>() + begin * int64_t(from), row.moves[0] = true;
            row.out = c.out(0).as<char>() + begin * int64_t(to), row.n = end - begin;
            row_(row);
        });
    }

private:
    RowFn row_;
    DType to_;
};

std::unique_ptr<Kernel> cast(const NodeInfo& node) {
    const DType from = node.inputs[0], to = node.outputs[0];
    node.known({"to", "saturate", "round_mode"});   // the latter two of float8 alone
    if (from == to) return std::make_unique<SameType>();
    if ((from == DType::f64 && (to == DType::f16 || to == DType::bf16))) return nullptr;     // two roundings would differ from one
    const RowFn row = cast_to<HR_CASTABLE>(to, from);
    return row ? std::make_unique<CastKernel>(row, to) : nullptr;
}
HR_KERNEL("Cast", cast);
HR_KERNEL("CastLike", cast);

}  // namespace
}  // namespace hr
