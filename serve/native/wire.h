// Reading and writing protobuf's wire format, bounded. Source: the protocol buffers encoding guide.
#pragma once
#include <cstdint>
#include <cstring>
#include <string_view>

namespace hr::serve {

// Walks the fields of one message. Every length is checked against what is left; `ok` is false after damage.
class Reader {
public:
    explicit Reader(std::string_view data) : at_(data.data()), end_(data.data() + data.size()) {}

    bool next() {                   // moves to the next field; false at the end or where the bytes are damaged
        if (at_ == end_) return false;
        uint64_t tag;
        if (!varint(tag) || tag >> 3 == 0 || tag >> 3 > 536870911) return damaged();
        field_ = int(tag >> 3), type_ = int(tag & 7);
        switch (type_) {
            case 0: return varint(number_) || damaged();
            case 1: return skip(8);
            case 5: return skip(4);
            case 2: {
                uint64_t size;
                if (!varint(size) || size > uint64_t(end_ - at_)) return damaged();
                body_ = {at_, size_t(size)};
                at_ += size;
                return true;
            }
            default: return damaged();      // groups
        }
    }
    bool ok() const { return ok_; }
    int field() const { return field_; }
    bool is_bytes() const { return type_ == 2; }
    bool is_number() const { return type_ == 0; }
    std::string_view body() const { return body_; }
    uint64_t number() const { return number_; }

    bool varint(uint64_t& out) {
        out = 0;
        for (int shift = 0; shift < 70; shift += 7) {
            if (at_ == end_) return false;
            const unsigned char byte = static_cast<unsigned char>(*at_++);
            if (shift < 64) out |= uint64_t(byte & 0x7f) << shift;
            if (byte < 0x80) return true;
        }
        return false;
    }
    bool at_end() const { return at_ == end_; }

private:
    bool skip(int n) {
        if (end_ - at_ < n) return damaged();
        at_ += n;
        return true;
    }
    bool damaged() {
        ok_ = false, at_ = end_;
        return false;
    }
    const char *at_, *end_;
    bool ok_ = true;
    int field_ = 0, type_ = 0;
    uint64_t number_ = 0;
    std::string_view body_;
};

inline size_t varint_size(uint64_t value) {
    size_t n = 1;
    while (value > 0x7f) value >>= 7, n++;
    return n;
}
inline char* put_varint(char* at, uint64_t value) {
    while (value > 0x7f) *at++ = char(value | 0x80), value >>= 7;
    *at++ = char(value);
    return at;
}
// A length-delimited field with a number below 16.
inline size_t field_size(size_t body) { return 1 + varint_size(body) + body; }
inline char* put_field(char* at, int field, size_t body) {
    *at++ = char(field << 3 | 2);
    return put_varint(at, body);
}
inline char* put_text(char* at, int field, std::string_view text) {
    at = put_field(at, field, text.size());
    std::memcpy(at, text.data(), text.size());
    return at + text.size();
}

}  // namespace hr::serve
