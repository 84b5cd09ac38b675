// The container of an archive, read at once where it is right: see serializer/zip_writer.py, which is its definition.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace hr {

struct Member {
    std::string_view name;
    size_t offset, bytes;
    uint32_t crc;       // the recorded one
};

// The members of a container that is what the writer makes of them, to the last byte that is no member's; else, and where a
// number needs 64 bits, none: serializer/zip_reader.py then reads it, or says what is wrong.
std::vector<Member> members_of(std::string_view file);

}  // namespace hr
