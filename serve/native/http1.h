// One HTTP/1.1 connection: requests in their strict form, one at a time, every limit applied before or while bytes are
// read. Source: RFC 9110, RFC 9112. What is ambiguous (both lengths, differing ones, odd chunks) ends the connection.
#pragma once
#include <string>
#include <string_view>

#include "connection.h"

namespace hr::serve {

class Http1Connection : public Connection {
public:
    Http1Connection(Hub& hub, Socket socket, bool local, int listener);
    ~Http1Connection() override;

    bool on_readable() override;
    bool flush() override;
    bool wants_read() const override { return state_ == State::answering ? in_.size() < kReadAhead : !is_full(); }
    void send(int32_t, Bytes) override {}
    void finish(int32_t, Status) override {}
    void expire(int32_t) override {}
    void drop(int32_t request) override;
    void respond(int32_t request, Bytes head, Bytes body, bool close, bool more) override;
    void refuse_new() override;
    bool tick() override;

private:
    static constexpr size_t kReadAhead = 64 << 10;      // of the next request, while one is answered
    static constexpr size_t kUnread = 1 << 20;          // of answers, before the next request is looked at
    enum class State { head, body, chunk_size, chunk_data, chunk_end, trailers, answering, lingering };

    void advance();                         // as far as the bytes allow
    bool read_head();                       // false: more bytes are needed, or it was refused
    bool parse_head(std::string_view head);
    bool read_line(std::string& line, size_t limit, int status, const char* text);
    bool read_body();
    bool read_chunks();
    bool grow(size_t bytes);                // within the limits; false: refused
    void complete();
    void refuse(int status, const char* text);
    void begin_next();
    bool is_full() const { return out_.size() > kUnread; }      // the client does not read
    void take(size_t bytes);
    std::string_view rest() const { return std::string_view(in_).substr(in_at_); }

    State state_ = State::head;
    std::string in_;
    size_t in_at_ = 0;
    size_t scanned_ = 0;                    // of the head: no end of it before here
    std::shared_ptr<Call> call_;
    int32_t request_ = 0;                   // counts the requests of the connection
    size_t left_ = 0;                       // of the body, or of the chunk
    size_t charged_ = 0;                    // of Hub::buffered
    bool keep_alive_ = true, leaving_ = false, head_only_ = false;
    bool chunks_ = false;                   // the client reads chunks (HTTP/1.1)
    bool dropped_ = false;
    bool parts_ = false, ends_ = false;     // an answer in parts is on its way; its end is the end of the connection
    Time quiet_since_, head_since_ = kNever, window_since_ = kNever, linger_until_ = kNever;
    size_t window_bytes_ = 0, trailer_bytes_ = 0;
    const int listener_;
};

}  // namespace hr::serve
