// headrace.cpu.MaxPool and headrace.cpu.AveragePool: windows over channels-last images, whole pixels at a time.
#include <algorithm>
#include <limits>

#include "buffer.h"
#include "kernels/conv/conv.h"
#include "kernels/conv/window.h"
#include "pool.h"

namespace hr {

namespace {

class LastPool final : public Kernel {
public:
    explicit LastPool(const NodeInfo& node)
        : table_(node.inputs[0] == DType::bf16 ? *bf16_conv_table() : conv_table()), attributes_(node), average_(node.op == "headrace.cpu.AveragePool"), include_pad_(node.i("count_include_pad", 0) != 0) {}

    void shape(ShapeContext& c) const override {
        const Shape& x = c.in(0).shape;
        const Window w = window(x);
        Shape out{x[0]};
        for (int i = 0; i < x.rank - 2; i++) out.push(w.out[5 - x.rank + i]);
        out.push(x[-1]);
        c.out(0, c.in(0).dtype, out);
    }

    void run(RunContext& c) const override {
        const Window w = window(c.in(0).shape);
        const DType type = c.in(0).dtype;
        const int64_t item = int64_t(item_size(type)), channels = w.c;
        const char* x = c.in(0).as<char>();
        char* y = c.out(0).as<char>();
        // A window may be larger than the image: only so many of its pixels can lie inside.
        int64_t most = 1;
        for (int i = 0; i < 3; i++) most *= std::min(w.kernel[i], w.in[i]);
        c.pool->parallel(w.rows(), std::max<int64_t>(1, 16384 / (most * channels + 1)), [&](int64_t begin, int64_t end) {
            Temporary<const void*> pixels(static_cast<size_t>(most));
            const void** rows = pixels.data();
            for (int64_t m = begin; m < end; m++) {
                int64_t divisor = 0;
                const int64_t n = inside(w, m, x, channels * item, rows, divisor);
                char* out = y + m * channels * item;
                if (average_ && type == DType::bf16) table_.sum_bf16(rows, n, channels, float(divisor), reinterpret_cast<BFloat16*>(out));
                else if (average_) table_.sum_f32(rows, n, channels, float(divisor), reinterpret_cast<float*>(out));
                else if (n == 0) lowest(type, channels, out);
                else if (type == DType::bf16) table_.max_bf16(rows, n, channels, reinterpret_cast<BFloat16*>(out));
                else if (type == DType::f32) table_.max_f32(rows, n, channels, reinterpret_cast<float*>(out));
                else if (type == DType::u8) table_.max_u8(rows, n, channels, reinterpret_cast<uint8_t*>(out));
                else table_.max_i8(rows, n, channels, reinterpret_cast<int8_t*>(out));
            }
        });
    }

    std::string variant() const override { return std::string(average_ ? "average_pool_last_" : "max_pool_last_") + table_.tier; }

private:
    Window window(const Shape& x) const {
        if (x.rank < 3 || x.rank > 5 || int(attributes_.kernel.size()) != x.rank - 2)
            throw std::invalid_argument("a pool of " + std::to_string(attributes_.kernel.size()) + " axes does not fit " + text(x));
        return make_window(attributes_, x[0], x[-1], x.d + 1, attributes_.kernel.data(), x.rank - 2);
    }

    // The pixels of output m's window that lie in the image; `divisor`: how many count for a mean.
    int64_t inside(const Window& w, int64_t m, const char* x, int64_t pixel, const void** rows, int64_t& divisor) const {
        const int64_t o[3] = {m / (w.out[2] * w.out[1]) % w.out[0], m / w.out[2] % w.out[1], m % w.out[2]}, image = m / w.pixels();
        int64_t first[3], low[3], high[3], counted = 1;     // taps [low, high) lie inside
        for (int i = 0; i < 3; i++) {
            first[i] = o[i] * w.stride[i] - w.begin[i];
            low[i] = first[i] < 0 ? ceil_div(-first[i], w.dilation[i]) : 0;
            high[i] = std::clamp<int64_t>(ceil_div(w.in[i] - first[i], w.dilation[i]), 0, w.kernel[i]);
            const int64_t reach = std::clamp<int64_t>(ceil_div(w.in[i] + w.end[i] - first[i], w.dilation[i]), 0, w.kernel[i]);
            counted *= include_pad_ ? reach : std::max<int64_t>(0, high[i] - low[i]);
        }
        divisor = std::max<int64_t>(1, counted);
        int64_t n = 0;
        for (int64_t a = low[0]; a < high[0]; a++)
            for (int64_t b = low[1]; b < high[1]; b++)
                for (int64_t c = low[2]; c < high[2]; c++) {
                    const int64_t i0 = first[0] + a * w.dilation[0], i1 = first[1] + b * w.dilation[1], i2 = first[2] + c * w.dilation[2];
                    rows[n++] = x + (((image * w.in[0] + i0) * w.in[1] + i1) * w.in[2] + i2) * pixel;
                }
        return n;
    }

    static void lowest(DType type, int64_t n, char* out) {
        if (type == DType::f32) std::fill_n(reinterpret_cast<float*>(out), n, -std::numeric_limits<float>::infinity());
        else if (type == DType::bf16) std::fill_n(reinterpret_cast<BFloat16*>(out), n, to_bfloat16(-std::numeric_limits<float>::infinity()));
        else std::memset(out, type == DType::i8 ? -128 : 0, size_t(n));
    }

    const ConvTable& table_;
    WindowAttributes attributes_;
    bool average_, include_pad_;
};

std::unique_ptr<Kernel> make_pool(const NodeInfo& node) {
    const DType t = node.inputs[0];
    const bool average = node.op == "headrace.cpu.AveragePool";
    if (t == DType::bf16 && !bf16_conv_table()) return nullptr;
    if (t != DType::f32 && t != DType::bf16 && (average || (t != DType::u8 && t != DType::i8))) return nullptr;
    if (node.outputs.size() > 1 && node.outputs[1] != DType::none) return nullptr;
    node.known({"storage_order"});      // of the indices
    return std::make_unique<LastPool>(node);
}

HR_KERNEL("headrace.cpu.MaxPool", make_pool);
HR_KERNEL("headrace.cpu.AveragePool", make_pool);

}  // namespace

}  // namespace hr
