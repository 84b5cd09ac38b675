#include "loop.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <system_error>

namespace hr::serve {

namespace {

constexpr auto kTick = std::chrono::milliseconds(100);
constexpr int kBacklog = 1024;
constexpr size_t kUnsent = 1 << 20;         // of an answer in parts, before its maker waits

int listen_on(const std::string& host, int port) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_family = AF_UNSPEC, hints.ai_socktype = SOCK_STREAM, hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
    if (const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found))
        throw std::system_error(EADDRNOTAVAIL, std::generic_category(), gai_strerror(error));
    const int fd = ::socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    const int failed = fd < 0 || ::bind(fd, found->ai_addr, found->ai_addrlen) || ::listen(fd, kBacklog);
    const int error = errno;
    freeaddrinfo(found);
    if (failed) {
        if (fd >= 0) ::close(fd);
        throw std::system_error(error, std::generic_category());
    }
    return fd;
}

int port_of(int fd) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
    return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

bool is_loopback(const sockaddr_storage& address) {
    if (address.ss_family == AF_INET) return (ntohl(reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr) >> 24) == 127;
    if (address.ss_family != AF_INET6) return false;
    const in6_addr& a = reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(&a) || (IN6_IS_ADDR_V4MAPPED(&a) && a.s6_addr[12] == 127);
}

void watch(int epoll, int operation, int fd, uint32_t events) {
    epoll_event event{};
    event.events = events, event.data.fd = fd;
    epoll_ctl(epoll, operation, fd, &event);
}

}  // namespace

Loop::Loop(const Limits& limits) : limits_(limits) {
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    event_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    watch(epoll_, EPOLL_CTL_ADD, event_, EPOLLIN);
}

Loop::~Loop() {
    stop();
    close_listeners();
    for (const Listener& listener : listeners_)
        if (listener.tls) SSL_CTX_free(listener.tls);
    ::close(epoll_), ::close(event_);
}

int Loop::listen(const std::string& host, int port, Protocol protocol, SSL_CTX* tls) {
    const int fd = listen_on(host, port);
    listeners_.push_back({fd, protocol, tls});
    watch(epoll_, EPOLL_CTL_ADD, fd, EPOLLIN);
    return port_of(fd);
}

void Loop::set_tls(size_t listener, SSL_CTX* tls) {
    post([this, listener, tls] { SSL_CTX_free(std::exchange(listeners_[listener].tls, tls)); });      // open connections hold the old one
}

void Loop::close_listeners() {
    for (Listener& listener : listeners_)
        if (listener.fd >= 0) ::close(std::exchange(listener.fd, -1));
}

void Loop::start(Handler& handler) {
    handler_ = &handler;
    thread_ = std::thread([this] { run(); });
}

void Loop::stop() {
    if (!thread_.joinable()) return;
    stopping_ = true;
    wake();
    thread_.join();
    std::lock_guard guard(flow_lock_);
    over_ = true;
    flowed_.notify_all();
}

void Loop::refuse_new() {
    post([this] {
        close_listeners();
        for (auto& [fd, connection] : connections_) connection->refuse_new(), dirty_.push_back(connection.get());
    });
}

// ---- from other threads ----

void Loop::wake() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(event_, &one, sizeof one);
}

void Loop::put(Answer answer, bool held) {
    if (answer.kind == Answer::part || answer.more) {
        std::lock_guard guard(flow_lock_);
        flows_[answer.call].posted += answer.message.size();
    }
    if (on_thread()) return apply(answer);
    {
        std::lock_guard guard(lock_);
        answers_.push_back(std::move(answer));
    }
    held_ = true;
    if (!held) push();
}

void Loop::push() {
    if (held_.exchange(false) && !woken_.exchange(true)) wake();        // without the lock, which the loop would run into
}

void Loop::answer(uint64_t call, Bytes framed, bool held) { put({Answer::whole, call, std::move(framed), {}, {}}, held); }
void Loop::send(uint64_t call, Bytes framed) { put({Answer::part, call, std::move(framed), {}, {}}); }
void Loop::finish(uint64_t call, Status status) { put({Answer::end, call, {}, {}, std::move(status)}); }
void Loop::respond(uint64_t call, Bytes head, Bytes body, bool close, bool more, bool held) {
    put({Answer::http, call, std::move(body), std::move(head), {}, close, more}, held);
}

