// A door of the executor's shape (capi.h) behind which Python runs the batch, in another process.
#pragma once
#include <nanobind/nanobind.h>

#include <vector>

#include "capi.h"

namespace hr::serve {

// The capsule of a door. `run(inputs, left)` gets (memory, dims) of every input, and the seconds until nobody waits any more
// (None: no limit); it answers the outputs as contiguous (buffer, dims). An exception with an attribute `outcome` ends the run
// with that hr_outcome, any other one as HR_FAILED. `inputs` and `outputs`: (element type code, bytes an element).
nanobind::object remote_door(nanobind::object run, std::vector<std::pair<int, int>> inputs, std::vector<std::pair<int, int>> outputs);

}  // namespace hr::serve
