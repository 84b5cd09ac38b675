#include "tls.h"

#include <openssl/err.h>

#include <memory>
#include <stdexcept>

namespace hr::serve {

namespace {

constexpr unsigned char kH2[] = "\x02h2", kHttp[] = "\x08http/1.1";

int choose(SSL*, const unsigned char** out, unsigned char* size, const unsigned char* offered, unsigned int offered_size, void* spoken) {
    auto* name = static_cast<const unsigned char*>(spoken);
    unsigned char* chosen;
    if (SSL_select_next_proto(&chosen, size, name, 1u + name[0], offered, offered_size) != OPENSSL_NPN_NEGOTIATED) return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

}  // namespace

SSL_CTX* make_tls(const std::string& certificate, const std::string& key, const std::string& authority, bool http) {
    std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
    SSL_CTX* raw = context.get();
    const auto need = [](int result, const char* what) {
        if (result != 1) {
            char text[256];
            ERR_error_string_n(ERR_get_error(), text, sizeof text);
            ERR_clear_error();
            throw std::runtime_error(std::string(what) + " cannot be used: " + text);
        }
    };
    SSL_CTX_set_min_proto_version(raw, TLS1_2_VERSION);
    SSL_CTX_set_mode(raw, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_options(raw, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    need(SSL_CTX_use_certificate_chain_file(raw, certificate.c_str()), "the certificate file");
    need(SSL_CTX_use_PrivateKey_file(raw, key.c_str(), SSL_FILETYPE_PEM), "the key file");
    need(SSL_CTX_check_private_key(raw), "the key file (for this certificate)");
    if (!authority.empty()) {
        need(SSL_CTX_load_verify_locations(raw, authority.c_str(), nullptr), "the authority file");
        SSL_CTX_set_client_CA_list(raw, SSL_load_client_CA_file(authority.c_str()));
        SSL_CTX_set_verify(raw, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    }
    SSL_CTX_set_alpn_select_cb(raw, choose, const_cast<unsigned char*>(http ? kHttp : kH2));
    return context.release();
}

}  // namespace hr::serve
