#include "http1.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

namespace hr::serve {

namespace {

constexpr auto kLinger = std::chrono::seconds(2);       // reading on after a refusal, so that the client sees the answer and no reset

bool is_token(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}
bool is_token(std::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return is_token(c); });
}
bool is_value(std::string_view text) {      // visible characters, spaces, tabs, and bytes of other encodings
    return std::all_of(text.begin(), text.end(), [](unsigned char c) { return c == '\t' || (c >= 0x20 && c != 0x7f); });
}
std::string_view trimmed(std::string_view text) {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
    return text;
}
std::string lower(std::string_view text) {
    std::string out(text);
    for (char& c : out)
        if (c >= 'A' && c <= 'Z') c = char(c + 32);
    return out;
}
bool has_option(std::string_view list, std::string_view option) {       // in a comma-separated list
    while (!list.empty()) {
        const size_t comma = list.find(',');
        if (lower(trimmed(list.substr(0, comma))) == option) return true;
        if (comma == std::string_view::npos) break;
        list.remove_prefix(comma + 1);
    }
    return false;
}

}  // namespace

Http1Connection::Http1Connection(Hub& hub, Socket socket, bool local, int listener) : Connection(hub, std::move(socket), local), listener_(listener) {
    quiet_since_ = hub.now();
}

Http1Connection::~Http1Connection() {
    hub_.buffered() -= charged_;
    if (!call_ || call_->gone) return;
    call_->gone = true;
    if (call_->id) hub_.handler().gone(call_), hub_.closed(*call_);
}

bool Http1Connection::on_readable() {
    char buffer[64 << 10];
    for (int turn = 0; (turn < 16 && wants_read()) || socket_.pending(); turn++) {
        const auto [result, bytes] = socket_.read(buffer, sizeof buffer);
        if (result == Socket::Result::closed) return false;
        if (result == Socket::Result::again) break;
        if (state_ == State::lingering) continue;
        in_.append(buffer, bytes);
        advance();
        dirty = true;
        if (bytes < sizeof buffer && !socket_.is_tls()) break;
    }
    return true;
}

void Http1Connection::take(size_t bytes) {
    in_at_ += bytes;
    if (in_at_ == in_.size()) in_.clear(), in_at_ = 0;
    else if (in_at_ > (1u << 20)) in_.erase(0, in_at_), in_at_ = 0;
}

void Http1Connection::advance() {
    for (bool more = true; more;) {
        switch (state_) {
            case State::head: more = !is_full() && read_head(); break;
            case State::body: more = read_body(); break;
            case State::chunk_size:
            case State::chunk_data:
            case State::chunk_end:
            case State::trailers: more = read_chunks(); break;
            case State::answering:
            case State::lingering: more = false; break;
        }
    }
}

// ---- the head ----

bool Http1Connection::read_head() {
    while (in_at_ == 0 && in_.starts_with("\r\n")) in_.erase(0, 2);         // a line left over before a request (RFC 9112, 2.2)
    std::string_view head = rest();
    if (head.empty()) return false;
    if (head_since_ == kNever) head_since_ = hub_.now();
    const Limits& limits = hub_.limits();
    const size_t end = head.find("\r\n\r\n", scanned_);
    const size_t line = head.find("\r\n");
    const size_t line_bytes = std::min(line, head.size()), header_bytes = std::min(end, head.size()) - line_bytes;
    if (line_bytes > limits.max_target_bytes + 32) return refuse(414, "the request line is too long"), false;
    if (header_bytes > limits.max_header_bytes) return refuse(431, "the headers are too long"), false;
    if (end == std::string_view::npos) {
        scanned_ = head.size() < 3 ? 0 : head.size() - 3;
        return false;
    }
    scanned_ = 0, head_since_ = kNever;
    const std::string text(head.substr(0, end + 2));
    take(end + 4);
    return parse_head(text);
}

