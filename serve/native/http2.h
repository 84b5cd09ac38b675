// One HTTP/2 connection of a gRPC server: frames by libnghttp2, messages, limits, back-pressure. Loop thread only.
#pragma once
#include <nghttp2/nghttp2.h>

#include <deque>
#include <memory>
#include <string>
#include <unordered_map>

#include "call.h"
#include "grpc.h"
#include "socket.h"

namespace hr::serve {

class Connection;

// What a connection needs of the loop around it.
class Hub {
public:
    virtual ~Hub() = default;
    virtual Handler& handler() = 0;
    virtual const Limits& limits() const = 0;
    virtual void opened(const std::shared_ptr<Call>& call, Connection& connection, int32_t stream) = 0;    // gives it an id
    virtual void closed(Call& call) = 0;
    virtual size_t& buffered() = 0;             // bytes of incomplete requests
    virtual Time now() const = 0;
};

class Connection {
public:
    Connection(Hub& hub, Socket socket, bool local);
    ~Connection();
    Connection(const Connection&) = delete;

    bool on_readable();                         // false: close it
    bool flush();                               // frames what is ready and writes; false: close it
    bool wants_write() const { return out_.size() > out_at_ || socket_.wants_write(); }
    int fd() const { return socket_.fd(); }

    // Answers of a call; unknown streams are ignored (the client left).
    void send(int32_t stream, Bytes framed);                    // a message with its five-byte prefix
    void finish(int32_t stream, Status status);
    void expire(int32_t stream);                                // the deadline passed

    void refuse_new();                          // GOAWAY; accepted calls go on
    bool tick();                                // timers; false: close it
    bool idle() const { return streams_.empty(); }
    bool dirty = false;                         // something to flush
    bool watched_for_writing = false;           // the loop's

private:
    struct Stream;
    void begin(Stream& stream);                 // headers are complete
    void data(Stream& stream, const uint8_t* bytes, size_t size);
    void end_of_input(Stream& stream);
    void deliver(Stream& stream, std::string_view body, bool compressed);
    void fail(Stream& stream, Code code, std::string text);
    void respond(Stream& stream);
    bool control_frame();

    static int on_begin_headers(nghttp2_session*, const nghttp2_frame*, void*);
    static int on_header(nghttp2_session*, const nghttp2_frame*, const uint8_t*, size_t, const uint8_t*, size_t, uint8_t, void*);
    static int on_frame(nghttp2_session*, const nghttp2_frame*, void*);
    static int on_data(nghttp2_session*, uint8_t, int32_t, const uint8_t*, size_t, void*);
    static int on_close(nghttp2_session*, int32_t, uint32_t, void*);
    static ssize_t read_body(nghttp2_session*, int32_t, uint8_t*, size_t, uint32_t*, nghttp2_data_source*, void*);

    Hub& hub_;
    Socket socket_;
    nghttp2_session* session_ = nullptr;
    bool local_;
    std::unordered_map<int32_t, std::unique_ptr<Stream>> streams_;
    std::string out_;                           // framed, not yet taken by the kernel
    size_t out_at_ = 0;
    Time opened_, last_read_, idle_since_, goaway_at_ = kNever, ping_sent_ = kNever, window_start_;
    int controls_ = 0;
    bool greeted_ = false;                      // the client's SETTINGS came
    bool leaving_ = false;                      // GOAWAY sent
};

}  // namespace hr::serve
