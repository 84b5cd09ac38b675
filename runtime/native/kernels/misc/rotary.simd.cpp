// RotaryEmbedding of float32: pairs of numbers of each head turned by the angles of its position. And the same spelled out,
// headrace.cpu.Rotary: x * cos + (the halves of x changed over, the first negated) * sin, of tables as wide as x that broadcast.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/elementwise/broadcast.h"
#include "kernels/shape/index.h"
#include "pool.h"

namespace hr::HR_TIER {
namespace {

class Rotary : public Kernel {
public:
    explicit Rotary(const NodeInfo& node) : interleaved_(node.i("interleaved", 0)), heads_(node.i("num_heads", 0)), part_(node.i("rotary_embedding_dim", 0)) {}
    std::string variant() const override { return "rotary"; }

    void shape(ShapeContext& c) const override {
        sizes(c.inputs, c.n_inputs);
        c.out(0, DType::f32, c.in(0).shape);
    }

    void run(RunContext& c) const override {
        const Sizes z = sizes(c.inputs, c.n_inputs);
        const bool places = c.has(3);
        const float *x = c.in(0).as<float>(), *cos = c.in(1).as<float>(), *sin = c.in(2).as<float>();
        float* y = c.out(0).as<float>();
        const int64_t half = z.part / 2, rows = z.batch * z.length * z.heads;
        c.pool->parallel(rows, std::max<int64_t>(1, 8192 / std::max<int64_t>(z.size, 1)), [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; row++) {
                const int64_t batch = row / (z.length * z.heads), in = row % (z.length * z.heads), at = z.heads_first ? in % z.length : in / z.heads;
                const int64_t angle = places ? index_at(c.in(3), batch * z.length + at, c.in(1).shape.d[0]) : batch * z.length + at;
                turn(x + row * z.size, cos + angle * z.width, sin + angle * z.width, half, y + row * z.size);
                std::memcpy(y + row * z.size + z.part, x + row * z.size + z.part, size_t(z.size - z.part) * 4);
            }
        });
    }

private:
    struct Sizes {
        int64_t batch, length, heads, size, part, width;
        bool heads_first;
    };
    Sizes sizes(const Tensor* in, int n) const {
        const Shape &x = in[0].shape, &cos = in[1].shape;
        const bool places = n > 3 && in[3];
        if (x.rank != 4 && (x.rank != 3 || heads_ < 1 || x.d[2] % heads_)) throw std::invalid_argument("X is " + text(x) + "; allowed: [batch, heads, length, size], or [batch, length, heads * size] with num_heads");
        Sizes z{x.d[0], x.d[x.rank == 4 ? 2 : 1], x.rank == 4 ? x.d[1] : heads_, x.rank == 4 ? x.d[3] : x.d[2] / heads_, 0, 0, x.rank == 4};
        z.part = part_ ? part_ : z.size, z.width = cos.rank ? cos[-1] : 0;
        if (z.part < 0 || z.part > z.size || z.part % 2 || z.width < z.part / 2) throw std::invalid_argument("cannot turn " + std::to_string(z.part) + " of " + std::to_string(z.size) + " numbers by " + std::to_string(z.width) + " angles");
        const bool fits = places ? cos.rank == 2 && in[3].shape == Shape{z.batch, z.length} : cos == Shape{z.batch, z.length, z.width};
        if (!fits || in[2].shape != cos) throw std::invalid_argument("the tables " + text(cos) + " and " + text(in[2].shape) + " do not fit " + text(x));
        return z;
    }

    void turn(const float* __restrict x, const float* __restrict cos, const float* __restrict sin, int64_t half, float* __restrict y) const {
        if (interleaved_) {
            for (int64_t i = 0; i < half; i++) {
                const float a = x[2 * i], b = x[2 * i + 1];
                y[2 * i] = a * cos[i] - b * sin[i], y[2 * i + 1] = a * sin[i] + b * cos[i];
            }
            return;
        }
        for (int64_t i = 0; i < half; i++) {
            const float a = x[i], b = x[half + i];
            y[i] = a * cos[i] - b * sin[i], y[half + i] = a * sin[i] + b * cos[i];
        }
    }

    bool interleaved_;
    int64_t heads_, part_;
};

std::unique_ptr<Kernel> rotary(const NodeInfo& node) {
    for (size_t i = 0; i < 3; i++)
        if (node.inputs[i] != DType::f32) return nullptr;
    return std::make_unique<Rotary>(node);
}
HR_KERNEL("RotaryEmbedding", rotary);

class RotaryParts : public Kernel {
public:
    std::string variant() const override { return "rotary"; }

    void shape(ShapeContext& c) const override {
        const Shape& x = c.in(0).shape;
        for (int i = 1; i < 3; i++) {
            const Shape& table = c.in(i).shape;
            if (!x.rank || !table.rank || table[-1] != x[-1] || x[-1] % 2 || broadcast_shapes(x, table) != x)
                throw std::invalid_argument("the table " + text(table) + " does not fit " + text(x));
        }
        c.out(0, DType::f32, x);
    }

    void run(RunContext& c) const override {
        const Shape& s = c.in(0).shape;
        const int64_t size = s[-1], half = size / 2, rows = s.count(0, s.rank - 1);
        const float *x = c.in(0).as<float>(), *cos = c.in(1).as<float>(), *sin = c.in(2).as<float>();
        float* y = c.out(0).as<float>();
        c.pool->parallel(rows, std::max<int64_t>(1, 8192 / std::max<int64_t>(size, 1)), [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; row++)
                turn(x + row * size, cos + row_of(c.in(1).shape, s, row) * size, sin + row_of(c.in(2).shape, s, row) * size, half, y + row * size);
        });
    }

private:
    // The row of a table for a row of x.
    static int64_t row_of(const Shape& table, const Shape& x, int64_t row) {
        int64_t found = 0, step = 1;
        for (int i = 2; i <= table.rank; row /= x[-i], step *= table[-i], i++)
            if (table[-i] != 1) found += row % x[-i] * step;
        return found;
    }
    static void turn(const float* __restrict x, const float* __restrict cos, const float* __restrict sin, int64_t half, float* __restrict y) {
        for (int64_t i = 0; i < half; i++) {
            const float a = x[i], b = x[half + i];
            y[i] = a * cos[i] - b * sin[i], y[half + i] = b * cos[half + i] + a * sin[half + i];
        }
    }
};

std::unique_ptr<Kernel> rotary_parts(const NodeInfo& node) {
    for (DType t : node.inputs)
        if (t != DType::f32) return nullptr;
    return node.inputs.size() == 3 ? std::make_unique<RotaryParts>() : nullptr;
}
HR_KERNEL("headrace.cpu.Rotary", rotary_parts);

}  // namespace
}  // namespace hr::HR_TIER