bool Loop::wait_sent(uint64_t call, double seconds) {
    std::unique_lock locked(flow_lock_);
    for (uint64_t left = 0;;) {
        const auto found = flows_.find(call);
        if (over_ || found == flows_.end()) return false;
        if (found->second.posted + found->second.held <= kUnsent) return true;
        left = found->second.left;
        const bool moved = flowed_.wait_for(locked, span(seconds), [&] {
            const auto now = flows_.find(call);
            return over_ || now == flows_.end() || now->second.left != left;
        });
        if (!moved) return false;
    }
}

void Loop::drop(uint64_t call) {
    post([this, call] {
        const auto found = calls_.find(call);
        if (found == calls_.end()) return;
        const auto [connection, stream] = found->second;
        dirty_.push_back(connection);
        refused(Bound::time);
        connection->drop(stream);
    });
}

void Loop::taken(uint64_t call, size_t bytes) {
    post([this, call, bytes] {
        const auto found = calls_.find(call);
        if (found == calls_.end()) return;
        dirty_.push_back(found->second.connection);
        found->second.connection->taken(found->second.stream, bytes);
    });
}

void Loop::post(std::function<void()> task) {
    {
        std::lock_guard guard(lock_);
        tasks_.push_back(std::move(task));
    }
    if (!woken_.exchange(true)) wake();
}

// ---- on the loop's thread ----

void Loop::apply(Answer& answer) {
    const auto found = calls_.find(answer.call);
    if (answer.kind == Answer::part || answer.more) {
        std::lock_guard guard(flow_lock_);
        if (found == calls_.end()) flows_.erase(answer.call);
        else flows_[answer.call].posted -= answer.message.size();
    }
    if (found == calls_.end()) return;          // the client left, or its deadline passed
    const auto [connection, stream] = found->second;
    dirty_.push_back(connection);
    if (answer.kind == Answer::http) return connection->respond(stream, std::move(answer.head), std::move(answer.message), answer.close, answer.more);
    if (answer.kind != Answer::end) {
        const size_t size = answer.message.size() - kPrefix;
        if (size > limits_.max_message_bytes) {
            refused(Bound::message);
            return connection->finish(stream, {Code::resource_exhausted, "the answer has " + std::to_string(size) + " bytes; allowed: " + std::to_string(limits_.max_message_bytes)});
        }
        write_prefix(answer.message.data(), size);
        connection->send(stream, std::move(answer.message));
    }
    if (answer.kind != Answer::part) connection->finish(stream, std::move(answer.status));
}

void Loop::opened(const std::shared_ptr<Call>& call, Connection& connection, int32_t stream) {
    call->id = next_call_++;
    calls_[call->id] = {&connection, stream};
    if (call->deadline != kNever) deadlines_.emplace(call->deadline, call->id);
}

void Loop::closed(Call& call) {
    calls_.erase(call.id);
    std::lock_guard guard(flow_lock_);
    if (flows_.erase(call.id)) flowed_.notify_all();
}

void Loop::held(uint64_t call, size_t bytes) {
    std::lock_guard guard(flow_lock_);
    const auto found = flows_.find(call);
    if (found == flows_.end()) return;
    if (bytes < found->second.held) found->second.left++, flowed_.notify_all();
    found->second.held = bytes;
}

void Loop::expire() {
    while (!deadlines_.empty() && deadlines_.top().first <= now_) {
        const uint64_t id = deadlines_.top().second;
        deadlines_.pop();
        const auto found = calls_.find(id);
        if (found == calls_.end()) continue;
        const auto [connection, stream] = found->second;
        connection->expire(stream);
        dirty_.push_back(connection);
    }
}

void Loop::drain_mailbox() {
    uint64_t count;
    [[maybe_unused]] const ssize_t n = ::read(event_, &count, sizeof count);
    std::vector<Answer> answers;
    std::vector<std::function<void()>> tasks;
    woken_ = false;         // what comes from here on wakes again
    {
        std::lock_guard guard(lock_);
        answers.swap(answers_), tasks.swap(tasks_);
    }
    for (Answer& answer : answers) apply(answer);
    for (auto& task : tasks) task();
}

