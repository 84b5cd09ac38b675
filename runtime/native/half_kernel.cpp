// Nodes of float16 and bfloat16 by the float32 kernel: inputs are widened into scratch, results rounded once at the end.
// For whatever has no kernel of its own in half precision.
#include <algorithm>
#include <deque>
#include <stdexcept>

#include "buffer.h"
#include "half.h"
#include "kernel.h"
#include "pool.h"

namespace hr {

namespace {

constexpr int64_t kGrain = 16384;

bool is_half(DType t) { return t == DType::f16 || t == DType::bf16; }
DType widened(DType t) { return is_half(t) ? DType::f32 : t; }

template <class H>
void widen(const H* from, float* to, int64_t n, ThreadPool& pool) {
    pool.parallel(n, kGrain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) to[i] = to_float(from[i]);
    });
}
void widen(const Tensor& from, float* to, ThreadPool& pool) {
    from.dtype == DType::f16 ? widen(from.as<Half>(), to, from.count(), pool) : widen(from.as<BFloat16>(), to, from.count(), pool);
}
void narrow(const float* from, const Tensor& to, ThreadPool& pool) {
    pool.parallel(to.count(), kGrain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++)
            if (to.dtype == DType::f16) static_cast<Half*>(to.data)[i] = to_half(from[i]);
            else static_cast<BFloat16*>(to.data)[i] = to_bfloat16(from[i]);
    });
}

class HalfKernel : public Kernel {
public:
    HalfKernel(const NodeInfo& node) : inputs_(node.inputs), outputs_(node.outputs), constants_(node.inputs.size()) {}

    // Makes the inner kernel; false where there is none that fits.
    bool make(NodeInfo node) {
        static const std::shared_ptr<ThreadPool> alone = ThreadPool::shared(1);
        for (size_t i = 0; i < node.inputs.size(); i++) {
            if (!is_half(node.inputs[i])) continue;
            if (i == 0) node.narrow = node.inputs[i];
            node.inputs[i] = DType::f32;
            if (!node.constants[i]) continue;
            constants_[i].resize(size_t(node.constants[i]->count()));
            widen(*node.constants[i], constants_[i].data(), *alone);
            const Tensor wide{DType::f32, node.constants[i]->shape, constants_[i].empty() ? node.constants[i]->data : constants_[i].data()};
            node.constants[i] = &wide_.emplace_back(wide);
        }
        for (DType& t : node.outputs) t = widened(t);
        inner_ = make_kernel(node);
        if (!inner_) return false;
        for (size_t i = 0; i < inputs_.size(); i++)
            if (is_half(inputs_[i]) && inner_->needs_value(int(i))) return false;
        return true;
    }
    void shape(ShapeContext& c) const override {
        std::vector<Tensor> in(c.inputs, c.inputs + c.n_inputs), out(size_t(c.n_outputs));
        size_t scratch = 0;
        for (int i = 0; i < c.n_inputs; i++) {
            if (!is_half(in[size_t(i)].dtype)) continue;
            in[size_t(i)].dtype = DType::f32, in[size_t(i)].data = nullptr;
            if (constants_[size_t(i)].empty()) scratch += aligned(in[size_t(i)].bytes());
        }
        ShapeContext wide = c;
        wide.inputs = in.data(), wide.outputs = out.data();
        inner_->shape(wide);
        if (wide.alias >= 0) throw std::logic_error("a view needs no widening");     // views take every type themselves
        for (int i = 0; i < c.n_outputs; i++) {
            const DType declared = outputs_[size_t(i)];
            if (is_half(declared)) scratch += aligned(out[size_t(i)].bytes());
            c.out(i, declared == DType::none ? out[size_t(i)].dtype : declared, out[size_t(i)].shape);
        }
        c.scratch = scratch + aligned(wide.scratch), c.alias = -1;
    }
    void run(RunContext& c) const override {
        std::vector<Tensor> in(c.inputs, c.inputs + c.n_inputs), out(c.outputs, c.outputs + c.n_outputs);
        char* scratch = static_cast<char*>(c.scratch);
        for (int k = 0; k < c.n_inputs; k++) {
            Tensor& x = in[size_t(k)];
            if (!is_half(x.dtype)) continue;
            const Tensor given = x;
            x.dtype = DType::f32;
            if (!constants_[size_t(k)].empty()) {
                x.data = const_cast<float*>(constants_[size_t(k)].data());
                continue;
            }
            x.data = scratch, scratch += aligned(x.bytes());
            widen(given, x.as<float>(), *c.pool);
        }
        for (Tensor& y : out) {
            if (!is_half(y.dtype) || !y.data) continue;
            y.dtype = DType::f32;
            y.data = scratch, scratch += aligned(y.bytes());
        }
        RunContext wide{in.data(), c.n_inputs, out.data(), c.n_outputs, scratch, c.pool};
        inner_->run(wide);
        for (int i = 0; i < c.n_outputs; i++)
            if (is_half(c.out(i).dtype) && c.out(i).data) narrow(out[size_t(i)].as<float>(), c.out(i), *c.pool);
    }
    bool needs_value(int i) const override { return inner_->needs_value(i); }
    bool reads_data(int i) const override { return inner_->reads_data(i); }
    size_t packed_bytes() const override {
        size_t bytes = inner_->packed_bytes();
        for (const auto& constant : constants_) bytes += constant.size() * sizeof(float);
        return bytes;
    }
    std::string variant() const override { return inner_->variant() + (inner_->variant().empty() ? "widened" : " widened"); }

private:
    std::vector<DType> inputs_, outputs_;
    std::vector<std::vector<float>> constants_;     // widened, per input
    std::deque<Tensor> wide_;                       // what the inner kernel keeps pointers to
    std::unique_ptr<Kernel> inner_;
};

}  // namespace

std::unique_ptr<Kernel> make_half_kernel(const NodeInfo& node) {
    if (std::none_of(node.inputs.begin(), node.inputs.end(), is_half)) return nullptr;
    auto kernel = std::make_unique<HalfKernel>(node);
    return kernel->make(node) ? std::move(kernel) : nullptr;
}

}  // namespace hr
