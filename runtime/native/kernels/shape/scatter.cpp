// GatherND and what writes by index: ScatterElements, ScatterND, TensorScatter.
#include <algorithm>
#include <cstring>

#include "kernels/elementwise/broadcast.h"
#include "kernels/shape/index.h"
#include "kernels/shape/strided.h"
#include "pool.h"

namespace hr {
namespace {

// The indices' last axis holds tuples into axes [batch, batch + tuple) of the data.
struct Tuples {
    int64_t count, width, run;      // tuples, numbers in each, elements of the data behind one
    int64_t sizes[kMaxRank], steps[kMaxRank];

    Tuples(const Shape& data, const Shape& index, int batch) {
        if (index.rank < 1 + batch) throw std::invalid_argument("the indices " + text(index) + " have no axis for tuples");
        width = index[-1], count = index.count(0, index.rank - 1);
        if (batch + width > data.rank) throw std::invalid_argument("the indices " + text(index) + " name more axes than the data " + text(data) + " has");
        run = data.count(batch + int(width), data.rank);
        for (int i = 0; i < int(width); i++) sizes[i] = data.d[batch + i], steps[i] = data.count(batch + i + 1, data.rank);
    }
    int64_t offset(const Tensor& index, int64_t tuple) const {
        int64_t at = 0;
        for (int i = 0; i < int(width); i++) at += index_at(index, tuple * width + i, sizes[i]) * steps[i];
        return at;
    }
};

class GatherND : public Kernel {
public:
    explicit GatherND(const NodeInfo& node) : batch_(int(node.i("batch_dims", 0))) {}
    void shape(ShapeContext& c) const override {
        const Shape &x = c.in(0).shape, &index = c.in(1).shape;
        if (batch_ < 0 || batch_ > x.rank || batch_ > index.rank) throw std::invalid_argument("batch_dims is " + std::to_string(batch_));
        const Tuples tuples(x, index, batch_);
        for (int i = 0; i < batch_; i++)
            if (x.d[i] != index.d[i]) throw std::invalid_argument("the data " + text(x) + " and the indices " + text(index) + " must share their first axes");
        Shape to;
        for (int i = 0; i < index.rank - 1; i++) to.push(index.d[i]);
        for (int i = batch_ + int(tuples.width); i < x.rank; i++) to.push(x.d[i]);
        c.out(0, c.in(0).dtype, to);
    }
    void run(RunContext& c) const override {
        const Shape &x = c.in(0).shape, &index = c.in(1).shape;
        const Tuples tuples(x, index, batch_);
        const size_t run = size_t(tuples.run) * item_size(c.in(0).dtype);
        const int64_t entry = x.count(batch_, x.rank), picks = std::max<int64_t>(1, index.count(batch_, index.rank - 1));
        const size_t item = item_size(c.in(0).dtype);
        c.pool->parallel(tuples.count, std::max<int64_t>(1, 32768 / int64_t(run + 1)), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                const int64_t from = i / picks * entry + tuples.offset(c.in(1), i);
                std::memcpy(c.out(0).as<char>() + size_t(i) * run, c.in(0).as<char>() + size_t(from) * item, run);
            }
        });
    }

private:
    int batch_;
};

// One element combined with what is there.
template <class T, char how>
void combine(T& there, T update) {
    if constexpr (how == '=') there = update;
    else if constexpr (how == '+') there = T(there + update);
    else if constexpr (how == '*') there = T(there * update);
    else if constexpr (how == '>') there = update > there || update != update ? update : there;     // NaN wins
    else there = update < there || update != update ? update : there;
}

char how_of(const NodeInfo& node) {
    const std::string how = node.s("reduction", "none");
    return how == "add" ? '+' : how == "mul" ? '*' : how == "max" ? '>' : how == "min" ? '<' : '=';
}

// Output 0 begins as the data.
void copy_data(RunContext& c) {
    if (c.out(0).data != c.in(0).data && c.out(0).bytes()) std::memcpy(c.out(0).data, c.in(0).data, c.out(0).bytes());
}

class Scattering : public Kernel {
public:
    explicit Scattering(const NodeInfo& node) : how_(how_of(node)) {}
    bool in_place(int i) const override { return i == 0; }

protected:
    // Calls each(combine<T, how>) for the reduction of this node.
    template <class T, class Each>
    void with(Each&& each) const {
        switch (how_) {
            case '+': return each(combine<T, '+'>);
            case '*': return each(combine<T, '*'>);
            case '>': return each(combine<T, '>'>);
            case '<': return each(combine<T, '<'>);
            default: return each(combine<T, '='>);
        }
    }
    char how_;
};

