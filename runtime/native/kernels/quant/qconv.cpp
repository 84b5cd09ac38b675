// Integer convolutions: headrace.QConv, QLinearConv, ConvInteger (channels first), headrace.cpu.QConv (channels last).
#include <algorithm>

#include "kernels/conv/window.h"
#include "kernels/quant/params.h"
#include "pool.h"

namespace hr {

namespace {

constexpr int64_t kImageBytes = 2 << 20;    // prepared images held at a time
constexpr int64_t kRowsBytes = 256 << 10;   // prepared rows of a 1x1 convolution: half of L2

class QConvKernel final : public Kernel {
public:
    QConvKernel(const NodeInfo& node, const Slots& slots, IntOut out) : table_(int_table()), slots_(slots), attributes_(node), group_(node.i("group", 1)) {
        last_ = node.op == "headrace.cpu.QConv";
        type_ = out == IntOut::s32 ? DType::i32 : out == IntOut::i8 ? DType::i8 : DType::u8;
        rule_.table = &table_, rule_.slots = slots, rule_.out = out;
        rule_.x_signed = node.inputs[slots.x] == DType::i8, rule_.w_signed = node.inputs[slots.w] == DType::i8;
        rule_.read_activation(node);
        r_signed_ = slots.r >= 0 && slots.r < int(node.inputs.size()) && node.inputs[slots.r] == DType::i8;
        const auto constant = [&](int i) { return i >= 0 && i < int(node.constants.size()) ? node.constants[i] : nullptr; };
        const Tensor* w = constant(slots.w);
        if (!w || w->shape.rank < 3) return;
        const bool late_zero = slots.w_zero >= 0 && slots.w_zero < int(node.inputs.size()) && node.inputs[slots.w_zero] != DType::none && !constant(slots.w_zero);
        if (depthwise(w->shape) && late_zero) return;   // its zero point is subtracted when it is packed
        Packed<uint8_t> wide;
        pack_once([&] { wide[0] = !pack(*w, packed_.get(), sums_.get(), constant(slots.w_zero)); }, Part<int8_t>{packed_, weight_bytes(w->shape)},
                  Part<int32_t>{sums_, columns(w->shape)}, Part<uint8_t>{wide, 1});
        wide_ = wide[0];
        packed_shape_ = w->shape;
        fixed_ = true;
        for (int i : rule_.inputs())
            if (i >= 0 && i < int(node.inputs.size()) && node.inputs[i] != DType::none && !constant(i)) fixed_ = false;
        if (fixed_) rule(w->shape).fill(params_, constant, sums_.get(), nullptr);
    }

    void shape(ShapeContext& c) const override {
        const Shape& ws = c.in(slots_.w).shape;
        const Window w = window(c.in(slots_.x).shape, ws);
        c.out(0, type_, output_shape(c.in(slots_.x).shape, w, ws[0]));
        Scratch scratch;
        plan(w, ws, slots_.r >= 0 && c.has(slots_.r), scratch);
        c.scratch = scratch.used();
    }

