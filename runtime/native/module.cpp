// The extension module headrace.runtime._native.
#include <nanobind/nanobind.h>

#include <optional>

#include "arrays.h"
#include "buffer.h"
#include "build_id.h"
#include "container.h"
#include "cpu.h"
#include "crc.h"
#include "give_way.h"
#include "pack_store.h"
#include "peak.h"
#include "planner.h"
#include "python_program.h"
#include "python_recipe.h"

namespace {

int program_traverse(PyObject* self, visitproc visit, void* arg) {
#if PY_VERSION_HEX >= 0x03090000
    Py_VISIT(Py_TYPE(self));
#endif
    if (!nb::inst_ready(self)) return 0;
    return nb::inst_ptr<hr::PythonProgram>(self)->traverse(visit, arg);
}

int program_clear(PyObject* self) {
    nb::inst_ptr<hr::PythonProgram>(self)->clear_references();
    return 0;
}

PyType_Slot program_slots[] = {{Py_tp_traverse, (void*)program_traverse}, {Py_tp_clear, (void*)program_clear}, {0, nullptr}};

// The planner's placement of intervals, as Python holds them.
nb::tuple assign_offsets(nb::list intervals, size_t alignment) {
    if (!alignment || (alignment & (alignment - 1))) throw std::invalid_argument("alignment must be a power of two");
    std::vector<hr::Interval> all;
    for (nb::handle item : intervals) all.push_back({nb::cast<int>(item[0]), nb::cast<int>(item[1]), nb::cast<size_t>(item[2])});
    const size_t total = hr::assign_offsets(all, alignment);
    nb::list offsets;
    for (const hr::Interval& one : all) offsets.append(one.offset);
    return nb::make_tuple(offsets, total);
}

nb::list pieces(hr::PackStore& store) {
    const auto bytes = [](const std::string& text) { return nb::bytes(text.data(), text.size()); };
    nb::list all;
    all.append(bytes(store.head()));
    for (const hr::PackStore::Block& block : store.blocks()) {
        all.append(nb::steal(PyMemoryView_FromMemory(block.data.get(), Py_ssize_t(block.bytes), PyBUF_READ)));
        all.append(bytes(std::string(hr::PackStore::padding(block), '\0')));
    }
    all.append(bytes(store.index()));
    return all;
}

nb::object facts(const hr::PackStore& store) {
    const hr::PackStore::Block* block = store.find(hr::PackStore::kFacts);
    return block ? nb::object(nb::bytes(block->data.get(), block->bytes)) : nb::none();
}

nb::list members_of(nb::handle file) {
    Py_buffer view;
    if (PyObject_GetBuffer(file.ptr(), &view, PyBUF_SIMPLE)) nb::raise_python_error();
    nb::list rows;
    for (const hr::Member& member : hr::members_of({static_cast<const char*>(view.buf), size_t(view.len)}))
        rows.append(nb::make_tuple(nb::str(member.name.data(), member.name.size()), member.offset, member.bytes, member.crc));
    PyBuffer_Release(&view);
    return rows;
}

uint32_t crc32(nb::handle data) {
    Py_buffer view;
    if (PyObject_GetBuffer(data.ptr(), &view, PyBUF_SIMPLE)) nb::raise_python_error();
    uint32_t sum;
    {
        std::optional<nb::gil_scoped_release> unlocked;
        if (view.len >= 1 << 16) unlocked.emplace();    // else it takes less than giving the lock back
        sum = hr::crc32(view.buf, size_t(view.len));
    }
    PyBuffer_Release(&view);
    return sum;
}

}  // namespace

