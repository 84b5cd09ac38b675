// The extension module headrace.serve._native: the front, and model versions with their queues.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unordered_map.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <system_error>

#include "capi.h"
#include "courier.h"
#include "plane.h"
#include "remote.h"
#include "tls.h"

namespace nb = nanobind;

namespace hr::serve {

namespace {

nb::bytes bytes_of(const Bytes& data) { return nb::bytes(data.data() ? data.data() : "", data.size()); }

// Text from the network as Python text: one character a byte, so that nothing can fail.
nb::object latin(const std::string& text) { return nb::steal(PyUnicode_DecodeLatin1(text.data(), Py_ssize_t(text.size()), nullptr)); }

nb::object sum(const Sum& s) { return nb::make_tuple(s.count, s.ns); }

nb::object record(const Ended& e) {
    return nb::make_tuple(e.seconds, e.ended_ms, nb::bytes(e.id.data(), e.id.size()), e.meaning, e.request_bytes, e.response_bytes, e.principal, e.queued, e.assemble, e.compute,
                          e.scatter, e.rows, e.reason, e.batch);
}

nb::object histogram(const Histogram& h) {
    nb::list counts;
    for (uint64_t n : h.counts) counts.append(n);
    return nb::make_tuple(counts, h.total);
}

// A request from Python: the caller blocks until it has ended. Its inputs stay the caller's.
class LocalJob : public Job {
public:
    struct Output {
        hr_tensor tensor;
        std::string data;
    };
    explicit LocalJob(const Interface& interface) : interface_(interface) {}
    bool counted() const override { return false; }     // the data plane counts its requests itself

    bool gone() const override { return cancelled.load(); }
    void prepare(const hr_outputs& result, int64_t from) override {
        for (int k = 0; k < result.count; k++) {
            const Rows rows = rows_of(interface_, request, result.tensors[k], interface_.outputs[k], from);
            Output out{result.tensors[k], std::string(rows.data)};
            std::copy_n(rows.dims, rows.rank, out.tensor.dims);
            prepared_.push_back(std::move(out));
        }
    }
    void deliver(const Execution& run) override { finish(Meaning::ok, "", std::move(prepared_), &run); }
    void fail(Meaning why, const std::string& what, const Execution* run) override { finish(why, what, {}, run); }

    // Waits; false: the time is up.
    bool wait(Time until) {
        std::unique_lock locked(lock_);
        if (until != kNever) return done_.wait_until(locked, until, [&] { return ended_; });
        done_.wait(locked, [&] { return ended_; });
        return true;
    }

    std::atomic<bool> cancelled{false};
    Meaning meaning = Meaning::internal;
    std::string text;
    std::vector<Output> outputs;
    std::optional<Execution> execution;

private:
    void finish(Meaning why, const std::string& what, std::vector<Output> copies, const Execution* run) {
        std::lock_guard guard(lock_);
        meaning = why, text = what, outputs = std::move(copies);
        if (run) execution = *run;
        ended_ = true;
        done_.notify_all();
    }
    const Interface& interface_;
    std::vector<Output> prepared_;
    std::mutex lock_;
    std::condition_variable done_;
    bool ended_ = false;
};

// `levels`: (limit, timeout in seconds, whether late requests go behind) of every priority.
Policy policy_of(int64_t max_rows, double max_delay_s, int instances, size_t max_queue, std::vector<int64_t> preferred,
                 const std::vector<std::tuple<size_t, double, bool>>& levels, int default_level) {
    if (default_level < 1 || size_t(default_level) > levels.size()) throw std::out_of_range("there is no such level");
    Policy policy;
    policy.max_rows = max_rows, policy.max_delay_s = max_delay_s, policy.instances = instances, policy.max_queue = max_queue;
    policy.preferred = std::move(preferred), policy.default_level = default_level;
    policy.levels.clear();
    for (const auto& [most, timeout_s, delays] : levels) policy.levels.push_back(most), policy.any_delays |= delays;
    policy.timeout_s = std::get<1>(levels[size_t(default_level - 1)]), policy.delays = std::get<2>(levels[size_t(default_level - 1)]);
    return policy;
}

// The queue by itself, for tests of its decisions: jobs are numbers, times are seconds of an imagined clock.
class PyPending {
public:
    PyPending(int64_t max_rows, size_t max_queue, std::vector<int64_t> preferred, const std::vector<std::tuple<size_t, double, bool>>& levels)
        : policy_(policy_of(max_rows, 0, 1, max_queue, std::move(preferred), levels, 1)), pending_(policy_) {}

