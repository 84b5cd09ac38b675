#include "python_recipe.h"

#include "arrays.h"
#include "kernel.h"

namespace hr {

namespace {

// One attribute of a node from Python: bool, int, float, str, bytes, or a tuple of one kind.
Attr attribute(nb::handle value) {
    if (nb::isinstance<nb::int_>(value)) return {nb::cast<int64_t>(value)};
    if (nb::isinstance<nb::float_>(value)) return {nb::cast<double>(value)};
    if (nb::isinstance<nb::str>(value)) return {nb::cast<std::string>(value)};
    if (nb::isinstance<nb::bytes>(value)) return {std::string(nb::cast<nb::bytes>(value).c_str(), nb::len(value))};
    std::vector<int64_t> ints;
    std::vector<double> floats;
    std::vector<std::string> strings;
    for (nb::handle item : value) {
        const Attr one = attribute(item);
        if (auto* i = std::get_if<int64_t>(&one.value)) ints.push_back(*i), floats.push_back(double(*i));
        else if (auto* f = std::get_if<double>(&one.value)) floats.push_back(*f);
        else strings.push_back(std::get<std::string>(one.value));
    }
    if (!strings.empty()) return {strings};
    if (floats.size() != ints.size()) return {floats};
    return {ints};
}

Recipe::Step step_of(nb::tuple row) {
    Recipe::Step step;
    step.op = nb::cast<std::string>(row[0]), step.label = nb::cast<std::string>(row[1]);
    step.readable = !row[2].is_none();
    if (step.readable)
        for (auto [key, value] : nb::cast<nb::dict>(row[2]))
            if (!value.is_none()) step.attributes.emplace_back(nb::cast<std::string>(key), attribute(value));
    step.inputs = nb::cast<std::vector<int>>(row[3]), step.outputs = nb::cast<std::vector<int>>(row[4]);
    step.version = nb::cast<int>(row[5]), step.pure = nb::cast<bool>(row[6]);
    step.said = nb::cast<std::vector<std::string>>(row[7]);
    for (nb::handle pair : nb::cast<nb::list>(row[8])) step.blocks.push_back({nb::cast<int>(pair[0]), nb::cast<std::vector<int>>(pair[1])});
    return step;
}

// What tells a node that packs its constants from every other node: its name, its operator, and of each constant the size and
// some of the bytes.
uint64_t identity_of(const std::vector<Tensor>& constants, const std::string& op, const std::string& label) {
    constexpr size_t kSamples = 16, kSample = 64;
    uint64_t hash = mixed(checksum(op.data(), op.size()), checksum(label.data(), label.size()));
    for (const Tensor& constant : constants) {
        const size_t bytes = constant.bytes(), step = bytes / kSamples;
        hash = mixed(mixed(hash, uint64_t(constant.dtype)), bytes);
        if (step < kSample) hash = mixed(hash, checksum(constant.data, bytes));
        else
            for (size_t i = 0; i < kSamples; i++) hash = mixed(hash, checksum(constant.as<char>() + i * step, kSample));
    }
    return hash;
}

// A kernel to be made, with constants of its own: the program's list moves as it grows.
struct Unmade {
    NodeInfo info;
    std::string op;
    std::vector<Tensor> constants;

