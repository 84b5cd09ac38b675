#include "rest.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "json.h"

namespace hr::serve {

namespace {

constexpr size_t kWorthwhile = 1024;        // smaller answers are not compressed; rest_front.py has the same

// The only header of this name, "" where there is none; `twice` where there are several.
std::string_view header(const Call& call, std::string_view name, bool& twice) {
    std::string_view found;
    bool any = false;
    for (const auto& [key, value] : call.metadata)
        if (key == name) twice |= any, any = true, found = value;
    return found;
}

RestCall::Coding coding_of(std::string_view accepted) {
    while (!accepted.empty()) {
        const size_t comma = accepted.find(',');
        std::string_view part = accepted.substr(0, comma);
        accepted = comma == std::string_view::npos ? std::string_view() : accepted.substr(comma + 1);
        part = part.substr(0, part.find(';'));
        while (!part.empty() && (part.front() == ' ' || part.front() == '\t')) part.remove_prefix(1);
        while (!part.empty() && (part.back() == ' ' || part.back() == '\t')) part.remove_suffix(1);
        if (part == "gzip") return RestCall::Coding::gzip;
        if (part == "deflate") return RestCall::Coding::deflate;
    }
    return RestCall::Coding::none;
}

// Calls f with a value of the C++ type that an ONNX element type has in JSON; false for those without a JSON form.
template <class F>
bool with_type(int code, F&& f) {
    switch (code) {
        case 1: return f(float());
        case 2: return f(uint8_t());
        case 3: return f(int8_t());
        case 4: return f(uint16_t());
        case 5: return f(int16_t());
        case 6: return f(int32_t());
        case 7: return f(int64_t());
        case 9: return f(bool());
        case 11: return f(double());
        case 12: return f(uint32_t());
        case 13: return f(uint64_t());
        default: return false;
    }
}

template <class T>
bool read_element(Json& json, T& out) {
    if constexpr (std::is_same_v<T, bool>) {
        return json.flag(out);
    } else {
        std::string_view token;
        bool whole;
        if (!json.number(token, whole)) return false;
        const char* end = token.data() + token.size();
        if constexpr (std::is_floating_point_v<T>) {
            double value;
            if (std::from_chars(token.data(), end, value).ec != std::errc()) return false;
            if (std::abs(value) > double(std::numeric_limits<T>::max())) return false;
            out = T(token == "-0" ? 0.0 : value);       // an integer, which has no negative zero
            return true;
        } else {
            return whole && std::from_chars(token.data(), end, out).ec == std::errc() && token != "-0";
        }
    }
}

// The elements of `data`, flat or nested as the shape says.
template <class T>
class Elements {
public:
    Elements(std::string_view data, const Given& given, T* to, size_t count) : json_(data), given_(given), at_(to), end_(to + count) {}
    bool read() {
        Json probe = json_;
        const bool nested = probe.take('[') && probe.peek() == '[';
        return (nested ? level(0) : json_.array([&] { return one(); })) && at_ == end_ && json_.at_end();
    }

private:
    bool one() { return at_ != end_ && read_element(json_, *at_++); }
    bool level(int d) {
        int64_t n = 0;
        return d < given_.rank && json_.array([&] { return n++ < given_.dims[d] && (d + 1 == given_.rank ? one() : level(d + 1)); }) && n == given_.dims[d];
    }
    Json json_;
    const Given& given_;
    T *at_, *end_;
};

struct Data {
    std::string_view json;
    int64_t raw = -1;           // bytes behind the JSON
};

bool read_input(Json& json, Given& given, Data& data) {
    int seen = 0;
    const auto once = [&](int bit) { return !(seen & bit) && (seen |= bit, true); };
    const bool ok = json.object([&](std::string_view key) {
        if (key == "name") return once(1) && json.text(given.name);
        if (key == "datatype") return once(2) && json.text(given.datatype);
        if (key == "shape") return once(4) && json.array([&] {
            int64_t size;
            if (given.rank == kMaxRank || !json.integer(size) || size < 0) return false;
            given.dims[given.rank++] = size;
            return true;
        });
        if (key == "data") return once(8) && json.skip_array(data.json);
        if (key == "parameters") return once(16) && json.object([&](std::string_view name) { return name == "binary_data_size" && data.raw < 0 && json.integer(data.raw) && data.raw >= 0; });
        return false;
    });
    return ok && (seen & 7) == 7 && ((seen & 8) != 0) != (data.raw >= 0);
}

bool has_json(const Port& port) {
    return with_type(port.code, [](auto) { return true; });
}

bool is_plain(std::string_view name) {
    return std::all_of(name.begin(), name.end(), [](char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\' && c != '\''; });
}

// False where an element has no JSON form.
bool put_elements(Bytes& out, const Port& port, const char* data, size_t count) {
    return with_type(port.code, [&](auto kind) {
        using T = decltype(kind);
        out.push('[');
        for (size_t i = 0; i < count; i++) {
            T value;
            std::memcpy(&value, data + i * sizeof value, sizeof value);
            if (i) out.push(',');
            if constexpr (std::is_same_v<T, bool>) out.append(value ? "true" : "false");
            else if constexpr (std::is_integral_v<T>) put_integer(out, value);
            else if (std::isfinite(value)) put_number(out, double(value));
            else return false;
        }
        out.push(']');
        return true;
    });
}

Bytes deflated(const Bytes& body, RestCall::Coding coding) {
    z_stream stream{};
    if (deflateInit2(&stream, 1, Z_DEFLATED, coding == RestCall::Coding::gzip ? 31 : 15, 8, Z_DEFAULT_STRATEGY) != Z_OK) throw std::bad_alloc();
    Bytes out(deflateBound(&stream, uLong(body.size())));
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(body.data())), stream.avail_in = uInt(body.size());
    stream.next_out = reinterpret_cast<Bytef*>(out.data()), stream.avail_out = uInt(out.size());
    deflate(&stream, Z_FINISH);         // one step: the room is the bound
    out.truncate(stream.total_out);
    deflateEnd(&stream);
    return out;
}

}  // namespace

