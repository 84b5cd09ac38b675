// Inferences of REST: the path, the JSON body with or without raw tensors behind it (the binary tensor extension), and the
// answer. What is unusual or wrong goes to Python (rest_front.py, rest_codec.py), which answers it or says what is wrong.
#pragma once
#include <string>
#include <string_view>

#include "call.h"
#include "interface.h"

namespace hr::serve {

// POST /v2/models/NAME[/versions/VERSION]/infer, and the headers that matter.
struct RestCall {
    enum class Coding : uint8_t { none, gzip, deflate };
    std::string_view model, version;
    size_t json_bytes = 0;              // of the body; the rest are raw tensors
    Coding coding = Coding::none;       // that the client accepts
};

// False where Python has to look at it.
bool read_target(const Call& call, RestCall& out);

// As `fit` of interface.h; `binary` says of each output asked for whether it goes as raw bytes.
bool fit_rest(const Interface& interface, std::string_view body, const RestCall& call, Fitted& out, std::vector<char>& binary);

struct RestAnswer {
    Bytes head, body;                   // status line and headers; Content-Length comes with the writing
};

// The answer with rows [from, from + rows) of every output asked for; 400 where one of them has no JSON form.
RestAnswer encode_rest(const Interface& interface, std::string_view model, std::string_view version, const Fitted& request, const std::vector<char>& binary,
                       RestCall::Coding coding, const hr_outputs& outputs, int64_t from);
RestAnswer rest_error(int status, std::string_view text, int64_t retry_ms = -1);    // -1: no word of when to come back

}  // namespace hr::serve
