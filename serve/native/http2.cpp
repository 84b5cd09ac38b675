#include "http2.h"

#include <algorithm>
#include <string_view>

namespace hr::serve {

namespace {

constexpr uint32_t kStreamWindow = 1 << 20, kConnectionWindow = 8 << 20, kMaxFrame = 256 << 10;
constexpr size_t kOutputMark = 1 << 20;         // framed ahead of the socket at most
constexpr size_t kTrust = 1 << 20;              // reserved on the word of a length prefix
constexpr size_t kFrameHead = 9;
constexpr size_t kRead = 64 << 10, kTurn = 1 << 20;         // at once; before the others have their turn
constexpr size_t kLanding = 8 << 10;            // fewer bytes are cheaper to copy than to be read by themselves
constexpr double kNoticeSeconds = 1;
constexpr size_t kUnread = 1 << 20, kMessageCost = 64;      // messages of a stream that the handler has not read; what one costs besides its bytes
constexpr int kPingWeight = 5, kControlLimit = 5;

std::string_view text(const uint8_t* bytes, size_t size) { return {reinterpret_cast<const char*>(bytes), size}; }

nghttp2_nv header(std::string_view name, std::string_view value) {
    auto bytes = [](std::string_view s) { return reinterpret_cast<uint8_t*>(const_cast<char*>(s.data())); };
    return {bytes(name), bytes(value), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}

}  // namespace

struct Http2Connection::Stream {
    int32_t id = 0;
    std::shared_ptr<Call> call = std::make_shared<Call>();

    // Request
    std::string method, content_type;
    std::string timeout;
    Encoding encoding = Encoding::identity;
    size_t header_bytes = 0;
    char prefix[kPrefix];
    size_t have = 0;                    // bytes of the prefix
    Prefix incoming{};
    Bytes body;                         // of the message that is arriving
    size_t charged = 0;                 // of Hub::buffered
    int messages = 0;
    bool started = false, input_ended = false;
    size_t unread = 0, owed = 0;        // of a stream's messages; window that the client does not get back before they are read

    // Response
    std::deque<std::shared_ptr<const Bytes>> out;
    size_t out_at = 0, out_bytes = 0;   // where in the first of them; how many in all
    Status status;
    bool headers_sent = false, finished = false, over = false;      // over: the call has ended for its handler

    // Hands the next `size` bytes of the answer on, part by part.
    template <class Give>
    void take(size_t size, Give&& give) {
        out_bytes -= size;
        while (size) {
            const auto& front = out.front();
            const std::string_view part = front->view().substr(out_at, size);
            give(part, front);
            size -= part.size(), out_at += part.size();
            if (out_at == front->size()) out.pop_front(), out_at = 0;
        }
    }
};

Http2Connection::Http2Connection(Hub& hub, Socket socket, bool local) : Connection(hub, std::move(socket), local) {
    nghttp2_session_callbacks* callbacks;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, [](nghttp2_session* session, const nghttp2_frame* frame, void* user) {
        const bool last = (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) && frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
        if (!last) return 0;
        auto& streams = static_cast<Http2Connection*>(user)->streams_;
        const auto found = streams.find(frame->hd.stream_id);   // answered before the request ended: the rest is not wanted
        if (found != streams.end() && !found->second->input_ended) nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
        return 0;
    });
    nghttp2_session_callbacks_set_send_data_callback(callbacks, send_body);
    nghttp2_option* option;     // its own limit is 33 resets a second, which calls with deadlines reach; control_frame() has ours
    nghttp2_option_new(&option);
    const uint64_t resets = uint64_t(hub.limits().control_frames_per_second) * kControlLimit;
    nghttp2_option_set_stream_reset_rate_limit(option, resets, resets);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_session_server_new2(&session_, callbacks, this, option);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, uint32_t(hub.limits().max_concurrent_streams)},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindow},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, kMaxFrame},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, uint32_t(hub.limits().max_metadata_bytes)},
    };
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, std::size(settings));
    nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
    opened_ = last_read_ = idle_since_ = window_start_ = hub.now();
}

