#include <sched.h>

#include "capi.h"
#include "courier.h"
#include "python.h"

namespace hr::serve {

namespace {

nb::object sum(const Sum& s) { return nb::make_tuple(s.count, s.ns); }

nb::object record(const Ended& e) {
    return nb::make_tuple(e.seconds, e.ended_ms, nb::bytes(e.id.data(), e.id.size()), e.meaning, e.request_bytes, e.response_bytes, e.principal, e.queued, e.assemble, e.compute,
                          e.scatter, e.rows, e.reason, e.batch);
}

nb::object histogram(const Histogram& h) {
    nb::list counts;
    for (uint64_t n : h.counts) counts.append(n);
    return nb::make_tuple(counts, h.total);
}

// A request from Python. Its inputs stay the caller's.
class LocalJob : public Waiting {
public:
    struct Output {
        hr_tensor tensor;
        std::string data;
    };
    explicit LocalJob(const Interface& interface) : interface_(interface) {}
    bool counted() const override { return false; }     // the data plane counts its requests itself
    void prepare(const hr_outputs& result, int64_t from) override {
        for (int k = 0; k < result.count; k++) {
            const Rows rows = rows_of(interface_, request, result.tensors[k], interface_.outputs[k], from);
            Output out{result.tensors[k], std::string(rows.data)};
            std::copy_n(rows.dims, rows.rank, out.tensor.dims);
            outputs.push_back(std::move(out));
        }
    }
    std::vector<Output> outputs;

private:
    const Interface& interface_;
};

// Who hears of failures: `to(incident, text, how many more there was no room for)`.
struct Listener {
    nb::object to;
    std::atomic<uint64_t> waiting{0}, more{0};
};

struct Failure {
    std::shared_ptr<Listener> listener;
    std::string incident, text;
};

constexpr uint64_t kFailures = 16;      // of a version, on their way

void tell(const std::shared_ptr<Listener>& listener, const std::string& incident, const std::string& text) {
    static auto& courier = *[] {        // never destroyed: runs may fail until the end
        auto* made = new Courier<Failure>([](std::vector<Failure> failures) {
            nb::gil_scoped_acquire locked;
            for (Failure& failure : failures) {
                Listener& listener = *failure.listener;
                listener.waiting--;
                try {
                    listener.to(failure.incident, latin(failure.text), listener.more.exchange(0));
                } catch (nb::python_error& error) {
                    error.discard_as_unraisable("the report of a failure");
                }
            }
            failures.clear();
        });
        made->start();
        return made;
    }();
    if (listener->waiting.fetch_add(1) >= kFailures) {
        listener->waiting--, listener->more++;
        return;
    }
    std::vector<Failure> one;
    one.push_back({listener, incident, text});
    courier.send(std::move(one));
}

// `levels`: (limit, timeout in seconds, whether late requests go behind) of every priority.
Policy policy_of(int64_t max_rows, double max_delay_s, int instances, size_t max_queue, std::vector<int64_t> preferred,
                 const std::vector<std::tuple<size_t, double, bool>>& levels, int default_level) {
    if (default_level < 1 || size_t(default_level) > levels.size()) throw std::out_of_range("there is no such level");
    Policy policy;
    policy.max_rows = max_rows, policy.max_delay_s = max_delay_s, policy.instances = instances, policy.max_queue = max_queue;
    policy.preferred = std::move(preferred), policy.default_level = default_level;
    policy.levels.clear();
    for (const auto& [most, timeout_s, delays] : levels) policy.levels.push_back(most), policy.any_delays |= delays;
    policy.timeout_s = std::get<1>(levels[size_t(default_level - 1)]), policy.delays = std::get<2>(levels[size_t(default_level - 1)]);
    return policy;
}

// The queue by itself, for tests of its decisions: jobs are numbers, times are seconds of an imagined clock.
class PyPending {
public:
    PyPending(int64_t max_rows, size_t max_queue, std::vector<int64_t> preferred, const std::vector<std::tuple<size_t, double, bool>>& levels)
        : policy_(policy_of(max_rows, 0, 1, max_queue, std::move(preferred), levels, 1)), pending_(policy_) {}

