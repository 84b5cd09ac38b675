#include "plane.h"

#include <algorithm>

namespace hr::serve {

namespace {

constexpr size_t kCompressedHere = 64 << 10;     // larger answers would hold the loop up while they are compressed

// A unary ModelInfer call in the queue of a version.
class CallJob : public Job {
public:
    CallJob(Loop& loop, std::shared_ptr<Call> call, std::shared_ptr<Version> version, std::string principal)
        : loop_(loop), call_(std::move(call)), version_(std::move(version)), principal_(std::move(principal)) {}

    bool gone() const override { return call_->gone.load(std::memory_order_relaxed); }
    void prepare(const hr_outputs& outputs, int64_t from) override {
        answer_bytes_ = answer_bytes(version_->interface(), request, outputs);
        answer_ = encode(version_->interface(), version_->name(), version_->number(), request, outputs, from);
    }
    Asked asked() const override { return {request.id, principal_, call_->message.size(), answer_bytes_}; }
    void deliver(const Execution&) override { loop_.answer(call_->id, std::move(answer_), true); }
    void push() override { loop_.push(); }
    void fail(Meaning meaning, const std::string& text, const Execution*) override { loop_.finish(call_->id, status_of(meaning, text)); }

    Status status_of(Meaning meaning, const std::string& text) const {
        switch (meaning) {
            case Meaning::ok: return {};
            case Meaning::unavailable: return {Code::unavailable, text};
            case Meaning::overloaded: return {Code::resource_exhausted, text, retry_ms};
            case Meaning::expired: return {Code::deadline_exceeded, text};
            case Meaning::cancelled: return {Code::cancelled, text};
            case Meaning::internal: break;
        }
        return {Code::internal, text};
    }

private:
    Loop& loop_;
    const std::shared_ptr<Call> call_;      // owns the bytes that the request looks into
    const std::shared_ptr<Version> version_;
    const std::string principal_;
    Bytes answer_;
    size_t answer_bytes_ = 0;
};

// An inference over REST in the queue of a version.
class RestJob : public Job {
public:
    RestJob(Loop& loop, std::shared_ptr<Call> call, std::shared_ptr<Version> version, std::string principal, RestCall::Coding coding, const std::atomic<bool>& closing)
        : loop_(loop), call_(std::move(call)), version_(std::move(version)), principal_(std::move(principal)), coding_(coding), closing_(closing) {}

    bool gone() const override { return call_->gone.load(std::memory_order_relaxed); }
    Front front() const override { return Front::http; }
    void prepare(const hr_outputs& outputs, int64_t from) override {
        answer_ = encode_rest(version_->interface(), version_->name(), version_->number(), request, binary, coding_, outputs, from);
        version_->last_answer() = answer_.body.size();
        answer_bytes_ = answer_bytes(version_->interface(), request, outputs);
    }
    Asked asked() const override { return {request.id, principal_, call_->message.size(), answer_bytes_}; }
    void deliver(const Execution&) override { loop_.respond(call_->id, std::move(answer_.head), std::move(answer_.body), closing_, false, true); }
    void push() override { loop_.push(); }
    void fail(Meaning meaning, const std::string& text, const Execution*) override {
        answer_ = rest_error(status_of(meaning), text, meaning == Meaning::overloaded ? retry_ms : -1);
        loop_.respond(call_->id, std::move(answer_.head), std::move(answer_.body), closing_);
    }