Http2Connection::~Http2Connection() {
    for (auto& [id, stream] : streams_) {
        hub_.buffered() -= stream->charged;
        if (!stream->started || stream->over) continue;
        stream->call->gone = true;
        hub_.handler().gone(stream->call);
        hub_.closed(*stream->call);
    }
    nghttp2_session_del(session_);
}

// ---- reading ----

// What the kernel has goes straight to its place in a message as far as it belongs there without doubt, the rest into a buffer.
bool Http2Connection::on_readable() {
    uint8_t buffer[kRead];      // of large frames only the begin goes through it, which says where the rest belongs
    for (size_t taken = 0; taken < kTurn || socket_.pending();) {
        const std::string_view place = landing();
        const size_t beyond = large_ ? kLanding : kRead;
        const iovec parts[] = {{const_cast<char*>(place.data()), place.size()}, {buffer, beyond}};
        const auto [result, bytes] = place.empty() ? socket_.read(buffer, beyond) : socket_.read(parts, 2);
        if (result == Socket::Result::closed) return false;
        if (result == Socket::Result::again) break;
        last_read_ = hub_.now(), ping_sent_ = kNever;
        const size_t placed = std::min(bytes, place.size()), rest = bytes - placed;
        if (placed && !receive(reinterpret_cast<const uint8_t*>(place.data()), placed)) return false;
        if (rest && !receive(buffer, rest)) return false;
        dirty = true, taken += bytes;
        if (rest < beyond && !socket_.is_tls()) break;
    }
    return true;
}

bool Http2Connection::receive(const uint8_t* bytes, size_t size) {
    delivered_ = nullptr;
    if (nghttp2_session_mem_recv(session_, bytes, size) < 0) return false;
    if (delivered_ != bytes + size) left_ = 0;      // they did not end with data of a message: or with some that nghttp2 ignores
    return true;
}

// Never more than the frame and the message lack, so that nghttp2 hands these bytes on at once, and looks at them no more: the
// message may be gone when it comes back. Its room was made when its length was found to be allowed.
std::string_view Http2Connection::landing() {
    if (left_ < kLanding) return {};
    const auto found = streams_.find(arriving_);
    if (found == streams_.end()) return {};
    Stream& stream = *found->second;
    if (!stream.started || stream.finished || stream.have < kPrefix) return {};
    const size_t size = std::min({left_, stream.incoming.size - stream.body.size(), stream.body.room()});
    if (size < kLanding) return {};
    return {stream.body.data() + stream.body.size(), size};
}

int Http2Connection::on_begin_frame(nghttp2_session*, const nghttp2_frame_hd* head, void* user) {
    auto& self = *static_cast<Http2Connection*>(user);
    const bool plain = head->type == NGHTTP2_DATA && !(head->flags & NGHTTP2_FLAG_PADDED);
    self.arriving_ = plain ? head->stream_id : 0, self.left_ = plain ? head->length : 0;
    if (head->type == NGHTTP2_DATA) self.large_ = head->length >= kRead;
    return 0;
}

int Http2Connection::on_begin_headers(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    auto& self = *static_cast<Http2Connection*>(user);
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    auto stream = std::make_unique<Stream>();
    stream->id = frame->hd.stream_id;
    stream->call->local = self.local_;
    self.streams_[stream->id] = std::move(stream);
    return 0;
}