    bool push(int number, int64_t rows, int64_t width, int level, std::optional<double> deadline, std::optional<double> delay_at, double now) {
        auto job = std::make_shared<Numbered>(number);
        hr_tensor tensor{};
        tensor.rank = 2, tensor.dims[0] = rows, tensor.dims[1] = width;
        job->request.inputs.push_back(tensor), job->request.rows = rows;
        if (level < 1 || size_t(level) > policy_.levels.size()) throw std::out_of_range("there is no such level");
        job->level = level, job->deadline = deadline ? at(*deadline) : kNever, job->delay_at = delay_at ? at(*delay_at) : kNever;
        std::vector<JobPtr> dropped;
        return pending_.push(std::move(job), at(now), dropped);
    }
    // (numbers, reason, whether it was formed); none where nothing waits.
    std::optional<std::tuple<std::vector<int>, std::string, bool>> pop(double now, bool waited) {
        std::vector<JobPtr> dropped;
        pending_.settle(at(now), dropped);
        if (pending_.empty()) return std::nullopt;
        const bool formed = pending_.is_formed(at(now));
        const Pending::Batch batch = pending_.pop(at(now), waited, dropped);
        std::vector<int> numbers;
        for (const JobPtr& job : batch.jobs) numbers.push_back(static_cast<const Numbered&>(*job).number);
        return std::make_tuple(numbers, std::string(batch.reason), formed);
    }
    double lateness(int64_t rows, int level, double deadline, double now, double row_seconds, double run_seconds) const {
        Numbered job(0);
        job.request.rows = rows, job.level = level, job.deadline = at(deadline);
        return pending_.lateness(job, at(now), row_seconds, run_seconds);
    }
    size_t size() const { return pending_.size(); }

private:
    struct Numbered : Job {
        explicit Numbered(int n) : number(n) {}
        void prepare(const hr_outputs&, int64_t) override {}
    void deliver(const Execution&) override {}
        void fail(Meaning, const std::string&, const Execution*) override {}
        const int number;
    };
    static Time at(double seconds) { return Time() + span(seconds); }
    const Policy policy_;
    Pending pending_;
};

class PyFront;

class PyVersion {
public:
    using PortRow = std::tuple<std::string, std::string, int, int, std::optional<std::vector<int64_t>>>;     // name, datatype, code, item, dims

    PyVersion(std::string name, std::string number, std::vector<PortRow> inputs, std::vector<PortRow> outputs, int64_t max_batch_rows, int n_symbols,
              double max_delay_s, int instances, size_t max_queue, std::vector<int64_t> preferred, std::vector<std::tuple<size_t, double, bool>> levels, int default_level,
              nb::object program, std::vector<double> seconds, std::vector<double> rows, bool ordered)
        : program_(program), door_(program.attr("door")()) {
        auto* table = static_cast<const hr_door*>(PyCapsule_GetPointer(door_.ptr(), "headrace.door"));
        if (!table) nb::raise_python_error();
        Interface interface;
        const auto ports = [](const std::vector<PortRow>& from) {
            std::vector<Port> out;
            for (const auto& [port_name, datatype, code, item, dims] : from) out.push_back({port_name, datatype, code, size_t(item), !dims, dims.value_or(std::vector<int64_t>{})});
            return out;
        };
        interface.inputs = ports(inputs), interface.outputs = ports(outputs);
        interface.max_batch_rows = max_batch_rows, interface.n_symbols = n_symbols;
        if (int(inputs.size()) != table->n_inputs || int(outputs.size()) != table->n_outputs) throw std::invalid_argument("the interface is not the program's");
        Policy policy = policy_of(max_batch_rows, max_delay_s, instances, max_queue, std::move(preferred), levels, default_level);
        policy.inline_runs = !table->calls_back;
        policy.ordered = ordered;
        version = std::make_shared<Version>(std::move(name), std::move(number), std::move(interface), policy, table, std::move(seconds), std::move(rows));
    }
    ~PyVersion() { close(); }

