// The event loop of the native front: one thread, epoll, one listener, timers, and answers from other threads.
#pragma once
#include <condition_variable>
#include <functional>
#include <mutex>
#include <queue>
#include <thread>
#include <unordered_map>
#include <vector>

#include "http1.h"
#include "http2.h"

namespace hr::serve {

class Loop : public Hub {
public:
    enum class Protocol { grpc, http };

    explicit Loop(const Limits& limits);
    ~Loop();

    // Before `start`: takes the port (0: a free one), and answers its number. Takes over `tls`. Calls know their listener by
    // its position. Throws std::system_error where the port cannot be taken.
    int listen(const std::string& host, int port, Protocol protocol, SSL_CTX* tls);
    void set_tls(size_t listener, SSL_CTX* tls);        // from any thread: for its next connections. Takes over `tls`
    void start(Handler& handler);
    void refuse_new();                          // closes the listeners, tells every client to go elsewhere; accepted calls go on
    void stop();                                // closes everything; returns when the thread has ended

    // From any thread; a call that has ended is ignored. Messages come with five free bytes before them for the prefix.
    // `held`: with the answers that follow it, by `push`: a loop that is woken for each takes turns with the thread that makes them.
    void answer(uint64_t call, Bytes framed, bool held = false);        // the only message, and OK
    void send(uint64_t call, Bytes framed);
    void finish(uint64_t call, Status status);
    // Of an HTTP request. `more`: a part, others follow; the head comes with the first.
    void respond(uint64_t call, Bytes head, Bytes body, bool close, bool more = false, bool held = false);
    void push();
    void post(std::function<void()> task);      // runs on the loop's thread
    // Waits until most of the parts that were sent of an answer have left; false: the call is over, or nothing has left for
    // so long. Not on the loop's thread.
    bool wait_sent(uint64_t call, double seconds);
    void drop(uint64_t call);                   // ends it without an answer
    void taken(uint64_t call, size_t bytes);    // a message of a stream has been read: the client may send on

    bool on_thread() const { return std::this_thread::get_id() == thread_id_.load(); }
    Time now() const override { return now_; }
    uint64_t rejections(Bound bound) const { return refused_[size_t(bound)].load(std::memory_order_relaxed); }
    size_t open_connections() const { return connections_count_.load(std::memory_order_relaxed); }

private:
    Handler& handler() override { return *handler_; }
    const Limits& limits() const override { return limits_; }
    void opened(const std::shared_ptr<Call>& call, Connection& connection, int32_t stream) override;
    void closed(Call& call) override;
    size_t& buffered() override { return buffered_; }
    void held(uint64_t call, size_t bytes) override;
    void refused(Bound bound) override { refused_[size_t(bound)].fetch_add(1, std::memory_order_relaxed); }

    struct Answer {
        enum Kind { part, whole, end, http } kind;    // a message of a stream; the only one; a status
        uint64_t call;
        Bytes message, head;
        Status status;
        bool close = false, more = false;
    };
    struct Listener {
        int fd;
        Protocol protocol;
        SSL_CTX* tls;
    };
    struct Place {
        Connection* connection;
        int32_t stream;
    };
    // An answer in parts: bytes that are on their way to the connection, and that it holds; when some left last.
    struct Flow {
        size_t posted = 0, held = 0;
        uint64_t left = 0;
    };
    void put(Answer answer, bool held = false);
    void apply(Answer& answer);
    void run();
    void accept_clients(int listener);
    void close_listeners();
    void close(Connection& connection);
    void drain_mailbox();
    void expire();
    void wake();

    Limits limits_;
    Handler* handler_ = nullptr;
    std::vector<Listener> listeners_;
    int epoll_ = -1, event_ = -1;
    std::thread thread_;
    std::atomic<std::thread::id> thread_id_{};
    std::atomic<bool> stopping_{false};
    std::atomic<size_t> connections_count_{0};
    std::atomic<uint64_t> refused_[std::size(kBounds)] = {};
    Time now_ = Clock::now();
    size_t buffered_ = 0;
    uint64_t next_call_ = 1;
    std::unordered_map<int, std::unique_ptr<Connection>> connections_;
    std::unordered_map<uint64_t, Place> calls_;
    std::vector<Connection*> dirty_;
    using Deadline = std::pair<Time, uint64_t>;
    std::priority_queue<Deadline, std::vector<Deadline>, std::greater<>> deadlines_;

    std::mutex lock_;
    std::vector<Answer> answers_;
    std::vector<std::function<void()>> tasks_;
    std::atomic<bool> woken_{false};        // of what is in these
    std::atomic<bool> held_{false};         // something waits for `push`

    std::mutex flow_lock_;
    std::condition_variable flowed_;
    std::unordered_map<uint64_t, Flow> flows_;      // those with a part under way
    bool over_ = false;
};

}  // namespace hr::serve
