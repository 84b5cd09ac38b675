// A Program as Python holds it: owns the arrays behind constants and the callbacks, moves arrays in and out.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "executor.h"
#include "pack_store.h"
#include "recipe.h"

namespace nb = nanobind;

namespace hr {

class PythonProgram : Host {
public:
    PythonProgram(int threads, nb::object run_error, std::shared_ptr<Packing> packing);
    ~PythonProgram() override;                  // waits for kernels that are being made

    // Everything in the block; `programs` has those of the blocks before it. Kernels are made until `finish`.
    void make(Recipe::Block& block, const Recipe& recipe, const nb::list& programs);
    // As long as it lives, so does memory that its constants are in.
    void hold(const std::vector<nb::object>& owners, std::shared_ptr<PackStore> store) { constants_ = owners, store_ = std::move(store); }
    // All kernels are made: answers the nodes without one, by their number, each of which needs a callback before it runs.
    nb::list finish();
    void set_callback(size_t node, nb::object callback);

    // Answers whether rows of a batch never meet and may run apart; called once, when it matters.
    void set_rows(nb::object rows) { rows_ = std::move(rows); }

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
    bool rows_apart() override;
    void drop(std::vector<void*>& objects) override;
    PyObject* argument(const Node& node, size_t i, Frame& frame, bool copy);
    void take_result(int value, PyObject* found, const Node& node, Frame& frame);

    void add(Recipe::Step& step, const nb::list& programs);
    Later& later() { return packing_ ? packing_->later() : later_; }    // which makes the kernels

    Program program_;
    nb::object run_error_;
    std::shared_ptr<Packing> packing_;          // where kernels' constants are packed once; null: here
    Later later_;
    std::shared_ptr<PackStore> store_;          // whose memory constants are; null: no store's
    std::vector<nb::object> constants_;         // arrays behind constants, or whose memory they are
    nb::object rows_;                           // null: unknown, so together
    std::vector<nb::object> callbacks_;         // per node; null where native
    std::vector<std::vector<nb::object>> blocks_;   // per node: the programs of its blocks
    std::vector<nb::object> input_names_, output_names_;
    bool has_callbacks_ = false;
    // A small plan and its frame between calls: a call that they serve takes no lock. Guarded by the interpreter's.
    std::shared_ptr<Plan> ready_plan_;
    std::unique_ptr<Frame> ready_frame_;
};

}  // namespace hr