bool read_target(const Call& call, RestCall& out) {
    constexpr std::string_view kModels = "/v2/models/", kVersions = "/versions/", kInfer = "/infer";
    std::string_view path = call.path;
    if (call.method != "POST" || !path.starts_with(kModels) || !path.ends_with(kInfer) || path.size() < kModels.size() + kInfer.size()) return false;
    path = path.substr(kModels.size(), path.size() - kModels.size() - kInfer.size());
    if (const size_t at = path.find(kVersions); at != std::string_view::npos) out.version = path.substr(at + kVersions.size()), path = path.substr(0, at);
    out.model = path;
    if (out.model.empty() || (call.path.find("/versions") != std::string::npos && out.version.empty())) return false;
    for (std::string_view part : {out.model, out.version})
        if (part.find_first_of("/%?#") != std::string_view::npos) return false;
    bool twice = false;
    const std::string_view coding = header(call, "content-encoding", twice), length = header(call, "inference-header-content-length", twice);
    if (!coding.empty() && coding != "identity") return false;
    if (!header(call, "endpoint-load-metrics-format", twice).empty()) return false;
    out.coding = coding_of(header(call, "accept-encoding", twice));
    out.json_bytes = call.message.size();
    if (!length.empty()) {
        const auto [stopped, error] = std::from_chars(length.data(), length.data() + length.size(), out.json_bytes);
        if (error != std::errc() || stopped != length.data() + length.size() || out.json_bytes == 0 || out.json_bytes > call.message.size()) return false;
    }
    return !twice;
}

bool fit_rest(const Interface& interface, std::string_view body, const RestCall& call, Fitted& out, std::vector<char>& binary) {
    const size_t n = interface.inputs.size();
    if (n == 0 || n > kMaxInputs) return false;
    std::string_view tail = body.substr(call.json_bytes);
    Json json(body.substr(0, call.json_bytes));
    std::vector<Given> given;
    std::vector<Data> data;
    std::vector<signed char> wishes;
    bool by_default = false;
    int seen = 0;
    const auto once = [&](int bit) { return !(seen & bit) && (seen |= bit, true); };
    const bool ok = json.object([&](std::string_view key) {
        if (key == "id") return once(1) && json.text(out.id) && out.id.size() <= kMaxId;
        if (key == "parameters") {
            bool any = false;
            return once(2) && json.object([&](std::string_view name) { return name == "binary_data_output" && !std::exchange(any, true) && json.flag(by_default); });
        }
        if (key == "inputs") return once(4) && json.array([&] { return given.size() < n && read_input(json, given.emplace_back(), data.emplace_back()); });
        if (key == "outputs") return once(8) && json.array([&] {
            int which = -1, fields = 0;
            signed char wish = -1;
            const bool fine = json.object([&](std::string_view name) {
                std::string_view text;
                if (name == "name") return !(fields & 1) && (fields |= 1, json.text(text)) && (which = position(interface.outputs, text)) >= 0;
                bool value = false;
                return name == "parameters" && !(fields & 2) && (fields |= 2, json.object([&](std::string_view own) {
                    return own == "binary_data" && wish < 0 && json.flag(value) && (wish = value, true);
                }));
            });
            if (!fine || which < 0 || std::find(out.outputs.begin(), out.outputs.end(), which) != out.outputs.end()) return false;
            out.outputs.push_back(which), wishes.push_back(wish);
            return true;
        });
        return false;
    });
    if (!ok || !json.at_end() || given.size() != n) return false;
    if (!fit_tensors(interface, given, out, [&](size_t k, const Port& port, hr_tensor& tensor) {
            if (data[k].raw >= 0) {
                if (size_t(data[k].raw) > tail.size()) return false;
                const std::string_view raw = tail.substr(0, size_t(data[k].raw));
                tail.remove_prefix(raw.size());
                return view(port, given[k], raw, out, tensor);
            }
            size_t count;
            if (!count_of(given[k], port.item, count) || count > data[k].json.size()) return false;      // an element has a character at least
            Bytes memory(std::max<size_t>(count * port.item, 1));
            const bool fits = with_type(port.code, [&](auto kind) { return Elements(data[k].json, given[k], reinterpret_cast<decltype(kind)*>(memory.data()), count).read(); });
            if (!fits) return false;
            tensor = tensor_of(port, given[k], memory.data());
            out.copies.push_back(std::move(memory));
            return true;
        }))
        return false;
    if (!tail.empty()) return false;
    for (size_t i = 0; i < out.outputs.size(); i++) {
        const Port& port = interface.outputs[size_t(out.outputs[i])];
        binary.push_back(i < wishes.size() && wishes[i] >= 0 ? wishes[i] : by_default);
        if (!is_plain(port.name) || (!binary.back() && !has_json(port))) return false;
    }
    return true;
}