    std::vector<char> binary;           // of each output asked for

private:
    static int status_of(Meaning meaning) {
        switch (meaning) {
            case Meaning::ok: return 200;
            case Meaning::unavailable: return 503;
            case Meaning::overloaded: return 429;
            case Meaning::expired: return 504;
            case Meaning::cancelled: return 499;
            case Meaning::internal: break;
        }
        return 500;
    }
    Loop& loop_;
    const std::shared_ptr<Call> call_;
    const std::shared_ptr<Version> version_;
    const std::string principal_;
    const RestCall::Coding coding_;
    const std::atomic<bool>& closing_;
    RestAnswer answer_;
    size_t answer_bytes_ = 0;
};

}  // namespace

Plane::Plane(Loop& loop, std::shared_ptr<Routes> routes, std::unordered_map<std::string, Shape> methods, std::string infer_path, Deliver deliver)
    : loop_(loop), routes_(std::move(routes)), methods_(std::move(methods)), infer_path_(std::move(infer_path)), deliver_(std::move(deliver)) {}

bool Plane::knows(const std::string& path, Shape& shape) {
    const auto found = methods_.find(path);
    if (found == methods_.end()) return false;
    shape = found->second;
    return true;
}

void Plane::call(std::shared_ptr<Call> call) {
    if (call->shape == Shape::unary && call->path == infer_path_ && infer(call)) return;
    if (call->shape == Shape::http && call->listener == rest_ && infer_rest(call)) return;
    call->in_python = true;
    const Event::Kind kind = call->shape == Shape::http ? Event::http : Event::call;
    events_.push_back({kind, std::move(call), {}, {}});
}

// True where the call is in a queue or answered; false: Python's.
bool Plane::infer(const std::shared_ptr<Call>& call) {
    Envelope envelope;
    if (routes_->refusing()) return false;
    const bool known = read_envelope(call->message.view(), envelope);
    if (routes_->traced(call->metadata, known ? envelope.model : std::string_view()) || !known) return false;
    std::string principal;
    const std::shared_ptr<Version> version = routes_->find(Front::grpc, call->metadata, envelope.model, envelope.version, principal);
    if (!version) return false;
    auto job = std::make_shared<CallJob>(loop_, call, version, std::move(principal));
    return fit(version->interface(), call->message.view(), job->request) && (job->deadline = call->deadline, submit(version, job));
}

bool Plane::infer_rest(const std::shared_ptr<Call>& call) {
    RestCall rest;
    std::string principal;
    if (routes_->refusing()) return false;
    const bool known = read_target(*call, rest);
    if (routes_->traced(call->metadata, known ? rest.model : std::string_view()) || !known) return false;
    const std::shared_ptr<Version> version = routes_->find(Front::http, call->metadata, rest.model, rest.version, principal);
    if (!version || (rest.coding != RestCall::Coding::none && version->last_answer() > kCompressedHere)) return false;
    auto job = std::make_shared<RestJob>(loop_, call, version, std::move(principal), rest.coding, closing_);
    return fit_rest(version->interface(), call->message.view(), rest, job->request, job->binary) && submit(version, job);
}

bool Plane::submit(std::shared_ptr<Version> version, const JobPtr& job) {
    if (!version->accept(job, loop_.now())) return false;       // being unloaded: Python finds the one that took its place
    if (!job->ended() && std::find(touched_.begin(), touched_.end(), version) == touched_.end()) touched_.push_back(std::move(version));
    return true;
}

void Plane::message(const std::shared_ptr<Call>& call, Bytes message) { events_.push_back({Event::message, call, std::move(message), {}}); }

void Plane::half_close(const std::shared_ptr<Call>& call) { events_.push_back({Event::half_close, call, {}, {}}); }

void Plane::gone(const std::shared_ptr<Call>& call) {
    if (call->in_python) events_.push_back({Event::gone, call, {}, {}});
}

void Plane::refuse(const std::shared_ptr<Call>& call, int status, const char* text) {
    events_.push_back({Event::refusal, call, {}, text, status});
}

void Plane::turn() {
    do {                                    // an answer may free a connection for the next request that it holds
        std::vector<std::shared_ptr<Version>> touched;
        touched.swap(touched_);
        for (const auto& version : touched) version->pump(true);        // what a turn brought is a batch
        std::vector<Event> events;
        events.swap(events_);
        if (!events.empty()) deliver_(std::move(events));
    } while (has_work());
}

}  // namespace hr::serve
