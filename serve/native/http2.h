// One HTTP/2 connection of a gRPC server: frames by libnghttp2, messages, limits, back-pressure. Loop thread only.
#pragma once
#include <nghttp2/nghttp2.h>

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "connection.h"
#include "grpc.h"

namespace hr::serve {

class Http2Connection : public Connection {
public:
    Http2Connection(Hub& hub, Socket socket, bool local);
    ~Http2Connection() override;

    bool on_readable() override;
    bool flush() override;
    void send(int32_t stream, Bytes framed) override;
    void finish(int32_t stream, Status status) override;
    void expire(int32_t stream) override;
    void drop(int32_t stream) override;
    void taken(int32_t stream, size_t bytes) override;
    void refuse_new() override;                 // GOAWAY
    bool tick() override;

private:
    struct Stream;
    bool receive(const uint8_t* bytes, size_t size);
    std::string_view landing();                 // where the bytes that come next belong; empty: to be looked at first
    void begin(Stream& stream);                 // headers are complete
    void data(Stream& stream, const uint8_t* bytes, size_t size);
    void end_of_input(Stream& stream);
    void fail(Stream& stream, Code code, std::string text);
    void refuse(Stream& stream, Bound bound, std::string text);
    void give_credit(Stream& stream);
    void gave(Stream& stream);                  // bytes of its answer to the socket
    void start_answer(Stream& stream);
    bool control_frame();
    void leave();                               // GOAWAY, when the client has had time to hear of it

    static int on_begin_frame(nghttp2_session*, const nghttp2_frame_hd*, void*);
    static int on_begin_headers(nghttp2_session*, const nghttp2_frame*, void*);
    static int on_header(nghttp2_session*, const nghttp2_frame*, const uint8_t*, size_t, const uint8_t*, size_t, uint8_t, void*);
    static int on_frame(nghttp2_session*, const nghttp2_frame*, void*);
    static int on_data(nghttp2_session*, uint8_t, int32_t, const uint8_t*, size_t, void*);
    static int on_close(nghttp2_session*, int32_t, uint32_t, void*);
    static int send_body(nghttp2_session*, nghttp2_frame*, const uint8_t*, size_t, nghttp2_data_source*, void*);
    static ssize_t read_body(nghttp2_session*, int32_t, uint8_t*, size_t, uint32_t*, nghttp2_data_source*, void*);

    nghttp2_session* session_ = nullptr;
    std::unordered_map<int32_t, std::unique_ptr<Stream>> streams_;
    Time opened_, last_read_, idle_since_, goaway_at_ = kNever, ping_sent_ = kNever, window_start_;
    int32_t arriving_ = 0;                      // the stream whose DATA frame has not ended
    size_t left_ = 0;                           // ... and what it lacks; 0 where that is in doubt
    bool large_ = false;                        // its client sends large frames
    const uint8_t* delivered_ = nullptr;        // the end of what nghttp2 handed on last
    int controls_ = 0;
    bool greeted_ = false;                      // the client's SETTINGS came
    bool leaving_ = false;                      // GOAWAY sent
    bool last_said_ = false;                    // ... with the last call that is answered
};

}  // namespace hr::serve
