// Which build of the extension this is.
#pragma once
#include <string>

namespace hr {

// The GNU build id of the object that this function is in, in hexadecimal: the linker's digest of all its code and data, so that
// another layout of anything means another id. Empty where it has none.
std::string build_id();

}  // namespace hr
