// gRPC over HTTP/2, the parts that are no transport. Source: the gRPC project's PROTOCOL-HTTP2 document.
#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "bytes.h"
#include "call.h"

namespace hr::serve {

constexpr size_t kPrefix = 5;       // compression flag, length

// Seconds of a grpc-timeout value; nothing where it is malformed.
std::optional<double> parse_timeout(std::string_view text);

// The text of grpc-message: printable ASCII stays, everything else is percent-encoded.
std::string percent_encoded(std::string_view text);

// Writes the five bytes before a message.
void write_prefix(char* at, size_t size);
struct Prefix {
    bool compressed;
    size_t size;
};
Prefix read_prefix(const char* at);

enum class Encoding : uint8_t { identity, gzip, deflate, unknown };
Encoding encoding_of(std::string_view name);

// Inflates, stopping at `limit` bytes. False where the data is damaged; `too_large` where it would be longer.
bool inflate_message(Encoding encoding, std::string_view data, size_t limit, Bytes& out, bool& too_large);

}  // namespace hr::serve
