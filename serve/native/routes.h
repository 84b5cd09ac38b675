// Which inferences need no Python: of which models, with which credentials, and which of them go there to be traced. One for all
// fronts of a server; from any thread.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "gate.h"
#include "version.h"

namespace hr::serve {

// The versions of one model that take requests, as the manager published them.
struct Served {
    std::map<std::string, std::shared_ptr<Version>, std::less<>> versions;  // by number and by label
    std::shared_ptr<Version> preferred;                                     // where the request names no version
};

class Routes {
public:
    void publish(const std::string& model, std::shared_ptr<Served> served);     // null: no more
    void set_gate(Front front, Gate gate);
    // Inferences that shall be traced go to Python: of a model ("": of every other) one of so many (0: none), and those
    // whose caller traces them.
    void set_tracing(const std::string& model, bool on, uint64_t every);
    void set_refusing() { refusing_ = true; }       // every inference goes to Python from now on, which refuses it
    bool refusing() const { return refusing_; }

    bool reads_metadata(Front front) const;         // whether `find` looks at it
    // The version that takes a request without Python; null: none does. `principal`: the name of the caller's token.
    std::shared_ptr<Version> find(Front front, const Metadata& metadata, std::string_view model, std::string_view version, std::string& principal) const;
    // Whether a request is traced; it then carries a mark, so that Python does not draw again.
    bool traced(Metadata& metadata, std::string_view model);

    std::atomic<int> waiting{0};                    // threads of Python for their answers

private:
    struct Trace {
        bool on = false;
        uint64_t every = 0, count = 0;
    };
    std::atomic<bool> refusing_{false}, tracing_{false};
    mutable std::mutex lock_;                       // guards what follows
    std::unordered_map<std::string, Trace> traces_;         // by model; "": of every other
    std::shared_ptr<const Gate> gates_[2] = {std::make_shared<Gate>(), std::make_shared<Gate>()};       // by front
    std::unordered_map<std::string, std::shared_ptr<Served>> models_;
};

}  // namespace hr::serve
