// One RPC between a transport and what answers it.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bytes.h"

namespace hr::serve {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;
constexpr Time kNever = Time::max();
constexpr double kFarSeconds = 1e7;     // a deadline so far away is none

inline double seconds_between(Time from, Time to) { return std::chrono::duration<double>(to - from).count(); }
inline Clock::duration span(double seconds) { return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds)); }

// gRPC status codes: https://grpc.github.io/grpc/core/md_doc_statuscodes.html
enum class Code : int {
    ok = 0, cancelled = 1, unknown = 2, invalid_argument = 3, deadline_exceeded = 4, not_found = 5, already_exists = 6,
    permission_denied = 7, resource_exhausted = 8, failed_precondition = 9, aborted = 10, out_of_range = 11,
    unimplemented = 12, internal = 13, unavailable = 14, data_loss = 15, unauthenticated = 16
};

struct Status {
    Code code = Code::ok;
    std::string text;
    int64_t retry_ms = -1;      // trailer grpc-retry-pushback-ms where >= 0
};

enum class Shape : uint8_t { unary, stream, http };     // stream: any number of messages either way; http: an HTTP/1.1 request

using Metadata = std::vector<std::pair<std::string, std::string>>;

struct Call {
    uint64_t id = 0;
    std::string path;                           // of an HTTP request: the target
    std::string method;                         // of an HTTP request
    Shape shape = Shape::unary;
    bool local = false;                         // the client is on this machine
    int listener = 0;                           // which listener it came through
    Time deadline = kNever;
    Metadata metadata;
    Bytes message;                              // of a unary call
    std::atomic<bool> gone{false};              // ended: nobody waits for an answer any more
    bool in_python = false;                     // handed to Python, which is told of its end; loop thread only
};

// What answers calls. Every function is called on the loop's thread and must not block.
class Handler {
public:
    virtual ~Handler() = default;
    virtual bool knows(const std::string& path, Shape& shape) = 0;
    virtual void call(std::shared_ptr<Call> call) = 0;                      // unary: complete; stream: opened
    virtual void message(const std::shared_ptr<Call>& call, Bytes message) = 0;
    virtual void half_close(const std::shared_ptr<Call>& call) = 0;         // the client sends no more
    virtual void gone(const std::shared_ptr<Call>& call) = 0;               // cancelled, expired or disconnected
    virtual void turn() = 0;                                                // after each turn of the loop
    virtual bool has_work() const = 0;                                      // another turn is due at once
    virtual void refuse(const std::shared_ptr<Call>& call, int status, const char* text) = 0;      // what came is no HTTP request
};

// Which limit refused something; rejections.py has the same names.
enum class Bound : uint8_t { message, headers, time, connections, buffered };
constexpr const char* kBounds[] = {"message", "headers", "time", "connections", "buffered"};

struct Limits {
    size_t max_message_bytes = 64u << 20;
    size_t max_metadata_bytes = 16u << 10;
    size_t max_buffered_bytes = 512u << 20;     // of requests that are not complete, over all connections
    int max_connections = 1024;
    int max_concurrent_streams = 128;
    double handshake_timeout_s = 10;
    double idle_timeout_s = 300;
    double age_s = 3600, age_grace_s = 30;
    double keepalive_s = 60, keepalive_timeout_s = 20;
    int control_frames_per_second = 200;        // pings, settings, resets: more is abuse

    // HTTP/1.1
    size_t max_target_bytes = 8 << 10, max_header_bytes = 32 << 10;
    int max_headers = 100;
    double header_timeout_s = 10, http_idle_timeout_s = 60, body_window_s = 10;
    size_t body_window_bytes = 10 << 10;        // at least so much of a body in every window
};

}  // namespace hr::serve
