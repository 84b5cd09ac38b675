// A recipe: all that makes a program and those of its blocks, as data. Lowering writes it, `PythonRecipe::build` makes programs of
// it, and beside packed constants it is kept for the next start, which then neither reads nor checks nor lowers a graph.
//
// Whoever wrote it: nothing is made of a recipe that breaks a rule of `check`, so that each number in it may be used as an index.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "executor.h"
#include "pack_store.h"

namespace hr {

struct Recipe {
    // Bytes that lie elsewhere: in an array of the host, in a mapped archive, or in the store.
    struct Constant {
        Tensor tensor;                  // none: the value is a host object
        void* object = nullptr;         // the host's, not owned; null where bytes are all there is
    };
    struct Value {
        DType dtype;
        int constant = -1;              // its number; -1: it is none
    };
    struct Input {
        std::string name;
        bool any_rank = false;
        std::vector<int64_t> dims;      // as InputSpec
    };
    struct Step {                       // of a program: a node
        std::string op, label;
        bool readable = true;           // attributes are all there: a kernel may be made from them
        std::vector<std::pair<std::string, Attr>> attributes;
        std::vector<int> inputs, outputs;   // values; -1: absent, unwanted
        int version = 0;
        bool pure = true;
        std::vector<std::string> said;      // attributes with another value than their default
        struct Inner {
            int block;                      // an earlier one
            std::vector<int> captured;      // which inputs of the node follow the block's own
        };
        std::vector<Inner> blocks;          // of If, Loop, Scan that run natively
        uint64_t identity = 0;              // see identity_of; 0: nobody computed it
    };
    struct Block {
        std::vector<Value> values;      // its inputs first
        std::vector<Input> inputs;
        std::vector<Step> steps;        // in topological order
        std::vector<OutputSpec> outputs;
    };

    std::vector<Constant> constants;
    std::vector<Block> blocks;          // the last one is the program
};

// Throws std::invalid_argument where block number `at` breaks a rule; those before it keep them.
void check(const Recipe& recipe, size_t at);

// Bytes whose place is the same wherever the same archive is mapped.
struct Archive {
    const char* data = nullptr;
    size_t bytes = 0;
};

// Adds to a store that is being filled what `read` makes the recipe of; constants that lie in the archive stay there.
// Throws std::invalid_argument where a constant is a host object.
void keep(Recipe& recipe, const Archive& archive, PackStore& store);
// The recipe in a complete store, checked; its constants are memory of the archive and of the store. Throws
// std::invalid_argument saying what is wrong.
Recipe read(const PackStore& store, const Archive& archive);

}  // namespace hr