template <class T>
class ScatterElements : public Scattering {
public:
    explicit ScatterElements(const NodeInfo& node) : Scattering(node), axis_(node.i("axis", 0)) {}
    void shape(ShapeContext& c) const override {
        const Shape &x = c.in(0).shape, &index = c.in(1).shape;
        if (x.rank != index.rank || index != c.in(2).shape) throw std::invalid_argument("the indices " + text(index) + " and updates " + text(c.in(2).shape) + " must have one shape, with the rank of the data " + text(x));
        const int axis = resolve_axis(axis_, x.rank);
        for (int i = 0; i < x.rank; i++)
            if (i != axis && index.d[i] > x.d[i]) throw std::invalid_argument("the indices " + text(index) + " are larger than the data " + text(x));
        c.out(0, c.in(0).dtype, x);
    }
    void run(RunContext& c) const override {
        copy_data(c);
        const Shape &x = c.in(0).shape, &index = c.in(1).shape;
        const int axis = resolve_axis(axis_, x.rank);
        int64_t steps[kMaxRank];
        strides_of(x, 1, steps);
        T* out = c.out(0).template as<T>();
        const T* updates = c.in(2).as<T>();
        const int64_t width = index.rank ? index[-1] : 1, along = axis == index.rank - 1 ? 0 : 1;
        if (!index.count()) return;
        with<T>([&](auto put) {
            // In order: several updates of one element all count.
            each_index_row(index, steps, axis, 0, index.count() / width, [&](int64_t first, int64_t count, int64_t offset) {
                T* to = out + offset;
                for (int64_t i = 0; i < count; i++) put(to[i * along + index_at(c.in(1), first + i, x.d[axis]) * steps[axis]], updates[first + i]);
            });
        });
    }

private:
    int64_t axis_;
};

template <class T>
class ScatterND : public Scattering {
public:
    using Scattering::Scattering;
    void shape(ShapeContext& c) const override {
        const Shape &x = c.in(0).shape, &index = c.in(1).shape;
        const Tuples tuples(x, index, 0);
        Shape wanted;
        for (int i = 0; i < index.rank - 1; i++) wanted.push(index.d[i]);
        for (int i = int(tuples.width); i < x.rank; i++) wanted.push(x.d[i]);
        if (wanted != c.in(2).shape) throw std::invalid_argument("the updates are " + text(c.in(2).shape) + "; these indices need " + text(wanted));
        c.out(0, c.in(0).dtype, x);
    }
    void run(RunContext& c) const override {
        copy_data(c);
        const Tuples tuples(c.in(0).shape, c.in(1).shape, 0);
        T* out = c.out(0).template as<T>();
        const T* updates = c.in(2).as<T>();
        with<T>([&](auto put) {
            for (int64_t i = 0; i < tuples.count; i++) {
                T* to = out + tuples.offset(c.in(1), i);
                const T* from = updates + i * tuples.run;
                for (int64_t k = 0; k < tuples.run; k++) put(to[k], from[k]);
            }
        });
    }
};

// Rows of `update` go into the cache along an axis, from a place of its own for each entry of the batch.
class TensorScatter : public Kernel {
public:
    explicit TensorScatter(const NodeInfo& node) : axis_(node.i("axis", -2)), circular_(node.s("mode", "linear") == "circular") {}
    bool in_place(int i) const override { return i == 0; }
    void shape(ShapeContext& c) const override {
        const Shape &x = c.in(0).shape, &update = c.in(1).shape;
        const int axis = resolve_axis(axis_, x.rank);
        bool fits = update.rank == x.rank && axis > 0;
        for (int i = 0; fits && i < x.rank; i++) fits = i == axis || x.d[i] == update.d[i];
        if (!fits) throw std::invalid_argument("an update " + text(update) + " does not fit the cache " + text(x) + " along axis " + std::to_string(axis));
        if (c.has(2) && c.in(2).count() != x.d[0]) throw std::invalid_argument("write_indices must have one number for each entry of the batch");
        c.out(0, c.in(0).dtype, x);
    }
    void run(RunContext& c) const override {
        copy_data(c);
        const Shape &x = c.in(0).shape, &update = c.in(1).shape;
        const int axis = resolve_axis(axis_, x.rank);
        const int64_t size = x.d[axis], count = update.d[axis], between = x.count(1, axis);
        const size_t run = size_t(x.count(axis + 1, x.rank)) * item_size(c.in(0).dtype);
        for (int64_t b = 0; b < x.d[0]; b++) {
            const int64_t start = c.has(2) ? c.in(2).as<int64_t>()[b] : 0;
            if (!circular_ && (start < 0 || start > size - count)) throw std::out_of_range("write_indices lead to " + std::to_string(start + count - 1) + "; allowed: 0 to " + std::to_string(size - 1));
            for (int64_t m = 0; m < between; m++)
                for (int64_t i = 0; i < count; i++) {
                    const int64_t place = circular_ ? ((start + i) % size + size) % size : start + i;
                    std::memcpy(c.out(0).as<char>() + size_t((b * between + m) * size + place) * run,
                                c.in(1).as<char>() + size_t((b * between + m) * count + i) * run, run);
                }
        }
    }

private:
    int64_t axis_;
    bool circular_;
};

#define HR_NUMBERS float, double, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
template <template <class> class K>
std::unique_ptr<Kernel> scatter(const NodeInfo& node) {
    if (!is_index(node.inputs[1])) return nullptr;
    return how_of(node) == '=' ? by_size<K>(item_size(node.inputs[0]), node) : by_type<K, HR_NUMBERS>(node);
}
std::unique_ptr<Kernel> gather_nd(const NodeInfo& node) { return is_index(node.inputs[1]) ? std::make_unique<GatherND>(node) : nullptr; }
std::unique_ptr<Kernel> tensor_scatter(const NodeInfo& node) { return std::make_unique<TensorScatter>(node); }

HR_KERNEL("GatherND", gather_nd);
HR_KERNEL("ScatterElements", scatter<ScatterElements>);
HR_KERNEL("Scatter", scatter<ScatterElements>);
HR_KERNEL("ScatterND", scatter<ScatterND>);
HR_KERNEL("TensorScatter", tensor_scatter);

}  // namespace
}  // namespace hr
