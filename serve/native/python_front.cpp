#include <set>

#include "courier.h"
#include "plane.h"
#include "python.h"
#include "tls.h"

#include <nanobind/stl/shared_ptr.h>

namespace hr::serve {

namespace {

nb::bytes bytes_of(const Bytes& data) { return nb::bytes(data.data() ? data.data() : "", data.size()); }

class PyFront {
public:
    using Tls = std::optional<std::tuple<std::string, std::string, std::string>>;      // PEM: certificate, key, authority of clients ("": none)

    PyFront(std::shared_ptr<Routes> routes, const nb::dict& limits, const std::vector<std::pair<std::string, bool>>& methods, const std::string& infer_path,
            nb::object deliver)
        : deliver_(std::move(deliver)) {
        Limits l;
        std::set<std::string> known;
        const auto take = [&](const char* name, auto& into) {
            known.insert(name);
            if (limits.contains(name)) into = nb::cast<std::decay_t<decltype(into)>>(limits[name]);
        };
        take("max_message_bytes", l.max_message_bytes), take("max_metadata_bytes", l.max_metadata_bytes), take("max_buffered_bytes", l.max_buffered_bytes);
        take("max_connections", l.max_connections), take("max_concurrent_streams", l.max_concurrent_streams);
        take("handshake_timeout_s", l.handshake_timeout_s), take("idle_timeout_s", l.idle_timeout_s), take("age_s", l.age_s), take("age_grace_s", l.age_grace_s);
        take("keepalive_s", l.keepalive_s), take("keepalive_timeout_s", l.keepalive_timeout_s), take("control_frames_per_second", l.control_frames_per_second);
        take("max_header_bytes", l.max_header_bytes), take("max_headers", l.max_headers), take("header_timeout_s", l.header_timeout_s);
        take("http_idle_timeout_s", l.http_idle_timeout_s);
        for (const auto& [key, value] : limits)         // a misspelt limit would be none
            if (const std::string name = nb::cast<std::string>(key); !known.contains(name)) {
                std::string all;
                for (const std::string& one : known) all += (all.empty() ? "" : ", ") + one;
                throw std::invalid_argument("limits has " + name + ", which is none; known are " + all);
            }
        loop_ = std::make_unique<Loop>(l);
        std::unordered_map<std::string, Shape> table;
        for (const auto& [path, streams] : methods) table[path] = streams ? Shape::stream : Shape::unary;
        plane_ = std::make_shared<Plane>(*loop_, std::move(routes), std::move(table), infer_path, [this](std::vector<Event> events) { courier_.send(std::move(events)); });
    }
    ~PyFront() { stop(); }

    int listen(const std::string& host, int port, bool http, const Tls& tls, bool rest) {
        SSL_CTX* context = tls ? context_of(*tls, http) : nullptr;
        int taken;
        try {
            taken = loop_->listen(host, port, http ? Loop::Protocol::http : Loop::Protocol::grpc, context);
        } catch (...) {
            SSL_CTX_free(context);
            throw;
        }
        if (rest) plane_->set_rest(int(listeners_.size()));
        listeners_.push_back(http);
        return taken;
    }
    void set_tls(const Tls& tls) {
        std::vector<std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)>> made;        // all or none
        for (const bool http : listeners_) made.emplace_back(context_of(tls.value(), http), SSL_CTX_free);
        for (size_t i = 0; i < made.size(); i++) loop_->set_tls(i, made[i].release());
    }
    void start() { courier_.start(), loop_->start(*plane_); }
    void set_closing() { plane_->set_closing(); }
    void refuse_new() { loop_->refuse_new(); }
    void stop() {
        {
            nb::gil_scoped_release unlocked;
            loop_->stop();
            courier_.stop();
        }
        deliver_.reset();       // it refers back to us
    }

    void answer(uint64_t call, nb::bytes message) { loop_->answer(call, framed(message)); }
    void send(uint64_t call, nb::bytes message) { loop_->send(call, framed(message)); }
    void finish(uint64_t call, int code, std::string text, int64_t retry_ms) { loop_->finish(call, {Code(code), std::move(text), retry_ms}); }

    void respond(uint64_t call, nb::bytes head, const std::vector<nb::object>& parts, bool close, bool more) {
        Bytes body;
        for (const nb::object& part : parts) {
            Py_buffer view;
            if (PyObject_GetBuffer(part.ptr(), &view, PyBUF_SIMPLE)) nb::raise_python_error();
            body.append(view.buf, size_t(view.len));
            PyBuffer_Release(&view);
        }
        loop_->respond(call, Bytes(std::string_view(head.c_str(), head.size())), std::move(body), close, more);
    }

    bool wait_sent(uint64_t call, double seconds) {
        nb::gil_scoped_release unlocked;
        return loop_->wait_sent(call, seconds);
    }
    void drop(uint64_t call) { loop_->drop(call); }
    void taken(uint64_t call, size_t bytes) { loop_->taken(call, bytes); }

