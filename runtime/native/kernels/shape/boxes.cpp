// NonMaxSuppression: the best boxes of each class that do not overlap a better one.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/elementwise/broadcast.h"
#include "pool.h"

namespace hr {
namespace {

struct Box {
    float y1, x1, y2, x2, area;
};

class NonMaxSuppression : public Kernel {
public:
    explicit NonMaxSuppression(const NodeInfo& node) : centered_(node.i("center_point_box", 0)) {}
    std::string variant() const override { return "nms"; }
    bool needs_value(int i) const override { return i == 2; }
    bool shrinks() const override { return true; }
    void shape(ShapeContext& c) const override {
        const Shape &boxes = c.in(0).shape, &scores = c.in(1).shape;
        if (boxes.rank != 3 || scores.rank != 3 || boxes.d[2] != 4 || boxes.d[0] != scores.d[0] || boxes.d[1] != scores.d[2])
            throw std::invalid_argument("boxes " + text(boxes) + " and scores " + text(scores) + " must be [batch, boxes, 4] and [batch, classes, boxes]");
        const float overlap = number(c.inputs, c.n_inputs, 3, 0);
        if (!(overlap >= 0 && overlap <= 1)) throw std::invalid_argument("iou_threshold is " + std::to_string(overlap) + "; allowed: 0 to 1");
        c.out(0, DType::i64, {Shape{scores.d[0], scores.d[1], limit(c.inputs, c.n_inputs)}.count(), 3});
    }
    void run(RunContext& c) const override {
        const Shape& scores = c.in(1).shape;
        const int64_t n = scores.d[2], classes = scores.d[1], most = limit(c.inputs, c.n_inputs);
        const float overlap = number(c.inputs, c.n_inputs, 3, 0), least = number(c.inputs, c.n_inputs, 4, -INFINITY);
        const bool bounded = c.has(4);
        int64_t* out = c.out(0).as<int64_t>();
        int64_t found = 0;
        std::vector<Box> boxes(static_cast<size_t>(n));
        std::vector<int64_t> order, kept;
        for (int64_t b = 0; b < scores.d[0]; b++) {
            for (int64_t i = 0; i < n; i++) boxes[size_t(i)] = corners(c.in(0).as<float>() + (b * n + i) * 4);
            for (int64_t k = 0; k < classes; k++) {
                const float* score = c.in(1).as<float>() + (b * classes + k) * n;
                order.clear(), kept.clear();
                for (int64_t i = 0; i < n; i++)
                    if (!bounded || score[i] > least) order.push_back(i);
                std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return score[i] > score[j] || (score[j] != score[j] && score[i] == score[i]); });
                for (int64_t i : order) {
                    if (int64_t(kept.size()) == most) break;
                    const Box& box = boxes[size_t(i)];
                    if (std::any_of(kept.begin(), kept.end(), [&](int64_t j) { return overlaps(boxes[size_t(j)], box, overlap); })) continue;
                    kept.push_back(i);
                    out[0] = b, out[1] = k, out[2] = i, out += 3, found++;
                }
            }
        }
        c.shrink(0, found);
    }

private:
    static float number(const Tensor* in, int n, int i, float otherwise) { return i < n && in[i] && in[i].count() ? in[i].as<float>()[0] : otherwise; }
    static int64_t limit(const Tensor* in, int n) {
        const int64_t given = n > 2 && in[2] && in[2].count() ? in[2].as<int64_t>()[0] : 0;
        return std::clamp<int64_t>(given, 0, in[1].shape.d[2]);
    }
    Box corners(const float* p) const {
        Box box;
        if (centered_) {
            const float w = p[2] / 2, h = p[3] / 2;
            box = {p[1] - h, p[0] - w, p[1] + h, p[0] + w, 0};
        } else {
            box = {std::min(p[0], p[2]), std::min(p[1], p[3]), std::max(p[0], p[2]), std::max(p[1], p[3]), 0};
        }
        box.area = (box.y2 - box.y1) * (box.x2 - box.x1);
        return box;
    }
    static bool overlaps(const Box& a, const Box& b, float most) {
        const float common = std::max(std::min(a.y2, b.y2) - std::max(a.y1, b.y1), 0.0f) * std::max(std::min(a.x2, b.x2) - std::max(a.x1, b.x1), 0.0f);
        const float whole = a.area + b.area - common;
        return common > 0 && whole > 0 && common / whole > most;
    }

    bool centered_;
};

std::unique_ptr<Kernel> non_max_suppression(const NodeInfo& node) { return std::make_unique<NonMaxSuppression>(node); }
HR_KERNEL("NonMaxSuppression", non_max_suppression);

}  // namespace
}  // namespace hr
