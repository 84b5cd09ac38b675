#include "recipe.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <type_traits>

namespace hr {

namespace {

constexpr int kMostSymbols = 4096;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("a recipe: " + what); }
void need(bool kept, const char* what) {
    if (!kept) refuse(what);
}

// Fields one after another, in the byte order of the CPU, whose tier is in the key of a store. `Writer` and `Reader` are given the
// same fields by `visit`.
class Writer {
public:
    std::string bytes;

    template <class T>
    void number(const T& value) { bytes.append(reinterpret_cast<const char*>(&value), sizeof value); }
    void flag(bool value) { bytes.push_back(char(value)); }
    void text(const std::string& value) { number(uint32_t(value.size())), bytes += value; }
    template <class T, class F>
    void list(std::vector<T>& items, F each) {
        number(uint32_t(items.size()));
        for (T& item : items) each(item);
    }
    // The alternative that a variant has.
    template <class... T, class F>
    void choice(std::variant<T...>& value, F each) {
        number(uint8_t(value.index()));
        std::visit(each, value);
    }
};

class Reader {
public:
    explicit Reader(std::string_view bytes) : rest_(bytes) {}

    template <class T>
    void number(T& value) { std::memcpy(&value, take(sizeof value).data(), sizeof value); }
    void flag(bool& value) { value = take(1)[0] != 0; }
    void text(std::string& value) { value = take(count()); }
    template <class T, class F>
    void list(std::vector<T>& items, F each) {
        for (uint32_t left = count(); left; left--) each(items.emplace_back());     // each takes a byte at least, so it ends
    }
    template <class... T, class F>
    void choice(std::variant<T...>& value, F each) {
        const uint8_t index = uint8_t(take(1)[0]);
        uint8_t at = 0;
        const bool known = ((at++ == index && (each(value.template emplace<T>()), true)) || ...);
        need(known, "an attribute is of no known kind");
    }
    void end() const { need(rest_.empty(), "there is more than belongs to it"); }

private:
    uint32_t count() {
        uint32_t count;
        number(count);
        return count;
    }
    std::string_view take(size_t bytes) {
        need(bytes <= rest_.size(), "it ends too early");
        const std::string_view taken = rest_.substr(0, bytes);
        rest_.remove_prefix(bytes);
        return taken;
    }
    std::string_view rest_;
};

// Where the bytes of a constant are.
struct Home {
    DType dtype = DType::none;
    bool in_archive = false;
    uint64_t offset = 0;
    std::vector<int64_t> dims;
};

template <class Io>
void visit(Io& io, Home& home) {
    io.number(home.dtype), io.flag(home.in_archive), io.number(home.offset);
    io.list(home.dims, [&](int64_t& dim) { io.number(dim); });
}

template <class Io>
void visit(Io& io, Recipe::Step& step) {
    const auto numbers = [&](std::vector<int>& values) { io.list(values, [&](int& value) { io.number(value); }); };
    io.text(step.op), io.text(step.label), io.flag(step.readable);
    io.list(step.attributes, [&](std::pair<std::string, Attr>& attribute) {
        io.text(attribute.first);
        io.choice(attribute.second.value, [&]<class T>(T& value) {
            const auto one = [&](auto& item) {
                if constexpr (std::is_same_v<std::decay_t<decltype(item)>, std::string>) io.text(item);
                else io.number(item);
            };
            if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) one(value);
            else io.list(value, one);
        });
    });
    numbers(step.inputs), numbers(step.outputs), io.number(step.version), io.flag(step.pure);
    io.list(step.said, [&](std::string& key) { io.text(key); });
    io.list(step.blocks, [&](Recipe::Step::Inner& inner) { io.number(inner.block), numbers(inner.captured); });
    io.number(step.identity);
}

template <class Io>
void visit(Io& io, Recipe::Block& block) {
    io.list(block.values, [&](Recipe::Value& value) { io.number(value.dtype), io.number(value.constant); });
    io.list(block.inputs, [&](Recipe::Input& input) {
        io.text(input.name), io.flag(input.any_rank);
        io.list(input.dims, [&](int64_t& dim) { io.number(dim); });
    });
    io.list(block.steps, [&](Recipe::Step& step) { visit(io, step); });
    io.list(block.outputs, [&](OutputSpec& output) { io.text(output.name), io.number(output.value); });
}

template <class Io>
void visit(Io& io, std::vector<Home>& homes, std::vector<Recipe::Block>& blocks) {
    io.list(homes, [&](Home& home) { visit(io, home); });
    io.list(blocks, [&](Recipe::Block& block) { visit(io, block); });
}

bool narrow(DType dtype) { return dtype >= DType::u4 && dtype != DType::f8e8m0; }

// Whether memory of an archive may be used as it is: each byte of a truth value or of a narrow number has few values.
bool stays(const Tensor& tensor, const Archive& archive) {
    const char* at = tensor.as<char>();
    return at >= archive.data && size_t(at - archive.data) <= archive.bytes && tensor.bytes() <= archive.bytes - size_t(at - archive.data) &&
           tensor.bytes() && tensor.dtype != DType::boolean && !narrow(tensor.dtype);
}