    bool push(int number, int64_t rows, int64_t width, int level, std::optional<double> deadline, std::optional<double> delay_at, double now) {
        auto job = std::make_shared<Numbered>(number);
        hr_tensor tensor{};
        tensor.rank = 2, tensor.dims[0] = rows, tensor.dims[1] = width;
        job->request.inputs.push_back(tensor), job->request.rows = rows;
        if (level < 1 || size_t(level) > policy_.levels.size()) throw std::out_of_range("there is no such level");
        job->level = level, job->deadline = deadline ? at(*deadline) : kNever, job->delay_at = delay_at ? at(*delay_at) : kNever;
        std::vector<JobPtr> dropped;
        return pending_.push(std::move(job), at(now), dropped);
    }
    // (numbers, reason, whether it was formed); none where nothing waits.
    std::optional<std::tuple<std::vector<int>, std::string, bool>> pop(double now, bool waited) {
        std::vector<JobPtr> dropped;
        pending_.settle(at(now), dropped);
        if (pending_.empty()) return std::nullopt;
        const bool formed = pending_.is_formed(at(now));
        const Pending::Batch batch = pending_.pop(at(now), waited, dropped);
        std::vector<int> numbers;
        for (const JobPtr& job : batch.jobs) numbers.push_back(static_cast<const Numbered&>(*job).number);
        return std::make_tuple(numbers, std::string(batch.reason), formed);
    }
    double lateness(int64_t rows, int level, double deadline, double now, double row_seconds, double run_seconds) const {
        Numbered job(0);
        job.request.rows = rows, job.level = level, job.deadline = at(deadline);
        return pending_.lateness(job, at(now), row_seconds, run_seconds);
    }
    size_t size() const { return pending_.size(); }

private:
    struct Numbered : Job {
        explicit Numbered(int n) : number(n) {}
        void prepare(const hr_outputs&, int64_t) override {}
    void deliver(const Execution&) override {}
        void fail(Meaning, const std::string&, const Execution*) override {}
        const int number;
    };
    static Time at(double seconds) { return Time() + span(seconds); }
    const Policy policy_;
    Pending pending_;
};

}  // namespace

class PyVersion {
public:
    using PortRow = std::tuple<std::string, std::string, int, int, std::optional<std::vector<int64_t>>>;     // name, datatype, code, item, dims

    PyVersion(std::string name, std::string number, std::vector<PortRow> inputs, std::vector<PortRow> outputs, int64_t max_batch_rows, int n_symbols,
              double max_delay_s, int instances, size_t max_queue, std::vector<int64_t> preferred, std::vector<std::tuple<size_t, double, bool>> levels, int default_level,
              nb::object program, std::vector<double> seconds, std::vector<double> rows, bool ordered, nb::object told, std::vector<int> cpus)
        : program_(program), door_(program.attr("door")()) {
        auto* table = static_cast<const hr_door*>(PyCapsule_GetPointer(door_.ptr(), "headrace.door"));
        if (!table) nb::raise_python_error();
        Interface interface;
        const auto ports = [](const std::vector<PortRow>& from) {
            std::vector<Port> out;
            for (const auto& [port_name, datatype, code, item, dims] : from) out.push_back({port_name, datatype, code, size_t(item), !dims, dims.value_or(std::vector<int64_t>{})});
            return out;
        };
        interface.inputs = ports(inputs), interface.outputs = ports(outputs);
        interface.max_batch_rows = max_batch_rows, interface.n_symbols = n_symbols;
        if (int(inputs.size()) != table->n_inputs || int(outputs.size()) != table->n_outputs) throw std::invalid_argument("the interface is not the program's");
        Policy policy = policy_of(max_batch_rows, max_delay_s, instances, max_queue, std::move(preferred), levels, default_level);
        for (const int cpu : cpus)
            if (cpu < 0 || cpu >= CPU_SETSIZE) throw std::out_of_range("there is no such processor");
        policy.inline_runs = !table->calls_back && cpus.empty();
        policy.cpus = std::move(cpus);
        policy.ordered = ordered;
        version = std::make_shared<Version>(std::move(name), std::move(number), std::move(interface), policy, table, std::move(seconds), std::move(rows));
        if (told.is_none()) return;
        const auto listener = std::shared_ptr<Listener>(new Listener{std::move(told)}, [](Listener* dying) {
            nb::gil_scoped_acquire locked;
            delete dying;
        });
        version->set_on_failure([listener](const std::string& incident, const std::string& text) { tell(listener, incident, text); });
    }
    ~PyVersion() { close(); }

