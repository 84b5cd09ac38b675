// The door of the executor for other extensions of the package: a table of C functions, handed over in a capsule
// (Program.door in Python). Nothing here needs the interpreter lock; a callback to a reference takes it by itself.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

struct hr_tensor {
    int32_t dtype;              // ONNX element type code
    int32_t rank;
    int64_t dims[12];
    void* data;                 // row-major; aligned to the element's size
};

struct hr_outputs {
    int32_t count;
    const hr_tensor* tensors;   // in the order of the interface; valid until release
};

// The last two are of doors to other processes: the one that ran it is gone; or there was none to run it.
enum hr_outcome { HR_OK = 0, HR_DOES_NOT_FIT = 1, HR_FAILED = 2, HR_LOST = 3, HR_NOBODY = 4 };

struct hr_door {
    int32_t version;            // 1
    void* program;
    int32_t n_inputs, n_outputs;
    int32_t calls_back;         // a run may take the interpreter lock
    // Runs once on the calling thread (and the program's pool). HR_DOES_NOT_FIT: shapes or types are not the interface's;
    // HR_FAILED: `error` holds the text, at most `error_size` bytes with its end.
    int (*run)(void* program, const hr_tensor* inputs, hr_outputs** outputs, char* error, size_t error_size);
    void (*release)(hr_outputs* outputs);
};

}
