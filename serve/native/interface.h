// The interface of one model version, compiled for checking requests, and the requests that fit it without doubt.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bytes.h"
#include "capi.h"

namespace hr::serve {

struct Port {
    std::string name, datatype;
    int32_t code;                       // ONNX element type code
    size_t item;                        // bytes an element
    bool any_rank = false;
    std::vector<int64_t> dims;          // >= 0: fixed; -1: free; -2 - k: symbol k
};

struct Interface {
    std::vector<Port> inputs, outputs;
    int64_t max_batch_rows = 0;         // 0: requests are not batched
    int n_symbols = 0;
};

constexpr int kMaxInputs = 1024, kMaxRank = 12;
constexpr size_t kMaxId = 1024;

// A tensor as a request describes it; nothing about it is checked.
struct Given {
    std::string_view name, datatype;
    int64_t dims[kMaxRank];
    int rank = 0;
};

// A ModelInferRequest as far as routing needs it; views of the message.
struct Envelope {
    std::string_view model, version, id;
};

// A request that fits: tensors are views of the message, aligned or not, or of `copies` where booleans had to be made 0 and 1.
struct Fitted {
    std::string_view id;
    std::vector<hr_tensor> inputs;      // in the order of the interface
    std::vector<int> outputs;           // asked for, as positions in the interface
    std::vector<Bytes> copies;
    int64_t rows = 1;
};

// False where the bytes are no well-formed message.
bool read_envelope(std::string_view message, Envelope& out);

// Checks tensors against the interface: names, datatypes, shapes, rows. `fill(k, port, tensor)` finds the memory of the k-th.
using Fill = std::function<bool(size_t k, const Port& port, hr_tensor& tensor)>;
bool fit_tensors(const Interface& interface, const std::vector<Given>& given, Fitted& out, const Fill& fill);
int position(const std::vector<Port>& ports, std::string_view name);            // -1: none of this name
bool count_of(const Given& given, size_t item, size_t& count);                  // of its elements; false: more than memory can hold
hr_tensor tensor_of(const Port& port, const Given& given, void* data);
bool view(const Port& port, const Given& given, std::string_view raw, Fitted& out, hr_tensor& tensor);      // over raw bytes; false: not their size

// The rows [from, from + rows) of an output that a request gets: all rows where the model is not batched.
struct Rows {
    int64_t dims[kMaxRank];
    int rank;
    std::string_view data;
};
Rows rows_of(const Interface& interface, const Fitted& request, const hr_tensor& tensor, const Port& port, int64_t from);

// False where anything about the request is unusual or wrong: parameters, typed contents, or a violation. Such a request
// goes to the validator in Python, which answers what is wrong, or takes it.
bool fit(const Interface& interface, std::string_view message, Fitted& out);

// The bytes of the tensors that such a response has.
size_t answer_bytes(const Interface& interface, const Fitted& request, const hr_outputs& outputs);

// A ModelInferResponse with rows [from, from + rows) of every output asked for (all rows where the model is not batched),
// after five free bytes for the gRPC prefix.
Bytes encode(const Interface& interface, std::string_view model, std::string_view version, const Fitted& request, const hr_outputs& outputs,
             int64_t from);

}  // namespace hr::serve
