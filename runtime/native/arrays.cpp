#include "arrays.h"

#include <numpy/arrayobject.h>

#include <stdexcept>
#include <vector>

namespace hr {

namespace {

constexpr size_t kPooled = size_t(1) << 20;     // from here on NumPy's allocator would map fresh pages for every array
constexpr const char* kCapsule = "headrace.buffer";

PyArray_Descr* descr_of_code[32];
std::vector<DType> code_of_type;    // by NumPy's type number

PyArrayObject* as_array(PyObject* object) { return reinterpret_cast<PyArrayObject*>(object); }

PyArray_Descr* descr(DType dtype) {
    PyArray_Descr* found = descr_of_code[int(dtype)];
    if (!found) throw std::invalid_argument("element type " + std::to_string(int(dtype)) + " has no NumPy type");
    Py_INCREF(found);
    return found;
}

}  // namespace

bool init_arrays() {
    import_array1(false);
    return true;
}

void set_descr(int code, PyObject* object) {
    PyArray_Descr* found = nullptr;
    if (code < 1 || code >= 32 || !PyArray_DescrConverter(object, &found)) throw std::invalid_argument("no NumPy dtype");
    Py_XDECREF(descr_of_code[code]);
    descr_of_code[code] = found;
    const auto note = [&](int type) {
        if (type < 0) return;
        if (code_of_type.size() <= size_t(type)) code_of_type.resize(type + 1, DType::none);
        code_of_type[type] = DType(code);
    };
    note(found->type_num);
    if (code == int(DType::i64)) note(NPY_LONG), note(NPY_LONGLONG);
    if (code == int(DType::u64)) note(NPY_ULONG), note(NPY_ULONGLONG);
}

DType dtype_of(PyObject* array) {
    const int type = PyArray_TYPE(as_array(array));
    return size_t(type) < code_of_type.size() ? code_of_type[type] : DType::none;
}

bool is_array(PyObject* object) { return PyArray_Check(object); }

bool is_plain(PyObject* array) { return PyArray_ISCARRAY_RO(as_array(array)); }

bool owns_data_alone(PyObject* array) { return PyArray_CHKFLAGS(as_array(array), NPY_ARRAY_OWNDATA) && Py_REFCNT(array) == 1; }

PyObject* contiguous(PyObject* array) {
    const DType dtype = dtype_of(array);    // the registered dtype has native byte order
    return PyArray_FromArray(as_array(array), dtype == DType::none ? nullptr : descr(dtype), NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED);
}

PyObject* copied(PyObject* array) { return PyArray_NewCopy(as_array(array), NPY_CORDER); }

void* array_data(PyObject* array) { return PyArray_DATA(as_array(array)); }

Tensor borrow(PyObject* array) {
    Tensor tensor;
    PyArrayObject* a = as_array(array);
    const int rank = PyArray_NDIM(a);
    if (rank > kMaxRank) throw std::length_error("a tensor has more than 12 dimensions");
    tensor.dtype = dtype_of(array);
    tensor.data = PyArray_DATA(a);
    tensor.shape.rank = rank;
    for (int i = 0; i < rank; i++) tensor.shape.d[i] = PyArray_DIM(a, i);
    return tensor;
}

PyObject* new_array(const Tensor& like) {
    const size_t bytes = like.bytes();
    if (bytes >= kPooled) {
        Buffer* buffer = take_buffer(bytes);
        Tensor tensor = like;
        tensor.data = buffer->data;
        return wrap_buffer(tensor, buffer);
    }
    static_assert(sizeof(npy_intp) == sizeof(int64_t));
    return PyArray_NewFromDescr(&PyArray_Type, descr(like.dtype), like.shape.rank, (npy_intp*)like.shape.d, nullptr, nullptr, 0, nullptr);
}

PyObject* wrap(const Tensor& tensor) {
    return PyArray_NewFromDescr(&PyArray_Type, descr(tensor.dtype), tensor.shape.rank, (npy_intp*)tensor.shape.d, nullptr, tensor.data,
                                NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED, nullptr);
}

PyObject* wrap_buffer(const Tensor& tensor, Buffer* buffer) {
    PyObject* capsule = PyCapsule_New(buffer, kCapsule, [](PyObject* self) { release_buffer(static_cast<Buffer*>(PyCapsule_GetPointer(self, kCapsule))); });
    if (!capsule) {
        release_buffer(buffer);
        return nullptr;
    }
    PyObject* array = PyArray_NewFromDescr(&PyArray_Type, descr(tensor.dtype), tensor.shape.rank, (npy_intp*)tensor.shape.d, nullptr, tensor.data,
                                           NPY_ARRAY_CARRAY, nullptr);
    if (array && PyArray_SetBaseObject(as_array(array), capsule) == 0) return array;   // takes over the capsule
    if (!array) Py_DECREF(capsule);
    Py_XDECREF(array);
    return nullptr;
}

}  // namespace hr
