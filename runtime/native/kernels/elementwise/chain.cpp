// headrace.cpu.Chain: elementwise operators of float32, one behind the other over a tile at a time, so that what lies between
// them never leaves L1. Each step is the row function of its operator's own kernel: the same bits as node by node.
//
// `operators` names the steps; `places` has two operands for each: an input, from `inputs` on the result of an earlier step, or -1;
// `alpha`, `beta` and `gamma` are their attributes, 0 where they have none. `kinds` says of each input what it is: see Kind.
#include <algorithm>
#include <cstring>

#include "cpu.h"
#include "kernels/elementwise/broadcast.h"
#include "kernels/gemm/common.h"
#include "pool.h"

namespace hr {
namespace {

constexpr int64_t kTile = 1024;                 // elements: a few tiles of 4 KiB are in L1 together
constexpr size_t kMostInputs = 32;
enum Kind : int64_t { kWhole, kNumber, kRow };  // of the result's shape; one element; one for each place of the last axis

constexpr int kResult = -1;

struct Step {
    Elementwise what;
    int64_t in[2];      // as in `places`
    int slot;           // where its result lies; kResult: where the result of all will
};

class Chain : public Kernel {
public:
    // Throws std::invalid_argument for what the pass does not make.
    explicit Chain(const NodeInfo& node) : kinds_(node.ints("kinds")) {
        const Attr* named = node.find("operators");
        const auto* operators = named ? std::get_if<std::vector<std::string>>(&named->value) : nullptr;
        const std::vector<int64_t> places = node.ints("places");
        const size_t count = operators ? operators->size() : 0;
        if (!count || places.size() != 2 * count || kinds_.size() != node.inputs.size() || kinds_.size() > kMostInputs || std::find(kinds_.begin(), kinds_.end(), kWhole) == kinds_.end())
            throw std::invalid_argument("a chain without steps, or without an input of its shape");
        const std::pair<const char*, std::vector<double>> numbers[] = {{"alpha", node.floats("alpha")}, {"beta", node.floats("beta")}, {"gamma", node.floats("gamma")}};
        for (size_t i = 0; i < count; i++) {
            NodeInfo inner;
            inner.op = (*operators)[i], inner.name = node.name;
            for (const auto& [name, values] : numbers)
                if (i < values.size()) inner.attrs[name] = {values[i]};
            Step step{{}, {places[2 * i], places[2 * i + 1]}, 0};
            for (int64_t place : step.in) {
                if (place >= inputs() + int64_t(i) || step.in[0] < 0) throw std::invalid_argument("a step of a chain reads nothing, or what comes later");
                if (place >= 0) inner.inputs.push_back(DType::f32), inner.constants.push_back(nullptr);
            }
            inner.outputs = {DType::f32};
            const std::unique_ptr<Kernel> kernel = make_kernel(inner);
            const Elementwise* what = kernel ? elementwise_of(*kernel) : nullptr;
            if (!what || what->operands != int(inner.inputs.size())) throw std::invalid_argument("no step of a chain: " + inner.op);
            step.what = *what;
            cost_ += 1.0 / double(what->grain);
            steps_.push_back(std::move(step));
        }
        assign();
    }

    std::string variant() const override { return "chain_f32_" + tier_names()[size_t(cpu_tier())]; }
    bool in_place(int i) const override { return kinds_[size_t(i)] == kWhole; }

    void shape(ShapeContext& c) const override {
        const Tensor* whole = nullptr;
        for (int i = 0; i < c.n_inputs; i++)
            if (kinds_[size_t(i)] == kWhole && !whole) whole = &c.in(i);
        const Shape& s = whole->shape;
        for (int i = 0; i < c.n_inputs; i++) {
            const int64_t kind = kinds_[size_t(i)], n = c.in(i).count();
            if (kind == kWhole ? c.in(i).shape != s : n != (kind == kNumber ? 1 : s.rank ? s[-1] : 1))
                throw std::invalid_argument("input " + std::to_string(i) + " is " + text(c.in(i).shape) + " in a chain of " + text(s));
        }
        c.out(0, DType::f32, s);
        const Tiles t(s, rows());
        Scratch scratch;
        plan(t, t.workers(c.threads, cost_), scratch);
        c.scratch = scratch.used();
    }