RestAnswer encode_rest(const Interface& interface, std::string_view model, std::string_view version, const Fitted& request, const std::vector<char>& binary,
                       RestCall::Coding coding, const hr_outputs& outputs, int64_t from) {
    RestAnswer answer;
    Bytes& body = answer.body;
    body.append("{\"model_name\":"), put_text(body, model);
    body.append(",\"model_version\":"), put_text(body, version);
    if (!request.id.empty()) body.append(",\"id\":"), put_text(body, request.id);
    body.append(",\"outputs\":[");
    std::vector<std::string_view> tail;
    for (size_t i = 0; i < request.outputs.size(); i++) {
        const Port& port = interface.outputs[size_t(request.outputs[i])];
        const Rows rows = rows_of(interface, request, outputs.tensors[request.outputs[i]], port, from);
        if (i) body.push(',');
        body.append("{\"name\":"), put_text(body, port.name);
        body.append(",\"datatype\":"), put_text(body, port.datatype);
        body.append(",\"shape\":[");
        for (int d = 0; d < rows.rank; d++) {
            if (d) body.push(',');
            put_integer(body, rows.dims[d]);
        }
        if (binary[i]) {
            body.append("],\"parameters\":{\"binary_data_size\":"), put_integer(body, rows.data.size()), body.append("}}");
            tail.push_back(rows.data);
        } else {
            body.append("],\"data\":");
            if (!put_elements(body, port, rows.data.data(), rows.data.size() / port.item))
                return rest_error(400, "output '" + port.name + "': NaN and infinity have no JSON form; ask for it with binary_data");
            body.push('}');
        }
    }
    body.append("]}");
    answer.head.append("HTTP/1.1 200 OK\r\ncontent-type: ");
    if (tail.empty()) answer.head.append("application/json\r\n");
    else answer.head.append("application/octet-stream\r\ninference-header-content-length: "), put_integer(answer.head, body.size()), answer.head.append("\r\n");
    for (std::string_view part : tail) body.append(part);
    if (coding != RestCall::Coding::none && body.size() >= kWorthwhile) {
        body = deflated(body, coding);
        answer.head.append(coding == RestCall::Coding::gzip ? "content-encoding: gzip\r\n" : "content-encoding: deflate\r\n");
    }
    return answer;
}

RestAnswer rest_error(int status, std::string_view text, int64_t retry_ms) {
    static const std::pair<int, std::string_view> phrases[] = {{400, "Bad Request"}, {429, "Too Many Requests"}, {499, "Client Closed Request"},
                                                               {500, "Internal Server Error"}, {503, "Service Unavailable"}, {504, "Gateway Timeout"}};
    RestAnswer answer;
    answer.head.append("HTTP/1.1 "), put_integer(answer.head, status), answer.head.push(' ');
    for (const auto& [code, phrase] : phrases)
        if (code == status) answer.head.append(phrase);
    answer.head.append("\r\ncontent-type: application/json\r\n");
    if (retry_ms >= 0) answer.head.append("retry-after: "), put_integer(answer.head, std::max<int64_t>(1, (retry_ms + 500) / 1000)), answer.head.append("\r\n");
    answer.body.append("{\"error\":"), put_text(answer.body, text), answer.body.push('}');
    return answer;
}

}  // namespace hr::serve
