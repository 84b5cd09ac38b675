// Server-side TLS settings: the protocol by ALPN, TLS 1.2 and newer, client certificates where an authority is given.
#pragma once
#include <openssl/ssl.h>

#include <string>

namespace hr::serve {

// Throws std::runtime_error naming the file that cannot be used. `authority` empty: clients need no certificate.
SSL_CTX* make_tls(const std::string& certificate, const std::string& key, const std::string& authority, bool http);

}  // namespace hr::serve
