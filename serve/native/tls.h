// Server-side TLS settings: the protocol by ALPN, TLS 1.2 and newer, client certificates where an authority is given.
#pragma once
#include <openssl/ssl.h>

#include <string>

namespace hr::serve {

// The arguments are PEM texts: a certificate with the chain above it, its key, the authorities of clients ("": clients need no
// certificate). Throws std::runtime_error naming what cannot be used.
SSL_CTX* make_tls(const std::string& certificate, const std::string& key, const std::string& authority, bool http);

}  // namespace hr::serve