bool Http1Connection::parse_head(std::string_view head) {
    const Limits& limits = hub_.limits();
    call_ = std::make_shared<Call>();
    Call& call = *call_;
    call.shape = Shape::http, call.local = local_, call.listener = listener_;
    const auto bad = [&](const char* text) { return refuse(400, text), false; };
    size_t at = head.find("\r\n");
    const std::string_view line = head.substr(0, at);
    const size_t first = line.find(' '), second = line.rfind(' ');
    if (first == std::string_view::npos || second <= first) return bad("the request line is malformed");
    const std::string_view method = line.substr(0, first), target = line.substr(first + 1, second - first - 1), version = line.substr(second + 1);
    if (!is_token(method) || method.size() > 32) return bad("the method is malformed");
    if (version != "HTTP/1.1" && version != "HTTP/1.0") return refuse(505, "this port speaks HTTP/1.1 (REST, /v2/...); gRPC has a port of its own"), false;
    if (target.size() > limits.max_target_bytes) return refuse(414, "the target is too long"), false;
    if (target.empty() || target[0] != '/' || !std::all_of(target.begin(), target.end(), [](unsigned char c) { return c > 0x20 && c < 0x7f; }))
        return bad("the target is malformed");
    call.method = method, call.path = target, head_only_ = method == "HEAD";
    bool has_length = false, chunked = false, has_host = false, wait = false;
    size_t length = 0;
    keep_alive_ = chunks_ = version == "HTTP/1.1";
    int count = 0;
    for (at += 2; at < head.size();) {
        const size_t stop = head.find("\r\n", at);
        const std::string_view field = head.substr(at, stop - at);
        at = stop + 2;
        const size_t colon = field.find(':');
        if (++count > limits.max_headers) return refuse(431, "there are too many headers"), false;
        if (colon == std::string_view::npos || !is_token(field.substr(0, colon))) return bad("a header is malformed");
        const std::string_view value = trimmed(field.substr(colon + 1));
        if (!is_value(value)) return bad("a header holds control characters");
        std::string name = lower(field.substr(0, colon));
        if (name == "content-length") {
            size_t given = 0;
            const auto [stopped, error] = std::from_chars(value.data(), value.data() + value.size(), given);
            if (value.empty() || error != std::errc() || stopped != value.data() + value.size() || value[0] == '+' || value[0] == '-')
                return bad("Content-Length is malformed");
            if (has_length && given != length) return bad("Content-Length is given twice");
            has_length = true, length = given;
        } else if (name == "transfer-encoding") {
            if (lower(value) != "chunked") return refuse(501, "the transfer coding is unknown; allowed: chunked"), false;
            if (chunked || version == "HTTP/1.0") return bad("Transfer-Encoding is not allowed here");
            chunked = true;
        } else if (name == "host") {
            if (has_host) return bad("Host is given twice");
            has_host = true;
        } else if (name == "connection") {
            if (has_option(value, "close")) keep_alive_ = false;
            else if (has_option(value, "keep-alive")) keep_alive_ = true;
        } else if (name == "expect") {
            if (lower(value) != "100-continue") return refuse(417, "only 100-continue is expected"), false;
            wait = true;
        }
        call.metadata.emplace_back(std::move(name), value);
    }
    if (!has_host && version == "HTTP/1.1") return bad("Host is missing");
    if (has_length && chunked) return bad("Content-Length and Transfer-Encoding exclude each other");
    if (length > limits.max_message_bytes) return refuse(413, "the body is too long"), false;
    window_since_ = hub_.now(), window_bytes_ = trailer_bytes_ = 0;
    if (wait && (chunked || length) && rest().empty()) out_.append("HTTP/1.1 100 Continue\r\n\r\n");
    if (chunked) {
        state_ = State::chunk_size;
    } else if (length) {
        left_ = length, state_ = State::body;
        call.message.reserve(std::min<size_t>(length, 1 << 20));
    } else {
        complete();
    }
    return true;
}

// ---- the body ----

bool Http1Connection::grow(size_t bytes) {
    const Limits& limits = hub_.limits();
    if (call_->message.size() + bytes > limits.max_message_bytes) return refuse(413, "the body is too long"), false;
    if (hub_.buffered() + bytes > limits.max_buffered_bytes) return refuse(503, "the server holds too many unanswered requests"), false;
    call_->message.append(rest().data(), bytes);
    hub_.buffered() += bytes, charged_ += bytes, window_bytes_ += bytes;
    take(bytes);
    left_ -= bytes;
    return true;
}

bool Http1Connection::read_body() {
    const size_t bytes = std::min(left_, rest().size());
    if (!bytes || !grow(bytes)) return false;
    if (left_ == 0) complete();
    return true;
}

// A line without its end, consumed; false where it has not come whole, or is longer than `limit` (refused then).
bool Http1Connection::read_line(std::string& line, size_t limit, int status, const char* text) {
    const size_t end = rest().find("\r\n");
    if (end > limit && (end != std::string_view::npos || rest().size() > limit)) return refuse(status, text), false;
    if (end == std::string_view::npos) return false;
    line = rest().substr(0, end);
    take(end + 2);
    return true;
}

bool Http1Connection::read_chunks() {
    std::string line;
    switch (state_) {
        case State::chunk_size: {
            if (!read_line(line, 64, 400, "a chunk's size is malformed")) return false;
            const std::string_view digits = std::string_view(line).substr(0, line.find(';'));
            size_t size = 0;
            const auto [stopped, error] = std::from_chars(digits.data(), digits.data() + digits.size(), size, 16);
            if (digits.empty() || error != std::errc() || stopped != digits.data() + digits.size() || !is_value(line)) return refuse(400, "a chunk's size is malformed"), false;
            left_ = size;
            if (size > hub_.limits().max_message_bytes) return refuse(413, "the body is too long"), false;
            state_ = size ? State::chunk_data : State::trailers;
            return true;
        }
        case State::chunk_data: {
            const size_t bytes = std::min(left_, rest().size());
            if (!bytes || !grow(bytes)) return false;
            if (left_ == 0) state_ = State::chunk_end;
            return true;
        }
        case State::chunk_end:
            if (rest().size() < 2) return false;
            if (!rest().starts_with("\r\n")) return refuse(400, "a chunk is longer than its size"), false;
            take(2);
            state_ = State::chunk_size;
            return true;
        default:                                // trailers are read and thrown away
            if (!read_line(line, hub_.limits().max_header_bytes, 431, "the trailers are too large")) return false;
            if (line.empty()) return complete(), true;
            trailer_bytes_ += line.size();
            if (trailer_bytes_ > hub_.limits().max_header_bytes) return refuse(431, "the trailers are too long"), false;
            return true;
    }
}

