// The doors to Python, one a file: what `module.cpp` puts together.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unordered_map.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>

#include "routes.h"
#include "waiting.h"

namespace hr::serve {

namespace nb = nanobind;

// Text from the network as Python text: one character a byte, so that nothing can fail.
inline nb::object latin(const std::string& text) { return nb::steal(PyUnicode_DecodeLatin1(text.data(), Py_ssize_t(text.size()), nullptr)); }

std::shared_ptr<Version> version_of(nb::handle version);        // of a _native.Version

// Blocks until a request that was queued has ended; its caller gives up by what it registers with `watch`. It is run right here
// where that is short: at once where to give the interpreter away and get it back would cost more.
void run_here(Version& version, const std::shared_ptr<Waiting>& job, const nb::object& watch);

void bind_version(nb::module_& m);
void bind_routes(nb::module_& m);
void bind_front(nb::module_& m);

}  // namespace hr::serve
