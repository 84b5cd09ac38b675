#include "container.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string>

namespace hr {

namespace {

constexpr size_t kEnd = 22, kEntry = 46, kHeader = 30, kPadding = 4, kAlignment = 64;
constexpr size_t kMostMembers = 4096, kLongestName = 255;
constexpr uint16_t kVersion = 10, kMadeBy = 3 << 8 | 45, kDate = 1 << 5 | 1, kPaddingExtra = 0xd935;
constexpr uint32_t kMode = 0100644u << 16;

template <class T>
T number(std::string_view file, size_t at) {
    T value;
    std::memcpy(&value, file.data() + at, sizeof value);
    return value;
}

// Fields one after another, the least byte first as the CPU has them.
template <class... T>
std::string record(std::string_view magic, T... fields) {
    std::string bytes(magic);
    (bytes.append(reinterpret_cast<const char*>(&fields), sizeof fields), ...);
    return bytes;
}

bool is_at(std::string_view file, size_t at, std::string_view what) { return at <= file.size() && file.substr(at, what.size()) == what; }

// Parts of letters, digits, '.', '_' and '-', none of which begins with '.' or '-', joined by '/'.
bool allowed(std::string_view name) {
    bool begins = true;
    for (char c : name) {
        const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
        if (!plain && (begins || (c != '.' && c != '-' && c != '/'))) return false;
        begins = c == '/';
    }
    return !begins && name.size() <= kLongestName;
}

std::string lower(std::string_view name) {
    std::string text(name);
    for (char& c : text) c = c >= 'A' && c <= 'Z' ? char(c + 32) : c;
    return text;
}

}  // namespace

std::vector<Member> members_of(std::string_view file) {
    if (file.size() < kEnd || file.size() > UINT32_MAX) return {};
    const size_t end = file.size() - kEnd;
    const auto count = number<uint16_t>(file, end + 10);
    const auto length = number<uint32_t>(file, end + 12), position = number<uint32_t>(file, end + 16);
    const std::string last = record("PK\5\6", uint16_t(0), uint16_t(0), count, count, length, position, uint16_t(0));
    if (file.substr(end) != last || count > kMostMembers || length > end || position != end - length) return {};
    std::vector<Member> members;
    std::set<std::string> seen;
    size_t entry = position, local = 0;
    for (size_t i = 0; i < count; i++) {
        if (end - entry < kEntry) return {};
        const auto crc = number<uint32_t>(file, entry + 16), bytes = number<uint32_t>(file, entry + 24);
        const auto name_bytes = number<uint16_t>(file, entry + 28);
        if (name_bytes > end - entry - kEntry) return {};
        const std::string_view name = file.substr(entry + kEntry, name_bytes);
        if (!allowed(name) || (!members.empty() && name <= members.back().name) || !seen.insert(lower(name)).second) return {};
        const std::string listed = record("PK\1\2", kMadeBy, kVersion, uint16_t(0), uint16_t(0), uint16_t(0), kDate, crc, bytes, bytes, name_bytes, uint16_t(0),
                                          uint16_t(0), uint16_t(0), uint16_t(0), kMode, uint32_t(local));
        if (!is_at(file, entry, listed)) return {};
        entry += kEntry + name_bytes;
        const size_t before = local + kHeader + name_bytes + kPadding;
        const auto padding = uint16_t((kAlignment - before % kAlignment) % kAlignment);
        std::string header = record("PK\3\4", kVersion, uint16_t(0), uint16_t(0), uint16_t(0), kDate, crc, bytes, bytes, name_bytes, uint16_t(kPadding + padding));
        header.append(name);
        header += record("", kPaddingExtra, padding);
        header.append(padding, '\0');
        const size_t data = before + padding;
        if (bytes == UINT32_MAX || !is_at(file, local, header) || data > position || bytes > position - data) return {};
        members.push_back({name, data, bytes, crc});
        local = data + bytes;
    }
    if (entry != end || local != position) return {};
    return members;
}

}  // namespace hr