void Http1Connection::complete() {
    state_ = State::answering;
    window_since_ = kNever;
    hub_.opened(call_, *this, ++request_);
    hub_.handler().call(call_);
}

void Http1Connection::refuse(int status, const char* text) {
    if (status == 413) hub_.refused(Bound::message);
    if (status == 414 || status == 431) hub_.refused(Bound::headers);
    if (status == 408) hub_.refused(Bound::time);
    if (status == 503) hub_.refused(Bound::buffered);
    if (!call_) call_ = std::make_shared<Call>();
    call_->shape = Shape::http, call_->listener = listener_;
    keep_alive_ = false, window_since_ = head_since_ = kNever;
    in_.clear(), in_at_ = 0;
    state_ = State::answering;
    hub_.opened(call_, *this, ++request_);
    hub_.handler().refuse(call_, status, text);
    linger_until_ = hub_.now() + kLinger;
}

// ---- the answer ----

// The length of an answer in parts is not known before its end: chunks, or until the connection closes.
void Http1Connection::respond(int32_t request, Bytes head, Bytes body, bool close, bool more) {
    if (request != request_ || state_ != State::answering || !call_) return;
    const bool last = parts_ ? ends_ : close || leaving_ || !keep_alive_ || (more && !chunks_);
    dirty = true;
    if (!parts_) {
        out_.append(head.view());
        out_.append(more ? (chunks_ ? "transfer-encoding: chunked" : "cache-control: no-store") : "content-length: " + std::to_string(body.size()));
        out_.append(last ? "\r\nconnection: close\r\n\r\n" : "\r\n\r\n");
    }
    if (more) parts_ = true, ends_ = last;
    if (parts_) {
        if (!head_only_ && body.size()) {
            char size[24];
            const int digits = std::snprintf(size, sizeof size, "%zx\r\n", body.size());
            if (chunks_) out_.append(std::string_view(size, size_t(digits)));
            out_.append(body.view());
            if (chunks_) out_.append("\r\n");
        }
        if (more) return hub_.held(call_->id, out_.size());
        if (!head_only_ && chunks_) out_.append("0\r\n\r\n");
        parts_ = false;
    } else if (!head_only_) {
        const auto held = std::make_shared<const Bytes>(std::move(body));
        out_.append(held->view(), held);
    }
    call_->gone = true;
    hub_.closed(*call_);
    call_.reset();
    hub_.buffered() -= charged_, charged_ = 0;
    if (last) {
        state_ = State::lingering;
        if (linger_until_ == kNever) linger_until_ = hub_.now();
        else linger_until_ = hub_.now() + kLinger;
    } else {
        begin_next();
    }
}

void Http1Connection::begin_next() {
    state_ = State::head, scanned_ = 0, head_only_ = false;
    quiet_since_ = hub_.now();
    advance();                  // what was sent ahead
}

bool Http1Connection::flush() {
    dirty = false;
    if (dropped_) return false;
    const size_t before = out_.size();
    if (!out_.write(socket_)) return false;
    if (out_.size() < before) {
        quiet_since_ = hub_.now();          // a client that reads is not idle
        if (parts_ && call_) hub_.held(call_->id, out_.size());
        if (state_ == State::head && before > kUnread) advance();
    }
    if (state_ == State::lingering && out_.empty()) {
        if (hub_.now() >= linger_until_) return false;
        ::shutdown(fd(), SHUT_WR);
    }
    return true;
}

void Http1Connection::drop(int32_t request) {
    if (request == request_ && state_ == State::answering) dropped_ = true;
}

void Http1Connection::refuse_new() {
    leaving_ = true;
    dirty = true;
}

bool Http1Connection::tick() {
    const Limits& limits = hub_.limits();
    const Time now = hub_.now();
    switch (state_) {
        case State::lingering: return now < linger_until_ || (!out_.empty() && seconds_between(linger_until_, now) < limits.http_idle_timeout_s);
        case State::answering: return true;
        case State::head:
            if (!greeted()) return seconds_between(quiet_since_, now) < limits.handshake_timeout_s;
            if (head_since_ != kNever) {
                if (seconds_between(head_since_, now) > limits.header_timeout_s) refuse(408, "the headers did not come in time");
                return true;
            }
            return !leaving_ && seconds_between(quiet_since_, now) < limits.http_idle_timeout_s;
        default:
            if (window_since_ != kNever && seconds_between(window_since_, now) > limits.body_window_s) {
                if (window_bytes_ < limits.body_window_bytes) refuse(408, "the body came too slowly");
                window_since_ = now, window_bytes_ = 0;
            }
            return true;
    }
}

}  // namespace hr::serve