    void run(RunContext& c) const override {
        const Shape& ws = c.in(slots_.w).shape;
        const Window w = window(c.in(slots_.x).shape, ws);
        const int64_t features = ws[0];
        if (w.rows() == 0 || features == 0) return;
        const bool residual = slots_.r >= 0 && c.has(slots_.r);
        Scratch scratch(c.scratch);
        const Memory mem = plan(w, ws, residual, scratch);
        const auto given = [&](int i) { return i >= 0 && c.has(i) ? &c.in(i) : nullptr; };
        const int8_t* weights = packed_.get();
        const int32_t* sums = sums_.get();
        bool wide = wide_;
        if (mem.weights) wide = !pack(c.in(slots_.w), mem.weights, mem.sums, given(slots_.w_zero)), weights = mem.weights, sums = mem.sums;
        Params own;
        if (!fixed_) {
            Scratch room(mem.params);
            rule(ws).fill(own, given, sums, &room);
        }
        const Params& params = fixed_ ? params_ : own;
        IntEpilogue e = params.epilogue;
        const uint8_t* x = c.in(slots_.x).as<uint8_t>();
        if (mem.x) transpose8(x, w.n, w.c, w.in_pixels(), mem.x, *c.pool), x = mem.x;
        if (residual) {
            if (c.in(slots_.r).shape != c.out(0).shape) throw std::invalid_argument("the residual is " + text(c.in(slots_.r).shape) + ", the result " + text(c.out(0).shape));
            e.r = c.in(slots_.r).as<uint8_t>(), e.ldr = features, e.r_signed = r_signed_;
            if (mem.r) transpose8(static_cast<const uint8_t*>(e.r), w.n, features, w.pixels(), mem.r, *c.pool), e.r = mem.r;
        }
        char* y = mem.y ? reinterpret_cast<char*>(mem.y) : static_cast<char*>(c.out(0).data);
        const int64_t item = int64_t(item_size(type_)), step = images_at_once(w, ws);
        if (matrix(w, ws)) {
            // A plain product: rows are prepared in pieces that the cache still holds when they are multiplied.
            const int64_t rows = w.rows(), some = as_it_lies(w, ws) ? rows : rows_at_once(w, ws);
            for (int64_t m = 0; m < rows; m += some) {
                Window part;
                part.c = w.c, part.in[2] = part.out[2] = std::min(some, rows - m);
                IntEpilogue here = e;
                if (here.r) here.r = static_cast<const uint8_t*>(e.r) + m * features;
                run_images(part, ws, x + m * w.c, params, here, weights, wide, mem, y + m * features * item, *c.pool);
            }
            if (mem.y) back(mem.y, w.n, features, w.pixels(), c.out(0).data, *c.pool);
            return;
        }
        for (int64_t image = 0; image < w.n; image += step) {
            Window part = w;
            part.n = std::min(step, w.n - image);
            IntEpilogue here = e;
            if (here.r) here.r = static_cast<const uint8_t*>(e.r) + image * w.pixels() * features;
            run_images(part, ws, x + image * w.in_pixels() * w.c, params, here, weights, wide, mem, y + image * w.pixels() * features * item, *c.pool);
        }
        if (mem.y) back(mem.y, w.n, features, w.pixels(), c.out(0).data, *c.pool);
    }

    bool in_place(int input) const override { return input == slots_.r; }     // the residual is read just before it is written
    bool reads_data(int input) const override { return !(input == slots_.w && packed_); }
    size_t packed_bytes() const override { return packed_.bytes() + sums_.bytes(); }
    std::string variant() const override { return std::string("conv_int8_") + table_.tier; }

private:
    struct Memory {
        uint8_t *x = nullptr, *r = nullptr, *y = nullptr, *image = nullptr;
        char *params = nullptr, *outside = nullptr;
        int8_t* weights = nullptr;
        int32_t* sums = nullptr;
    };

    bool depthwise(const Shape& w) const { return group_ > 1 && w[1] == 1 && w[0] == group_; }
    bool pads_copied() const {
        return attributes_.auto_pad != "NOTSET" || std::all_of(attributes_.pads.begin(), attributes_.pads.end(), [](int64_t p) { return p >= 0; });
    }
    // A row of taps in one segment: neighbours in the padded copy.
    bool merges(const Shape& w) const {
        return group_ == 1 && pads_copied() && w[-1] > 1 && (attributes_.dilations.empty() || attributes_.dilations.back() == 1);
    }
    // A depthwise 3 x 3 window whose neighbours share columns: packed column by column, see IntTable::Depthwise.
    bool square(const Shape& w) const {
        const auto last = [](const std::vector<int64_t>& v) { return v.empty() ? 1 : v.back(); };
        return table_.unit == 4 && depthwise(w) && w.rank == 4 && w[2] == 3 && w[3] == 3 && last(attributes_.dilations) == 1 && last(attributes_.strides) <= 2;
    }
    static int64_t taps(const Shape& w) { return w.count(2, w.rank); }
    int64_t segments(const Shape& w) const { return merges(w) ? taps(w) / w[-1] : taps(w); }
    int64_t depth(const Shape& w) const { return taps(w) * w[1] / segments(w); }
    int64_t columns(const Shape& w) const { return depthwise(w) ? round_up(w[0], 64) : group_ * round_up(w[0] / group_, table_.nr); }
    int64_t weight_bytes(const Shape& w) const {
        return depthwise(w) ? taps(w) * columns(w) * 4 : group_ * int_packed(table_, segments(w), depth(w), w[0] / group_);
    }