    void close() {
        nb::gil_scoped_release unlocked;
        version->close();
    }

    // (meaning, text, outputs, times), or for what was refused (meaning, text, milliseconds until it may come back, None): outputs as (bytes, shape), times as seconds: queued, assembled, computed, scattered, and rows, reason and number of the run.
    nb::object run(const std::vector<std::pair<uintptr_t, std::vector<int64_t>>>& inputs, int64_t rows, std::optional<double> left, nb::object watch, int level,
                   std::optional<double> in_time) {
        auto job = std::make_shared<LocalJob>(version->interface());
        for (size_t i = 0; i < inputs.size(); i++) {
            const auto& [address, dims] = inputs[i];
            if (dims.size() > std::size(hr_tensor{}.dims)) throw std::length_error("a tensor has more than 12 dimensions");
            hr_tensor tensor{version->interface().inputs.at(i).code, int32_t(dims.size()), {}, reinterpret_cast<void*>(address)};
            std::copy(dims.begin(), dims.end(), tensor.dims);
            job->request.inputs.push_back(tensor);
        }
        job->request.rows = rows, job->arrived = Clock::now();
        if (left) job->deadline = job->arrived + span(std::min(*left, 1e7));
        if (in_time) job->delay_at = job->arrived + span(std::min(*in_time, 1e7));
        if (level < 1 || size_t(level) > version->policy().levels.size()) throw std::out_of_range("there is no such level");
        job->level = level;
        Meaning why;
        std::string text;
        if (!version->submit(job, why, text)) return nb::make_tuple(text_of(why), text, job->retry_ms, nb::none());
        if (!watch.is_none() && !nb::cast<bool>(watch(nb::cpp_function([job] { job->cancelled = true; })))) job->cancelled = true;
        version->pump(true);        // what is short runs right here: to give the interpreter away and get it back would cost more
        if (!job->wait(Time::min())) {
            nb::gil_scoped_release unlocked;
            if (!job->wait(job->deadline)) job->cancelled = true, version->pump(false), job->wait(kNever);     // a running batch still reads the inputs
        }
        nb::object times = nb::none();
        if (job->execution) {
            const Execution& e = *job->execution;
            times = nb::make_tuple(seconds_between(job->arrived, e.started), seconds_between(e.started, e.assembled), seconds_between(e.assembled, e.computed),
                                   seconds_between(e.computed, e.finished), e.rows, e.reason, e.number);
        }
        nb::list outputs;
        for (const auto& out : job->outputs) {
            nb::list shape;
            for (int d = 0; d < out.tensor.rank; d++) shape.append(out.tensor.dims[d]);
            outputs.append(nb::make_tuple(nb::bytes(out.data.data(), out.data.size()), shape));
        }
        return nb::make_tuple(text_of(job->meaning), job->text, outputs, times);
    }

