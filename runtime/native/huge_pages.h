// Huge pages for large memory, where they are worth it.
#pragma once
#include <cstddef>

namespace hr {

constexpr size_t kHugePage = size_t(2) << 20;

// Asks for huge pages for what of fresh memory, which begins at one, they fit into, unless this machine was seen to be slow at
// them: to know it, bytes of the memory are written.
void advise_huge(void* data, size_t bytes);

}  // namespace hr