    void close(const std::optional<std::string>& why = {}) {
        nb::gil_scoped_release unlocked;
        why ? version->close(*why) : version->close();
        version->set_on_failure(nullptr);       // another thread may hold the version for a while
    }

    // (meaning, text, outputs, times), or for what was refused (meaning, text, milliseconds until it may come back, None): outputs as (bytes, shape), times as seconds: queued, assembled, computed, scattered, and rows, reason and number of the run.
    nb::object run(const std::vector<std::pair<uintptr_t, std::vector<int64_t>>>& inputs, int64_t rows, std::optional<double> left, nb::object watch, int level,
                   std::optional<double> in_time) {
        auto job = std::make_shared<LocalJob>(version->interface());
        for (size_t i = 0; i < inputs.size(); i++) {
            const auto& [address, dims] = inputs[i];
            if (dims.size() > std::size(hr_tensor{}.dims)) throw std::length_error("a tensor has more than 12 dimensions");
            hr_tensor tensor{version->interface().inputs.at(i).code, int32_t(dims.size()), {}, reinterpret_cast<void*>(address)};
            std::copy(dims.begin(), dims.end(), tensor.dims);
            job->request.inputs.push_back(tensor);
        }
        job->request.rows = rows, job->arrived = Clock::now();
        if (left) job->deadline = job->arrived + span(std::min(*left, kFarSeconds));
        if (in_time) job->delay_at = job->arrived + span(std::min(*in_time, kFarSeconds));
        if (level < 1 || size_t(level) > version->policy().levels.size()) throw std::out_of_range("there is no such level");
        job->level = level;
        Meaning why;
        std::string text;
        if (!version->submit(job, why, text)) return nb::make_tuple(text_of(why), text, job->retry_ms, nb::none());
        run_here(*version, job, watch);
        nb::object times = nb::none();
        if (job->execution) {
            const Execution& e = *job->execution;
            times = nb::make_tuple(seconds_between(job->arrived, e.started), seconds_between(e.started, e.assembled), seconds_between(e.assembled, e.computed),
                                   seconds_between(e.computed, e.finished), e.rows, e.reason, e.number);
        }
        nb::list outputs;
        for (const auto& out : job->outputs) {
            nb::list shape;
            for (int d = 0; d < out.tensor.rank; d++) shape.append(out.tensor.dims[d]);
            outputs.append(nb::make_tuple(nb::bytes(out.data.data(), out.data.size()), shape));
        }
        return nb::make_tuple(text_of(job->meaning), job->text, outputs, times);
    }

    nb::dict take_counts(bool http) {
        const Counts c = version->counters(http ? Front::http : Front::grpc).take();
        nb::dict out, batches, releases, meanings;
        for (const auto& [rows, sums] : c.batches) batches[nb::int_(rows)] = nb::make_tuple(sum(sums.assemble), sum(sums.compute), sum(sums.scatter));
        for (const auto& [reason, n] : c.releases) releases[reason.c_str()] = n;
        for (const auto& [meaning, n] : c.meanings) meanings[meaning.c_str()] = n;
        out["success"] = sum(c.success), out["fail"] = sum(c.fail), out["cancel"] = sum(c.cancel), out["queue"] = sum(c.queue);
        out["compute_input"] = sum(c.assemble), out["compute_infer"] = sum(c.compute), out["compute_output"] = sum(c.scatter);
        out["inference_count"] = c.inferences, out["execution_count"] = c.executions, out["last_inference_ms"] = c.last_ms;
        out["expired_before_run"] = c.expired, out["cancelled_before_run"] = c.cancelled;
        nb::list slow;
        for (const Ended& one : c.slow) slow.append(record(one));
        out["slow"] = slow;
        out["batches"] = batches, out["releases"] = releases, out["meanings"] = meanings;
        out["request_seconds"] = histogram(c.request_seconds), out["queue_seconds"] = histogram(c.queue_seconds);
        out["assemble_seconds"] = histogram(c.assemble_seconds), out["compute_seconds"] = histogram(c.compute_seconds);
        out["scatter_seconds"] = histogram(c.scatter_seconds), out["batch_rows"] = histogram(c.batch_rows);
        return out;
    }

