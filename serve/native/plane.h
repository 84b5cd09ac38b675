// What answers the calls of the native front: inferences that fit a published version without doubt go straight into its
// queue; everything else goes to Python, a list of events a turn.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "gate.h"
#include "loop.h"
#include "rest.h"
#include "version.h"

namespace hr::serve {

// The versions of one model that take requests, as the manager published them.
struct Served {
    std::map<std::string, std::shared_ptr<Version>, std::less<>> versions;  // by number and by label
    std::shared_ptr<Version> preferred;                                     // where the request names no version
};

struct Event {
    enum Kind : int { call = 0, message = 1, half_close = 2, gone = 3, failure = 4, http = 5, refusal = 6 } kind;
    std::shared_ptr<Call> call_;
    Bytes data;
    std::string model, version, incident, text;     // of a failure; of a refusal: the text
    int status = 0;
};

class Plane : public Handler {
public:
    using Deliver = std::function<void(std::vector<Event>)>;

    Plane(Loop& loop, std::unordered_map<std::string, Shape> methods, std::string infer_path, Deliver deliver);

    // From any thread.
    void publish(const std::string& model, std::shared_ptr<Served> served);     // null: no more
    void failed(const std::string& model, const std::string& version, const std::string& incident, const std::string& text);
    void set_refusing() { refusing_ = true; }
    void set_closing() { closing_ = true; }     // answers over HTTP end their connection
    void set_rest(int listener) { rest_ = listener; }   // before the loop starts
    void set_gate(Front front, Gate gate);
    // Inferences that shall be traced go to Python: of a model ("": of every other) one of so many (0: none), and those
    // whose caller traces them.
    void set_tracing(const std::string& model, bool on, uint64_t every);

    bool knows(const std::string& path, Shape& shape) override;
    void call(std::shared_ptr<Call> call) override;
    void message(const std::shared_ptr<Call>& call, Bytes message) override;
    void half_close(const std::shared_ptr<Call>& call) override;
    void gone(const std::shared_ptr<Call>& call) override;
    void refuse(const std::shared_ptr<Call>& call, int status, const char* text) override;
    void turn() override;
    bool has_work() const override { return !touched_.empty() || !events_.empty(); }

private:
    bool infer(const std::shared_ptr<Call>& call);
    bool infer_rest(const std::shared_ptr<Call>& call);
    std::shared_ptr<Version> find(Front front, const Call& call, std::string_view model, std::string_view version, std::string& principal);
    bool submit(std::shared_ptr<Version> version, const JobPtr& job);
    bool traced(Call& call, std::string_view model);

    Loop& loop_;
    const std::unordered_map<std::string, Shape> methods_;
    const std::string infer_path_;
    const Deliver deliver_;
    int rest_ = -1;                                         // the listener of REST
    std::atomic<bool> refusing_{false}, closing_{false}, tracing_{false};
    std::vector<Event> events_;                             // of this turn, for Python
    std::vector<std::shared_ptr<Version>> touched_;         // queued into this turn
    std::mutex lock_;                                       // guards gates_, models_, failures_ and traces_
    struct Trace {
        bool on = false;
        uint64_t every = 0, count = 0;
    };
    std::unordered_map<std::string, Trace> traces_;         // by model; "": of every other
    std::shared_ptr<const Gate> gates_[2] = {std::make_shared<Gate>(), std::make_shared<Gate>()};       // by front
    std::unordered_map<std::string, std::shared_ptr<Served>> models_;
    std::vector<Event> failures_;
};

}  // namespace hr::serve
