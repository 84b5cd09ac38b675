// What answers the calls of the native front: inferences that fit a published version without doubt go straight into its
// queue; everything else goes to Python, a list of events a turn.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "loop.h"
#include "rest.h"
#include "routes.h"

namespace hr::serve {

struct Event {
    enum Kind : int { call = 0, message = 1, half_close = 2, gone = 3, http = 4, refusal = 5 } kind;
    std::shared_ptr<Call> call_;
    Bytes data;
    std::string text;           // of a refusal
    int status = 0;
};

class Plane : public Handler {
public:
    using Deliver = std::function<void(std::vector<Event>)>;

    Plane(Loop& loop, std::shared_ptr<Routes> routes, std::unordered_map<std::string, Shape> methods, std::string infer_path, Deliver deliver);

    // From any thread.
    void set_closing() { closing_ = true; }     // answers over HTTP end their connection
    void set_rest(int listener) { rest_ = listener; }   // before the loop starts

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
    bool submit(std::shared_ptr<Version> version, const JobPtr& job);

    Loop& loop_;
    const std::shared_ptr<Routes> routes_;
    const std::unordered_map<std::string, Shape> methods_;
    const std::string infer_path_;
    const Deliver deliver_;
    int rest_ = -1;                                         // the listener of REST
    std::atomic<bool> closing_{false};
    std::vector<Event> events_;                             // of this turn, for Python
    std::vector<std::shared_ptr<Version>> touched_;         // queued into this turn
};

}  // namespace hr::serve
