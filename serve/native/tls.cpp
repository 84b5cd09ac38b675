#include "tls.h"

#include <openssl/err.h>
#include <openssl/pem.h>

#include <memory>
#include <stdexcept>

namespace hr::serve {

namespace {

constexpr unsigned char kH2[] = "\x02h2", kHttp[] = "\x08http/1.1";

template <auto release>
struct Release {
    template <typename T>
    void operator()(T* object) const { release(object); }
};
using Bio = std::unique_ptr<BIO, Release<BIO_free>>;
using X509Ptr = std::unique_ptr<X509, Release<X509_free>>;

int choose(SSL*, const unsigned char** out, unsigned char* size, const unsigned char* offered, unsigned int offered_size, void* spoken) {
    auto* name = static_cast<const unsigned char*>(spoken);
    unsigned char* chosen;
    if (SSL_select_next_proto(&chosen, size, name, 1u + name[0], offered, offered_size) != OPENSSL_NPN_NEGOTIATED) return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

int no_password(char*, int, int, void*) { return -1; }     // never asked for on a terminal

void need(bool good, const char* what) {
    if (good) return;
    char text[256];
    ERR_error_string_n(ERR_get_error(), text, sizeof text);
    ERR_clear_error();
    throw std::runtime_error(std::string(what) + " cannot be used: " + text);
}

Bio reader(const std::string& pem) { return Bio(BIO_new_mem_buf(pem.data(), int(pem.size()))); }

// The next certificate of a PEM text; null: there are no more.
X509Ptr next(BIO* bio) {
    X509Ptr found(PEM_read_bio_X509(bio, nullptr, no_password, nullptr));
    if (!found) ERR_clear_error();
    return found;
}

}  // namespace

SSL_CTX* make_tls(const std::string& certificate, const std::string& key, const std::string& authority, bool http) {
    std::unique_ptr<SSL_CTX, Release<SSL_CTX_free>> context(SSL_CTX_new(TLS_server_method()));
    SSL_CTX* raw = context.get();
    SSL_CTX_set_min_proto_version(raw, TLS1_2_VERSION);
    SSL_CTX_set_mode(raw, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_options(raw, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);

    const Bio chain = reader(certificate);
    const X509Ptr own = next(chain.get());
    need(own && SSL_CTX_use_certificate(raw, own.get()) == 1, "the certificate");
    while (const X509Ptr above = next(chain.get())) need(SSL_CTX_add1_chain_cert(raw, above.get()) == 1, "the certificate's chain");
    const std::unique_ptr<EVP_PKEY, Release<EVP_PKEY_free>> secret(PEM_read_bio_PrivateKey(reader(key).get(), nullptr, no_password, nullptr));
    need(secret && SSL_CTX_use_PrivateKey(raw, secret.get()) == 1 && SSL_CTX_check_private_key(raw) == 1, "the key (for this certificate)");

    if (!authority.empty()) {
        const Bio trusted = reader(authority);
        int count = 0;
        for (; const X509Ptr one = next(trusted.get()); count++) {
            need(X509_STORE_add_cert(SSL_CTX_get_cert_store(raw), one.get()) == 1, "the authority");
            SSL_CTX_add_client_CA(raw, one.get());
        }
        need(count > 0, "the authority");
        SSL_CTX_set_verify(raw, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
        SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_OFF);       // a resumed session would not show its certificate again
        SSL_CTX_set_options(raw, SSL_OP_NO_TICKET);
        SSL_CTX_set_num_tickets(raw, 0);
    }
    SSL_CTX_set_alpn_select_cb(raw, choose, const_cast<unsigned char*>(http ? kHttp : kH2));
    return context.release();
}

}  // namespace hr::serve