int Http2Connection::on_header(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name_bytes, size_t name_size, const uint8_t* value_bytes,
                          size_t value_size, uint8_t, void* user) {
    auto& self = *static_cast<Http2Connection*>(user);
    const auto found = self.streams_.find(frame->hd.stream_id);
    if (found == self.streams_.end() || found->second->started) return 0;       // trailers of a request mean nothing
    Stream& stream = *found->second;
    stream.header_bytes += name_size + value_size + 32;
    if (stream.header_bytes > self.hub_.limits().max_metadata_bytes) return 0;
    const std::string_view name = text(name_bytes, name_size), value = text(value_bytes, value_size);
    if (name == ":path") stream.call->path = value;
    else if (name == ":method") stream.method = value;
    else if (name == "content-type") stream.content_type = value;
    else if (name == "grpc-timeout") stream.timeout = value;
    else if (name == "grpc-encoding") stream.encoding = encoding_of(value);
    else if (name[0] != ':') stream.call->metadata.emplace_back(name, value);
    return 0;
}

int Http2Connection::on_frame(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    auto& self = *static_cast<Http2Connection*>(user);
    const uint8_t flags = frame->hd.flags;
    switch (frame->hd.type) {
        case NGHTTP2_SETTINGS:
            self.greeted_ = true;
            [[fallthrough]];
        case NGHTTP2_PING:
        case NGHTTP2_PRIORITY:
            if (!(flags & NGHTTP2_FLAG_ACK)) self.controls_ += kPingWeight;
            break;
        case NGHTTP2_RST_STREAM:
            self.controls_++;
            break;
        case NGHTTP2_DATA:
            if (frame->hd.length == 0 && !(flags & NGHTTP2_FLAG_END_STREAM)) self.controls_++;
            break;
    }
    if (!self.control_frame()) {
        nghttp2_session_terminate_session(session, NGHTTP2_ENHANCE_YOUR_CALM);
        return 0;
    }
    const auto found = self.streams_.find(frame->hd.stream_id);
    if (found == self.streams_.end()) return 0;
    Stream& stream = *found->second;
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST && flags & NGHTTP2_FLAG_END_HEADERS) self.begin(stream);
    if ((frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) && flags & NGHTTP2_FLAG_END_STREAM) self.end_of_input(stream);
    return 0;
}

bool Http2Connection::control_frame() {
    const Time now = hub_.now();
    if (now - window_start_ > std::chrono::seconds(1)) window_start_ = now, controls_ = 0;
    return controls_ <= hub_.limits().control_frames_per_second * kControlLimit;
}

void Http2Connection::begin(Stream& stream) {
    Call& call = *stream.call;
    if (stream.header_bytes > hub_.limits().max_metadata_bytes)
        return refuse(stream, Bound::headers, "the metadata is larger than " + std::to_string(hub_.limits().max_metadata_bytes) + " bytes");
    if (stream.method != "POST" || !std::string_view(stream.content_type).starts_with("application/grpc")) {
        stream.finished = stream.over = true;   // no gRPC client: answered as HTTP
        const nghttp2_nv headers[] = {header(":status", stream.method == "POST" ? "415" : "405")};
        nghttp2_submit_response(session_, stream.id, headers, 1, nullptr);
        return;
    }
    if (!hub_.handler().knows(call.path, call.shape)) return fail(stream, Code::unimplemented, "the method is unknown");
    if (stream.encoding == Encoding::unknown) return fail(stream, Code::unimplemented, "the message encoding is unknown; allowed: identity, gzip, deflate");
    if (!stream.timeout.empty()) {
        const auto left = parse_timeout(stream.timeout);
        if (!left) return fail(stream, Code::internal, "grpc-timeout is malformed");
        call.deadline = hub_.now() + span(std::min(*left, kFarSeconds));
    }
    stream.started = true;
    hub_.opened(stream.call, *this, stream.id);
    if (call.shape == Shape::stream) hub_.handler().call(stream.call);
}

int Http2Connection::on_data(nghttp2_session* session, uint8_t, int32_t id, const uint8_t* bytes, size_t size, void* user) {
    auto& self = *static_cast<Http2Connection*>(user);
    nghttp2_session_consume_connection(session, size);
    self.left_ -= std::min(self.left_, size), self.delivered_ = bytes + size;
    const auto found = self.streams_.find(id);
    if (found == self.streams_.end()) return 0;
    Stream& stream = *found->second;
    stream.owed += size;
    if (stream.started && !stream.finished) self.data(stream, bytes, size);
    if (stream.unread <= kUnread || stream.finished) self.give_credit(stream);
    return 0;
}

