#include <nanobind/stl/shared_ptr.h>

#include "grpc.h"
#include "python.h"

namespace hr::serve {

namespace {

void publish(Routes& routes, const std::string& model, const std::vector<std::pair<std::string, nb::object>>& versions, const std::string& preferred) {
    auto served = std::make_shared<Served>();
    for (const auto& [label, version] : versions) served->versions[label] = version_of(version);
    const auto found = served->versions.find(preferred);
    if (found != served->versions.end()) served->preferred = found->second;
    routes.publish(model, versions.empty() ? nullptr : std::move(served));
}

// Digests as 32 bytes.
void set_gate(Routes& routes, bool http, bool needs_token, const std::vector<std::tuple<std::string, nb::bytes, double>>& tokens,
              const std::vector<std::pair<std::string, nb::bytes>>& headers) {
    const auto digest = [](const nb::bytes& from) {
        Digest out;
        if (from.size() != out.size()) throw std::invalid_argument("a digest has 32 bytes");
        std::memcpy(out.data(), from.c_str(), out.size());
        return out;
    };
    Gate gate{needs_token, !headers.empty(), {}, {}};
    for (const auto& [name, bytes, expires] : tokens) gate.tokens.push_back({name, digest(bytes), expires});
    for (const auto& [name, bytes] : headers) gate.headers.push_back({name, digest(bytes)});
    routes.set_gate(http ? Front::http : Front::grpc, std::move(gate));
}

// A ModelInfer message that a thread of Python brings, and waits for its answer.
class AnswerJob : public Waiting {
public:
    AnswerJob(std::shared_ptr<Version> version, std::string principal, size_t size) : version_(std::move(version)), principal_(std::move(principal)), size_(size) {}
    void prepare(const hr_outputs& outputs, int64_t from) override {
        answer_bytes_ = answer_bytes(version_->interface(), request, outputs);
        answer = encode(version_->interface(), version_->name(), version_->number(), request, outputs, from);
    }
    Asked asked() const override { return {request.id, principal_, size_, answer_bytes_}; }
    Bytes answer;

private:
    const std::shared_ptr<Version> version_;
    const std::string principal_;
    const size_t size_;
    size_t answer_bytes_ = 0;
};

// What is no text is no credential either.
Metadata read_metadata(const nb::object& rows) {
    Metadata out;
    for (nb::handle row : rows) {
        const nb::object key = row[0], value = row[1];
        if (nb::isinstance<nb::str>(key) && nb::isinstance<nb::str>(value)) out.emplace_back(nb::cast<std::string>(key), nb::cast<std::string>(value));
    }
    return out;
}

nb::object infer(Routes& routes, nb::bytes message, std::optional<double> left, nb::object metadata, nb::object watch, int room) {
    const Time now = Clock::now();
    const std::string_view data(message.c_str(), message.size());
    Envelope envelope;
    if (routes.waiting >= room || routes.refusing() || !read_envelope(data, envelope)) return nb::none();
    Metadata given;
    if (routes.reads_metadata(Front::grpc)) given = read_metadata(metadata());
    std::string principal;
    const std::shared_ptr<Version> version = routes.find(Front::grpc, given, envelope.model, envelope.version, principal);
    if (!version) return nb::none();
    const auto job = std::make_shared<AnswerJob>(version, std::move(principal), data.size());
    if (!fit(version->interface(), data, job->request)) return nb::none();
    if (left && *left < kFarSeconds) job->deadline = now + span(*left);
    if (!version->accept(job, now)) return nb::none();
    struct Count {
        std::atomic<int>& waiting;
        explicit Count(std::atomic<int>& count) : waiting(count) { waiting++; }
        ~Count() { waiting--; }
    } count(routes.waiting);
    run_here(*version, job, watch);
    if (job->meaning == Meaning::ok) return nb::bytes(job->answer.data() + kPrefix, job->answer.size() - kPrefix);
    return nb::make_tuple(text_of(job->meaning), job->text, job->retry_ms);
}

}  // namespace

void bind_routes(nb::module_& m) {
    nb::class_<Routes>(m, "Routes", "Which inferences need no Python; see serve/routes.py.")
        .def(nb::init<>())
        .def("publish", &publish, nb::arg("model"), nb::arg("versions"), nb::arg("preferred"))
        .def("set_gate", &set_gate, nb::arg("http"), nb::arg("needs_token"), nb::arg("tokens"), nb::arg("headers"), "Which inferences need not go to Python; see gate.h.")
        .def("set_tracing", &Routes::set_tracing, nb::arg("model"), nb::arg("on"), nb::arg("every"), "Which inferences of a model ('': of every other) go to Python because they are traced.")
        .def("set_refusing", &Routes::set_refusing, "Every inference goes to Python from now on.")
        .def_prop_ro("waiting", [](const Routes& self) { return self.waiting.load(); }, "Threads in `infer`.")
        .def("infer", &infer, nb::arg("message"), nb::arg("left").none(), nb::arg("metadata"), nb::arg("watch"), nb::arg("room"),
             "Answer a ModelInfer message on this thread: its bytes, or (meaning, text, milliseconds until it may come back); None: it is Python's. `metadata` is "
             "asked where credentials matter, `watch` registers how the client gives up, `room` is how many threads may wait here.");
}

}  // namespace hr::serve
