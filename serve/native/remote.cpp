#include "remote.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "version.h"

namespace nb = nanobind;

namespace hr::serve {

namespace {

using Row = std::pair<int, int>;

struct Remote {
    hr_door door;
    nb::object run;
    std::vector<Row> inputs, outputs;
};

// What a run answered: views of Python's buffers.
struct Answer : hr_outputs {
    std::vector<hr_tensor> list;
    std::vector<Py_buffer> buffers;
};

void release(hr_outputs* outputs) {
    auto* answer = static_cast<Answer*>(outputs);
    nb::gil_scoped_acquire locked;
    for (Py_buffer& buffer : answer->buffers) PyBuffer_Release(&buffer);
    delete answer;
}

int fail(nb::python_error& error, char* text, size_t size) {
    const nb::object value = nb::borrow(error.value());
    const nb::str shown(value);
    std::strncpy(text, shown.c_str(), size - 1), text[size - 1] = 0;
    const nb::object outcome = nb::getattr(value, "outcome", nb::none());
    return outcome.is_none() ? int(HR_FAILED) : nb::cast<int>(outcome);
}

nb::object asked(const Remote& remote, const hr_tensor* inputs) {
    nb::list out;
    for (size_t i = 0; i < remote.inputs.size(); i++) {
        Py_ssize_t bytes = remote.inputs[i].second;
        nb::list dims;
        for (int d = 0; d < inputs[i].rank; d++) bytes *= Py_ssize_t(inputs[i].dims[d]), dims.append(inputs[i].dims[d]);
        static char nothing;
        char* data = bytes ? static_cast<char*>(inputs[i].data) : &nothing;
        out.append(nb::make_tuple(nb::steal(PyMemoryView_FromMemory(data, bytes, PyBUF_READ)), dims));
    }
    return out;
}

void take(const Remote& remote, const nb::object& told, Answer& answer) {
    for (size_t k = 0; k < remote.outputs.size(); k++) {
        const nb::object row = told[k], dims = row[1];
        const size_t rank = nb::len(dims);
        hr_tensor tensor{remote.outputs[k].first, int32_t(rank), {}, nullptr};
        if (rank > std::size(tensor.dims)) throw std::length_error("an output has more than 12 dimensions");
        size_t bytes = size_t(remote.outputs[k].second);
        for (size_t d = 0; d < rank; d++) tensor.dims[d] = nb::cast<int64_t>(dims[d]), bytes *= size_t(tensor.dims[d]);
        Py_buffer buffer;
        if (PyObject_GetBuffer(nb::object(row[0]).ptr(), &buffer, PyBUF_SIMPLE)) nb::raise_python_error();
        answer.buffers.push_back(buffer);
        if (size_t(buffer.len) != bytes) throw std::length_error("an output has other bytes than its shape says");
        tensor.data = buffer.buf;
        answer.list.push_back(tensor);
    }
    answer.count = int32_t(answer.list.size()), answer.tensors = answer.list.data();
}

int run(void* program, const hr_tensor* inputs, hr_outputs** outputs, char* error, size_t error_size) {
    const Remote& remote = *static_cast<const Remote*>(program);
    nb::gil_scoped_acquire locked;
    auto* answer = new Answer();
    try {
        nb::object left = nb::none();
        if (running_until != kNever) left = nb::cast(seconds_between(Clock::now(), running_until));
        take(remote, remote.run(asked(remote, inputs), left), *answer);
        *outputs = answer;
        return HR_OK;
    } catch (nb::python_error& caught) {
        release(answer);
        return fail(caught, error, error_size);
    } catch (const std::exception& caught) {
        release(answer);
        std::strncpy(error, caught.what(), error_size - 1), error[error_size - 1] = 0;
        return HR_FAILED;
    }
}

}  // namespace

nb::object remote_door(nb::object python, std::vector<Row> inputs, std::vector<Row> outputs) {
    auto* remote = new Remote{{}, std::move(python), std::move(inputs), std::move(outputs)};
    remote->door = {1, remote, int32_t(remote->inputs.size()), int32_t(remote->outputs.size()), 1, hr::serve::run, release};
    return nb::capsule(&remote->door, "headrace.door", [](void* pointer) noexcept {
        nb::gil_scoped_acquire locked;
        delete static_cast<Remote*>(static_cast<hr_door*>(pointer)->program);
    });
}

}  // namespace hr::serve