// The client may send as much again as was read.
void Http2Connection::give_credit(Stream& stream) {
    if (stream.owed) nghttp2_session_consume_stream(session_, stream.id, std::exchange(stream.owed, 0));
}

void Http2Connection::taken(int32_t id, size_t bytes) {
    const auto found = streams_.find(id);
    if (found == streams_.end()) return;
    Stream& stream = *found->second;
    stream.unread -= std::min(stream.unread, bytes + kMessageCost);
    if (stream.unread <= kUnread) give_credit(stream);
}

void Http2Connection::data(Stream& stream, const uint8_t* bytes, size_t size) {
    const Limits& limits = hub_.limits();
    while (size && !stream.finished) {
        if (stream.have < kPrefix) {
            if (stream.call->shape == Shape::unary && stream.messages) return fail(stream, Code::invalid_argument, "a unary call has one message, more came");
            const size_t take = std::min(size, kPrefix - stream.have);
            std::copy_n(bytes, take, stream.prefix + stream.have);
            stream.have += take, bytes += take, size -= take;
            if (stream.have < kPrefix) return;
            stream.incoming = read_prefix(stream.prefix);
            if (stream.incoming.size > limits.max_message_bytes)
                return refuse(stream, Bound::message, "the message has " + std::to_string(stream.incoming.size) + " bytes; allowed: " + std::to_string(limits.max_message_bytes));
            if (stream.incoming.compressed && stream.encoding == Encoding::identity) return fail(stream, Code::internal, "a compressed message without grpc-encoding");
            stream.body.reserve(std::min(stream.incoming.size, kTrust));
        }
        const size_t take = std::min(size, stream.incoming.size - stream.body.size());
        if (hub_.buffered() + take > limits.max_buffered_bytes) return refuse(stream, Bound::buffered, "the server holds too many unanswered requests");
        hub_.buffered() += take, stream.charged += take;
        stream.body.append(bytes, take);
        bytes += take, size -= take;
        if (stream.body.size() == stream.incoming.size) {
            Bytes message = std::move(stream.body);
            stream.body = Bytes();
            stream.have = 0, stream.messages++;
            if (stream.incoming.compressed) {
                Bytes plain;
                bool too_large;
                if (!inflate_message(stream.encoding, message.view(), limits.max_message_bytes, plain, too_large))
                    return too_large ? refuse(stream, Bound::message, "the message has more than " + std::to_string(limits.max_message_bytes) + " bytes inflated")
                                     : fail(stream, Code::internal, "the compressed message is damaged");
                hub_.buffered() += plain.size(), stream.charged += plain.size();
                message = std::move(plain);
            }
            if (stream.call->shape == Shape::unary) {
                stream.call->message = std::move(message);
            } else {
                hub_.buffered() -= stream.charged, stream.charged = 0;      // the handler's from here on
                stream.unread += message.size() + kMessageCost;
                hub_.handler().message(stream.call, std::move(message));
            }
        }
    }
    if (!size && stream.have == kPrefix && stream.incoming.size == 0 && !stream.finished) {     // an empty message has no bytes to wait for
        stream.have = 0, stream.messages++;
        if (stream.call->shape == Shape::stream) stream.unread += kMessageCost, hub_.handler().message(stream.call, Bytes());
    }
}

void Http2Connection::end_of_input(Stream& stream) {
    stream.input_ended = true;
    if (!stream.started || stream.finished) return;
    if (stream.have) return fail(stream, Code::invalid_argument, "the request ends inside a message");
    if (stream.call->shape == Shape::stream) return hub_.handler().half_close(stream.call);
    if (stream.messages != 1) return fail(stream, Code::invalid_argument, "a unary call has one message, none came");
    hub_.handler().call(stream.call);
}

