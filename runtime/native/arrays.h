// NumPy arrays and tensors: dtype codes both ways, borrowing, wrapping. Needs the interpreter lock.
#pragma once
#include <Python.h>

#include "buffer.h"
#include "tensor.h"

namespace hr {

bool init_arrays();                                 // imports NumPy's C API; false with a Python error set
void set_descr(int code, PyObject* descr);          // the NumPy dtype of an ONNX code (ml_dtypes register theirs late)
DType dtype_of(PyObject* array);                    // none: no element type of ours
bool is_array(PyObject* object);
bool is_plain(PyObject* array);                     // C-contiguous, aligned, native byte order
bool owns_data_alone(PyObject* array);              // nobody else can see its memory
PyObject* contiguous(PyObject* array);              // new reference; copies where needed
PyObject* copied(PyObject* array);                  // new reference to a copy
Tensor borrow(PyObject* array);                     // throws std::length_error above rank 12
PyObject* new_array(const Tensor& like);            // new reference; uninitialised, large ones from the buffer pool
PyObject* wrap(const Tensor& tensor);               // new reference; read-only, does not own the memory
PyObject* wrap_buffer(const Tensor& tensor, Buffer* buffer);    // new reference; takes over the buffer
void* array_data(PyObject* array);

}  // namespace hr
