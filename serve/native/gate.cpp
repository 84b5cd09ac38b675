#include "gate.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <string_view>

namespace hr::serve {

namespace {

constexpr std::string_view kBearer = "Bearer ";

Digest digest_of(std::string_view text) {
    Digest out;
    SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), out.data());
    return out;
}

const std::string* find(const Metadata& metadata, std::string_view name) {
    for (const auto& [key, value] : metadata)
        if (key == name) return &value;
    return nullptr;
}

bool equal(const Digest& a, const Digest& b) { return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0; }

}  // namespace

bool Gate::admits(const Metadata& metadata, std::string& principal) const {
    if (needs_header) {
        bool good = false;
        for (const Header& header : headers)
            if (const std::string* value = find(metadata, header.name)) good |= equal(header.digest, digest_of(*value));
        if (!good) return false;
    }
    if (!needs_token) return true;
    const std::string* value = find(metadata, "authorization");
    if (!value || !std::string_view(*value).starts_with(kBearer)) return false;
    const Digest digest = digest_of(std::string_view(*value).substr(kBearer.size()));
    const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    bool good = false;
    for (const Token& token : tokens)           // all are compared
        if (equal(token.digest, digest) && now < token.expires) good = true, principal = token.name;
    return good;
}

}  // namespace hr::serve