int Http2Connection::on_close(nghttp2_session*, int32_t id, uint32_t, void* user) {
    auto& self = *static_cast<Http2Connection*>(user);
    const auto found = self.streams_.find(id);
    if (found == self.streams_.end()) return 0;
    const std::unique_ptr<Stream> stream = std::move(found->second);
    self.streams_.erase(found);
    self.hub_.buffered() -= stream->charged;
    if (self.streams_.empty()) self.idle_since_ = self.hub_.now();
    if (stream->started && !stream->over) {
        stream->call->gone = true;
        self.hub_.handler().gone(stream->call);
        self.hub_.closed(*stream->call);
    }
    return 0;
}

// ---- writing ----

void Http2Connection::send(int32_t id, Bytes framed) {
    const auto found = streams_.find(id);
    if (found == streams_.end() || found->second->finished) return;
    found->second->out_bytes += framed.size();
    found->second->out.push_back(std::make_shared<const Bytes>(std::move(framed)));
    if (found->second->call->shape == Shape::stream) hub_.held(found->second->call->id, found->second->out_bytes);
    start_answer(*found->second);
}

void Http2Connection::finish(int32_t id, Status status) {
    const auto found = streams_.find(id);
    if (found == streams_.end() || found->second->finished) return;
    Stream& stream = *found->second;
    stream.finished = true, stream.status = std::move(status);
    if (stream.started && !stream.over) {
        stream.over = true;
        stream.call->gone = true;
        hub_.closed(*stream.call);
    }
    hub_.buffered() -= stream.charged, stream.charged = 0;
    start_answer(stream);
}

void Http2Connection::fail(Stream& stream, Code code, std::string text) {
    if (stream.started && !stream.over && stream.call->shape == Shape::stream) hub_.handler().gone(stream.call);
    stream.body = Bytes();
    finish(stream.id, {code, std::move(text)});
}

void Http2Connection::drop(int32_t id) {
    if (streams_.count(id)) nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL), dirty = true;
}

void Http2Connection::refuse(Stream& stream, Bound bound, std::string text) {
    hub_.refused(bound);
    fail(stream, Code::resource_exhausted, std::move(text));
}

void Http2Connection::expire(int32_t id) {
    const auto found = streams_.find(id);
    if (found == streams_.end()) return;
    Stream& stream = *found->second;
    if (stream.started && !stream.over) hub_.handler().gone(stream.call);
    finish(id, {Code::deadline_exceeded, "the deadline passed"});
}

namespace {

// The trailers of a status; `retry` and `message` keep the texts alive.
size_t trailers(const Status& status, std::string& code, std::string& message, std::string& retry, nghttp2_nv* out) {
    size_t n = 0;
    code = std::to_string(int(status.code));
    out[n++] = header("grpc-status", code);
    if (!status.text.empty()) message = percent_encoded(status.text), out[n++] = header("grpc-message", message);
    if (status.retry_ms >= 0) retry = std::to_string(status.retry_ms), out[n++] = header("grpc-retry-pushback-ms", retry);
    return n;
}

}  // namespace

void Http2Connection::start_answer(Stream& stream) {
    dirty = true;
    if (stream.headers_sent) {
        nghttp2_session_resume_data(session_, stream.id);
        return;
    }
    stream.headers_sent = true;
    nghttp2_nv headers[5] = {header(":status", "200"), header("content-type", "application/grpc")};
    if (stream.out.empty() && stream.finished) {        // "trailers only"
        std::string code, message, retry;
        const size_t n = 2 + trailers(stream.status, code, message, retry, headers + 2);
        nghttp2_submit_response(session_, stream.id, headers, n, nullptr);
        return;
    }
    nghttp2_data_provider provider{};
    provider.source.ptr = &stream;
    provider.read_callback = read_body;
    nghttp2_submit_response(session_, stream.id, headers, 2, &provider);
}