    ParamsRule rule(const Shape& w) const {
        ParamsRule r = rule_;
        const bool dw = depthwise(w);
        r.groups = dw ? 1 : group_, r.n = w[0] / r.groups, r.ld = columns(w) / r.groups;
        if (dw) r.shifted_weights = false;
        return r;
    }

    Window window(const Shape& x, const Shape& w) const {
        if (x.rank != w.rank || x.rank < 3 || x.rank > 5)
            throw std::invalid_argument("the ranks of input " + text(x) + " and weight " + text(w) + " must be equal, 3 to 5");
        const int64_t channels = last_ ? x[-1] : x[1];
        if (group_ < 1 || w[1] * group_ != channels || w[0] % group_)
            throw std::invalid_argument("the weight " + text(w) + " in " + std::to_string(group_) + " groups does not fit " + std::to_string(channels) + " channels");
        return make_window(attributes_, x[0], channels, x.d + (last_ ? 1 : 2), w.d + 2, x.rank - 2);
    }

    Shape output_shape(const Shape& x, const Window& w, int64_t features) const {
        Shape out{x[0]};
        if (!last_) out.push(features);
        for (int i = 0; i < x.rank - 2; i++) out.push(w.out[5 - x.rank + i]);
        if (last_) out.push(features);
        return out;
    }

    // The image that rows point into: padded where pads can be copied.
    Window walked(const Window& w, const Shape& ws) const { return w.pointwise() || !pads_copied() || as_it_lies(w, ws) ? w : padded(w); }
    int64_t pixel_items(const Window& w, const Shape& ws) const { return w.pointwise() && !depthwise(ws) ? round_up(w.c, table_.unit) : w.c; }
    bool matrix(const Window& w, const Shape& ws) const { return w.pointwise() && !depthwise(ws); }
    // x is read as it lies: unsigned bytes, whole units of a product.
    bool as_it_lies(const Window& w, const Shape& ws) const {
        return table_.item == 1 && !rule_.x_signed && (depthwise(ws) || (matrix(w, ws) && ws[1] % table_.unit == 0));
    }
    int64_t rows_at_once(const Window& w, const Shape& ws) const {
        const int64_t most = std::max<int64_t>(kRowsBytes / std::max<int64_t>(1, pixel_items(w, ws) * table_.item), 96);
        return std::min(round_up(most, table_.mr), w.rows());
    }
    int64_t images_at_once(const Window& w, const Shape& ws) const {
        if (as_it_lies(w, ws)) return std::max<int64_t>(1, w.n);
        return std::clamp<int64_t>(kImageBytes / std::max<int64_t>(1, walked(w, ws).in_pixels() * w.c * table_.item), 1, std::max<int64_t>(1, w.n));
    }

