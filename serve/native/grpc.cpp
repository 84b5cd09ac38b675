#include "grpc.h"

#include <zlib.h>

namespace hr::serve {

std::optional<double> parse_timeout(std::string_view text) {
    if (text.size() < 2 || text.size() > 9) return std::nullopt;        // at most eight digits and a unit
    double value = 0;
    for (char c : text.substr(0, text.size() - 1)) {
        if (c < '0' || c > '9') return std::nullopt;
        value = value * 10 + (c - '0');
    }
    switch (text.back()) {
        case 'H': return value * 3600;
        case 'M': return value * 60;
        case 'S': return value;
        case 'm': return value * 1e-3;
        case 'u': return value * 1e-6;
        case 'n': return value * 1e-9;
        default: return std::nullopt;
    }
}

std::string percent_encoded(std::string_view text) {
    static const char digits[] = "0123456789ABCDEF";
    std::string out;
    for (unsigned char c : text) {
        if (c >= 0x20 && c <= 0x7e && c != '%') {
            out += char(c);
        } else {
            out += '%';
            out += digits[c >> 4];
            out += digits[c & 15];
        }
    }
    return out;
}

void write_prefix(char* at, size_t size) {
    at[0] = 0;
    for (int i = 0; i < 4; i++) at[1 + i] = char(size >> (24 - 8 * i));
}

Prefix read_prefix(const char* at) {
    size_t size = 0;
    for (int i = 0; i < 4; i++) size = size << 8 | static_cast<unsigned char>(at[1 + i]);
    return {at[0] != 0, size};
}

Encoding encoding_of(std::string_view name) {
    if (name.empty() || name == "identity") return Encoding::identity;
    if (name == "gzip") return Encoding::gzip;
    if (name == "deflate") return Encoding::deflate;
    return Encoding::unknown;
}

bool inflate_message(Encoding encoding, std::string_view data, size_t limit, Bytes& out, bool& too_large) {
    too_large = false;
    z_stream stream{};
    if (inflateInit2(&stream, encoding == Encoding::gzip ? 15 + 16 : 15) != Z_OK) return false;
    struct End {
        z_stream* stream;
        ~End() { inflateEnd(stream); }
    } end{&stream};
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
    stream.avail_in = uInt(data.size());
    constexpr size_t kPiece = 64 << 10;
    for (;;) {
        const size_t before = out.size();
        stream.next_out = reinterpret_cast<Bytef*>(out.extend(kPiece));
        stream.avail_out = kPiece;
        const int state = inflate(&stream, Z_NO_FLUSH);
        out.truncate(before + kPiece - stream.avail_out);
        if (out.size() > limit) return too_large = true, false;
        if (state == Z_STREAM_END) return stream.avail_in == 0;
        if (state != Z_OK || (stream.avail_in == 0 && stream.avail_out != 0)) return false;
    }
}

}  // namespace hr::serve
