// Elementwise kernels: loops over broadcast operands around a row function of one dtype and tier.
#pragma once
#include <memory>
#include <string>

#include "kernel.h"

namespace hr {

constexpr int kMaxOperands = 3;

// What a row function sees: n elements; an operand advances by one element or stays (scalar). `f` are the numbers of the
// node's attributes, `inner` is for rows that wrap another row.
struct Row {
    const void* in[kMaxOperands];
    bool moves[kMaxOperands];
    void* out;
    int64_t n;
    const double* f;
    const void* inner;
};
using RowFn = void (*)(const Row&);

// One elementwise node: how many operands, what to run, what comes out.
struct Elementwise {
    int operands = 1;
    RowFn row = nullptr;
    DType out = DType::none;        // none: the dtype of operand `like`
    int like = 0;
    int64_t grain = 16384;          // elements worth a thread's while
    std::vector<double> f;
    const void* inner = nullptr;
    std::string variant;
    bool variadic = false;          // any number of inputs, folded pairwise
    bool shaped_like_first = false; // the others broadcast to operand 0 only
};
std::unique_ptr<Kernel> make_elementwise(const NodeInfo& node, Elementwise what);
const Elementwise* elementwise_of(const Kernel& kernel);    // what it was made from; null where it is another kernel

// A float16 or bfloat16 node runs the float32 row on converted chunks; answers false where the dtype is neither.
bool widen_row(DType dtype, DType out, Elementwise& what);

// The broadcast of two shapes; throws std::invalid_argument naming both.
Shape broadcast_shapes(const Shape& a, const Shape& b);
std::string text(const Shape& shape);

}  // namespace hr
