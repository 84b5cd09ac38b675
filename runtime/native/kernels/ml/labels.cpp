// LabelEncoder between numbers, and OneHotEncoder of numbers.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <unordered_map>

#include "kernels/ml/scores.h"
#include "pool.h"

namespace hr {
namespace {

constexpr int64_t kGrain = 4096;

// K: int64_t or double, in which a NaN is a key as well. V: int64_t or float.
template <class K, class V>
class Encoder : public Kernel {
public:
    Encoder(const std::vector<K>& keys, const std::vector<V>& values, V otherwise, DType out) : otherwise_(otherwise), nan_(otherwise), out_(out) {
        bool named = false;
        for (size_t i = 0; i < keys.size(); i++) {      // of equal keys the first counts
            if (keys[i] == keys[i]) table_.emplace(keys[i], values[i]);
            else if (!named) nan_ = values[i], named = true;
        }
    }
    std::string variant() const override { return "labels"; }
    void shape(ShapeContext& c) const override { c.out(0, out_, c.in(0).shape); }
    void run(RunContext& c) const override {
        switch (c.in(0).dtype) {
            case DType::f32: return look_up<float>(c);
            case DType::f64: return look_up<double>(c);
            case DType::i64: return look_up<int64_t>(c);
            default: return look_up<int32_t>(c);
        }
    }

private:
    template <class T> void look_up(RunContext& c) const {
        const T* x = c.in(0).as<T>();
        V* y = c.out(0).template as<V>();
        c.pool->parallel(c.in(0).count(), kGrain, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                const auto found = x[i] == x[i] ? table_.find(K(x[i])) : table_.end();
                y[i] = x[i] != x[i] ? nan_ : found == table_.end() ? otherwise_ : found->second;
            }
        });
    }

    std::unordered_map<K, V> table_;
    V otherwise_, nan_;
    DType out_;
};

std::unique_ptr<Kernel> label_encoder(const NodeInfo& node) {
    if (node.has("keys_tensor") || node.has("values_tensor") || node.has("default_tensor")) return nullptr;
    node.known({"default_string", "keys_strings", "values_strings"});    // not of numbers
    const bool real = node.inputs[0] == DType::f32 || node.inputs[0] == DType::f64;
    if (!real && node.inputs[0] != DType::i64 && node.inputs[0] != DType::i32) return nullptr;
    const std::vector<int64_t> whole = node.ints("keys_int64s"), to_whole = node.ints("values_int64s");
    const std::vector<double> reals = node.floats("keys_floats");
    const std::vector<float> to_real = floats32(node, "values_floats");
    const size_t keys = real ? reals.size() : whole.size();
    if (!keys || (real ? !whole.empty() : !reals.empty())) return nullptr;
    const auto make = [&]<class V>(const std::vector<V>& values, V otherwise, DType out) -> std::unique_ptr<Kernel> {
        if (values.size() != keys) return nullptr;
        if (!real) return std::make_unique<Encoder<int64_t, V>>(whole, values, otherwise, out);
        std::vector<double> narrow;     // keys are float32
        for (double key : reals) narrow.push_back(double(float(key)));
        return std::make_unique<Encoder<double, V>>(narrow, values, otherwise, out);
    };
    if (node.outputs[0] == DType::i64 && to_real.empty()) return make(to_whole, node.i("default_int64", -1), DType::i64);
    if (node.outputs[0] == DType::f32 && to_whole.empty()) return make(to_real, float(node.f("default_float", -0.0)), DType::f32);
    return nullptr;
}
HR_KERNEL("ai.onnx.ml.LabelEncoder", label_encoder);

class OneHotEncoder : public Kernel {
public:
    explicit OneHotEncoder(const NodeInfo& node) : categories_(node.ints("cats_int64s")), zeros_(node.i("zeros", 1)) {}
    std::string variant() const override { return "one_hot"; }
    void shape(ShapeContext& c) const override {
        Shape to = c.in(0).shape;
        to.push(int64_t(categories_.size()));
        c.out(0, DType::f32, to);
    }
    void run(RunContext& c) const override {
        switch (c.in(0).dtype) {
            case DType::f32: return encode<float>(c);
            case DType::f64: return encode<double>(c);
            case DType::i64: return encode<int64_t>(c);
            default: return encode<int32_t>(c);
        }
    }

private:
    template <class T> static int64_t whole(T x) {
        if constexpr (std::is_floating_point_v<T>)
            if (!(std::fabs(x) < T(9.2e18))) return std::numeric_limits<int64_t>::min();
        return int64_t(x);
    }
    template <class T> void encode(RunContext& c) const {
        const T* x = c.in(0).as<T>();
        float* y = c.out(0).as<float>();
        const int64_t n = int64_t(categories_.size());
        c.pool->parallel(c.in(0).count(), std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                const int64_t value = whole(x[i]);
                bool any = false;
                for (int64_t k = 0; k < n; k++) y[i * n + k] = value == categories_[size_t(k)], any |= value == categories_[size_t(k)];
                if (!any && !zeros_) throw std::invalid_argument("a value is none of the categories, and zeros=0 forbids that");
            }
        });
    }

    std::vector<int64_t> categories_;
    bool zeros_;
};

std::unique_ptr<Kernel> one_hot(const NodeInfo& node) {
    if (!is_feature(node.inputs[0]) || node.ints("cats_int64s").empty()) return nullptr;
    node.known({"cats_strings"});
    return std::make_unique<OneHotEncoder>(node);
}
HR_KERNEL("ai.onnx.ml.OneHotEncoder", one_hot);

}  // namespace
}  // namespace hr
