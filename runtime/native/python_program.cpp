#include "python_program.h"

#include <cstring>
#include <memory_resource>
#include <optional>

#include "arrays.h"
#include "kernel.h"
#include "planner.h"

namespace hr {

namespace {

std::string variant_of(const Node& node) {
    if (node.control) return "blocks";
    if (!node.kernel) return "";
    return node.kernel->variant().empty() ? "native" : node.kernel->variant();
}

}  // namespace

// The arrays of one call, held while it runs, and the tensors that borrow them.
struct PythonProgram::Call {
    std::byte room[1024];       // those of most models: nothing is allocated
    std::pmr::monotonic_buffer_resource memory{room, sizeof room};
    std::pmr::vector<Tensor> tensors;
    std::pmr::vector<PyObject*> held, results;

    Call(size_t n_in, size_t n_out) : tensors(n_in, &memory), held(n_in, &memory), results(n_out, &memory) {}
    ~Call() {
        for (PyObject* object : held) Py_XDECREF(object);
        for (PyObject* object : results) Py_XDECREF(object);
    }
};

// The plan and the frame of one call, or neither where no plan serves its inputs. The interpreter lock is held at both ends.
class PythonProgram::Turn {
public:
    Turn(PythonProgram& owner, const Tensor* inputs) : owner_(owner) {
        if (owner.ready_frame_ && owner.ready_plan_->serves(inputs)) swap();
        else if ((plan = owner.program_.plan_for(inputs))) frame = owner.program_.take_frame(*plan);
    }
    ~Turn() {
        if (!frame) return;
        frame->clear();
        if (plan->small) swap();    // and what another call left there goes back
        if (frame) owner_.program_.give_frame(std::move(frame));
    }
    Turn(const Turn&) = delete;

    std::shared_ptr<Plan> plan;
    std::unique_ptr<Frame> frame;

private:
    void swap() { plan.swap(owner_.ready_plan_), frame.swap(owner_.ready_frame_); }

