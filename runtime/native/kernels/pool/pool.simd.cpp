// MaxPool (float32, uint8, int8) and AveragePool (float32) over one or two spatial axes, channels first.
#include <algorithm>
#include <string>
#include <vector>

#include "buffer.h"
#include "kernels/elementwise/broadcast.h"
#include "kernels/reduce/folds.inc.h"
#include "pool.h"

namespace hr::HR_TIER {
namespace {

// One axis of the windows. One spatial axis is a plane of height 1.
struct Span {
    int64_t size, count, kernel, stride, dilation, begin, end;

    // Places of window `at` inside the data: taps [first, last).
    void taps(int64_t at, int64_t& first, int64_t& last) const {
        const int64_t start = at * stride - begin;
        first = start >= 0 ? 0 : (-start + dilation - 1) / dilation;
        last = std::min(kernel, start >= size ? 0 : (size - start + dilation - 1) / dilation);
        first = std::min(first, std::max<int64_t>(last, 0));
        last = std::max(first, last);
    }
    // By how many elements an average divides: data, and explicit padding where it counts.
    int64_t divisor(int64_t at, bool include_pad) const {
        int64_t n = 0;
        for (int64_t k = 0; k < kernel; k++) {
            const int64_t place = at * stride + k * dilation;
            n += include_pad ? place < begin + size + end : place >= begin && place < begin + size;
        }
        return n;
    }
};

struct Geometry {
    std::vector<int64_t> kernel, strides, dilations, pads;
    std::string auto_pad;
    bool ceil;

    explicit Geometry(const NodeInfo& node)
        : kernel(node.ints("kernel_shape")), strides(node.ints("strides")), dilations(node.ints("dilations")), pads(node.ints("pads")),
          auto_pad(node.s("auto_pad", "NOTSET")), ceil(node.i("ceil_mode", 0)) {
        const size_t rank = kernel.size();
        if (strides.empty()) strides.assign(rank, 1);
        if (dilations.empty()) dilations.assign(rank, 1);
        if (pads.empty() || auto_pad != "NOTSET") pads.assign(2 * rank, 0);
    }
    bool fits() const {
        const size_t rank = kernel.size();
        if (rank < 1 || rank > 2 || strides.size() != rank || dilations.size() != rank || pads.size() != 2 * rank) return false;
        const auto positive = [](const std::vector<int64_t>& v) { return std::all_of(v.begin(), v.end(), [](int64_t x) { return x > 0; }); };
        return positive(kernel) && positive(strides) && positive(dilations) && std::all_of(pads.begin(), pads.end(), [](int64_t x) { return x >= 0; });
    }
    Span span(size_t axis, int64_t size) const {
        Span s{size, 0, kernel[axis], strides[axis], dilations[axis], pads[axis], pads[axis + kernel.size()]};
        const int64_t extent = (s.kernel - 1) * s.dilation + 1;
        if (auto_pad == "SAME_UPPER" || auto_pad == "SAME_LOWER") {
            s.count = (size + s.stride - 1) / s.stride;
            const int64_t total = std::max<int64_t>(0, (s.count - 1) * s.stride + extent - size);
            s.begin = auto_pad == "SAME_LOWER" ? total - total / 2 : total / 2;
            s.end = total - s.begin;
            return s;
        }
        const int64_t room = size + s.begin + s.end - extent;
        if (room < 0 && room <= -s.stride) throw std::invalid_argument("spatial axis " + std::to_string(axis) + " has size " + std::to_string(size) + ": too small for a window of " + std::to_string(extent));
        const auto floor_div = [](int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); };
        s.count = floor_div(room, s.stride) + 1;
        if (ceil) s.count = std::min(floor_div(room + s.stride - 1, s.stride) + 1, floor_div(size + s.begin - 1, s.stride) + 1);
        return s;
    }
    // Rows and columns of a plane.
    void spans(const Shape& x, Span& rows, Span& columns) const {
        if (x.rank != int(kernel.size()) + 2) throw std::invalid_argument("the input " + text(x) + " has no " + std::to_string(kernel.size()) + " spatial axes");
        rows = kernel.size() == 2 ? span(0, x.d[2]) : Span{1, 1, 1, 1, 1, 0, 0};
        columns = span(kernel.size() - 1, x[-1]);
    }
};

// Each output row: first the windows' rows are folded into one line of the input's width, then its columns.
template <class T, class Op, bool kAverage>
class Pool : public Kernel {
public:
    explicit Pool(const NodeInfo& node) : geometry_(node), include_pad_(node.i("count_include_pad", 0)) {}
    std::string variant() const override { return kAverage ? "average_pool" : "max_pool"; }
    void shape(ShapeContext& c) const override {
        Span rows, columns;
        const Shape& x = c.in(0).shape;
        geometry_.spans(x, rows, columns);
        Shape y{x.d[0], x.d[1]};
        if (x.rank == 4) y.push(rows.count);
        y.push(columns.count);
        c.out(0, c.in(0).dtype, y);
    }
    void run(RunContext& c) const override {
        Span rows, columns;
        const Shape& s = c.in(0).shape;
        geometry_.spans(s, rows, columns);
        const T* x = c.in(0).as<T>();
        T* y = c.out(0).template as<T>();
        const int64_t width = columns.size, lines = s.d[0] * s.d[1] * rows.count;
        if (!c.out(0).count()) return;
        c.pool->parallel(lines, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, width * rows.kernel)), [&](int64_t begin, int64_t end) {
            Temporary<T> line(static_cast<size_t>(width));
            for (int64_t at = begin; at < end; at++) {
                const int64_t row = at % rows.count;
                fold_rows(x + at / rows.count * rows.size * width, line.data(), rows, row, width);
                fold_columns(line.data(), y + at * columns.count, columns, kAverage ? rows.divisor(row, include_pad_) : 1);
            }
        });
    }

