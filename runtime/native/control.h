// If, Loop and Scan: nodes whose blocks are programs. A block runs where its node runs: no interpreter lock, no callback.
// What a block reads from outside follows its own inputs; its program plans by input shapes like any other.
#pragma once
#include <memory>
#include <vector>

#include "kernel.h"

namespace hr {

struct Buffer;
class Host;
class Program;

// A value and what keeps its bytes alive: counted pool memory, a host object, or neither (someone else does).
struct Held {
    Tensor tensor;
    Buffer* buffer = nullptr;
    void* object = nullptr;
};

// Held values that this owns: one reference to each buffer and object.
class Owned {
public:
    Owned(size_t n, Host* host) : items_(n), host_(host) {}
    ~Owned();
    Owned(const Owned&) = delete;
    Held& operator[](size_t i) { return items_[i]; }
    Held* data() { return items_.data(); }
    size_t size() const { return items_.size(); }
    Held take(size_t i);                    // the caller owns it now
    void put(size_t i, Held value);         // releases what was there

private:
    std::vector<Held> items_;
    Host* host_;
};

struct ControlBlock {
    Program* program;                       // not owned
    std::vector<int> captured;              // which inputs of the node follow the block's own
};

class Control {
public:
    virtual ~Control() = default;
    // `inputs` stay alive and as they are; `outputs` (none held before) get references of their own.
    virtual void run(const Held* inputs, Owned& outputs) const = 0;

    Host* host = nullptr;
    std::vector<ControlBlock> blocks;
    std::vector<char> wanted;               // per output of the node
};

// If (then, else), Loop (body), Scan (body). `info` has what the operator has, and
//   max_trips, max_bytes: a Loop beyond them, or scanned outputs larger than that, are errors;
//   scanned_K: the dimensions of scanned output K where no trip says (0 where the graph does not know either).
// Throws std::invalid_argument where blocks and node do not fit each other.
std::unique_ptr<Control> make_control(const NodeInfo& info, std::vector<ControlBlock> blocks);

}  // namespace hr
