// Which inferences the loop may take without asking Python: those whose credentials are good beyond doubt. It says yes or
// "ask"; the refusals and their texts are those of serve/guard.py.
#pragma once
#include <array>
#include <string>
#include <vector>

#include "call.h"

namespace hr::serve {

using Digest = std::array<unsigned char, 32>;     // SHA-256

struct Gate {
    struct Token {
        std::string name;
        Digest digest;
        double expires;                 // seconds since 1970
    };
    struct Header {
        std::string name;
        Digest digest;                  // of its value
    };
    bool needs_token = false, needs_header = false;
    std::vector<Token> tokens;          // those that allow inference
    std::vector<Header> headers;        // one of them is enough

    bool admits(const Metadata& metadata, std::string& principal) const;        // `principal`: the name of the token
};

}  // namespace hr::serve