    PythonProgram& owner_;
};

PythonProgram::PythonProgram(int threads, nb::object run_error, std::shared_ptr<Packing> packing)
    : program_(threads, this), run_error_(std::move(run_error)), packing_(std::move(packing)) {}

nb::list PythonProgram::finish() {
    {
        nb::gil_scoped_release unlocked;
        later().finish();
    }
    nb::list missing;
    for (size_t n = 0; n < program_.nodes.size(); n++)
        if (!program_.nodes[n]->kernel && !program_.nodes[n]->control) missing.append(n);
    return missing;
}

void PythonProgram::set_callback(size_t node, nb::object callback) {
    if (node >= callbacks_.size()) throw std::out_of_range("a callback of a node that does not exist");
    callbacks_[node] = std::move(callback);
    has_callbacks_ = true;
}

PythonProgram::~PythonProgram() { later().join(); }

// Borrows one feed; false where it is not what the fast path takes.
bool PythonProgram::accept(Call& call, size_t i, PyObject* feed) {
    const DType dtype = program_.dtypes[program_.inputs[i].value];
    if (is_object(dtype)) {
        if (dtype == DType::str && !(is_array(feed) && dtype_of(feed) == DType::str)) return false;
        Py_INCREF(feed);
        call.held[i] = feed;
        return true;
    }
    if (!is_array(feed) || dtype_of(feed) != dtype) return false;
    if (is_plain(feed)) Py_INCREF(feed);
    else if (!(feed = contiguous(feed))) nb::raise_python_error();
    call.held[i] = feed;
    call.tensors[i] = borrow(feed);
    return true;
}

// Runs; false where shapes do not fit the interface. Results land in call.results.
bool PythonProgram::execute(Call& call) {
    std::optional<Turn> turn;
    try {
        turn.emplace(*this, call.tensors.data());
    } catch (const NodeError& error) {
        PyErr_SetString(run_error_.ptr(), error.what());
        nb::raise_python_error();
    }
    if (!turn->plan) return false;
    const Plan* plan = turn->plan.get();
    Frame& frame = *turn->frame;
    const size_t n_in = call.held.size();
    for (size_t i = 0; i < n_in; i++) {
        frame.io[i] = call.tensors[i].data;
        if (has_callbacks_ || !call.tensors[i]) Py_INCREF(call.held[i]), frame.objects[program_.inputs[i].value] = call.held[i];
        if (plan->generic) frame.values[program_.inputs[i].value] = call.tensors[i];
    }
    for (size_t k = 0; k < call.results.size(); k++) {
        if (!plan->direct[k]) continue;
        call.results[k] = new_array(plan->whole(plan->tensors[program_.outputs[k].value]));
        if (!call.results[k]) nb::raise_python_error();
        frame.io[n_in + k] = array_data(call.results[k]);
    }
    std::string failure;
    bool failed = false, host_failed = false;
    {
        std::optional<nb::gil_scoped_release> unlocked;
        if (!plan->small) unlocked.emplace();
        try {
            program_.run(frame);
        } catch (const HostError&) {
            host_failed = true;
        } catch (const std::exception& error) {
            failed = true, failure = error.what();
        }
    }
    if (failed) PyErr_SetString(run_error_.ptr(), failure.c_str());
    if (failed || host_failed) nb::raise_python_error();
    for (size_t k = 0; k < call.results.size(); k++)
        if (!plan->direct[k]) call.results[k] = result(frame, call, k);
    return true;
}

// An output that no kernel wrote into its array: handed over where nobody else holds it, copied otherwise.
PyObject* PythonProgram::result(Frame& frame, const Call& call, size_t k) {
    const int v = program_.outputs[k].value;
    const bool dynamic = frame.plan->storage[v].place == Place::dynamic;
    auto* object = static_cast<PyObject*>(frame.objects[v]);
    if (is_object(program_.dtypes[v])) {
        if (!object) object = static_cast<PyObject*>(program_.constant_objects[v]);
        if (!object) object = Py_None;
        Py_INCREF(object);
        return object;
    }
    const Tensor& tensor = frame.values[v];
    if (dynamic && object && owns_data_alone(object)) {
        frame.objects[v] = nullptr;
        frame.buffers[v] = nullptr;
        for (size_t later = k + 1; later < call.results.size(); later++)
            if (program_.outputs[later].value == v) Py_INCREF(object), frame.objects[v] = object;  // asked for twice: seen as shared
        return object;
    }
    if (dynamic && frame.buffers[v] && frame.buffers[v]->refs == 1 && tensor.bytes() >= 65536) {
        Buffer* buffer = frame.buffers[v];
        frame.buffers[v] = nullptr;
        PyObject* array = wrap_buffer(tensor, buffer);
        if (!array) nb::raise_python_error();
        return array;
    }
    PyObject* array = new_array(tensor);
    if (!array) nb::raise_python_error();
    if (tensor.bytes()) std::memcpy(array_data(array), tensor.data, tensor.bytes());
    return array;
}

nb::object PythonProgram::run(nb::handle feeds) {
    const size_t n_in = input_names_.size();
    if (!PyDict_Check(feeds.ptr()) || size_t(PyDict_GET_SIZE(feeds.ptr())) != n_in) return nb::none();
    Call call(n_in, output_names_.size());
    for (size_t i = 0; i < n_in; i++) {
        PyObject* feed = PyDict_GetItemWithError(feeds.ptr(), input_names_[i].ptr());
        if (!feed || !accept(call, i, feed)) return nb::none();
    }
    if (!execute(call)) return nb::none();
    nb::object outputs = nb::steal(PyDict_New());
    for (size_t k = 0; k < call.results.size(); k++)
        if (PyDict_SetItem(outputs.ptr(), output_names_[k].ptr(), call.results[k])) nb::raise_python_error();
    return outputs;
}

nb::object PythonProgram::run_list(nb::handle feeds) {
    nb::object items = nb::steal(PySequence_Fast(feeds.ptr(), "run_list takes a sequence"));
    if (!items.is_valid()) nb::raise_python_error();
    const size_t n_in = input_names_.size();
    if (size_t(PySequence_Fast_GET_SIZE(items.ptr())) != n_in) return nb::none();
    Call call(n_in, output_names_.size());
    for (size_t i = 0; i < n_in; i++)
        if (!accept(call, i, PySequence_Fast_GET_ITEM(items.ptr(), i))) return nb::none();
    if (!execute(call)) return nb::none();
    nb::object outputs = nb::steal(PyList_New(Py_ssize_t(call.results.size())));
    for (size_t k = 0; k < call.results.size(); k++) {
        PyList_SET_ITEM(outputs.ptr(), Py_ssize_t(k), call.results[k]);
        call.results[k] = nullptr;
    }
    return outputs;
}

// One argument of a callback: the object behind the value, or its tensor as a read-only array (a copy where the
// callback may keep it).
PyObject* PythonProgram::argument(const Node& node, size_t i, Frame& frame, bool copy) {
    const int v = node.inputs[i];
    PyObject* object = v < 0 ? Py_None : static_cast<PyObject*>(frame.objects[v] ? frame.objects[v] : program_.constant_objects[v]);
    if (object) {
        Py_INCREF(object);
        return object;
    }
    if (is_object(program_.dtypes[v])) Py_RETURN_NONE;
    if (!copy) return wrap(frame.values[v]);
    PyObject* array = new_array(frame.values[v]);
    if (array && frame.values[v].bytes()) std::memcpy(array_data(array), frame.values[v].data, frame.values[v].bytes());
    return array;
}

void PythonProgram::call(int n, Frame& frame) {
    nb::gil_scoped_acquire locked;
    const Node& node = *program_.nodes[n];
    if (!frame.garbage.empty()) drop(frame.garbage);
    try {
        bool keeps = false;     // results that are objects may hold on to the arguments
        for (int v : node.outputs) keeps = keeps || (v >= 0 && is_object(program_.dtypes[v]));
        nb::object arguments = nb::steal(PyList_New(Py_ssize_t(node.inputs.size())));
        for (size_t i = 0; i < node.inputs.size(); i++) {
            PyObject* one = argument(node, i, frame, keeps);
            if (!one) nb::raise_python_error();
            PyList_SET_ITEM(arguments.ptr(), Py_ssize_t(i), one);
        }
        nb::object found = nb::steal(PyObject_CallOneArg(callbacks_[n].ptr(), arguments.ptr()));
        if (!found.is_valid()) nb::raise_python_error();
        nb::object results = nb::steal(PySequence_Fast(found.ptr(), "a callback must answer a list"));
        if (!results.is_valid()) nb::raise_python_error();
        if (size_t(PySequence_Fast_GET_SIZE(results.ptr())) < node.outputs.size()) throw NodeError(node.label + ": the callback answers too few results");
        for (size_t k = 0; k < node.outputs.size(); k++)
            if (node.outputs[k] >= 0) take_result(node.outputs[k], PySequence_Fast_GET_ITEM(results.ptr(), k), node, frame);
    } catch (nb::python_error& error) {
        error.restore();
        throw HostError();
    }
}

void PythonProgram::take_result(int v, PyObject* found, const Node& node, Frame& frame) {
    const DType dtype = program_.dtypes[v];
    if (is_object(dtype)) {
        Py_INCREF(found);
        frame.adopt(v, Tensor{}, found);
        return;
    }
    nb::object array = nb::borrow(found);
    if (!is_array(found)) array = nb::module_::import_("numpy").attr("asarray")(array);
    if (dtype_of(array.ptr()) != dtype) {
        const std::string given = nb::cast<std::string>(nb::str(array.attr("dtype")));
        throw NodeError(node.label + ": the reference answers " + given + ", declared is element type " + std::to_string(int(dtype)));
    }
    array = nb::steal(contiguous(array.ptr()));
    if (!array.is_valid()) nb::raise_python_error();
    Tensor tensor = borrow(array.ptr());
    const char* begin = tensor.as<char>();
    for (int input : node.inputs) {     // a view of an argument: its memory may be used again
        if (input < 0 || is_object(program_.dtypes[input])) continue;
        const Tensor& source = frame.values[input];
        const char* from = source.as<char>();
        if (begin < from + source.bytes() && from < begin + tensor.bytes()) {
            array = nb::steal(copied(array.ptr()));
            if (!array.is_valid()) nb::raise_python_error();
            tensor = borrow(array.ptr());
            break;
        }
    }
    frame.adopt(v, tensor, array.release().ptr());
}

void PythonProgram::drop(std::vector<void*>& objects) {
    nb::gil_scoped_acquire locked;
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    for (void* object : objects) Py_DECREF(static_cast<PyObject*>(object));
    objects.clear();
    PyErr_Restore(type, value, trace);
}

bool PythonProgram::rows_apart() {
    nb::gil_scoped_acquire locked;
    return rows_.is_valid() && nb::cast<bool>(rows_());
}

void PythonProgram::keep(void* object) {
    nb::gil_scoped_acquire locked;
    Py_INCREF(static_cast<PyObject*>(object));
}

void PythonProgram::profile(int how) {
    if (how < 0 || how > 2) throw std::invalid_argument("profile takes 0, 1 or 2");
    program_.profile(Profile(how));
    each_block([&](PythonProgram& block) { block.profile(how); });
}

nb::list PythonProgram::profile_rows() {
    nb::list rows;
    add_profile_rows(rows);
    return rows;
}

int64_t PythonProgram::add_profile_rows(nb::list& rows) {
    int64_t total = 0;
    for (size_t n = 0; n < program_.nodes.size(); n++) {
        const Node& node = *program_.nodes[n];
        nb::list inner;
        int64_t inside = 0;     // a node's own time is what its blocks leave of it
        for (const auto& block : blocks_[n]) inside += nb::cast<PythonProgram&>(block).add_profile_rows(inner);
        const int64_t time = node.nanoseconds.load();
        const std::vector<Tensor> seen = program_.seen(node);
        nb::list types[2];      // (element type, shape, whether constant) of inputs and of outputs, None where absent
        for (size_t i = 0; i < seen.size(); i++) {
            nb::list shape;
            for (int axis = 0; axis < seen[i].shape.rank; axis++) shape.append(seen[i].shape[axis]);
            const bool input = i < node.inputs.size();
            const bool constant = input && node.inputs[i] >= 0 && program_.constants[size_t(node.inputs[i])].data;
            nb::list& side = types[!input];
            if (seen[i]) side.append(nb::make_tuple(int(seen[i].dtype), nb::tuple(shape), constant));
            else side.append(nb::none());
        }
        const std::string variant = variant_of(node);
        rows.append(nb::make_tuple(node.label, node.op, variant.empty() ? "reference" : variant, node.calls.load(), std::max<int64_t>(0, time - inside), types[0], types[1]));
        rows.extend(inner);
        total += time;
    }
    return total;
}

nb::list PythonProgram::events() {
    nb::list rows;
    add_events(rows);
    return rows;
}

void PythonProgram::add_events(nb::list& rows) {
    for (const Event& event : program_.events()) rows.append(nb::make_tuple(program_.nodes[event.node]->label, event.start, event.nanoseconds));
    each_block([&](PythonProgram& block) { block.add_events(rows); });
}

size_t PythonProgram::packed_bytes() const {
    size_t bytes = program_.packed_bytes();
    each_block([&](PythonProgram& block) { bytes += block.packed_bytes(); });
    return bytes;
}

size_t PythonProgram::arena_bytes() const {
    size_t bytes = program_.arena_bytes();
    each_block([&](PythonProgram& block) { bytes += block.arena_bytes(); });
    return bytes;
}

nb::dict PythonProgram::plan_bytes(nb::list shapes) {
    std::vector<Tensor> inputs(program_.inputs.size());
    if (shapes.size() != inputs.size()) throw std::invalid_argument("plan_bytes takes one shape for each input");
    nb::dict row;
    size_t given = 0, answered = 0, folded = 0;
    for (size_t i = 0; i < inputs.size(); i++) {
        const DType dtype = program_.dtypes[program_.inputs[i].value];
        if (is_object(dtype)) continue;
        inputs[i].dtype = dtype;
        for (nb::handle size : nb::cast<nb::tuple>(shapes[i])) inputs[i].shape.push(nb::cast<int64_t>(size));
        given += inputs[i].bytes();
    }
    if (!program_.fits(inputs.data())) throw std::invalid_argument("these shapes do not fit the interface");
    std::shared_ptr<Plan> plan;
    try {
        plan = program_.new_plan(inputs.data());
    } catch (const NodeError& error) {
        PyErr_SetString(run_error_.ptr(), error.what());
        nb::raise_python_error();
    }
    int unknown = 0;
    for (const Step& step : plan->steps) unknown += step.dynamic;
    for (const OutputSpec& output : program_.outputs) answered += plan->whole(plan->tensors[output.value]).bytes();
    for (const Buffer* buffer : plan->folded) folded += buffer->capacity;
    row["arena"] = plan->arena_bytes, row["folded"] = folded, row["inputs"] = given, row["outputs"] = answered;
    row["dynamic"] = unknown, row["steps"] = plan->steps.size();
    return row;
}

nb::list PythonProgram::nodes() const {
    nb::list rows;
    add_nodes(rows);
    return rows;
}

void PythonProgram::add_nodes(nb::list& rows) const {
    for (size_t n = 0; n < program_.nodes.size(); n++) {
        const Node& node = *program_.nodes[n];
        rows.append(nb::make_tuple(node.op, node.label, variant_of(node)));
        for (const auto& block : blocks_[n]) nb::cast<PythonProgram&>(block).add_nodes(rows);
    }
}

void PythonProgram::specialise(bool on) {
    program_.specialise(on);
    each_block([&](PythonProgram& block) { block.specialise(on); });
}

nb::list PythonProgram::plan_rows() {
    nb::list rows;
    program_.each_plan([&](const Plan& plan) {
        nb::dict row;
        int dynamic = 0, direct = 0;
        for (const Step& step : plan.steps) dynamic += step.dynamic;
        for (char flag : plan.direct) direct += flag;
        row["generic"] = plan.generic, row["small"] = plan.small, row["steps"] = plan.steps.size(), row["dynamic"] = dynamic, row["direct"] = direct;
        row["arena_bytes"] = plan.arena_bytes, row["parts"] = plan.parts, row["folded"] = plan.folded.size();
        rows.append(row);
    });
    return rows;
}

int PythonProgram::traverse(visitproc visit, void* arg) {
    for (const auto& callback : callbacks_) Py_VISIT(callback.ptr());
    for (const auto& constant : constants_) Py_VISIT(constant.ptr());
    Py_VISIT(rows_.ptr());
    for (const auto& blocks : blocks_)
        for (const auto& block : blocks) Py_VISIT(block.ptr());
    return 0;
}

void PythonProgram::clear_references() { callbacks_.clear(), rows_.reset(); }

}  // namespace hr
