// A program, its plans, and how one call runs. No Python here: what needs the interpreter goes through Host.
//
// A call has an input-shape signature. The program's first one, and each other that comes back, gets a *specialised* plan
// (planner.h): shapes inferred once, static values folded, one arena with fixed offsets; once many plans exist, only a
// signature that comes back often, so that a loop whose values grow does not plan forever. Another call runs *generically*:
// every node infers its shapes and takes memory from a pool, which is more than an arena would be. So do nodes of a
// specialised plan whose sizes depend on run-time data. Running a plan touches no map and allocates nothing where all sizes are static.
// The blocks of If, Loop and Scan are programs of their own (control.h), called by their node.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "buffer.h"
#include "control.h"
#include "kernel.h"
#include "pool.h"
#include "tensor.h"

namespace hr {

// Values of these element types are host objects, not native tensors.
inline bool is_object(DType dtype) { return dtype == DType::none || dtype == DType::str; }

struct Frame;
class Program;

// What the executor needs from the interpreter. A value that is no native tensor (string, sequence, map, optional) is an
// opaque object owned by the frame.
class Host {
public:
    virtual ~Host() = default;
    // Runs callback node `node`: reads frame.values / frame.objects, stores results with Frame::adopt.
    virtual void call(int node, Frame& frame) = 0;
    // One more reference, and the end of some; called with the interpreter lock held or not.
    virtual void keep(void* object) = 0;
    virtual void drop(std::vector<void*>& objects) = 0;
    // Whether rows of a batch never meet, so that they may run apart; asked once, when it matters, with no lock held.
    virtual bool rows_apart() = 0;
};

// An error inside a node: the text names it.
struct NodeError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// The host's callback failed; the host keeps what went wrong.
struct HostError {};

struct Node {
    std::string op, label;
    std::unique_ptr<Kernel> kernel;     // null: a callback of the host, or
    std::unique_ptr<Control> control;   // blocks that run natively
    std::vector<int> inputs, outputs;   // value ids; -1: absent, unwanted
    bool pure = true;                   // the same inputs always give the same outputs
    std::atomic<int64_t> calls{0}, nanoseconds{0};  // while profiled
    std::vector<Tensor> seen;           // inputs, then outputs of the last profiled call: types and shapes, no data
};

// One run of one node, by the steady clock.
struct Event {
    int node;
    int64_t start, nanoseconds;
};

// off; count: calls, times and shapes by node; trace: every run of a node as well.
enum class Profile : uint8_t { off, count, trace };

// Shapes of one node's outputs, checked against the declared dtypes; and its run. Errors name the node.
class Program;
ShapeContext infer_shapes(const Program& program, const Node& node, const Tensor* inputs, Tensor* outputs);
void run_kernel(const Node& node, RunContext& context);

struct InputSpec {
    std::string name;
    int value;
    bool any_rank;
    std::vector<int64_t> dims;      // >= 0: fixed; -1: free; -2 - k: symbol k
};

struct OutputSpec {
    std::string name;
    int value;
};

// One step of a plan.
struct Step {
    int node;
    bool dynamic;
    int slot = 0;               // first of this step's tensors in Frame::slots: inputs, then outputs (static steps)
    size_t scratch = 0;         // bytes
    size_t scratch_offset = 0;  // in the arena
};

enum class Place : uint8_t { none, fixed, input, output, arena, dynamic };

// Where a value's bytes are during a call.
struct Storage {
    Place place = Place::none;
    int index = 0;              // input or output number
    size_t offset = 0;          // in the arena, or in the input
    void* data = nullptr;       // fixed
};

struct Plan {
    std::vector<Shape> signature;           // shapes of the tensor inputs
    bool generic = false;
    bool small = false;                     // static, and over so little memory that a lock would be a good part of its time
    std::vector<Step> steps;
    std::vector<Tensor> tensors;            // per value: dtype and shape where static
    std::vector<Storage> storage;           // per value
    std::vector<std::vector<int>> dead;     // per step: values that nobody reads after it (dynamic ones)
    std::vector<char> direct;               // per output: a kernel writes straight into the output array
    std::vector<Buffer*> folded;            // memory of folded values
    size_t arena_bytes = 0;
    int n_slots = 0;
    int64_t parts = 1;                      // runs of one call, over as many rows of its batch each (parts.h): tensors are those of one run
    std::vector<size_t> strides;            // with several: bytes of one part of each input, then of each output
    std::atomic<bool> asks{false};          // would run in parts if it were known that rows do not meet

    std::mutex lock;                        // guards `idle`
    std::vector<std::unique_ptr<Frame>> idle;

    bool serves(const Tensor* inputs) const;    // whether their shapes are the signature; not for generic ones
    Tensor whole(Tensor part) const {           // that of the call, of an input or output of one run
        if (parts > 1) part.shape.d[0] *= parts;
        return part;
    }
    ~Plan();
};

// The state of one call, kept and reused between calls of one plan.
struct Frame {
    Program* program = nullptr;
    Plan* plan = nullptr;
    char* arena = nullptr;                  // what pointers are resolved against
    Buffer* own = nullptr;                  // that arena where the plan is small; else it is the program's, lent for a run
    std::vector<Tensor> values;             // per value: what it is now
    std::vector<Tensor> slots;              // arguments of the static steps, side by side
    std::vector<RunContext> contexts;       // per step
    struct Patch {
        Tensor* tensor;
        int io;
        size_t offset;
    };
    std::vector<Patch> patches;             // tensors in input or output arrays
    std::vector<void*> io;                  // data of inputs, then of direct outputs
    std::vector<Buffer*> buffers;           // per value: pool memory behind it
    std::vector<void*> objects;             // per value: host object behind it (owned)
    std::vector<void*> garbage;             // host objects that died
    std::vector<Tensor> arguments;          // of the dynamic step in progress

