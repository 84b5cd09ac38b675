// The kernel contract: a kernel is made once per node (and may pack constants then), answers output shapes from input
// shapes, and runs. It never allocates output memory and keeps no state between runs, so one kernel serves many threads.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "tensor.h"

namespace hr {

class ThreadPool;

// Attributes of a node as the graph holds them.
struct Attr {
    std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>, std::vector<std::string>> value;
};

// What a kernel is made from. `constants[i]` has data where input i is a constant (alive as long as the program).
struct NodeInfo {
    std::string op;                 // "Conv", "headrace.QConv", "headrace.cpu.Conv", ...
    std::string name;               // for messages
    std::map<std::string, Attr> attrs;          // read through the functions below
    std::vector<std::string> said;              // those with another value than their default: a kernel must know them
    std::shared_ptr<std::set<std::string>> asked = std::make_shared<std::set<std::string>>();   // what a kernel asked for; copies share it
    std::vector<DType> inputs;      // none: absent
    std::vector<DType> outputs;     // none: nobody asked for it
    std::vector<const Tensor*> constants;   // nullptr: not a constant
    int version = 0;                // operator-set version that the node follows
    DType narrow = DType::none;     // what the values of input 0 were before they were widened to float32 (half_kernel.cpp)

    bool has(const std::string& key) const { return find(key); }
    const Attr* find(const std::string& key) const;               // null where absent
    int64_t i(const std::string& key, int64_t otherwise) const;
    double f(const std::string& key, double otherwise) const;
    std::string s(const std::string& key, const std::string& otherwise) const;
    std::vector<int64_t> ints(const std::string& key) const;      // empty where absent
    std::vector<double> floats(const std::string& key) const;
    // Attributes that repeat what types and shapes say, or mean nothing to this kernel.
    void known(std::initializer_list<const char*> keys) const { asked->insert(keys.begin(), keys.end()); }
};

// shape(): reads input shapes (and the data of inputs for which needs_value(i) is true), declares outputs and scratch.
struct ShapeContext {
    const Tensor* inputs;
    int n_inputs;
    Tensor* outputs;                // to be filled: dtype and shape; data stays null
    int n_outputs;
    size_t scratch = 0;             // bytes this node wants while it runs, 64-byte aligned
    int threads = 1;                // how many threads a run may use
    // >= 0: output 0 has exactly the bytes of that input (views: Reshape, Squeeze, ...). run() is then called only if other
    // outputs are wanted, and leaves output 0 alone.
    int alias = -1;
    // >= 0: output 0 is a run of the bytes of that input, from `part_at` on. Where the input is the caller's or a constant the
    // executor shares it; else run() copies.
    int part = -1;
    size_t part_at = 0;

    bool has(int i) const { return i < n_inputs && inputs[i]; }
    const Tensor& in(int i) const { return inputs[i]; }
    void out(int i, DType dtype, const Shape& shape) { if (i < n_outputs) { outputs[i].dtype = dtype; outputs[i].shape = shape; } }
};

struct RunContext {
    const Tensor* inputs;
    int n_inputs;
    Tensor* outputs;                // allocated; an output nobody asked for has data == nullptr
    int n_outputs;
    void* scratch = nullptr;
    ThreadPool* pool = nullptr;     // never null; pool->parallel(n, fn) runs fn(begin, end) over [0, n)

    bool has(int i) const { return i < n_inputs && inputs[i]; }
    const Tensor& in(int i) const { return inputs[i]; }
    Tensor& out(int i) { return outputs[i]; }
    // The first dimension of output i is smaller than shape() said; only for kernels that say shrinks().
    void shrink(int i, int64_t size) { outputs[i].shape.d[0] = size; }
};

class Kernel {
public:
    virtual ~Kernel() = default;
    virtual void shape(ShapeContext& c) const = 0;
    virtual void run(RunContext& c) const = 0;
    // True where shape() reads the data of input i: its value must be computed before.
    virtual bool needs_value(int) const { return false; }
    // False where run() never reads the data of input i, only its shape (Shape, Size): such a node needs no run-time data.
    virtual bool reads_data(int) const { return true; }
    // True where run() may make outputs smaller than shape() said: nobody plans with their sizes.
    virtual bool shrinks() const { return false; }
    // True where run() may be called with output 0 in the memory of input i (same bytes, elementwise).
    virtual bool in_place(int) const { return false; }
    // Bytes of packed constants that this kernel holds.
    virtual size_t packed_bytes() const { return 0; }
    // Which implementation this is, for the profiler: "gemm_f32_avx2".
    virtual std::string variant() const { return ""; }
};

// Answers nullptr where this node is not supported (dtype, attribute): the reference runs instead.
using Factory = std::unique_ptr<Kernel> (*)(const NodeInfo&);

// The instruction-set tier that a source file is compiled for; the build defines both (see CMakeLists.txt). Templates and
// helpers whose code depends on the tier live in namespace hr::HR_TIER, so that tiers never share a symbol.
#ifndef HR_TIER
#define HR_TIER baseline
#define HR_TIER_RANK 0
#endif

// The table of kernels, filled by static registration; found by the operator's full name. A node gets the first kernel
// that accepts it, from the highest tier that this CPU has down to the baseline.
struct Entry {
    Factory factory;
    int tier;
};
std::map<std::string, std::vector<Entry>>& kernel_table();
// A kernel that never asked for an attribute of `said` was written before there was one: such a node gets none, and where it has
// no reference either (headrace.cpu), std::invalid_argument is thrown.
std::unique_ptr<Kernel> make_kernel(const NodeInfo&);
// A float16 or bfloat16 node that has no kernel of its own: the float32 kernel between conversions; see half_kernel.cpp.
std::unique_ptr<Kernel> make_half_kernel(const NodeInfo&);

struct Registration {
    Registration(const char* op, Factory factory, int tier) { kernel_table()[op].push_back({factory, tier}); }
};
#define HR_CAT2(a, b) a##b
#define HR_CAT(a, b) HR_CAT2(a, b)
#define HR_KERNEL(op, factory) static ::hr::Registration HR_CAT(registration_, __COUNTER__)(op, factory, HR_TIER_RANK)

}  // namespace hr
