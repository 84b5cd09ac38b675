#include "interface.h"

#include <algorithm>
#include <cstring>

#include "grpc.h"
#include "wire.h"

namespace hr::serve {

namespace {

bool push(Given& tensor, uint64_t size) {
    if (tensor.rank == kMaxRank || size > uint64_t(INT64_MAX)) return false;
    tensor.dims[tensor.rank++] = int64_t(size);
    return true;
}

bool read_tensor(std::string_view data, Given& out) {
    Reader reader(data);
    while (reader.next()) {
        switch (reader.field()) {
            case 1: if (!reader.is_bytes()) return false; out.name = reader.body(); break;
            case 2: if (!reader.is_bytes()) return false; out.datatype = reader.body(); break;
            case 3:
                if (reader.is_number()) {
                    if (!push(out, reader.number())) return false;
                } else if (reader.is_bytes()) {
                    Reader packed(reader.body());
                    uint64_t size;
                    while (!packed.at_end())
                        if (!packed.varint(size) || !push(out, size)) return false;
                } else {
                    return false;
                }
                break;
            default: return false;      // parameters, typed contents, unknown fields
        }
    }
    return reader.ok();
}

bool shape_fits(const Port& port, const Given& given, std::vector<int64_t>& symbols) {
    if (port.any_rank) return true;
    if (size_t(given.rank) != port.dims.size()) return false;
    for (int i = 0; i < given.rank; i++) {
        const int64_t want = port.dims[i], size = given.dims[i];
        if (want >= 0 && size != want) return false;
        if (want <= -2) {
            int64_t& bound = symbols[size_t(-2 - want)];
            if (bound >= 0 && bound != size) return false;
            bound = size;
        }
    }
    return true;
}

}  // namespace

bool count_of(const Given& given, size_t item, size_t& count) {
    size_t bytes;
    count = 1;
    for (int i = 0; i < given.rank; i++)
        if (__builtin_mul_overflow(count, size_t(given.dims[i]), &count)) return false;
    return !__builtin_mul_overflow(count, item, &bytes);
}

hr_tensor tensor_of(const Port& port, const Given& given, void* data) {
    hr_tensor tensor{port.code, given.rank, {}, data};
    std::copy_n(given.dims, given.rank, tensor.dims);
    return tensor;
}

// Aligned or not; copied where booleans are not 0 and 1.
bool view(const Port& port, const Given& given, std::string_view raw, Fitted& out, hr_tensor& tensor) {
    size_t count;
    if (!count_of(given, port.item, count) || count * port.item != raw.size()) return false;
    tensor = tensor_of(port, given, const_cast<char*>(raw.data()));
    if (port.datatype != "BOOL" || std::all_of(raw.begin(), raw.end(), [](char c) { return c == 0 || c == 1; })) return true;
    Bytes copy(raw.size());
    std::transform(raw.begin(), raw.end(), copy.data(), [](char c) { return char(c != 0); });
    tensor.data = copy.data();
    out.copies.push_back(std::move(copy));
    return true;
}

int position(const std::vector<Port>& ports, std::string_view name) {
    for (size_t i = 0; i < ports.size(); i++)
        if (ports[i].name == name) return int(i);
    return -1;
}

bool fit_tensors(const Interface& interface, const std::vector<Given>& given, Fitted& out, const Fill& fill) {
    const size_t n = interface.inputs.size();
    std::vector<int64_t> symbols(size_t(interface.n_symbols), -1);
    out.inputs.resize(n);
    std::vector<char> seen(n, 0);
    for (size_t k = 0; k < n; k++) {
        const int i = position(interface.inputs, given[k].name);
        if (i < 0 || seen[i]) return false;
        seen[i] = 1;
        const Port& port = interface.inputs[i];
        if (given[k].datatype != port.datatype || !shape_fits(port, given[k], symbols) || !fill(k, port, out.inputs[i])) return false;
    }
    if (interface.max_batch_rows) {
        out.rows = out.inputs[0].rank ? out.inputs[0].dims[0] : 0;
        for (const hr_tensor& tensor : out.inputs)
            if (tensor.rank == 0 || tensor.dims[0] != out.rows) return false;
        if (out.rows < 1 || out.rows > interface.max_batch_rows) return false;
    }
    if (out.outputs.empty())
        for (size_t i = 0; i < interface.outputs.size(); i++) out.outputs.push_back(int(i));
    return true;
}

Rows rows_of(const Interface& interface, const Fitted& request, const hr_tensor& tensor, const Port& port, int64_t from) {
    Rows out{{}, tensor.rank, {}};
    std::copy_n(tensor.dims, tensor.rank, out.dims);
    const bool batched = interface.max_batch_rows > 0;
    if (batched) out.dims[0] = request.rows;
    size_t row = port.item, bytes = port.item;
    for (int i = 0; i < out.rank; i++) {
        bytes *= size_t(out.dims[i]);
        if (i) row *= size_t(out.dims[i]);
    }
    out.data = {static_cast<const char*>(tensor.data) + (batched ? size_t(from) * row : 0), bytes};
    return out;
}

bool read_envelope(std::string_view message, Envelope& out) {
    Reader reader(message);
    while (reader.next()) {
        if (reader.field() > 3) continue;
        if (!reader.is_bytes()) return false;
        (reader.field() == 1 ? out.model : reader.field() == 2 ? out.version : out.id) = reader.body();
    }
    return reader.ok();
}

bool fit(const Interface& interface, std::string_view message, Fitted& out) {
    const size_t n = interface.inputs.size();
    if (n > kMaxInputs) return false;
    std::vector<Given> given;
    std::vector<std::string_view> raw;
    given.reserve(n), raw.reserve(n);
    Reader reader(message);
    while (reader.next()) {
        if (!reader.is_bytes()) return false;
        switch (reader.field()) {
            case 1: case 2: break;
            case 3: out.id = reader.body(); break;
            case 5:
                if (given.size() == n || !read_tensor(reader.body(), given.emplace_back())) return false;
                break;
            case 6: {
                Reader output(reader.body());
                int which = -1;
                while (output.next())
                    if (output.field() != 1 || !output.is_bytes() || (which = position(interface.outputs, output.body())) < 0) return false;
                if (!output.ok() || which < 0 || std::find(out.outputs.begin(), out.outputs.end(), which) != out.outputs.end()) return false;
                out.outputs.push_back(which);
                break;
            }
            case 7:
                if (raw.size() == n) return false;
                raw.push_back(reader.body());
                break;
            default: return false;
        }
    }
    if (!reader.ok() || given.size() != n || raw.size() != n || n == 0 || out.id.size() > kMaxId) return false;
    for (unsigned char c : out.id)
        if (c >= 0x80) return false;            // UTF-8 is checked in Python
    return fit_tensors(interface, given, out, [&](size_t k, const Port& port, hr_tensor& tensor) { return view(port, given[k], raw[k], out, tensor); });
}

size_t answer_bytes(const Interface& interface, const Fitted& request, const hr_outputs& outputs) {
    size_t total = 0;
    for (int which : request.outputs) {
        const hr_tensor& tensor = outputs.tensors[which];
        size_t bytes = interface.outputs[size_t(which)].item;
        for (int i = 0; i < tensor.rank; i++) bytes *= size_t(interface.max_batch_rows && i == 0 ? request.rows : tensor.dims[i]);
        total += bytes;
    }
    return total;
}

Bytes encode(const Interface& interface, std::string_view model, std::string_view version, const Fitted& request, const hr_outputs& outputs, int64_t from) {
    struct Slice {
        const Port* port;
        Rows rows;
        size_t shape_size, head_size;
    };
    std::vector<Slice> slices;
    slices.reserve(request.outputs.size());
    size_t total = kPrefix + field_size(model.size()) + field_size(version.size()) + (request.id.empty() ? 0 : field_size(request.id.size()));
    for (int which : request.outputs) {
        const Port& port = interface.outputs[size_t(which)];
        Slice s{&port, rows_of(interface, request, outputs.tensors[which], port, from), 0, 0};
        for (int i = 0; i < s.rows.rank; i++) s.shape_size += varint_size(uint64_t(s.rows.dims[i]));
        s.head_size = field_size(port.name.size()) + field_size(port.datatype.size()) + (s.rows.rank ? field_size(s.shape_size) : 0);
        total += field_size(s.head_size) + field_size(s.rows.data.size());
        slices.push_back(s);
    }
    Bytes out(total);
    char* at = out.data() + kPrefix;
    at = put_text(at, 1, model);
    at = put_text(at, 2, version);
    if (!request.id.empty()) at = put_text(at, 3, request.id);
    for (const Slice& s : slices) {
        at = put_field(at, 5, s.head_size);
        at = put_text(at, 1, s.port->name);
        at = put_text(at, 2, s.port->datatype);
        if (!s.rows.rank) continue;
        at = put_field(at, 3, s.shape_size);
        for (int i = 0; i < s.rows.rank; i++) at = put_varint(at, uint64_t(s.rows.dims[i]));
    }
    for (const Slice& s : slices) {
        at = put_field(at, 6, s.rows.data.size());
        at = std::copy(s.rows.data.begin(), s.rows.data.end(), at);
    }
    return out;
}

}  // namespace hr::serve