    ~Frame();
    void resolve(char* base);
    // A callback's result: the tensor lies in memory that `object` owns.
    void adopt(int value, const Tensor& tensor, void* object) { values[value] = tensor, objects[value] = object; }
    void release(int value);
    void clear();                           // after a call, or an error in it
};

class Program {
public:
    Program(int threads, Host* host);
    ~Program();
    Program(const Program&) = delete;

    // Building, in topological order.
    int add_value(DType dtype);                                 // none: a host object
    int add_constant(const Tensor& tensor, void* object);       // object: not owned; null data: an object constant
    int add_input(InputSpec spec, DType dtype);
    // A node whose kernel is made later from `info`, which learns types and constants of its values.
    Node& add_node(NodeInfo& info, const std::vector<int>& inputs, const std::vector<int>& outputs, bool pure);
    // If, Loop or Scan over programs that outlive this one; see make_control.
    void add_control(NodeInfo info, std::vector<int> inputs, std::vector<int> outputs, std::vector<ControlBlock> blocks);
    void add_output(std::string name, int value);

    // Running. `inputs` are the tensors of all inputs in order (dtype none for objects).
    std::shared_ptr<Plan> plan_for(const Tensor* inputs);
    std::shared_ptr<Plan> new_plan(const Tensor* inputs);       // specialised, and not kept
    bool fits(const Tensor* inputs) const;                      // ranks, fixed dimensions, equal symbols
    std::unique_ptr<Frame> take_frame(Plan& plan);
    void give_frame(std::unique_ptr<Frame> frame);
    void run(Frame& frame);                                     // frame.io is filled; throws NodeError

    template <class F>
    void each_plan(F&& see) {
        std::lock_guard guard(plans_lock_);
        for (const auto& plan : plans_) see(*plan);
        if (generic_) see(*generic_);
    }

    std::vector<std::unique_ptr<Node>> nodes;
    std::vector<DType> dtypes;                  // per value
    std::vector<Tensor> constants;              // per value; data null: no constant
    std::vector<void*> constant_objects;        // per value: host object of a constant, not owned
    std::vector<int> input_of;                  // per value: input number or -1
    std::vector<InputSpec> inputs;
    std::vector<OutputSpec> outputs;
    std::shared_ptr<ThreadPool> pool;
    Host* host;
    void specialise(bool on) { specialises_ = on; }             // off: calls run generically, as far as no plan serves them
    void profile(Profile how);                                  // trace starts with no events
    std::vector<Event> events();                                // in the order in which nodes ended
    std::vector<Tensor> seen(const Node& node);                 // a copy of node.seen
    size_t packed_bytes() const;                                // of the kernels' own constants
    size_t arena_bytes() const { return arena_bytes_.load(std::memory_order_relaxed); }     // of all arenas, one for each call that ran at a time

private:
    friend struct Frame;
    std::shared_ptr<Plan> kept_plan(const Tensor* inputs);      // made where there is none
    std::shared_ptr<Plan> make_plan(const Tensor* inputs);
    void ask_rows();                                            // plans that want to know are made again
    void note(const Frame& frame, int node, std::chrono::steady_clock::time_point start);
    void run_steps(Frame& frame, int& at);
    void run_dynamic(Frame& frame, const Step& step);
    void run_control(Frame& frame, const Node& node);
    std::unique_ptr<Node> new_node(NodeInfo& info, const std::vector<int>& inputs, const std::vector<int>& outputs);

    std::mutex plans_lock_;
    std::vector<std::shared_ptr<Plan>> plans_;                  // most recent first
    std::shared_ptr<Plan> generic_;
    struct Seen {
        std::vector<Shape> signature;
        int count;
    };
    std::atomic<bool> specialises_{true};
    std::vector<Seen> seen_;                                    // signatures without a plan, and how often they came

    enum class Rows : uint8_t { unknown, apart, together };
    std::atomic<Rows> rows_{Rows::unknown};

    std::atomic<Profile> profile_{Profile::off};
    std::mutex profile_lock_;                                   // guards events_ and the nodes' `seen`
    std::vector<Event> events_;

    std::mutex arenas_lock_;
    struct Arena {
        char* data = nullptr;
        size_t bytes = 0;
    };
    std::vector<Arena> arenas_;
    std::atomic<size_t> arena_bytes_{0};
    Arena take_arena(size_t bytes);
};

// The frame of one call; it goes back to its plan whatever happens.
class HeldFrame {
public:
    HeldFrame(Program& program, Plan& plan) : program_(program), frame_(program.take_frame(plan)) {}
    ~HeldFrame() { program_.give_frame(std::move(frame_)); }
    HeldFrame(const HeldFrame&) = delete;
    Frame& frame() const { return *frame_; }

private:
    Program& program_;
    std::unique_ptr<Frame> frame_;
};

}  // namespace hr
