// A recipe as Python writes it and has programs made of it.
#pragma once
#include <memory>

#include "python_program.h"
#include "recipe.h"

namespace hr {

class PythonRecipe {
public:
    // The number of a constant; dtype 0: `array` is any object.
    int add_constant(nb::object array, int dtype);
    // The number of a block; see Recipe::Block. inputs: (name, dims or None); steps: (op, label, attributes or None, inputs, outputs,
    // version, pure, said, blocks or None); outputs: (name, value).
    int add_block(const std::vector<int>& dtypes, const std::vector<int>& constants, nb::list inputs, nb::list steps, nb::list outputs);
    // A program for each block, whose kernels are being made.
    nb::list build(int threads, nb::object run_error, std::shared_ptr<Packing> packing);

    bool plain() const;                         // constants are tensors: it can be kept
    void keep(PackStore& store, nb::object archive, nb::bytes facts);
    static PythonRecipe read(std::shared_ptr<PackStore> store, nb::object archive);

private:
    Recipe recipe_;
    std::vector<nb::object> owners_;            // of the memory of constants
    std::shared_ptr<PackStore> store_;          // as well
};

}  // namespace hr