    nb::dict take_counts(bool http) {
        const Counts c = version->counters(http ? Front::http : Front::grpc).take();
        nb::dict out, batches, releases, meanings;
        for (const auto& [rows, sums] : c.batches) batches[nb::int_(rows)] = nb::make_tuple(sum(sums.assemble), sum(sums.compute), sum(sums.scatter));
        for (const auto& [reason, n] : c.releases) releases[reason.c_str()] = n;
        for (const auto& [meaning, n] : c.meanings) meanings[meaning.c_str()] = n;
        out["success"] = sum(c.success), out["fail"] = sum(c.fail), out["cancel"] = sum(c.cancel), out["queue"] = sum(c.queue);
        out["compute_input"] = sum(c.assemble), out["compute_infer"] = sum(c.compute), out["compute_output"] = sum(c.scatter);
        out["inference_count"] = c.inferences, out["execution_count"] = c.executions, out["last_inference_ms"] = c.last_ms;
        out["expired_before_run"] = c.expired, out["cancelled_before_run"] = c.cancelled;
        nb::list slow;
        for (const Ended& one : c.slow) slow.append(record(one));
        out["slow"] = slow;
        out["batches"] = batches, out["releases"] = releases, out["meanings"] = meanings;
        out["request_seconds"] = histogram(c.request_seconds), out["queue_seconds"] = histogram(c.queue_seconds);
        out["assemble_seconds"] = histogram(c.assemble_seconds), out["compute_seconds"] = histogram(c.compute_seconds);
        out["scatter_seconds"] = histogram(c.scatter_seconds), out["batch_rows"] = histogram(c.batch_rows);
        return out;
    }

    // (records, how many there was no room for)
    nb::object take_access(bool http) {
        const auto [records, lost] = version->counters(http ? Front::http : Front::grpc).take_access();
        nb::list out;
        for (const Ended& one : records) out.append(record(one));
        return nb::make_tuple(out, lost);
    }
    void set_access(bool errors, double slow_s, uint64_t every, size_t most) {
        for (Front front : {Front::grpc, Front::http}) version->counters(front).set_access({errors, slow_s, every, most});
    }

    std::shared_ptr<Version> version;

private:
    nb::object program_, door_;     // kept alive
};

class PyFront {
public:
    using Tls = std::optional<std::tuple<std::string, std::string, std::string>>;      // PEM: certificate, key, authority of clients ("": none)

    PyFront(const nb::dict& limits, const std::vector<std::pair<std::string, bool>>& methods, const std::string& infer_path, nb::object deliver)
        : deliver_(std::move(deliver)) {
        Limits l;
        const auto take = [&](const char* name, auto& into) {
            if (limits.contains(name)) into = nb::cast<std::decay_t<decltype(into)>>(limits[name]);
        };
        take("max_message_bytes", l.max_message_bytes), take("max_metadata_bytes", l.max_metadata_bytes), take("max_buffered_bytes", l.max_buffered_bytes);
        take("max_connections", l.max_connections), take("max_concurrent_streams", l.max_concurrent_streams);
        take("handshake_timeout_s", l.handshake_timeout_s), take("idle_timeout_s", l.idle_timeout_s), take("age_s", l.age_s), take("age_grace_s", l.age_grace_s);
        take("keepalive_s", l.keepalive_s), take("keepalive_timeout_s", l.keepalive_timeout_s), take("control_frames_per_second", l.control_frames_per_second);
        take("max_header_bytes", l.max_header_bytes), take("max_headers", l.max_headers), take("header_timeout_s", l.header_timeout_s);
        take("http_idle_timeout_s", l.http_idle_timeout_s);
        loop_ = std::make_unique<Loop>(l);
        std::unordered_map<std::string, Shape> table;
        for (const auto& [path, streams] : methods) table[path] = streams ? Shape::stream : Shape::unary;
        plane_ = std::make_shared<Plane>(*loop_, std::move(table), infer_path, [this](std::vector<Event> events) { courier_.send(std::move(events)); });
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
    void set_refusing() { plane_->set_refusing(); }
    // Digests as 32 bytes.
    void set_gate(bool http, bool needs_token, const std::vector<std::tuple<std::string, nb::bytes, double>>& tokens, const std::vector<std::pair<std::string, nb::bytes>>& headers) {
        const auto digest = [](const nb::bytes& from) {
            Digest out;
            if (from.size() != out.size()) throw std::invalid_argument("a digest has 32 bytes");
            std::memcpy(out.data(), from.c_str(), out.size());
            return out;
        };
        Gate gate{needs_token, !headers.empty(), {}, {}};
        for (const auto& [name, bytes, expires] : tokens) gate.tokens.push_back({name, digest(bytes), expires});
        for (const auto& [name, bytes] : headers) gate.headers.push_back({name, digest(bytes)});
        plane_->set_gate(http ? Front::http : Front::grpc, std::move(gate));
    }
    void set_tracing(const std::string& model, bool on, uint64_t every) { plane_->set_tracing(model, on, every); }
    void refuse_new() { plane_->set_refusing(), loop_->refuse_new(); }
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

    void publish(const std::string& model, const std::vector<std::pair<std::string, PyVersion*>>& versions, const std::string& preferred) {
        auto served = std::make_shared<Served>();
        for (const auto& [label, version] : versions) {
            served->versions[label] = version->version;
            const std::weak_ptr<Plane> plane = plane_;
            const std::string name = version->version->name(), number = version->version->number();
            version->version->set_on_failure([plane, name, number](const std::string& incident, const std::string& text) {
                if (const auto alive = plane.lock()) alive->failed(name, number, incident, text);
            });
        }
        const auto found = served->versions.find(preferred);
        if (found != served->versions.end()) served->preferred = found->second;
        plane_->publish(model, versions.empty() ? nullptr : std::move(served));
    }
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
            case Event::failure: return nb::make_tuple(int(e.kind), e.model, e.version, e.incident, latin(e.text));
        }
        return nb::none();
    }
    nb::object deliver_;
    Courier courier_{[this](std::vector<Event> events) { hand_over(std::move(events)); }};
    std::vector<bool> listeners_;       // whether each speaks HTTP/1.1
    std::unique_ptr<Loop> loop_;
    std::shared_ptr<Plane> plane_;
};

}  // namespace

}  // namespace hr::serve

