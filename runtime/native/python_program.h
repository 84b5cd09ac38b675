// A Program as Python holds it: owns the arrays behind constants and the callbacks, moves arrays in and out.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "executor.h"
#include "pack_store.h"

namespace nb = nanobind;

namespace hr {

class PythonProgram : Host {
public:
    PythonProgram(int threads, nb::object run_error, std::shared_ptr<Packing> packing);
    ~PythonProgram() override;                  // waits for kernels that are being made

    int add_value(int dtype) { return program_.add_value(DType(dtype)); }
    int add_constant(nb::object array, int dtype);
    int add_input(const std::string& name, int dtype, nb::object dims);
    // Its kernel is made until `finish`. attributes: None where no kernel could read them.
    void add_node(const std::string& op, const std::string& label, nb::object attributes, const std::vector<int>& inputs,
                  const std::vector<int>& outputs, int version, bool pure, const std::vector<std::string>& said);
    // blocks: (program, which inputs of the node follow the block's own) for each block, in the operator's order.
    void add_control(const std::string& op, const std::string& label, nb::dict attributes, const std::vector<int>& inputs,
                     const std::vector<int>& outputs, nb::list blocks);
    void add_output(const std::string& name, int value);
    // All kernels are made: answers the nodes without one, by their number, each of which needs a callback before it runs.
    nb::list finish();
    void set_callback(size_t node, nb::object callback);

    nb::object run(nb::handle feeds);           // dict to dict; None: something about the feeds is unusual
    nb::object run_list(nb::handle feeds);      // sequence to list, in the order of the interface

    nb::object door();                          // for other extensions, see capi.h; None where a value is an object

    int threads() const { return program_.pool->threads(); }
    void profile(int how);                      // 0 off, 1 count, 2 trace
    nb::list profile_rows();
    nb::list events();                          // (label, start, nanoseconds) of each run of a node since the trace began
    size_t packed_bytes() const;
    size_t arena_bytes() const;                 // of the calls that ran at a time
    nb::dict plan_bytes(nb::list shapes);       // of a call with inputs of these shapes (None where an input is an object)
    nb::list nodes() const;                     // (op, label, variant) of every node, those of blocks after their node
    nb::list plans() { return plan_rows(); }
    void specialise(bool on);                   // off: calls that no plan serves yet run generically; blocks too

    int traverse(visitproc visit, void* arg);   // for Python's cycle collector
    void clear_references();

private:
    struct Call;
    class Turn;
    bool accept(Call& call, size_t i, PyObject* feed);
    bool execute(Call& call);
    PyObject* result(Frame& frame, const Call& call, size_t k);
    nb::list plan_rows();

    template <class F>
    void each_block(F&& see) const {
        for (const auto& blocks : blocks_)
            for (const auto& block : blocks) see(nb::cast<PythonProgram&>(block));
    }

    int64_t add_profile_rows(nb::list& rows);           // answers the nanoseconds of all of them
    void add_events(nb::list& rows);
    void add_nodes(nb::list& rows) const;

    void call(int node, Frame& frame) override;
    void keep(void* object) override;
    void drop(std::vector<void*>& objects) override;
    PyObject* argument(const Node& node, size_t i, Frame& frame, bool copy);
    void take_result(int value, PyObject* found, const Node& node, Frame& frame);

    Later& later() { return packing_ ? packing_->later() : later_; }    // which makes the kernels

    Program program_;
    nb::object run_error_;
    std::shared_ptr<Packing> packing_;          // where kernels' constants are packed once; null: here
    Later later_;
    std::vector<nb::object> constants_;
    std::vector<nb::object> callbacks_;         // per node; null where native
    std::vector<std::vector<nb::object>> blocks_;   // per node: the programs of its blocks
    std::vector<nb::object> input_names_, output_names_;
    bool has_callbacks_ = false;
    // A small plan and its frame between calls: a call that they serve takes no lock. Guarded by the interpreter's.
    std::shared_ptr<Plan> ready_plan_;
    std::unique_ptr<Frame> ready_frame_;
};

}  // namespace hr