    size_t connections() const { return loop_->open_connections(); }
    nb::dict rejections() const {
        nb::dict out;
        for (size_t i = 0; i < std::size(kBounds); i++) out[kBounds[i]] = loop_->rejections(Bound(i));
        return out;
    }

private:
    static SSL_CTX* context_of(const Tls::value_type& tls, bool http) { return make_tls(std::get<0>(tls), std::get<1>(tls), std::get<2>(tls), http); }
    static Bytes framed(const nb::bytes& message) {
        Bytes out(kPrefix + message.size());
        if (message.size()) std::memcpy(out.data() + kPrefix, message.c_str(), message.size());
        return out;
    }
    void hand_over(std::vector<Event> events) {
        nb::gil_scoped_acquire locked;
        try {
            nb::list list;
            for (const Event& e : events) list.append(tuple_of(e));
            deliver_(list);
        } catch (nb::python_error& error) {
            error.discard_as_unraisable("a turn of the native front");
        }
    }
    nb::object tuple_of(const Event& e) const {
        switch (e.kind) {
            case Event::call: {
                const Call& call = *e.call_;
                nb::list metadata;
                for (const auto& [key, value] : call.metadata) metadata.append(nb::make_tuple(latin(key), latin(value)));
                nb::object left = call.deadline == kNever ? nb::none() : nb::cast(seconds_between(Clock::now(), call.deadline));
                nb::object data = call.shape == Shape::stream ? nb::none() : nb::object(bytes_of(call.message));
                return nb::make_tuple(int(e.kind), call.id, latin(call.path), data, left, call.local, metadata);
            }
            case Event::message: return nb::make_tuple(int(e.kind), e.call_->id, bytes_of(e.data));
            case Event::half_close:
            case Event::gone: return nb::make_tuple(int(e.kind), e.call_->id);
            case Event::http: {
                const Call& call = *e.call_;
                nb::list headers;
                for (const auto& [key, value] : call.metadata) headers.append(nb::make_tuple(nb::bytes(key.data(), key.size()), nb::bytes(value.data(), value.size())));
                nb::object body = nb::steal(PyByteArray_FromStringAndSize(call.message.data(), Py_ssize_t(call.message.size())));
                return nb::make_tuple(int(e.kind), call.id, call.listener, latin(call.method), latin(call.path), headers, body, call.local);
            }
            case Event::refusal: return nb::make_tuple(int(e.kind), e.call_->id, e.call_->listener, e.status, latin(e.text));
        }
        return nb::none();
    }
    nb::object deliver_;
    Courier<Event> courier_{[this](std::vector<Event> events) { hand_over(std::move(events)); }};
    std::vector<bool> listeners_;       // whether each speaks HTTP/1.1
    std::unique_ptr<Loop> loop_;
    std::shared_ptr<Plane> plane_;
};

}  // namespace

void bind_front(nb::module_& m) {
    nb::class_<PyFront>(m, "Front", "Listeners for gRPC and HTTP/1.1 on one loop; see serve/native_front.py.")
        .def(nb::init<std::shared_ptr<Routes>, const nb::dict&, const std::vector<std::pair<std::string, bool>>&, const std::string&, nb::object>(), nb::arg("routes"), nb::arg("limits"), nb::arg("methods"),
             nb::arg("infer_path"), nb::arg("deliver"))
        .def("listen", &PyFront::listen, nb::arg("host"), nb::arg("port"), nb::arg("http"), nb::arg("tls").none(), nb::arg("rest") = false,
             "Take a port; its number. Before start. `rest`: inferences that come there need not go to Python.")
        .def("set_tls", &PyFront::set_tls, nb::arg("tls"), "Use these texts for connections to come, on every listener.")
        .def_prop_ro("connections", &PyFront::connections)
        .def("rejections", &PyFront::rejections, "How often each limit of connections and messages refused something.")
        .def("start", &PyFront::start)
        .def("set_closing", &PyFront::set_closing, "Answers over HTTP end their connection from now on.")
        .def("refuse_new", &PyFront::refuse_new, "Close the listener and tell every client to go elsewhere.")
        .def("stop", &PyFront::stop)
        .def("answer", &PyFront::answer)
        .def("send", &PyFront::send)
        .def("finish", &PyFront::finish, nb::arg("call"), nb::arg("code"), nb::arg("text"), nb::arg("retry_ms") = -1)
        .def("respond", &PyFront::respond, nb::arg("call"), nb::arg("head"), nb::arg("parts"), nb::arg("close"), nb::arg("more"))
        .def("wait_sent", &PyFront::wait_sent, nb::arg("call"), nb::arg("seconds"),
             "Wait until most parts of an answer have left; False: the call is over, or nothing left for so long.")
        .def("drop", &PyFront::drop, nb::arg("call"), "End a call without an answer.")
        .def("taken", &PyFront::taken, nb::arg("call"), nb::arg("bytes"), "A message of a stream was read: the client may send on.");
}

}  // namespace hr::serve