// Small answers are copied into nghttp2's frame; large ones are named only, and send_body puts them behind the frame's head.
ssize_t Http2Connection::read_body(nghttp2_session* session, int32_t id, uint8_t* to, size_t size, uint32_t* flags, nghttp2_data_source* source, void* user) {
    Stream& stream = *static_cast<Stream*>(source->ptr);
    const size_t ready = std::min(size, stream.out_bytes);
    const bool all = ready == stream.out_bytes;
    if (ready >= Outbox::kHeld && !static_cast<Http2Connection*>(user)->socket_.is_tls()) {
        *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    } else {
        stream.take(ready, [&](std::string_view part, const auto&) { to = std::copy(part.begin(), part.end(), to); });
        static_cast<Http2Connection*>(user)->gave(stream);
    }
    if (all && stream.finished) {
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        nghttp2_nv fields[3];
        std::string code, message, retry;
        const size_t n = trailers(stream.status, code, message, retry, fields);
        nghttp2_submit_trailer(session, id, fields, n);
    } else if (!ready) {
        return NGHTTP2_ERR_DEFERRED;
    }
    return ssize_t(ready);
}

int Http2Connection::send_body(nghttp2_session*, nghttp2_frame*, const uint8_t* head, size_t size, nghttp2_data_source* source, void* user) {
    auto& self = *static_cast<Http2Connection*>(user);
    if (self.out_.size() >= kOutputMark) return NGHTTP2_ERR_WOULDBLOCK;
    self.out_.append(text(head, kFrameHead));
    Stream& stream = *static_cast<Stream*>(source->ptr);
    stream.take(size, [&](std::string_view part, const auto& owner) { self.out_.append(part, owner); });
    self.gave(stream);
    return 0;
}

void Http2Connection::gave(Stream& stream) {
    if (stream.call->shape == Shape::stream && !stream.over) hub_.held(stream.call->id, stream.out_bytes);
}

bool Http2Connection::flush() {
    dirty = false;
    for (;;) {
        while (out_.size() < kOutputMark) {
            const uint8_t* data;
            const ssize_t n = nghttp2_session_mem_send(session_, &data);
            if (n < 0) return false;
            if (n == 0) break;
            out_.append(text(data, size_t(n)));
        }
        if (out_.empty()) return nghttp2_session_want_read(session_) || nghttp2_session_want_write(session_);
        if (!out_.write(socket_)) return false;
        if (!out_.empty()) return true;         // the kernel takes no more now
    }
}

// ---- life ----

// In two steps: what the client has sent before it hears of it is answered (RFC 9113, 6.8).
void Http2Connection::leave() {
    leaving_ = true, goaway_at_ = hub_.now();
    nghttp2_submit_shutdown_notice(session_);
    dirty = true;
}

void Http2Connection::refuse_new() {
    if (last_said_) return;
    leaving_ = last_said_ = true, goaway_at_ = hub_.now();
    nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_), NGHTTP2_NO_ERROR, nullptr, 0);
    dirty = true;
}

bool Http2Connection::tick() {
    const Limits& limits = hub_.limits();
    const Time now = hub_.now();
    if (!greeted_) return seconds_between(opened_, now) < limits.handshake_timeout_s;
    if (leaving_ && seconds_between(goaway_at_, now) > kNoticeSeconds) refuse_new();
    if (leaving_ && last_said_ && (streams_.empty() ? out_.empty() : seconds_between(goaway_at_, now) > limits.age_grace_s)) return false;
    if (!leaving_ && streams_.empty() && seconds_between(idle_since_, now) > limits.idle_timeout_s) leave();
    if (!leaving_ && seconds_between(opened_, now) > limits.age_s) leave();
    if (ping_sent_ != kNever) {
        if (seconds_between(ping_sent_, now) > limits.keepalive_timeout_s) return false;
    } else if (seconds_between(last_read_, now) > limits.keepalive_s) {
        nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr);
        ping_sent_ = now, dirty = true;
    }
    return true;
}

}  // namespace hr::serve