    size_t keep() {
        size_t bytes = 0;
        constants.reserve(info.constants.size());
        for (const Tensor*& constant : info.constants)
            if (constant) constants.push_back(*constant), constant = &constants.back(), bytes += constant->bytes();
        return bytes;
    }
};

NodeInfo info_of(const Recipe::Step& step) {
    NodeInfo info;
    info.name = step.label, info.version = step.version;
    if (!step.readable) return info;
    info.op = step.op, info.said = step.said;
    for (const auto& [key, value] : step.attributes) info.attrs[key] = value;
    return info;
}

// A name as Python looks it up.
nb::object key_of(const std::string& name) {
    nb::object key = nb::steal(PyUnicode_DecodeUTF8(name.data(), Py_ssize_t(name.size()), nullptr));
    if (!key.is_valid()) nb::raise_python_error();
    PyObject* interned = key.release().ptr();
    PyUnicode_InternInPlace(&interned);
    return nb::steal(interned);
}

Archive bytes_of(nb::handle buffer) {
    Py_buffer view;
    if (buffer.is_none()) return {};
    if (PyObject_GetBuffer(buffer.ptr(), &view, PyBUF_SIMPLE)) nb::raise_python_error();
    const Archive archive{static_cast<const char*>(view.buf), size_t(view.len)};
    PyBuffer_Release(&view);
    return archive;
}

}  // namespace

void PythonProgram::make(Recipe::Block& block, const Recipe& recipe, const nb::list& programs) {
    size_t next = 0;
    for (const Recipe::Value& value : block.values) {
        if (next < block.inputs.size()) {
            const Recipe::Input& input = block.inputs[next++];
            input_names_.push_back(key_of(input.name));
            program_.add_input({input.name, -1, input.any_rank, input.dims}, value.dtype);
        } else if (value.constant >= 0) {
            const Recipe::Constant& constant = recipe.constants[size_t(value.constant)];
            if (constant.object) constants_.push_back(nb::borrow(static_cast<PyObject*>(constant.object)));
            program_.add_constant(constant.tensor, constant.object);
        } else {
            program_.add_value(value.dtype);
        }
    }
    for (Recipe::Step& step : block.steps) add(step, programs);
    for (const OutputSpec& output : block.outputs) {
        output_names_.push_back(key_of(output.name));
        program_.add_output(output.name, output.value);
    }
}

void PythonProgram::add(Recipe::Step& step, const nb::list& programs) {
    callbacks_.emplace_back();
    blocks_.emplace_back();
    if (!step.blocks.empty()) {
        std::vector<ControlBlock> inner;
        for (const auto& [block, captured] : step.blocks) {
            inner.push_back({&nb::cast<PythonProgram&>(programs[size_t(block)]).program_, captured});
            blocks_.back().push_back(nb::borrow(programs[size_t(block)]));
        }
        program_.add_control(info_of(step), step.inputs, step.outputs, std::move(inner));
        return;
    }
    const auto unmade = std::make_shared<Unmade>(Unmade{info_of(step), step.op, {}});
    Node& node = program_.add_node(unmade->info, step.inputs, step.outputs, step.pure);
    node.op = step.op;
    const size_t bytes = unmade->keep();
    Packing* packing = packing_.get();
    if (packing && !step.identity) step.identity = identity_of(unmade->constants, step.op, step.label);
    later().ask(packing && packing->reading() ? 0 : bytes, [unmade, &node, packing, identity = step.identity] {
        const Packing::Scope scope(packing, identity);
        node.kernel = make_kernel(unmade->info);
    });
}

int PythonRecipe::add_constant(nb::object array, int dtype) {
    Tensor tensor{DType(dtype), {}, nullptr};
    if (is_object(tensor.dtype)) {
        tensor = {};
    } else {
        if (!is_array(array.ptr()) || dtype_of(array.ptr()) != tensor.dtype) throw std::invalid_argument("a constant is no array of its declared element type");
        array = nb::steal(contiguous(array.ptr()));
        if (!array.is_valid()) nb::raise_python_error();
        tensor = borrow(array.ptr());
    }
    owners_.push_back(array);
    recipe_.constants.push_back({tensor, array.ptr()});
    return int(recipe_.constants.size()) - 1;
}

int PythonRecipe::add_block(const std::vector<int>& dtypes, const std::vector<int>& constants, nb::list inputs, nb::list steps, nb::list outputs) {
    if (dtypes.size() != constants.size()) throw std::invalid_argument("a block has as many element types as constants");
    Recipe::Block& block = recipe_.blocks.emplace_back();
    for (size_t v = 0; v < dtypes.size(); v++) block.values.push_back({DType(dtypes[v]), constants[v]});
    for (nb::handle row : inputs) {
        const bool any_rank = row[1].is_none();
        block.inputs.push_back({nb::cast<std::string>(row[0]), any_rank, any_rank ? std::vector<int64_t>() : nb::cast<std::vector<int64_t>>(row[1])});
    }
    for (nb::handle row : steps) block.steps.push_back(step_of(nb::cast<nb::tuple>(row)));
    for (nb::handle row : outputs) block.outputs.push_back({nb::cast<std::string>(row[0]), nb::cast<int>(row[1])});
    check(recipe_, recipe_.blocks.size() - 1);
    return int(recipe_.blocks.size()) - 1;
}

nb::list PythonRecipe::build(int threads, nb::object run_error, std::shared_ptr<Packing> packing) {
    nb::list programs;
    for (Recipe::Block& block : recipe_.blocks) {
        auto* program = new PythonProgram(threads, run_error, packing);
        programs.append(nb::cast(program, nb::rv_policy::take_ownership));
        if (store_) program->hold(owners_, store_);
        program->make(block, recipe_, programs);
    }
    return programs;
}

bool PythonRecipe::plain() const {
    for (const Recipe::Constant& constant : recipe_.constants)
        if (!constant.tensor) return false;
    return true;
}

void PythonRecipe::keep(PackStore& store, nb::object archive, nb::bytes facts) {
    hr::keep(recipe_, bytes_of(archive), store);
    std::memcpy(store.add(PackStore::kFacts, facts.size()).get(), facts.c_str(), facts.size());
}

PythonRecipe PythonRecipe::read(std::shared_ptr<PackStore> store, nb::object archive) {
    PythonRecipe found;
    found.recipe_ = hr::read(*store, bytes_of(archive));
    found.owners_.push_back(archive);
    found.store_ = std::move(store);
    return found;
}

}  // namespace hr
