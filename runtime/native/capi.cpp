#include "capi.h"

#include <nanobind/nanobind.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "executor.h"
#include "python_program.h"

namespace hr {

namespace {

// The results of one run and the memory behind them.
struct Outputs : hr_outputs {
    std::vector<hr_tensor> list;
    std::vector<Buffer*> buffers;

    ~Outputs() {
        for (Buffer* buffer : buffers) release_buffer(buffer);
    }
    void* add(const Tensor& like) {
        Buffer* buffer = take_buffer(std::max<size_t>(like.bytes(), 1));
        buffers.push_back(buffer);
        hr_tensor out{int32_t(like.dtype), like.shape.rank, {}, buffer->data};
        std::copy_n(like.shape.d, like.shape.rank, out.dims);
        list.push_back(out);
        return buffer->data;
    }
};

void say(const char* text, char* error, size_t size) {
    if (size) std::strncpy(error, text, size - 1), error[size - 1] = 0;
}

int run(void* program_pointer, const hr_tensor* inputs, hr_outputs** out, char* error, size_t error_size) {
    Program& program = *static_cast<Program*>(program_pointer);
    const size_t n_in = program.inputs.size(), n_out = program.outputs.size();
    std::vector<Tensor> feeds(n_in);
    for (size_t i = 0; i < n_in; i++) {
        feeds[i].dtype = DType(inputs[i].dtype);
        if (feeds[i].dtype != program.dtypes[program.inputs[i].value] || inputs[i].rank > kMaxRank) return HR_DOES_NOT_FIT;
        for (int d = 0; d < inputs[i].rank; d++) feeds[i].shape.push(inputs[i].dims[d]);
        feeds[i].data = inputs[i].data;
    }
    try {
        const std::shared_ptr<Plan> plan = program.plan_for(feeds.data());
        if (!plan) return HR_DOES_NOT_FIT;
        const HeldFrame held(program, *plan);
        Frame& frame = held.frame();
        for (size_t i = 0; i < n_in; i++) {
            frame.io[i] = feeds[i].data;
            if (plan->generic) frame.values[program.inputs[i].value] = feeds[i];
        }
        auto outputs = std::make_unique<Outputs>();
        std::vector<void*> direct(n_out, nullptr);
        for (size_t k = 0; k < n_out; k++) {
            if (plan->direct[k]) frame.io[n_in + k] = direct[k] = outputs->add(plan->whole(plan->tensors[program.outputs[k].value]));
        }
        program.run(frame);
        auto complete = std::make_unique<Outputs>();
        complete->buffers.swap(outputs->buffers);
        size_t used = 0;
        for (size_t k = 0; k < n_out; k++) {
            if (direct[k]) {
                complete->list.push_back(outputs->list[used++]);
                continue;
            }
            const Tensor& tensor = frame.values[program.outputs[k].value];
            void* data = complete->add(tensor);
            if (tensor.bytes()) std::memcpy(data, tensor.data, tensor.bytes());
        }
        complete->count = int32_t(n_out), complete->tensors = complete->list.data();
        *out = complete.release();
        return HR_OK;
    } catch (const HostError&) {
        nanobind::gil_scoped_acquire locked;
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
        PyObject* text = value ? PyObject_Str(value) : nullptr;
        const char* bytes = text ? PyUnicode_AsUTF8(text) : nullptr;
        say(bytes ? bytes : "a reference failed", error, error_size);
        Py_XDECREF(text), Py_XDECREF(type), Py_XDECREF(value), Py_XDECREF(trace);
        PyErr_Clear();
        return HR_FAILED;
    } catch (const std::exception& caught) {
        say(caught.what(), error, error_size);
        return HR_FAILED;
    }
}

void release(hr_outputs* outputs) { delete static_cast<Outputs*>(outputs); }

}  // namespace

nb::object PythonProgram::door() {
    for (const auto& input : program_.inputs)
        if (is_object(program_.dtypes[input.value])) return nb::none();
    for (const auto& output : program_.outputs)
        if (is_object(program_.dtypes[output.value])) return nb::none();
    auto* door = new hr_door{1, &program_, int32_t(program_.inputs.size()), int32_t(program_.outputs.size()), has_callbacks_, hr::run, release};
    return nb::capsule(door, "headrace.door", [](void* pointer) noexcept { delete static_cast<hr_door*>(pointer); });
}

}  // namespace hr
