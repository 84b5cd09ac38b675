// The extension module headrace.serve._native: the front, model versions with their queues, and which requests need no Python.
#include <system_error>

#include "python.h"
#include "remote.h"

NB_MODULE(_native, m) {
    using namespace hr::serve;
    nb::set_leak_warnings(false);       // a front may live until the process ends
    m.doc() = "The native gRPC front: HTTP/2 by libnghttp2 on one thread, and the queues of model versions.";
    nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
        try {
            std::rethrow_exception(pointer);
        } catch (const std::system_error& error) {
            PyErr_SetObject(PyExc_OSError, nb::make_tuple(error.code().value(), error.what()).ptr());
        }
    });
    m.def("remote_door", &remote_door, nb::arg("run"), nb::arg("inputs"), nb::arg("outputs"), "The door of a model that runs in other processes; see remote.h.");
    bind_version(m);
    bind_routes(m);
    bind_front(m);
}