NB_MODULE(_native, m) {
    using namespace hr::serve;
    nb::set_leak_warnings(false);       // a front may live until the process ends
    m.doc() = "The native gRPC front: HTTP/2 by libnghttp2 on one thread, and the queues of model versions.";
    nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
        try {
            std::rethrow_exception(pointer);
        } catch (const std::system_error& error) {
            PyErr_SetObject(PyExc_OSError, nb::make_tuple(error.code().value(), error.what()).ptr());
        }
    });
    nb::class_<PyVersion>(m, "Version", "A model version that takes requests.")
        .def(nb::init<std::string, std::string, std::vector<PyVersion::PortRow>, std::vector<PyVersion::PortRow>, int64_t, int, double, int, size_t, std::vector<int64_t>,
                      std::vector<std::tuple<size_t, double, bool>>, int, nb::object, std::vector<double>, std::vector<double>, bool>(),
             nb::arg("name"), nb::arg("number"), nb::arg("inputs"), nb::arg("outputs"), nb::arg("max_batch_rows"), nb::arg("n_symbols"), nb::arg("max_delay_s"),
             nb::arg("instances"), nb::arg("max_queue"), nb::arg("preferred"), nb::arg("levels"), nb::arg("default_level"), nb::arg("program"), nb::arg("seconds"), nb::arg("rows"), nb::arg("ordered") = false)
        .def("run", &PyVersion::run, nb::arg("inputs"), nb::arg("rows"), nb::arg("left").none(), nb::arg("watch").none(), nb::arg("level") = 1,
             nb::arg("in_time").none() = nb::none())
        .def("close", &PyVersion::close)
        .def("take_counts", &PyVersion::take_counts, nb::arg("http"))
        .def("take_access", &PyVersion::take_access, nb::arg("http"))
        .def("set_access", &PyVersion::set_access, nb::arg("errors"), nb::arg("slow_s"), nb::arg("every"), nb::arg("most"))
        .def_prop_ro("oldest_s", [](const PyVersion& self) { return self.version->oldest_s(); })
        .def_prop_ro("pending", [](const PyVersion& self) { return self.version->pending(); })
        .def_prop_ro("inflight", [](const PyVersion& self) { return self.version->inflight(); });
    m.def("remote_door", &remote_door, nb::arg("run"), nb::arg("inputs"), nb::arg("outputs"), "The door of a model that runs in other processes; see remote.h.");
    nb::class_<PyPending>(m, "Pending", "The waiting jobs of a version, by themselves: for tests.")
        .def(nb::init<int64_t, size_t, std::vector<int64_t>, std::vector<std::tuple<size_t, double, bool>>>(), nb::arg("max_rows"), nb::arg("max_queue"),
             nb::arg("preferred"), nb::arg("levels"))
        .def("push", &PyPending::push, nb::arg("number"), nb::arg("rows"), nb::arg("width"), nb::arg("level"), nb::arg("deadline").none(), nb::arg("delay_at").none(),
             nb::arg("now"))
        .def("pop", &PyPending::pop, nb::arg("now"), nb::arg("waited"))
        .def("lateness", &PyPending::lateness, nb::arg("rows"), nb::arg("level"), nb::arg("deadline"), nb::arg("now"), nb::arg("row_seconds"), nb::arg("run_seconds"))
        .def("__len__", &PyPending::size);
    nb::class_<PyFront>(m, "Front", "Listeners for gRPC and HTTP/1.1 on one loop; see serve/native_front.py.")
        .def(nb::init<const nb::dict&, const std::vector<std::pair<std::string, bool>>&, const std::string&, nb::object>(), nb::arg("limits"), nb::arg("methods"),
             nb::arg("infer_path"), nb::arg("deliver"))
        .def("listen", &PyFront::listen, nb::arg("host"), nb::arg("port"), nb::arg("http"), nb::arg("tls").none(), nb::arg("rest") = false,
             "Take a port; its number. Before start. `rest`: inferences that come there need not go to Python.")
        .def("set_tls", &PyFront::set_tls, nb::arg("tls"), "Use these texts for connections to come, on every listener.")
        .def_prop_ro("connections", &PyFront::connections)
        .def("rejections", &PyFront::rejections, "How often each limit of connections and messages refused something.")
        .def("start", &PyFront::start)
        .def("set_closing", &PyFront::set_closing, "Answers over HTTP end their connection from now on.")
        .def("set_refusing", &PyFront::set_refusing, "Every inference goes to Python from now on.")
        .def("set_gate", &PyFront::set_gate, nb::arg("http"), nb::arg("needs_token"), nb::arg("tokens"), nb::arg("headers"), "Which inferences need not go to Python; see gate.h.")
        .def("set_tracing", &PyFront::set_tracing, nb::arg("model"), nb::arg("on"), nb::arg("every"), "Which inferences of a model ('': of every other) go to Python because they are traced.")
        .def("refuse_new", &PyFront::refuse_new, "Close the listener and tell every client to go elsewhere.")
        .def("stop", &PyFront::stop)
        .def("answer", &PyFront::answer)
        .def("send", &PyFront::send)
        .def("finish", &PyFront::finish, nb::arg("call"), nb::arg("code"), nb::arg("text"), nb::arg("retry_ms") = -1)
        .def("respond", &PyFront::respond, nb::arg("call"), nb::arg("head"), nb::arg("parts"), nb::arg("close"), nb::arg("more"))
        .def("wait_sent", &PyFront::wait_sent, nb::arg("call"), nb::arg("seconds"),
             "Wait until most parts of an answer have left; False: the call is over, or nothing left for so long.")
        .def("drop", &PyFront::drop, nb::arg("call"), "End a call without an answer.")
        .def("taken", &PyFront::taken, nb::arg("call"), nb::arg("bytes"), "A message of a stream was read: the client may send on.")
        .def("publish", &PyFront::publish, nb::arg("model"), nb::arg("versions"), nb::arg("preferred"));
}
