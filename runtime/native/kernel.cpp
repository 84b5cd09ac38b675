#include "kernel.h"

#include <algorithm>

#include "cpu.h"

namespace hr {

const Attr* NodeInfo::find(const std::string& key) const {
    asked->insert(key);
    auto it = attrs.find(key);
    return it == attrs.end() ? nullptr : &it->second;
}

int64_t NodeInfo::i(const std::string& key, int64_t otherwise) const {
    const Attr* a = find(key);
    if (!a) return otherwise;
    if (auto* v = std::get_if<int64_t>(&a->value)) return *v;
    throw std::invalid_argument("attribute '" + key + "' must be an integer");
}

double NodeInfo::f(const std::string& key, double otherwise) const {
    const Attr* a = find(key);
    if (!a) return otherwise;
    if (auto* v = std::get_if<double>(&a->value)) return *v;
    if (auto* v = std::get_if<int64_t>(&a->value)) return double(*v);
    throw std::invalid_argument("attribute '" + key + "' must be a number");
}

std::string NodeInfo::s(const std::string& key, const std::string& otherwise) const {
    const Attr* a = find(key);
    if (!a) return otherwise;
    if (auto* v = std::get_if<std::string>(&a->value)) return *v;
    throw std::invalid_argument("attribute '" + key + "' must be a string");
}

std::vector<int64_t> NodeInfo::ints(const std::string& key) const {
    const Attr* a = find(key);
    if (!a) return {};
    if (auto* v = std::get_if<std::vector<int64_t>>(&a->value)) return *v;
    throw std::invalid_argument("attribute '" + key + "' must be a list of integers");
}

std::vector<double> NodeInfo::floats(const std::string& key) const {
    const Attr* a = find(key);
    if (!a) return {};
    if (auto* v = std::get_if<std::vector<double>>(&a->value)) return *v;
    if (auto* v = std::get_if<std::vector<int64_t>>(&a->value)) return {v->begin(), v->end()};
    throw std::invalid_argument("attribute '" + key + "' must be a list of numbers");
}

std::map<std::string, std::vector<Entry>>& kernel_table() {
    static auto* table = new std::map<std::string, std::vector<Entry>>;   // never destroyed: kernels may outlive statics
    return *table;
}

std::unique_ptr<Kernel> make_kernel(const NodeInfo& node) {
    std::string unknown;    // an attribute, which may change what the node computes
    auto it = kernel_table().find(node.op);
    if (it == kernel_table().end()) return nullptr;
    for (int tier = cpu_tier(); tier >= 0; tier--)
        for (const Entry& entry : it->second)
            if (entry.tier == tier) {
                node.asked->clear();
                std::unique_ptr<Kernel> kernel;
                try {
                    kernel = entry.factory(node);
                } catch (const std::invalid_argument& error) {
                    throw std::invalid_argument(node.name + ": " + error.what());
                }
                if (!kernel) continue;
                const auto missed = std::find_if(node.said.begin(), node.said.end(), [&](const std::string& key) { return !node.asked->count(key); });
                if (missed == node.said.end()) return kernel;
                unknown = *missed;
            }
    if (!unknown.empty() && node.op.rfind("headrace.cpu.", 0) == 0)     // made for this extension: there is no reference
        throw std::invalid_argument(node.name + ": the kernel of " + node.op + " does not know the attribute '" + unknown +
                                    "': the native extension is older than the Python code beside it; build it again");
    return make_half_kernel(node);
}

}  // namespace hr