NB_MODULE(_native, m) {
    if (!hr::init_arrays()) nb::raise_python_error();
    m.doc() = "The native executor: programs, plans, CPU kernels.";
    m.def("set_dtypes", [](nb::dict table) { for (auto [code, dtype] : table) hr::set_descr(nb::cast<int>(code), dtype.ptr()); },
          "Tell the module the NumPy dtype of each ONNX element type code.");
    m.def("cpu_tier", [] { return hr::tier_names()[hr::cpu_tier()]; }, "The instruction-set tier in use (HEADRACE_CPU_TIER forces a lower one).");
    m.def("cpu_tiers", [] { nb::list out; for (int i = 0; i <= hr::detected_tier(); i++) out.append(hr::tier_names()[i]); return out; },
          "The tiers that this CPU has, in rising order.");
    m.def("build_id", &hr::build_id, "What the linker made of all that this module is, in hexadecimal; empty: it was told not to.");
    m.def("usable_threads", &hr::usable_threads, "min(CPU affinity, ceil(cgroup quota)).");
    m.def("has_cpu_quota", &hr::has_cpu_quota, "Whether a cgroup limits CPU time; idle threads do not spin then.");
    m.def("kernels", [] { nb::dict out; for (auto& [op, entries] : hr::kernel_table()) out[op.c_str()] = entries.size(); return out; },
          "Operator -> number of native kernel factories.");
    m.def("assign_offsets", &assign_offsets, nb::arg("intervals"), nb::arg("alignment"),
          "Offsets in one arena for (first step, last step, bytes) triples, and the arena's size: the planner's best fit, for other devices.");

    m.def("peak", &hr::measured_peak, nb::arg("precision"), nb::arg("threads"), nb::call_guard<nb::gil_scoped_release>(),
          "Operations a second of this CPU in float32, int8 or bf16, measured on the tier in use; 0.0 where it has no such products.");
    m.def("bandwidth", &hr::measured_bandwidth, nb::arg("threads"), nb::arg("bytes"), nb::call_guard<nb::gil_scoped_release>(), "Bytes a second that threads read again and again out of `bytes` of their own each, measured.");
    m.def("release_idle", &hr::release_idle, nb::arg("held"), "Give idle blocks back to the system; held: bytes that were freed elsewhere.");
    m.def("has_fast_crc", &hr::has_fast_crc, "Whether this CPU has what crc32 needs.");
    m.def("members_of", &members_of, nb::arg("file"),
          "(name, offset, bytes, recorded CRC-32) of the members of an archive whose container is right; none where it is not, or too large to be read here.");
    m.def("crc32", &crc32, nb::arg("data"), "The CRC-32 of zip files of a contiguous buffer; only where has_fast_crc().");
    m.def("pool_workers", &hr::ThreadPool::workers, "Worker threads of this process.");
    m.def("pin_workers", &hr::ThreadPool::pin, nb::arg("cpus"), "Worker i runs on cpus[i % len]; empty: anywhere. False where a CPU is not allowed.");

    m.def("gives_way", &hr::gives_way, "Whether this thread lets others have its processor again and again; see native/give_way.h.");
    m.def("give_way", &hr::give_way, nb::arg("on"), "From here on this thread does, or does not; answers what it did before.");
    m.def("times_given_way", &hr::times_given_way, "How often threads of this process did.");

    nb::class_<hr::PackStore>(m, "PackStore", "Packed constants that outlive one program; see native/pack_store.h.")
        .def(nb::init<std::string, bool>(), nb::arg("key"), nb::arg("shared"), "Empty; shared: in a memfd.")
        .def_static("open", &hr::PackStore::open, nb::arg("descriptor"), nb::arg("key"), nb::arg("verify"), nb::call_guard<nb::gil_scoped_release>(),
                    "A complete one from a descriptor, which stays the caller's. ValueError saying what is wrong with it.")
        .def("finish", &hr::PackStore::finish, "No more blocks; a memfd is sealed.")
        .def("rest_in", &hr::PackStore::rest_in, nb::arg("descriptor"), "Blocks are from here on pages of this file, which holds `pieces`, and no memory.")
        .def("pieces", &pieces, "What a file of it holds, in pieces; views of blocks live as long as the store.")
        .def_prop_ro("complete", &hr::PackStore::complete)
        .def_prop_ro("mapped", &hr::PackStore::mapped, "Whether blocks are pages of a file or memfd.")
        .def_prop_ro("descriptor", &hr::PackStore::descriptor, "Of the memfd, the store's own; -1: there is none.")
        .def_prop_ro("blocks", [](const hr::PackStore& s) { return s.packed(); })
        .def_prop_ro("size", &hr::PackStore::bytes, "Bytes of all blocks.")
        .def_prop_ro("facts", &facts, "What a model says of itself, where a recipe was kept with it; else None.");
    nb::class_<hr::Packing>(m, "Packing", "One lowering's walk through a store, for all its programs.")
        .def(nb::init<std::shared_ptr<hr::PackStore>>(), nb::arg("store"))
        .def_prop_ro("reused", &hr::Packing::reused, "Bytes that were found and not packed.")
        .def_prop_ro("fits", &hr::Packing::fits, "Whether every block was the one asked for.");

    nb::class_<hr::PythonRecipe>(m, "Recipe", "All that makes a program, as data; see native/recipe.h and runtime/lower.py.")
        .def(nb::init<>())
        .def("add_constant", &hr::PythonRecipe::add_constant, nb::arg("array").none(), nb::arg("dtype"), "Its number. dtype: the element type's code; 0: any Python object.")
        .def("add_block", &hr::PythonRecipe::add_block, nb::arg("dtypes"), nb::arg("constants"), nb::arg("inputs"), nb::arg("steps"), nb::arg("outputs"),
             "Its number; those of its own blocks come before it, the program's is the last. dtypes and constants: of its values, inputs first, -1 for what is no "
             "constant. inputs: (name, dims), dims None (any rank) or a list of size, -1 (free), -2 - k (symbol k). steps: (operator, label, attributes, inputs, outputs, "
             "version, pure, said, blocks); values by number, -1 where absent or unwanted; attributes None where no kernel can read them; a kernel must know the attributes "
             "`said`; blocks of an If, Loop or Scan that runs natively: (block, which inputs of the node follow the block's own). outputs: (name, value). "
             "ValueError where it breaks a rule.")
        .def("build", &hr::PythonRecipe::build, nb::arg("threads"), nb::arg("run_error"), nb::arg("packing").none() = nb::none(), "A program for each block, each to be finished.")
        .def_prop_ro("plain", &hr::PythonRecipe::plain, "Whether its constants are tensors: else it cannot be kept.")
        .def("keep", &hr::PythonRecipe::keep, nb::arg("store"), nb::arg("archive").none(), nb::arg("facts"), "Add it to a store that is being filled; constants in the buffer `archive` stay there.")
        .def_static("read", &hr::PythonRecipe::read, nb::arg("store"), nb::arg("archive").none(), "What `keep` wrote, checked in full. ValueError saying what is wrong with it.");
    nb::class_<hr::PythonProgram>(m, "Program", nb::type_slots(program_slots), "A program ready to run; see runtime/lower.py.")
        .def("finish", &hr::PythonProgram::finish, "Before it runs: kernels are made. Answers the numbers of nodes without one, which need a callback each; ValueError where one fails.")
        .def("set_callback", &hr::PythonProgram::set_callback, nb::arg("node"), nb::arg("callback"), "What runs a node that has no kernel: list of inputs to list of outputs.")
        .def("set_rows", &hr::PythonProgram::set_rows, nb::arg("rows"), "What answers, once and when it matters, whether rows of a batch never meet: the batch may then run in parts.")
        .def("run", &hr::PythonProgram::run, nb::arg("feeds"), "dict to dict; None where the feeds do not fit the interface.")
        .def("run_list", &hr::PythonProgram::run_list, nb::arg("feeds"), "Sequence to list, in the order of the interface; None as in run.")
        .def("door", &hr::PythonProgram::door, "A capsule through which other extensions run the program; None where its interface has objects.")
        .def_prop_ro("threads", &hr::PythonProgram::threads)
        .def("profile", &hr::PythonProgram::profile, nb::arg("how"), "0: off, 1: times and shapes by node, 2: every run of a node as well.")
        .def("profile_rows", &hr::PythonProgram::profile_rows, "(label, operator, variant, calls, nanoseconds, inputs, outputs) of every node; inputs and outputs as (element type code, shape, whether constant) of its last call.")
        .def("events", &hr::PythonProgram::events, "(label, start, nanoseconds) of every run of a node since profile(2), by the steady clock.")
        .def_prop_ro("packed_bytes", &hr::PythonProgram::packed_bytes, "Bytes of constants that kernels hold in their own order.")
        .def_prop_ro("arena_bytes", &hr::PythonProgram::arena_bytes, "Bytes of the arenas that calls have had so far, kept for the next ones.")
        .def("plan_bytes", &hr::PythonProgram::plan_bytes, nb::arg("shapes"), "What a call with inputs of these shapes needs, in bytes: arena, folded, inputs, outputs; and how many of its steps have sizes known only at run time.")
        .def("nodes", &hr::PythonProgram::nodes, "(operator, label, variant) of every node, those of blocks after theirs; variant '' is a Python callback.")
        .def("plans", &hr::PythonProgram::plans, "What each kept plan looks like.")
        .def("specialise", &hr::PythonProgram::specialise, nb::arg("on"), "Off: calls that no plan serves yet run generically, as often as they come.");
}