    void run(RunContext& c) const override {
        const Tiles t(c.out(0).shape, rows());
        if (!t.total) return;
        const int64_t workers = t.workers(c.pool->threads(), cost_);
        Scratch scratch(c.scratch);
        const Memory memory = plan(t, workers, scratch);
        const float* in[kMostInputs];   // short rows several times, side by side
        for (size_t i = 0, repeated = 0; i < kinds_.size(); i++) {
            in[i] = c.in(int(i)).as<float>();
            if (kinds_[i] != kRow || t.repeats == 1) continue;
            float* pattern = memory.patterns + int64_t(repeated++) * t.tile;
            for (int64_t k = 0; k < t.repeats; k++) std::memcpy(pattern + k * t.width, in[i], size_t(t.width) * 4);
            in[i] = pattern;
        }
        float* out = c.out(0).as<float>();
        c.pool->parallel(workers, 1, [&](int64_t begin, int64_t end) {
            for (int64_t w = begin; w < end; w++)
                for (int64_t i = t.count * w / workers; i < t.count * (w + 1) / workers; i++) tile(in, out, t, i, memory.slots + w * slots_ * kTile);
        });
    }

private:
    // How the result is cut: where rows are read, at places that are the same in each of them.
    struct Tiles {
        int64_t total, width, tile = kTile, repeats = 1, parts = 1, count;

        Tiles(const Shape& s, int64_t rows) : total(s.count()), width(rows && s.rank ? s[-1] : 0) {
            if (width > kTile) parts = ceil_div(width, kTile);
            else if (width > 0) repeats = kTile / width, tile = repeats * width;
            count = parts > 1 ? total / width * parts : ceil_div(total, tile);
        }
        int64_t within(int64_t i) const { return parts > 1 ? i % parts * kTile : 0; }
        int64_t start(int64_t i) const { return parts > 1 ? i / parts * width + within(i) : i * tile; }
        int64_t size(int64_t i) const { return parts > 1 ? std::min(kTile, width - within(i)) : std::min(tile, total - start(i)); }
        int64_t workers(int threads, double cost) const { return std::clamp<int64_t>(int64_t(double(total) * cost), 1, std::min<int64_t>(threads, std::max<int64_t>(1, count))); }
    };
    struct Memory {
        float *patterns = nullptr, *slots = nullptr;
    };

    int64_t inputs() const { return int64_t(kinds_.size()); }
    int64_t rows() const { return std::count(kinds_.begin(), kinds_.end(), kRow); }

    Memory plan(const Tiles& t, int64_t workers, Scratch& scratch) const {
        Memory m;
        if (t.repeats > 1) m.patterns = scratch.take<float>(rows() * t.tile);
        if (slots_) m.slots = scratch.take<float>(workers * slots_ * kTile);
        return m;
    }

    // Results lie in as few places as are alive at once: a step may write over what it reads last. The memory of the result is
    // one of them as soon as no input is read any more: it may be that of one.
    void assign() {
        std::vector<size_t> last(steps_.size(), 0);
        size_t read = 0;
        for (size_t i = 0; i < steps_.size(); i++)
            for (int64_t place : steps_[i].in)
                if (place >= inputs()) last[size_t(place - inputs())] = i;
                else if (place >= 0 && kinds_[size_t(place)] == kWhole) read = i;
        std::vector<int> free;
        for (size_t i = 0; i < steps_.size(); i++) {
            if (i == read) free.push_back(kResult);
            for (size_t k = 0; k < i; k++)
                if (last[k] == i) free.push_back(steps_[k].slot);
            if (free.empty()) free.push_back(slots_++);
            steps_[i].slot = free.back();
            free.pop_back();
        }
    }

    void tile(const float* const* in, float* out, const Tiles& t, int64_t i, float* slots) const {
        const int64_t start = t.start(i), within = t.within(i);
        const auto at = [&](const Step& step) { return step.slot == kResult || &step == &steps_.back() ? out + start : slots + step.slot * kTile; };
        for (const Step& step : steps_) {
            Row row{};
            for (int k = 0; k < 2 && step.in[k] >= 0; k++) {
                const int64_t place = step.in[k], kind = place < inputs() ? kinds_[size_t(place)] : kWhole;
                row.in[k] = place >= inputs() ? at(steps_[size_t(place - inputs())]) : in[place] + (kind == kWhole ? start : kind == kRow ? within : 0);
                row.moves[k] = kind != kNumber;
            }
            row.out = at(step);
            row.n = t.size(i), row.f = step.what.f.data(), row.inner = step.what.inner;
            step.what.row(row);
        }
    }

    std::vector<int64_t> kinds_;
    std::vector<Step> steps_;
    double cost_ = 0;       // of an element, as a share of what is worth a thread's while
    int slots_ = 0;
};

std::unique_ptr<Kernel> chain(const NodeInfo& node) { return std::make_unique<Chain>(node); }
HR_KERNEL("headrace.cpu.Chain", chain);

}  // namespace
}  // namespace hr
