// Operators whose result has the bytes of their input: Reshape, Flatten, Squeeze, Unsqueeze, Identity, Dropout.
#include <algorithm>
#include <cstring>

#include "kernels/elementwise/broadcast.h"
#include "kernels/shape/strided.h"

namespace hr {
namespace {

// An integer list: an input where it is present, else an attribute.
std::vector<int64_t> list_of(const ShapeContext& c, int i, const std::vector<int64_t>& otherwise) {
    if (!c.has(i)) return otherwise;
    const Tensor& t = c.in(i);
    std::vector<int64_t> out(size_t(t.count()));
    for (size_t k = 0; k < out.size(); k++) out[k] = t.dtype == DType::i32 ? t.as<int32_t>()[k] : t.as<int64_t>()[k];
    return out;
}

class ViewKernel : public Kernel {
public:
    void run(RunContext&) const override {}
    std::string variant() const override { return "view"; }

protected:
    static void view(ShapeContext& c, const Shape& shape) { c.out(0, c.in(0).dtype, shape), c.alias = 0; }
};

class Reshape : public ViewKernel {
public:
    explicit Reshape(const NodeInfo& node) : keep_zero_(node.i("allowzero", 0)) {}
    bool needs_value(int i) const override { return i == 1; }
    void shape(ShapeContext& c) const override {
        const Shape& from = c.in(0).shape;
        const std::vector<int64_t> wanted = list_of(c, 1, {});
        Shape to;
        int free = -1;
        for (size_t i = 0; i < wanted.size(); i++) {
            int64_t dim = wanted[i];
            if (dim == 0 && !keep_zero_) {
                if (int(i) >= from.rank) throw std::invalid_argument("a 0 at place " + std::to_string(i) + " copies a dimension that " + text(from) + " does not have");
                dim = from.d[i];
            }
            if (dim == -1 && free < 0) free = int(i), dim = 1;
            if (dim < 0) throw std::invalid_argument("a shape may hold one -1 and no other negative number");
            to.push(dim);
        }
        const int64_t count = from.count(), known = to.count();
        if (free >= 0) {
            if (known == 0 || count % known) throw std::invalid_argument(text(from) + " does not divide into " + text(to));
            to.d[free] = count / known;
        } else if (known != count) {
            throw std::invalid_argument("the elements of " + text(from) + " do not fit " + text(to));
        }
        view(c, to);
    }

private:
    bool keep_zero_;
};

class Flatten : public ViewKernel {
public:
    explicit Flatten(const NodeInfo& node) : axis_(node.i("axis", 1)) {}
    void shape(ShapeContext& c) const override {
        const Shape& from = c.in(0).shape;
        const int axis = axis_ == from.rank ? from.rank : resolve_axis(axis_, from.rank);
        view(c, {from.count(0, axis), from.count(axis, from.rank)});
    }

private:
    int64_t axis_;
};

class Squeeze : public ViewKernel {
public:
    explicit Squeeze(const NodeInfo& node) : axes_(node.ints("axes")) {}
    bool needs_value(int i) const override { return i == 1; }
    void shape(ShapeContext& c) const override {
        const Shape& from = c.in(0).shape;
        const std::vector<int64_t> axes = list_of(c, 1, axes_);
        bool drop[kMaxRank] = {};
        for (int64_t given : axes) {
            const int axis = resolve_axis(given, from.rank);
            if (from.d[axis] != 1) throw std::invalid_argument("axis " + std::to_string(axis) + " of " + text(from) + " is not 1");
            drop[axis] = true;
        }
        Shape to;
        for (int i = 0; i < from.rank; i++)
            if (axes.empty() && !c.has(1) ? from.d[i] != 1 : !drop[i]) to.push(from.d[i]);
        view(c, to);
    }

private:
    std::vector<int64_t> axes_;
};

class Unsqueeze : public ViewKernel {
public:
    explicit Unsqueeze(const NodeInfo& node) : axes_(node.ints("axes")) {}
    bool needs_value(int i) const override { return i == 1; }
    void shape(ShapeContext& c) const override {
        const Shape& from = c.in(0).shape;
        const std::vector<int64_t> axes = list_of(c, 1, axes_);
        const int rank = from.rank + int(axes.size());
        if (rank > kMaxRank) throw std::length_error("a tensor has more than 12 dimensions");
        bool added[kMaxRank] = {};
        for (int64_t given : axes) {
            const int axis = resolve_axis(given, rank);
            if (added[axis]) throw std::invalid_argument("axis " + std::to_string(axis) + " is given twice");
            added[axis] = true;
        }
        Shape to;
        for (int i = 0, k = 0; i < rank; i++) to.push(added[i] ? 1 : from.d[k++]);
        view(c, to);
    }

private:
    std::vector<int64_t> axes_;
};

class Identity : public ViewKernel {
public:
    void shape(ShapeContext& c) const override { view(c, c.in(0).shape); }
};

// Inference only: the input, and a mask of ones.
class Dropout : public ViewKernel {
public:
    void shape(ShapeContext& c) const override {
        view(c, c.in(0).shape);
        c.out(1, DType::boolean, c.in(0).shape);
    }
    void run(RunContext& c) const override {
        if (c.n_outputs > 1 && c.out(1).data) std::memset(c.out(1).data, 1, c.out(1).bytes());
    }
};

template <class K>
std::unique_ptr<Kernel> from_node(const NodeInfo& node) { return std::make_unique<K>(node); }
std::unique_ptr<Kernel> identity(const NodeInfo&) { return std::make_unique<Identity>(); }
std::unique_ptr<Kernel> dropout(const NodeInfo& node) {
    if (node.inputs.size() > 2 && node.inputs[2] != DType::none) {  // training_mode: only where it is certainly false
        const Tensor* training = node.constants[2];
        if (!training || training->as<bool>()[0]) return nullptr;
    }
    node.known({"seed"});
    return std::make_unique<Dropout>();
}

HR_KERNEL("Reshape", from_node<Reshape>);
HR_KERNEL("Flatten", from_node<Flatten>);
HR_KERNEL("Squeeze", from_node<Squeeze>);
HR_KERNEL("Unsqueeze", from_node<Unsqueeze>);
HR_KERNEL("Identity", identity);
HR_KERNEL("Dropout", dropout);

}  // namespace
}  // namespace hr
