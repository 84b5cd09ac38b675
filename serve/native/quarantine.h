// Requests that were running when a process died. What was there at two deaths is refused for a while; what was there at one
// runs alone meanwhile, so that the second death tells who it was. serve/quarantine.py does the same.
#pragma once
#include <string_view>
#include <unordered_map>

#include "interface.h"
#include "loop.h"

namespace hr::serve {

class Quarantine {
public:
    static constexpr double kSeconds = 60;
    static constexpr size_t kMost = 4096;

    enum class Verdict { clear, suspect, refused };

    Verdict look(const Interface& interface, const Fitted& request, Time now) {
        if (deaths_.empty()) return Verdict::clear;
        std::erase_if(deaths_, [now](const auto& entry) { return entry.second.until <= now; });
        const auto found = deaths_.empty() ? deaths_.end() : deaths_.find(digest(interface, request));
        return found == deaths_.end() ? Verdict::clear : found->second.count > 1 ? Verdict::refused : Verdict::suspect;
    }
    // It was running at a death; true: at a second one.
    bool accuse(const Interface& interface, const Fitted& request, Time now) {
        if (deaths_.size() >= kMost) deaths_.clear();
        Deaths& seen = deaths_[digest(interface, request)];
        seen.until = now + span(kSeconds);
        return ++seen.count > 1;
    }

private:
    struct Deaths {
        int count = 0;
        Time until{};
    };
    static size_t digest(const Interface& interface, const Fitted& request) {
        size_t all = 0;
        for (size_t i = 0; i < request.inputs.size(); i++) {
            const hr_tensor& tensor = request.inputs[i];
            size_t bytes = interface.inputs[i].item;
            for (int d = 0; d < tensor.rank; d++) bytes *= size_t(tensor.dims[d]), all = all * 1099511628211u + size_t(tensor.dims[d]);
            all = all * 1099511628211u + std::hash<std::string_view>()({static_cast<const char*>(tensor.data), bytes});
        }
        return all;
    }
    std::unordered_map<size_t, Deaths> deaths_;
};

}  // namespace hr::serve