// A constant in the bytes where it says to be.
Tensor found(const Home& home, const Archive& in) {
    need(home.dtype != DType::none && home.dtype != DType::str && home.dtype <= DType::i2, "a constant has no element type");
    need(home.dims.size() <= size_t(kMaxRank), "a constant has too many dimensions");
    Tensor tensor{home.dtype, {}, nullptr};
    uint64_t bytes = item_size(home.dtype);
    for (int64_t dim : home.dims) {
        need(dim >= 0 && !__builtin_mul_overflow(bytes, uint64_t(dim), &bytes), "a constant has an impossible size");
        tensor.shape.push(dim);
    }
    need(bytes <= in.bytes && home.offset <= in.bytes - bytes, "a constant is not inside its file");
    if (!bytes) return tensor;
    tensor.data = const_cast<char*>(in.data + home.offset);
    need(reinterpret_cast<uintptr_t>(tensor.data) % item_size(home.dtype) == 0, "a constant is not aligned");
    need(!home.in_archive || stays(tensor, in), "a constant cannot lie in an archive");
    const auto* values = tensor.as<uint8_t>();
    if (home.dtype == DType::boolean) need(std::all_of(values, values + bytes, [](uint8_t value) { return value <= 1; }), "a truth value is neither");
    return tensor;
}

}  // namespace

void check(const Recipe& recipe, size_t at) {
    const Recipe::Block& block = recipe.blocks[at];
    const int n = int(block.values.size());
    std::vector<char> known(block.values.size());       // values that something has defined
    need(block.inputs.size() <= block.values.size(), "a block has more inputs than values");
    for (int v = 0; v < n; v++) {
        const Recipe::Value& value = block.values[size_t(v)];
        const bool input = size_t(v) < block.inputs.size(), constant = value.constant >= 0;
        need(value.dtype <= DType::i2, "a value has no known element type");
        need(value.constant >= -1 && value.constant < int(recipe.constants.size()) && !(input && constant), "a value is a constant that does not exist");
        if (constant) need(recipe.constants[size_t(value.constant)].tensor.dtype == (is_object(value.dtype) ? DType::none : value.dtype), "a value has another element type than its constant");
        known[size_t(v)] = input || constant;
    }
    for (const Recipe::Input& input : block.inputs) {
        need(input.dims.size() <= size_t(kMaxRank), "an input has too many dimensions");
        for (int64_t dim : input.dims) need(dim >= -1 - kMostSymbols, "an input has a dimension that is neither size nor symbol");
    }
    for (const Recipe::Step& step : block.steps) {
        for (int v : step.inputs) need(v == -1 || (v >= 0 && v < n && known[size_t(v)]), "a node reads a value that does not exist");
        for (int v : step.outputs) {
            need(v == -1 || (v >= 0 && v < n && !known[size_t(v)]), "a node writes a value that does not exist, or that is something else's");
            if (v >= 0) known[size_t(v)] = true;
        }
        for (const Recipe::Step::Inner& inner : step.blocks) {
            need(inner.block >= 0 && size_t(inner.block) < at, "a node has a block that does not exist");
            const Recipe::Block& other = recipe.blocks[size_t(inner.block)];
            need(inner.captured.size() <= other.inputs.size(), "a block captures more than it has inputs");
            const size_t own = other.inputs.size() - inner.captured.size();
            for (size_t k = 0; k < inner.captured.size(); k++) {
                const int from = inner.captured[k];
                need(from >= 0 && size_t(from) < step.inputs.size() && step.inputs[size_t(from)] >= 0, "a block captures what the node does not read");
                need(block.values[size_t(step.inputs[size_t(from)])].dtype == other.values[own + k].dtype, "a block captures a value of another element type");
            }
        }
    }
    for (const OutputSpec& output : block.outputs) need(output.value >= 0 && output.value < n && known[size_t(output.value)], "an output is a value that does not exist");
}

void keep(Recipe& recipe, const Archive& archive, PackStore& store) {
    std::vector<Home> homes;
    size_t end = 0;
    for (const Recipe::Constant& constant : recipe.constants) {
        const Tensor& tensor = constant.tensor;
        need(bool(tensor), "a constant is no tensor");
        const bool in_archive = stays(tensor, archive);
        homes.push_back({tensor.dtype, in_archive, in_archive ? uint64_t(tensor.as<char>() - archive.data) : end, {tensor.shape.d, tensor.shape.d + tensor.shape.rank}});
        if (!in_archive) end += aligned(tensor.bytes());
    }
    Writer out;
    visit(out, homes, recipe.blocks);
    if (end) {
        const std::shared_ptr<char> to = store.add(PackStore::kArrays, end);
        for (size_t k = 0; k < homes.size(); k++)
            if (const Tensor& tensor = recipe.constants[k].tensor; !homes[k].in_archive && tensor.bytes()) std::memcpy(to.get() + homes[k].offset, tensor.data, tensor.bytes());
    }
    std::memcpy(store.add(PackStore::kRecipe, out.bytes.size()).get(), out.bytes.data(), out.bytes.size());
}

Recipe read(const PackStore& store, const Archive& archive) {
    const PackStore::Block* text = store.find(PackStore::kRecipe);
    const PackStore::Block* arrays = store.find(PackStore::kArrays);
    need(text != nullptr, "there is none");
    const Archive own = arrays ? Archive{arrays->data.get(), arrays->bytes} : Archive{};
    Reader in({text->data.get(), text->bytes});
    Recipe recipe;
    std::vector<Home> homes;
    visit(in, homes, recipe.blocks);
    in.end();
    for (const Home& home : homes) recipe.constants.push_back({found(home, home.in_archive ? archive : own)});
    need(!recipe.blocks.empty(), "it has no block");
    for (size_t at = 0; at < recipe.blocks.size(); at++) check(recipe, at);
    return recipe;
}

}  // namespace hr
