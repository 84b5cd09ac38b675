// Scales, zero points and bias of an integer product, brought into the form of IntEpilogue.
#pragma once
#include <vector>

#include "kernels/gemm/common.h"
#include "kernels/quant/igemm.h"

namespace hr {

// Which input holds what; -1: the operator has no such input.
struct Slots {
    int x = 0, x_scale = -1, x_zero = -1, w = 1, w_scale = -1, w_zero = -1, y_scale = -1, y_zero = -1, bias = -1, r = -1, r_scale = -1, r_zero = -1,
        real_bias = -1, added = -1, factor = -1, level_scale = -1, level_zero = -1;
};

// The numbers of one node. Columns come in `groups` of `n`, each padded to whole panels.
struct Params {
    Packed<float> own_scale, own_bias;
    Packed<int32_t> own_col, own_zero;
    IntEpilogue epilogue;       // scale, col, w_zero, bias, lo, hi, zero, r_* filled in
    int32_t x_zero = 0;         // in terms of prepared A (unsigned bytes: shifted)
    int32_t x_raw_zero = 0;
};

struct ParamsRule {
    const IntTable* table;
    Slots slots;
    bool x_signed = false, w_signed = true;
    IntOut out = IntOut::s32;
    std::string activation;
    bool has_lo = false, has_hi = false;
    float lo = 0, hi = 0;
    int64_t groups = 1, n = 0, ld = 0;   // ld: n padded to panels
    bool shifted_weights = true;         // unsigned weights were shifted by 128 when packed

    void read_activation(const NodeInfo& node);
    // The inputs besides x, w and r that matter here.
    std::vector<int> inputs() const;
    // Fills `p` from tensors; `get(slot)` answers null where absent. `col_sums` [groups * ld]. Arrays are p's own, or lie
    // in `scratch` where given.
    template <class Get> void fill(Params& p, const Get& get, const int32_t* col_sums, Scratch* scratch) const {
        const int64_t all = groups * ld;
        const auto room = [&](auto& own, auto* none) {
            using T = std::remove_pointer_t<decltype(none)>;
            if (scratch) return scratch->take<T>(all);
            own = Packed<T>(all);
            return own.get();
        };
        fill_columns(p, room(p.own_scale, static_cast<float*>(nullptr)), room(p.own_bias, static_cast<float*>(nullptr)),
                     room(p.own_col, static_cast<int32_t*>(nullptr)), room(p.own_zero, static_cast<int32_t*>(nullptr)), get(slots.x_scale),
                     get(slots.x_zero), get(slots.w_scale), get(slots.w_zero), get(slots.y_scale), get(slots.y_zero), get(slots.bias),
                     get(slots.r_scale), get(slots.r_zero), get(slots.real_bias), col_sums);
    }
    size_t scratch_bytes() const {
        Scratch s;
        for (int i = 0; i < 4; i++) s.take<float>(groups * ld);
        return s.used();
    }

private:
    void fill_columns(Params& p, float* scale, float* bias, int32_t* col, int32_t* zero, const Tensor* x_scale, const Tensor* x_zero,
                      const Tensor* w_scale, const Tensor* w_zero, const Tensor* y_scale, const Tensor* y_zero, const Tensor* int_bias,
                      const Tensor* r_scale, const Tensor* r_zero, const Tensor* real_bias, const int32_t* col_sums) const;
};

// Element i of a tensor of 8-bit integers; 0 where there is no tensor.
inline int32_t int_at(const Tensor* t, int64_t i) {
    if (!t || !*t) return 0;
    return t->dtype == DType::i8 ? int32_t(t->as<int8_t>()[i]) : int32_t(t->as<uint8_t>()[i]);
}

inline bool is_int8(DType t) { return t == DType::u8 || t == DType::i8; }

}  // namespace hr
