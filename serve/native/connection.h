// A client's connection as the loop sees it, whatever it speaks. Loop thread only.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "call.h"
#include "outbox.h"
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
    virtual size_t& buffered() = 0;             // bytes of requests that are not answered
    virtual void refused(Bound bound) = 0;      // counts
    virtual void held(uint64_t call, size_t bytes) = 0;     // of an answer in parts: what has yet to leave here
    virtual Time now() const = 0;
};

class Connection {
public:
    Connection(Hub& hub, Socket socket, bool local) : hub_(hub), socket_(std::move(socket)), local_(local) {}
    virtual ~Connection() = default;
    Connection(const Connection&) = delete;

    virtual bool on_readable() = 0;             // false: close it
    virtual bool flush() = 0;                   // writes what is ready; false: close it
    virtual bool wants_read() const { return true; }
    bool wants_write() const { return socket_.is_tls() ? socket_.wants_write() : !out_.empty(); }     // TLS may wait to read first
    bool greeted() const { return socket_.greeted(); }
    int fd() const { return socket_.fd(); }

    // Answers of a call; unknown streams are ignored (the client left).
    virtual void send(int32_t stream, Bytes framed) = 0;        // a message with its five-byte prefix
    virtual void finish(int32_t stream, Status status) = 0;
    virtual void expire(int32_t stream) = 0;                    // the deadline passed
    virtual void drop(int32_t stream) = 0;                      // no more of the answer: its client takes nothing
    virtual void taken(int32_t stream, size_t bytes) { (void)stream, (void)bytes; }     // the handler has read a message
    virtual void respond(int32_t stream, Bytes head, Bytes body, bool close, bool more) { (void)stream, (void)head, (void)body, (void)close, (void)more; }

    virtual void refuse_new() = 0;              // accepted calls go on
    virtual bool tick() = 0;                    // timers; false: close it

    bool dirty = false;                         // something to flush
    uint32_t watched = 0;                       // events that the loop watches for

protected:
    Hub& hub_;
    Socket socket_;
    const bool local_;
    Outbox out_;                                // not yet taken by the kernel
};

}  // namespace hr::serve
