// CRC-32 of zip files, by carry-less products where the CPU has them.
#pragma once
#include <cstddef>
#include <cstdint>

namespace hr {

bool has_fast_crc();
uint32_t crc32(const void* data, size_t bytes);     // only where has_fast_crc()

}  // namespace hr