    // (records, how many there was no room for)
    nb::object take_access(bool http) {
        const auto [records, lost] = version->counters(http ? Front::http : Front::grpc).take_access();
        nb::list out;
        for (const Ended& one : records) out.append(record(one));
        return nb::make_tuple(out, lost);
    }
    void set_access(bool errors, double slow_s, uint64_t every, size_t most) {
        for (Front front : {Front::grpc, Front::http}) version->counters(front).set_access({errors, slow_s, every, most});
    }

    std::shared_ptr<Version> version;

private:
    nb::object program_, door_;     // kept alive
};

std::shared_ptr<Version> version_of(nb::handle version) { return nb::cast<PyVersion&>(version).version; }

void run_here(Version& version, const std::shared_ptr<Waiting>& job, const nb::object& watch) {
    if (version.is_instant()) version.pump(true, job.get());
    if (job->wait(Time::min())) return;
    std::optional<nb::python_error> failure;
    try {
        if (!watch.is_none() && !nb::cast<bool>(watch(nb::cpp_function([job] { job->cancelled = true; })))) job->cancelled = true;
    } catch (nb::python_error& error) {
        failure.emplace(std::move(error)), job->cancelled = true;      // it may be running: its inputs are needed until it has ended
    }
    {
        nb::gil_scoped_release unlocked;
        version.pump(true, job.get());
        if (!job->wait(job->deadline)) job->cancelled = true, version.pump(false), job->wait(kNever);
    }
    if (failure) throw std::move(*failure);
}

void bind_version(nb::module_& m) {
    nb::class_<PyVersion>(m, "Version", "A model version that takes requests.")
        .def(nb::init<std::string, std::string, std::vector<PyVersion::PortRow>, std::vector<PyVersion::PortRow>, int64_t, int, double, int, size_t, std::vector<int64_t>,
                      std::vector<std::tuple<size_t, double, bool>>, int, nb::object, std::vector<double>, std::vector<double>, bool, nb::object, std::vector<int>>(),
             nb::arg("name"), nb::arg("number"), nb::arg("inputs"), nb::arg("outputs"), nb::arg("max_batch_rows"), nb::arg("n_symbols"), nb::arg("max_delay_s"),
             nb::arg("instances"), nb::arg("max_queue"), nb::arg("preferred"), nb::arg("levels"), nb::arg("default_level"), nb::arg("program"), nb::arg("seconds"), nb::arg("rows"), nb::arg("ordered") = false, nb::arg("told").none() = nb::none(), nb::arg("cpus") = std::vector<int>())
        .def("run", &PyVersion::run, nb::arg("inputs"), nb::arg("rows"), nb::arg("left").none(), nb::arg("watch").none(), nb::arg("level") = 1,
             nb::arg("in_time").none() = nb::none())
        .def("close", &PyVersion::close, nb::arg("why") = nb::none())
        .def("take_counts", &PyVersion::take_counts, nb::arg("http"))
        .def("take_access", &PyVersion::take_access, nb::arg("http"))
        .def("set_access", &PyVersion::set_access, nb::arg("errors"), nb::arg("slow_s"), nb::arg("every"), nb::arg("most"))
        .def("expect", [](PyVersion& self, double seconds, int64_t rows) { self.version->expect(seconds, rows); }, nb::arg("seconds"), nb::arg("rows"))
        .def_prop_ro("oldest_s", [](const PyVersion& self) { return self.version->oldest_s(); })
        .def_prop_ro("pending", [](const PyVersion& self) { return self.version->pending(); })
        .def_prop_ro("inflight", [](const PyVersion& self) { return self.version->inflight(); });
    nb::class_<PyPending>(m, "Pending", "The waiting jobs of a version, by themselves: for tests.")
        .def(nb::init<int64_t, size_t, std::vector<int64_t>, std::vector<std::tuple<size_t, double, bool>>>(), nb::arg("max_rows"), nb::arg("max_queue"),
             nb::arg("preferred"), nb::arg("levels"))
        .def("push", &PyPending::push, nb::arg("number"), nb::arg("rows"), nb::arg("width"), nb::arg("level"), nb::arg("deadline").none(), nb::arg("delay_at").none(),
             nb::arg("now"))
        .def("pop", &PyPending::pop, nb::arg("now"), nb::arg("waited"))
        .def("lateness", &PyPending::lateness, nb::arg("rows"), nb::arg("level"), nb::arg("deadline"), nb::arg("now"), nb::arg("row_seconds"), nb::arg("run_seconds"))
        .def("__len__", &PyPending::size);
}

}  // namespace hr::serve
