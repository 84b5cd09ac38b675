#include "kernel.h"

#include <algorithm>

#include "cpu.h"

namespace hr {

namespace {

const Attr* find(const NodeInfo& node, const std::string& key) {
    auto it = node.attrs.find(key);
    return it == node.attrs.end() ? nullptr : &it->second;
}

}  // namespace

int64_t NodeInfo::i(const std::string& key, int64_t otherwise) const {
    const Attr* a = find(*this, key);
    if (!a) return otherwise;
    if (auto* v = std::get_if<int64_t>(&a->value)) return *v;
    throw std::invalid_argument("attribute '" + key + "' must be an integer");
}

double NodeInfo::f(const std::string& key, double otherwise) const {
    const Attr* a = find(*this, key);
    if (!a) return otherwise;
    if (auto* v = std::get_if<double>(&a->value)) return *v;
    if (auto* v = std::get_if<int64_t>(&a->value)) return double(*v);
    throw std::invalid_argument("attribute '" + key + "' must be a number");
}

std::string NodeInfo::s(const std::string& key, const std::string& otherwise) const {
    const Attr* a = find(*this, key);
    if (!a) return otherwise;
    if (auto* v = std::get_if<std::string>(&a->value)) return *v;
    throw std::invalid_argument("attribute '" + key + "' must be a string");
}

std::vector<int64_t> NodeInfo::ints(const std::string& key) const {
    const Attr* a = find(*this, key);
    if (!a) return {};
    if (auto* v = std::get_if<std::vector<int64_t>>(&a->value)) return *v;
    throw std::invalid_argument("attribute '" + key + "' must be a list of integers");
}

std::vector<double> NodeInfo::floats(const std::string& key) const {
    const Attr* a = find(*this, key);
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
    auto it = kernel_table().find(node.op);
    if (it == kernel_table().end()) return nullptr;
    for (int tier = cpu_tier(); tier >= 0; tier--)
        for (const Entry& entry : it->second)
            if (entry.tier == tier)
                if (auto kernel = entry.factory(node)) return kernel;
    return make_half_kernel(node);
}

}  // namespace hr