void Loop::accept_clients(int index) {
    const Listener& listener = listeners_[size_t(index)];
    for (;;) {
        sockaddr_storage address{};
        socklen_t size = sizeof address;
        const int fd = ::accept4(listener.fd, reinterpret_cast<sockaddr*>(&address), &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        if (int(connections_.size()) >= limits_.max_connections) {
            ::close(fd);
            refused(Bound::connections);
            continue;
        }
        const int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        SSL* ssl = nullptr;
        if (listener.tls) {
            ssl = SSL_new(listener.tls);
            SSL_set_fd(ssl, fd);
            SSL_set_accept_state(ssl);
        }
        std::unique_ptr<Connection> connection;
        if (listener.protocol == Protocol::grpc) connection = std::make_unique<Http2Connection>(*this, Socket(fd, ssl), is_loopback(address));
        else connection = std::make_unique<Http1Connection>(*this, Socket(fd, ssl), is_loopback(address), index);
        connection->watched = EPOLLIN | EPOLLRDHUP;
        watch(epoll_, EPOLL_CTL_ADD, fd, connection->watched);
        dirty_.push_back(connection.get());
        connections_[fd] = std::move(connection);
        connections_count_ = connections_.size();
    }
}

void Loop::close(Connection& connection) {
    const int fd = connection.fd();
    epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
    const auto found = connections_.find(fd);
    const std::unique_ptr<Connection> dying = std::move(found->second);
    connections_.erase(found);
    dirty_.erase(std::remove(dirty_.begin(), dirty_.end(), dying.get()), dirty_.end());
    connections_count_ = connections_.size();
}

void Loop::run() {
    thread_id_ = std::this_thread::get_id();
    std::vector<epoll_event> events(256);
    Time next_tick = Clock::now() + kTick;
    while (!stopping_) {
        now_ = Clock::now();
        Time until = handler_->has_work() ? now_ : next_tick;
        if (!deadlines_.empty()) until = std::min(until, deadlines_.top().first);
        const auto wait = std::chrono::ceil<std::chrono::milliseconds>(until - now_).count();
        const int n = epoll_wait(epoll_, events.data(), int(events.size()), int(std::clamp<long>(wait, 0, 100)));
        now_ = Clock::now();
        for (int i = 0; i < n; i++) {
            const int fd = events[i].data.fd;
            const auto listener = std::find_if(listeners_.begin(), listeners_.end(), [&](const Listener& l) { return l.fd == fd; });
            if (listener != listeners_.end()) {
                accept_clients(int(listener - listeners_.begin()));
            } else if (fd == event_) {
                drain_mailbox();
            } else if (const auto found = connections_.find(fd); found != connections_.end()) {
                Connection& connection = *found->second;
                const bool left = events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR) && !connection.wants_read();
                const bool reads = events[i].events & ~uint32_t(EPOLLOUT) || !connection.greeted();     // a handshake goes on by reading
                if (left || (reads && !connection.on_readable())) close(connection);
                else dirty_.push_back(&connection);
            }
        }
        expire();
        handler_->turn();
        while (!dirty_.empty()) {               // closing one may touch others
            std::vector<Connection*> round;
            round.swap(dirty_);
            std::sort(round.begin(), round.end());
            round.erase(std::unique(round.begin(), round.end()), round.end());
            for (Connection* connection : round) {
                const int fd = connection->fd();
                if (!connection->flush()) {
                    close(*connection);
                    continue;
                }
                const uint32_t events = EPOLLRDHUP | (connection->wants_read() ? uint32_t(EPOLLIN) : 0u) | (connection->wants_write() ? uint32_t(EPOLLOUT) : 0u);
                if (events != connection->watched) watch(epoll_, EPOLL_CTL_MOD, fd, connection->watched = events);
            }
        }
        if (now_ >= next_tick) {
            next_tick = now_ + kTick;
            std::vector<Connection*> expired;
            for (auto& [fd, connection] : connections_)
                if (!connection->tick()) expired.push_back(connection.get());
                else if (connection->dirty) dirty_.push_back(connection.get());
            for (Connection* connection : expired) close(*connection);
        }
    }
    while (!connections_.empty()) close(*connections_.begin()->second);
}

}  // namespace hr::serve
