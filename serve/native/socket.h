// A non-blocking client socket, plain or with TLS.
#pragma once
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <utility>

namespace hr::serve {

class Socket {
public:
    explicit Socket(int fd, SSL* ssl = nullptr) : fd_(fd), ssl_(ssl) {}
    Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)), ssl_(std::exchange(other.ssl_, nullptr)) {}
    Socket(const Socket&) = delete;
    ~Socket() {
        if (ssl_) {
            ERR_clear_error();
            if (greeted() && !broken_) SSL_shutdown(ssl_);
            SSL_free(ssl_);
        }
        if (fd_ >= 0) ::close(fd_);
    }
    int fd() const { return fd_; }
    bool is_tls() const { return ssl_; }
    bool greeted() const { return !ssl_ || SSL_is_init_finished(ssl_); }       // no handshake is under way

    enum class Result { ok, again, closed };
    struct Done {
        Result result;
        size_t bytes = 0;
    };
    Done read(void* to, size_t size) {
        if (!ssl_) return plain(::recv(fd_, to, size, 0));
        ERR_clear_error();      // what another connection left: SSL_get_error looks at the thread's queue
        return tls(SSL_read(ssl_, to, int(size)));
    }
    Done read(const iovec* parts, int n) {
        if (ssl_) return read(parts[0].iov_base, parts[0].iov_len);
        return plain(::readv(fd_, parts, n));
    }
    Done write(const void* from, size_t size) {
        if (!ssl_) return plain(::send(fd_, from, size, MSG_NOSIGNAL));
        ERR_clear_error();
        return tls(SSL_write(ssl_, from, int(size)));
    }
    Done write(const iovec* parts, int n) {
        if (ssl_) return write(parts[0].iov_base, parts[0].iov_len);
        msghdr message{};
        message.msg_iov = const_cast<iovec*>(parts), message.msg_iovlen = size_t(n);
        return plain(::sendmsg(fd_, &message, MSG_NOSIGNAL));
    }
    bool pending() const { return ssl_ && SSL_pending(ssl_) > 0; }     // bytes that the kernel no longer announces
    bool wants_write() const { return wants_write_; }      // TLS waits for room

private:
    static Done plain(ssize_t n) {
        if (n > 0) return {Result::ok, size_t(n)};
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return {Result::again};
        return {Result::closed};
    }
    Done tls(int n) {
        wants_write_ = false;
        if (n > 0) return {Result::ok, size_t(n)};
        switch (SSL_get_error(ssl_, n)) {
            case SSL_ERROR_WANT_WRITE: wants_write_ = true; [[fallthrough]];
            case SSL_ERROR_WANT_READ: return {Result::again};
            case SSL_ERROR_ZERO_RETURN: return {Result::closed};
            default: broken_ = true; return {Result::closed};
        }
    }
    int fd_;
    SSL* ssl_;
    bool wants_write_ = false, broken_ = false;
};

}  // namespace hr::serve
