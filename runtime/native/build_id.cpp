#include "build_id.h"

#include <elf.h>
#include <link.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace hr {

namespace {

struct Search {
    uintptr_t inside;
    std::string id;
};

std::string hexadecimal(const unsigned char* data, size_t bytes) {
    constexpr char digits[] = "0123456789abcdef";
    std::string text;
    for (size_t i = 0; i < bytes; i++) text += digits[data[i] >> 4], text += digits[data[i] & 15];
    return text;
}

size_t whole(size_t bytes, size_t alignment) { return (bytes + alignment - 1) / alignment * alignment; }

// The id among the notes of one segment, or an empty text.
std::string id_in(const char* notes, size_t bytes, size_t alignment) {
    ElfW(Nhdr) note;
    while (bytes >= sizeof note) {
        std::memcpy(&note, notes, sizeof note);
        const size_t name = whole(note.n_namesz, alignment), size = sizeof note + name + whole(note.n_descsz, alignment);
        if (size > bytes) break;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && !std::memcmp(notes + sizeof note, "GNU", 4))
            return hexadecimal(reinterpret_cast<const unsigned char*>(notes) + sizeof note + name, note.n_descsz);
        notes += size, bytes -= size;
    }
    return "";
}

int look(dl_phdr_info* object, size_t, void* asked) {
    auto& search = *static_cast<Search*>(asked);
    bool ours = false;
    std::string id;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr)& part = object->dlpi_phdr[i];
        const uintptr_t at = object->dlpi_addr + part.p_vaddr;
        if (part.p_type == PT_LOAD) ours = ours || (search.inside >= at && search.inside - at < part.p_memsz);
        if (part.p_type == PT_NOTE && id.empty()) id = id_in(reinterpret_cast<const char*>(at), part.p_memsz, part.p_align == 8 ? 8 : 4);
    }
    if (ours) search.id = id;
    return ours;
}

}  // namespace

std::string build_id() {
    Search search{reinterpret_cast<uintptr_t>(&build_id), ""};
    dl_iterate_phdr(look, &search);
    return search.id;
}

}  // namespace hr