    Memory plan(const Window& w, const Shape& ws, bool residual, Scratch& s) const {
        Memory mem;
        const int64_t item = int64_t(item_size(type_));
        if (!last_ && w.c > 1 && w.in_pixels() > 1) mem.x = s.take<uint8_t>(w.n * w.c * w.in_pixels());
        if (!last_ && ws[0] > 1 && w.pixels() > 1) {
            mem.y = s.take<uint8_t>(w.rows() * ws[0] * item);
            if (residual) mem.r = s.take<uint8_t>(w.rows() * ws[0]);
        }
        const int64_t pixels = matrix(w, ws) ? rows_at_once(w, ws) : images_at_once(w, ws) * walked(w, ws).in_pixels();
        if (!as_it_lies(w, ws)) mem.image = s.take<uint8_t>(pixels * pixel_items(w, ws) * table_.item);
        mem.outside = s.take<char>(w.c * table_.item);
        if (!packed_ || ws != packed_shape_) mem.weights = s.take<int8_t>(weight_bytes(ws)), mem.sums = s.take<int32_t>(columns(ws));
        if (!fixed_) mem.params = s.take<char>(int64_t(rule(ws).scratch_bytes()));
        return mem;
    }

    // Answers whether depthwise weights fit the packed form.
    bool pack(const Tensor& w, int8_t* out, int32_t* sums, const Tensor* w_zero) const {
        const Shape& s = w.shape;
        const int64_t t = taps(s), c = s[1];
        const uint8_t* from = w.as<uint8_t>();
        if (depthwise(s)) {
            const int64_t ld = columns(s);
            std::vector<int32_t> wide(size_t(t * ld));
            for (int64_t j = 0; j < ld; j++) {
                sums[j] = 0;
                for (int64_t k = 0; k < t; k++) {
                    const int64_t at = w_zero && w_zero->count() > 1 ? j : 0;
                    const int32_t value = j < s[0] ? int_at(&w, j * t + k) - int_at(w_zero, at) : 0;
                    wide[size_t(k * ld + j)] = value, sums[j] += value;
                }
            }
            std::vector<int32_t> turned(square(s) ? size_t(12 * ld) : 0);
            for (int64_t k = 0; !turned.empty() && k < t; k++)
                std::copy_n(&wide[size_t(k * ld)], ld, &turned[size_t((k % 3 * 4 + k / 3) * ld)]);
            if (turned.empty() ? table_.pack_depthwise(wide.data(), t, ld, out) : table_.pack_depthwise(turned.data(), 12, ld, out)) return true;
            std::memcpy(out, wide.data(), wide.size() * 4);
            return false;
        }
        // [features, c, *kernel] in the order (taps, c), so that merged taps are neighbours.
        const int64_t n = s[0] / group_, merged_taps = merges(s) ? s[-1] : 1;
        const int64_t step = t == 1 ? n : table_.nr;    // a panel's features at a time: their copy stays in L2
        std::vector<uint8_t> matrix(t == 1 ? 0 : size_t(std::min(n, step) * t * c));     // one tap: as it is
        for (int64_t g = 0; g < group_; g++)
            for (int64_t j0 = 0; j0 < n; j0 += step) {
                const int64_t width = std::min(step, n - j0);
                const uint8_t* features = from + (g * n + j0) * c * t;
                for (int64_t j = 0; t > 1 && j < width; j++) turn_bytes(features + j * c * t, c, t, matrix.data() + j * c * t);
                pack_int(table_, t == 1 ? features : matrix.data(), merged_taps * c, 1, t * c, !rule_.w_signed, segments(s), depth(s), width,
                         out + g * int_packed(table_, segments(s), depth(s), n) + int_packed(table_, segments(s), depth(s), j0), sums + g * round_up(n, table_.nr) + j0);
            }
        return true;
    }

    // A matrix of bytes, by columns: out[k * rows + i] = x[i * cols + k].
    static void turn_bytes(const uint8_t* x, int64_t rows, int64_t cols, uint8_t* out) {
        const int64_t whole_rows = rows / 8 * 8, whole = cols / 8 * 8;
        for (int64_t i = 0; i < whole_rows; i += 8)
            for (int64_t k = 0; k < whole; k += 8) turn_eight(x + i * cols + k, cols, out + k * rows + i, rows);
        for (int64_t k = 0; k < cols; k++)
            for (int64_t i = k < whole ? whole_rows : 0; i < rows; i++) out[k * rows + i] = x[i * cols + k];
    }

