// TreeEnsembleClassifier (integer labels) and TreeEnsembleRegressor: trees as flat arrays, walked row by row.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "kernels/ml/scores.h"
#include "pool.h"

namespace hr {
namespace {

enum class Mode : uint8_t { leq, lt, gte, gt, eq, neq, leaf };

struct TreeNode {
    double threshold = 0;
    int32_t feature = 0;
    int32_t yes = 0, no = 0;            // node numbers; of a leaf: its weights are [yes, no) of the forest
    Mode mode = Mode::leaf;
    bool missing_yes = false;
};

struct Weight {
    int32_t target;
    double value;
};

struct Unsupported {};      // something that the reference handles

std::vector<std::string> strings(const NodeInfo& node, const std::string& key) {
    if (!node.has(key)) return {};
    auto* found = std::get_if<std::vector<std::string>>(&node.attrs.at(key).value);
    return found ? *found : std::vector<std::string>{};
}

struct Forest {
    std::vector<TreeNode> nodes;
    std::vector<int32_t> roots;
    std::vector<Weight> weights;
    int64_t columns = 0;    // how many features the trees look at
    int64_t targets = 0;

    Forest(const NodeInfo& node, const std::string& prefix) {
        const auto trees = node.ints("nodes_treeids"), ids = node.ints("nodes_nodeids"), features = node.ints("nodes_featureids");
        const auto yes = node.ints("nodes_truenodeids"), no = node.ints("nodes_falsenodeids"), tracks = node.ints("nodes_missing_value_tracks_true");
        const auto values = node.floats("nodes_values");
        const auto modes = strings(node, "nodes_modes");
        const size_t n = trees.size();
        if (ids.size() != n || features.size() != n || yes.size() != n || no.size() != n || modes.size() != n || values.size() != n || n == 0) throw Unsupported();
        std::map<std::pair<int64_t, int64_t>, int32_t> number;
        for (size_t i = 0; i < n; i++)
            if (!number.emplace(std::pair(trees[i], ids[i]), int32_t(i)).second) throw Unsupported();
        const auto find = [&](int64_t tree, int64_t id) {
            const auto it = number.find({tree, id});
            if (it == number.end()) throw Unsupported();
            return it->second;
        };
        static const std::map<std::string, Mode> names = {{"BRANCH_LEQ", Mode::leq}, {"BRANCH_LT", Mode::lt}, {"BRANCH_GTE", Mode::gte}, {"BRANCH_GT", Mode::gt},
                                                          {"BRANCH_EQ", Mode::eq}, {"BRANCH_NEQ", Mode::neq}, {"LEAF", Mode::leaf}};
        nodes.resize(n);
        std::vector<char> pointed(n);
        for (size_t i = 0; i < n; i++) {
            const auto mode = names.find(modes[i]);
            if (mode == names.end() || features[i] < 0 || features[i] > std::numeric_limits<int32_t>::max()) throw Unsupported();
            nodes[i] = {double(float(values[i])), int32_t(features[i]), 0, 0, mode->second, i < tracks.size() && tracks[i] != 0};
            if (mode->second == Mode::leaf) continue;
            nodes[i].yes = find(trees[i], yes[i]), nodes[i].no = find(trees[i], no[i]);
            pointed[size_t(nodes[i].yes)] = pointed[size_t(nodes[i].no)] = 1;
            columns = std::max(columns, features[i] + 1);
        }
        std::set<int64_t> seen;
        for (size_t i = 0; i < n; i++)
            if (!pointed[i] && seen.insert(trees[i]).second) roots.push_back(int32_t(i));
        if (seen.size() != std::set<int64_t>(trees.begin(), trees.end()).size()) throw Unsupported();
        read_leaves(node, prefix, find);
    }