private:
    static T start() {
        if constexpr (kAverage) return T(0);
        else return Op::start;
    }
    static T join(T a, T b) {
        if constexpr (kAverage) return a + b;
        else return Op::of(a, b);
    }
    static void fold_rows(const T* plane, T* line, const Span& rows, int64_t at, int64_t width) {
        int64_t first, last;
        rows.taps(at, first, last);
        std::fill_n(line, width, start());
        for (int64_t k = first; k < last; k++) {
            const T* from = plane + (at * rows.stride - rows.begin + k * rows.dilation) * width;
#pragma GCC ivdep
            for (int64_t i = 0; i < width; i++) line[i] = join(line[i], from[i]);
        }
    }
    void fold_columns(const T* line, T* y, const Span& columns, int64_t height) const {
        // Windows [begin, end) lie inside the data: the same taps for all.
        const int64_t extent = (columns.kernel - 1) * columns.dilation + 1;
        const int64_t begin = std::min(columns.count, (columns.begin + columns.stride - 1) / columns.stride), room = columns.size + columns.begin - extent;
        const int64_t end = std::clamp<int64_t>(room < 0 ? 0 : room / columns.stride + 1, begin, columns.count);
        edge(line, y, columns, height, 0, begin);
        const T scale = kAverage ? T(std::max<int64_t>(1, height * columns.kernel)) : T(1);
        const auto is = [&](int64_t kernel, int64_t stride) { return columns.dilation == 1 && columns.kernel == kernel && columns.stride == stride; };
        if (is(3, 2)) inside<3, 2>(line, y, columns, scale, begin, end);
        else if (is(2, 2)) inside<2, 2>(line, y, columns, scale, begin, end);
        else if (is(3, 1)) inside<3, 1>(line, y, columns, scale, begin, end);
        else if (is(2, 1)) inside<2, 1>(line, y, columns, scale, begin, end);
        else inside<0, 0>(line, y, columns, scale, begin, end);
        edge(line, y, columns, height, end, columns.count);
    }
    void edge(const T* line, T* y, const Span& columns, int64_t height, int64_t begin, int64_t end) const {
        for (int64_t at = begin; at < end; at++) {
            int64_t first, last;
            columns.taps(at, first, last);
            const T* from = line + at * columns.stride - columns.begin;
            T total = start();
            for (int64_t k = first; k < last; k++) total = join(total, from[k * columns.dilation]);
            if constexpr (kAverage) total /= T(std::max<int64_t>(1, height * columns.divisor(at, include_pad_)));
            y[at] = total;
        }
    }
    // kTaps, kStride: known at compile time, dilation 1, so that the loop becomes vectors; 0: any.
    template <int kTaps, int kStride>
    static void inside(const T* line, T* y, const Span& columns, T scale, int64_t begin, int64_t end) {
        const int64_t kernel = kTaps ? kTaps : columns.kernel, dilation = kTaps ? 1 : columns.dilation, stride = kStride ? kStride : columns.stride;
        const T* from = line - columns.begin;
#pragma GCC ivdep
        for (int64_t at = begin; at < end; at++) {
            T total = from[at * stride];
            for (int64_t k = 1; k < kernel; k++) total = join(total, from[at * stride + k * dilation]);
            if constexpr (kAverage) total /= scale;
            y[at] = total;
        }
    }

    Geometry geometry_;
    bool include_pad_;
};

std::unique_ptr<Kernel> max_pool(const NodeInfo& node) {
    if (!Geometry(node).fits() || (node.outputs.size() > 1 && node.outputs[1] != DType::none)) return nullptr;
    switch (node.inputs[0]) {
        case DType::f32: return std::make_unique<Pool<float, MaxOf<float>, false>>(node);
        case DType::u8: return std::make_unique<Pool<uint8_t, MaxOf<uint8_t>, false>>(node);
        case DType::i8: return std::make_unique<Pool<int8_t, MaxOf<int8_t>, false>>(node);
        default: return nullptr;
    }
}
std::unique_ptr<Kernel> average_pool(const NodeInfo& node) {
    if (!Geometry(node).fits() || node.inputs[0] != DType::f32) return nullptr;
    return std::make_unique<Pool<float, MaxOf<float>, true>>(node);
}
HR_KERNEL("MaxPool", max_pool);
HR_KERNEL("AveragePool", average_pool);

}  // namespace
}  // namespace hr::HR_TIER