    // Eight rows of eight bytes, by columns.
    static void turn_eight(const uint8_t* x, int64_t ldx, uint8_t* out, int64_t ldo) {
        using Bytes = uint8_t __attribute__((vector_size(16)));
        using Pairs = uint16_t __attribute__((vector_size(16)));
        using Fours = uint32_t __attribute__((vector_size(16)));
        constexpr Bytes kBytes{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
        constexpr Pairs kLow2{0, 8, 1, 9, 2, 10, 3, 11}, kHigh2{4, 12, 5, 13, 6, 14, 7, 15};
        constexpr Fours kLow4{0, 4, 1, 5}, kHigh4{2, 6, 3, 7};
        const auto pairs = [&](int64_t row) {
            Bytes a{}, b{};
            std::memcpy(&a, x + row * ldx, 8), std::memcpy(&b, x + (row + 1) * ldx, 8);
            return Pairs(__builtin_shuffle(a, b, kBytes));
        };
        const Pairs p0 = pairs(0), p2 = pairs(2), p4 = pairs(4), p6 = pairs(6);
        const Fours low0 = Fours(__builtin_shuffle(p0, p2, kLow2)), high0 = Fours(__builtin_shuffle(p0, p2, kHigh2));
        const Fours low4 = Fours(__builtin_shuffle(p4, p6, kLow2)), high4 = Fours(__builtin_shuffle(p4, p6, kHigh2));
        const Fours columns[4] = {__builtin_shuffle(low0, low4, kLow4), __builtin_shuffle(low0, low4, kHigh4),
                                  __builtin_shuffle(high0, high4, kLow4), __builtin_shuffle(high0, high4, kHigh4)};
        for (int64_t k = 0; k < 8; k++) std::memcpy(out + k * ldo, reinterpret_cast<const char*>(columns) + k * 8, 8);
    }

    // One byte per element: channels first to last, and back.
    static void transpose8(const uint8_t* x, int64_t n, int64_t rows, int64_t cols, uint8_t* out, ThreadPool& pool) {
        const int64_t step = 64, blocks = ceil_div(cols, step);
        pool.parallel(n * blocks, std::max<int64_t>(1, 256 / rows), [&](int64_t begin, int64_t end) {
            for (int64_t b = begin; b < end; b++) {
                const uint8_t* from = x + b / blocks * rows * cols;
                uint8_t* to = out + b / blocks * rows * cols;
                const int64_t c0 = b % blocks * step, c1 = std::min(cols, c0 + step);
                for (int64_t r = 0; r < rows; r += 16)
                    for (int64_t c = c0; c < c1; c++)
                        for (int64_t i = r; i < std::min(rows, r + 16); i++) to[c * rows + i] = from[i * cols + c];
            }
        });
    }
    void back(const uint8_t* y, int64_t n, int64_t c, int64_t pixels, void* out, ThreadPool& pool) const {
        if (item_size(type_) == 1) return transpose8(y, n, pixels, c, static_cast<uint8_t*>(out), pool);
        for (int64_t i = 0; i < n; i++) gemm_table().transpose32(y + i * c * pixels * 4, c, pixels, c, static_cast<char*>(out) + i * c * pixels * 4, pixels);
    }

    // Prepared pixels in the layout of `to`: padding holds x's zero point.
    void prepare(const Window& w, const Window& to, const uint8_t* x, const Params& p, int64_t items, uint8_t* out, ThreadPool& pool) const {
        const int64_t item = table_.item;
        if (items != w.c || (to.in_pixels() == w.in_pixels() && w.pointwise())) {
            const int64_t rows = w.n * w.in_pixels(), step = items == w.c ? std::max<int64_t>(1, 8192 / w.c) : 1;
            pool.parallel(ceil_div(rows, step), std::max<int64_t>(1, 8192 / (w.c * step)), [&](int64_t begin, int64_t end) {
                for (int64_t i = begin * step; i < std::min(rows, end * step); i += step)
                    table_.prepare(x + i * w.c, rule_.x_signed, p.x_raw_zero, std::min(step, rows - i) * w.c, out + i * items * item);
            });
            return;
        }
        const int64_t row = to.in[2] * w.c;
        int64_t begin[3], width[3];
        for (int i = 0; i < 3; i++) {
            begin[i] = to.begin[i] == w.begin[i] ? 0 : w.begin[i];  // not padded: copied as it is
            width[i] = std::clamp<int64_t>(to.in[i] - begin[i], 0, w.in[i]);
        }
        const int64_t left = std::min(begin[2], to.in[2]) * w.c, middle = width[2] * w.c;
        const auto blank = [&](uint8_t* at, int64_t count) { std::memset(at, item == 1 ? p.x_zero : 0, size_t(count * item)); };
        pool.parallel(w.n * to.in[0] * to.in[1], std::max<int64_t>(1, 8192 / std::max<int64_t>(1, row)), [&](int64_t first, int64_t end) {
            for (int64_t i = first; i < end; i++) {
                const int64_t i1 = i % to.in[1] - begin[1], i0 = i / to.in[1] % to.in[0] - begin[0], image = i / (to.in[1] * to.in[0]);
                uint8_t* at = out + i * row * item;
                if (uint64_t(i0) >= uint64_t(w.in[0]) || uint64_t(i1) >= uint64_t(w.in[1])) {
                    blank(at, row);
                    continue;
                }
                blank(at, left);
                table_.prepare(x + ((image * w.in[0] + i0) * w.in[1] + i1) * w.in[2] * w.c, rule_.x_signed, p.x_raw_zero, middle, at + left * item);
                blank(at + (left + middle) * item, row - left - middle);
            }
        });
    }

    void run_images(const Window& w, const Shape& ws, const uint8_t* x, const Params& params, const IntEpilogue& e, const int8_t* weights, bool wide,
                    const Memory& mem, char* y, ThreadPool& pool) const {
        const Window to = walked(w, ws);
        const int64_t items = pixel_items(w, ws), item = table_.item, c = ws[1], n = ws[0] / group_;
        const uint8_t* prepared = as_it_lies(w, ws) ? x : mem.image;
        if (prepared != x) prepare(w, to, x, params, items, mem.image, pool);
        std::memset(mem.outside, item == 1 ? params.x_zero : 0, size_t(w.c * item));
        if (depthwise(ws)) return run_depthwise(w, to, ws, e, weights, wide, prepared, mem.outside, y, pool);
        const int64_t s = segments(ws), k = depth(ws), size = int_packed(table_, s, k, n), ld = round_up(n, table_.nr);
        IntProblem p{};
        p.m = w.rows(), p.n = n, p.segments = s, p.k = k, p.ldc = ws[0], p.row_bytes = std::max<int64_t>(c * item, s * k * item / 4);
        p.sum_shift = int32_t(s * k) * params.x_zero;
        const GemmPlan plan = plan_int(table_, p, group_ >= 4 * pool.threads() ? 1 : pool.threads());
        const double each = double(p.m) * double(n) * double(s * k) / double(plan.tasks());
        pool.parallel(group_ * plan.tasks(), std::max<int64_t>(1, int64_t(32768 / (each + 1))), [&](int64_t begin, int64_t end) {
            for (int64_t task = begin; task < end; task++) {
                const int64_t g = task / plan.tasks();
                const uint8_t* image = prepared + g * c * item;
                const WindowRows window_rows(merges(ws) ? merged(to) : to, image, items * item, mem.outside);
                const MatrixRows matrix_rows(image, items * item);
                IntProblem q = p;
                q.rows = w.pointwise() ? static_cast<const Rows*>(&matrix_rows) : &window_rows;
                q.b = weights + g * size, q.c = y + g * n * int64_t(item_size(type_)), q.epilogue = e;
                const auto shift = [&](auto*& pointer) { if (pointer) pointer += g * ld; };
                shift(q.epilogue.col), shift(q.epilogue.scale), shift(q.epilogue.w_zero);
                if (e.r) q.epilogue.r = static_cast<const uint8_t*>(e.r) + g * n;
                run_int_task(table_, q, plan, task % plan.tasks());
            }
        });
    }

    void run_depthwise(const Window& w, const Window& to, const Shape& ws, const IntEpilogue& e, const int8_t* weights, bool wide,
                       const uint8_t* prepared, const char* outside, char* y, ThreadPool& pool) const {
        constexpr int64_t kTable = 4096;
        const int64_t t = w.taps(), most = std::clamp<int64_t>(kTable / t, 1, 64), size = int64_t(item_size(type_));
        if (t > kTable) throw std::invalid_argument("a depthwise window of more than 4096 taps");
        const WindowRows rows(to, prepared, w.c * table_.item, outside);
        pool.parallel(w.rows(), std::max<int64_t>(1, 16384 / (t * w.c)), [&](int64_t begin, int64_t end) {
            const void* table[kTable];
            for (int64_t m = begin; m < end; m += most) {
                IntTable::Depthwise d{};
                d.rows = table, d.stride = d.m = std::min(most, end - m), d.taps = t, d.c = w.c, d.w = weights, d.ldw = columns(ws), d.wide = wide;
                if (square(ws) && !wide) d.step = w.stride[2], d.first = m, d.width = w.out[2];
                rows.fill(table, d.stride, 0, t, m, m + d.m);
                IntEpilogue here = e;
                here.w_zero = nullptr;      // already in the weights
                if (e.r) here.r = static_cast<const uint8_t*>(e.r) + m * w.c;
                table_.depthwise(d, y + m * w.c * size, w.c, here);
            }
        });
    }

    const IntTable& table_;
    Slots slots_;
    WindowAttributes attributes_;
    int64_t group_;
    bool last_ = false, fixed_ = false, r_signed_ = false, wide_ = false;
    DType type_;
    ParamsRule rule_;
    Packed<int8_t> packed_;
    Packed<int32_t> sums_;
    Shape packed_shape_;
    Params params_;
};

bool floats(const NodeInfo& node, std::initializer_list<int> slots) {
    for (int i : slots)
        if (i >= 0 && i < int(node.inputs.size()) && node.inputs[i] != DType::none && node.inputs[i] != DType::f32) return false;
    return true;
}

std::unique_ptr<Kernel> make_qconv(const NodeInfo& node) {
    const bool plain = node.op == "ConvInteger";
    Slots s;
    if (plain) s.x_zero = 2, s.w_zero = 3;
    else s.x_scale = 1, s.x_zero = 2, s.w = 3, s.w_scale = 4, s.w_zero = 5, s.y_scale = 6, s.y_zero = 7, s.bias = 8;
    if (node.op == "headrace.QConv" || node.op == "headrace.cpu.QConv") s.r = 9, s.r_scale = 10, s.r_zero = 11;
    if (int(node.inputs.size()) <= (plain ? 1 : 7) || !is_int8(node.inputs[s.x]) || !is_int8(node.inputs[s.w])) return nullptr;
    if (!floats(node, {s.x_scale, s.w_scale, s.y_scale, s.r_scale})) return nullptr;
    return std::make_unique<QConvKernel>(node, s, plain ? IntOut::s32 : node.outputs[0] == DType::i8 ? IntOut::i8 : IntOut::u8);
}

HR_KERNEL("headrace.QConv", make_qconv);
HR_KERNEL("headrace.cpu.QConv", make_qconv);
HR_KERNEL("QLinearConv", make_qconv);
HR_KERNEL("ConvInteger", make_qconv);

}  // namespace

}  // namespace hr