    template <class Find>
    void read_leaves(const NodeInfo& node, const std::string& prefix, const Find& find) {
        const auto trees = node.ints(prefix + "_treeids"), ids = node.ints(prefix + "_nodeids"), places = node.ints(prefix + "_ids");
        const auto values = node.floats(prefix + "_weights");
        if (ids.size() != trees.size() || places.size() != trees.size() || values.size() != trees.size()) throw Unsupported();
        std::map<int32_t, std::vector<Weight>> of;
        for (size_t i = 0; i < trees.size(); i++) {
            if (places[i] < 0 || places[i] > (1 << 20)) throw Unsupported();
            const int32_t leaf = find(trees[i], ids[i]);
            if (nodes[size_t(leaf)].mode != Mode::leaf) throw Unsupported();
            of[leaf].push_back({int32_t(places[i]), double(float(values[i]))});
            targets = std::max(targets, places[i] + 1);
        }
        for (auto& [leaf, list] : of) {
            nodes[size_t(leaf)].yes = int32_t(weights.size());
            weights.insert(weights.end(), list.begin(), list.end());
            nodes[size_t(leaf)].no = int32_t(weights.size());
        }
    }

    // The leaf that a row reaches from `root`.
    template <class T>
    const TreeNode& leaf(int32_t root, const T* x) const {
        const TreeNode* at = &nodes[size_t(root)];
        for (size_t steps = nodes.size(); at->mode != Mode::leaf; steps--) {
            if (!steps) throw std::invalid_argument("a tree has a cycle");
            const double value = double(x[at->feature]);
            bool taken;
            switch (at->mode) {
                case Mode::leq: taken = value <= at->threshold; break;
                case Mode::lt: taken = value < at->threshold; break;
                case Mode::gte: taken = value >= at->threshold; break;
                case Mode::gt: taken = value > at->threshold; break;
                case Mode::eq: taken = value == at->threshold; break;
                default: taken = value != at->threshold; break;
            }
            if (at->missing_yes && value != value) taken = true;
            at = &nodes[size_t(taken ? at->yes : at->no)];
        }
        return *at;
    }
};

class Trees : public Kernel {
public:
    Trees(const NodeInfo& node, const std::string& prefix) : forest_(node, prefix), base_(node.floats("base_values")), transform_(*transform_of(node)), input_(node.inputs[0]) {
        for (double& b : base_) b = double(float(b));
    }
    std::string variant() const override { return "trees"; }
    size_t packed_bytes() const override { return forest_.nodes.size() * sizeof(TreeNode) + forest_.weights.size() * sizeof(Weight); }

protected:
    void check(const Shape& x) const {
        if (x.rank < 1 || x.rank > 2 || x[-1] < forest_.columns) throw std::invalid_argument("the input must be [N, C] with C at least " + std::to_string(forest_.columns));
    }
    // Calls each(row, leaf reached in each tree ...) for all rows.
    template <class Each>
    void walk(RunContext& c, const Each& each) const {
        switch (input_) {
            case DType::f32: return walk_typed<float>(c, each);
            case DType::f64: return walk_typed<double>(c, each);
            case DType::i64: return walk_typed<int64_t>(c, each);
            default: return walk_typed<int32_t>(c, each);
        }
    }
    template <class T, class Each>
    void walk_typed(RunContext& c, const Each& each) const {
        const Tensor& x = c.in(0);
        const int64_t width = x.shape[-1];
        c.pool->parallel(rows_of(x.shape), std::max<int64_t>(1, 256 / int64_t(forest_.roots.size())), [&](int64_t begin, int64_t end) {
            std::vector<const TreeNode*> leaves(forest_.roots.size());
            for (int64_t row = begin; row < end; row++) {
                for (size_t t = 0; t < leaves.size(); t++) leaves[t] = &forest_.leaf(forest_.roots[t], x.as<T>() + row * width);
                each(row, leaves);
            }
        });
    }
    void add(std::vector<double>& sums, const std::vector<const TreeNode*>& leaves) const {
        for (const TreeNode* leaf : leaves)
            for (int32_t w = leaf->yes; w < leaf->no; w++) sums[size_t(forest_.weights[size_t(w)].target)] += forest_.weights[size_t(w)].value;
    }

