#include "routes.h"

#include <algorithm>

namespace hr::serve {

void Routes::publish(const std::string& model, std::shared_ptr<Served> served) {
    std::lock_guard guard(lock_);
    if (served) models_[model] = std::move(served);
    else models_.erase(model);
}

void Routes::set_gate(Front front, Gate gate) {
    auto made = std::make_shared<const Gate>(std::move(gate));
    std::lock_guard guard(lock_);
    gates_[size_t(front)] = std::move(made);
}

void Routes::set_tracing(const std::string& model, bool on, uint64_t every) {
    std::lock_guard guard(lock_);
    Trace& trace = traces_[model];
    trace.on = on, trace.every = every;
    tracing_ = std::any_of(traces_.begin(), traces_.end(), [](const auto& one) { return one.second.on; });
}

bool Routes::reads_metadata(Front front) const {
    std::lock_guard guard(lock_);
    return gates_[size_t(front)]->needs_token || gates_[size_t(front)]->needs_header;
}

std::shared_ptr<Version> Routes::find(Front front, const Metadata& metadata, std::string_view model, std::string_view version, std::string& principal) const {
    std::shared_ptr<Version> found;
    std::shared_ptr<const Gate> gate;
    {
        std::lock_guard guard(lock_);
        gate = gates_[size_t(front)];
        const auto served = models_.find(std::string(model));
        if (served == models_.end()) return nullptr;
        if (version.empty()) {
            found = served->second->preferred;
        } else if (const auto one = served->second->versions.find(version); one != served->second->versions.end()) {
            found = one->second;
        }
    }
    return found && gate->admits(metadata, principal) ? found : nullptr;
}

// W3C trace context: the last bit of the flags says that the caller records.
bool Routes::traced(Metadata& metadata, std::string_view model) {
    if (!tracing_) return false;
    std::lock_guard guard(lock_);
    auto found = traces_.find(std::string(model));
    if (found == traces_.end()) found = traces_.find("");
    if (found == traces_.end() || !found->second.on) return false;
    for (const auto& [key, value] : metadata)
        if (key == "traceparent" && value.size() >= 55 && (value[54] - (value[54] < 'a' ? '0' : 'a' - 10)) & 1) return true;
    Trace& trace = found->second;
    if (!trace.every || ++trace.count % trace.every) return false;
    metadata.emplace_back("headrace-trace", "1");
    return true;
}

}  // namespace hr::serve