    Forest forest_;
    std::vector<double> base_;
    Transform transform_;
    DType input_;
};

class Classifier : public Trees {
public:
    explicit Classifier(const NodeInfo& node) : Trees(node, "class"), labels_(node.ints("classlabels_int64s")) {
        const auto ids = node.ints("class_ids");
        if (labels_.empty() || ids.empty()) throw Unsupported();
        forest_.targets = std::max(forest_.targets, int64_t(labels_.size()));
        if (forest_.targets != int64_t(labels_.size())) throw Unsupported();
        binary_ = std::set<int64_t>(ids.begin(), ids.end()).size() == 1 && labels_.size() == 2;
        id_ = ids[0];
        for (const Weight& w : forest_.weights) positive_ = positive_ && w.value >= 0;
    }
    void shape(ShapeContext& c) const override {
        check(c.in(0).shape);
        const int64_t n = rows_of(c.in(0).shape);
        c.out(0, DType::i64, {n});
        c.out(1, DType::f32, {n, forest_.targets});
    }
    void run(RunContext& c) const override {
        const int64_t k = forest_.targets;
        int64_t* labels = c.out(0).as<int64_t>();
        float* scores = c.n_outputs > 1 ? c.out(1).as<float>() : nullptr;
        walk(c, [&](int64_t row, const std::vector<const TreeNode*>& leaves) {
            std::vector<double> sums(static_cast<size_t>(k));
            add(sums, leaves);
            std::vector<float> y(static_cast<size_t>(k));
            for (size_t i = 0; i < y.size(); i++) y[i] = float(sums[i] + (base_.size() == y.size() ? base_[i] : 0));
            size_t best = size_t(std::max_element(y.begin(), y.end()) - y.begin());
            if (binary_) {
                const float score = y[size_t(id_)] + (base_.size() == 1 ? float(base_[0]) : 0.0f);
                best = score > (positive_ ? 0.5f : 0.0f);
                y[0] = positive_ ? 1 - score : -score, y[1] = score;
            }
            if (labels) labels[row] = labels_[best];
            apply(transform_, y.data(), k);
            if (scores) std::copy(y.begin(), y.end(), scores + row * k);
        });
    }

private:
    std::vector<int64_t> labels_;
    bool binary_ = false, positive_ = true;
    int64_t id_ = 0;
};

class Regressor : public Trees {
public:
    explicit Regressor(const NodeInfo& node) : Trees(node, "target"), how_(node.s("aggregate_function", "SUM")), targets_(node.i("n_targets", 1)) {
        if (forest_.targets > targets_ || targets_ < 1 || (!base_.empty() && base_.size() != 1 && int64_t(base_.size()) != targets_)) throw Unsupported();
    }
    void shape(ShapeContext& c) const override {
        check(c.in(0).shape);
        c.out(0, DType::f32, {rows_of(c.in(0).shape), targets_});
    }
    void run(RunContext& c) const override {
        float* y = c.out(0).as<float>();
        walk(c, [&](int64_t row, const std::vector<const TreeNode*>& leaves) {
            std::vector<double> sums(static_cast<size_t>(targets_));
            if (how_ == "SUM" || how_ == "AVERAGE") add(sums, leaves);
            else extremes(sums, leaves);
            float* out = y + row * targets_;
            for (size_t i = 0; i < sums.size(); i++) {
                if (how_ == "AVERAGE") sums[i] /= double(leaves.size());
                if (!base_.empty()) sums[i] += base_[base_.size() == 1 ? 0 : i];
                out[i] = float(sums[i]);
            }
            apply(transform_, out, targets_);
        });
    }

private:
    // A leaf without a weight for a target counts as 0.
    void extremes(std::vector<double>& best, const std::vector<const TreeNode*>& leaves) const {
        for (size_t t = 0; t < leaves.size(); t++) {
            std::vector<double> now(best.size());
            add(now, {leaves[t]});
            for (size_t i = 0; i < best.size(); i++) best[i] = t == 0 ? now[i] : how_ == "MIN" ? std::min(best[i], now[i]) : std::max(best[i], now[i]);
        }
    }

    std::string how_;
    int64_t targets_;
};

template <class K>
std::unique_ptr<Kernel> trees(const NodeInfo& node) {
    if (!is_feature(node.inputs[0]) || !transform_of(node) || (node.op.ends_with("Classifier") && node.outputs[0] != DType::i64)) return nullptr;
    node.known({"nodes_hitrates", "nodes_hitrates_as_tensor", "classlabels_strings"});
    try {
        return std::make_unique<K>(node);
    } catch (const Unsupported&) {
        return nullptr;
    }
}
HR_KERNEL("ai.onnx.ml.TreeEnsembleClassifier", trees<Classifier>);
HR_KERNEL("ai.onnx.ml.TreeEnsembleRegressor", trees<Regressor>);

}  // namespace
}  // namespace hr
