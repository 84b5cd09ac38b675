"""Storage and Tensor.

A Tensor is a NumPy array plus its history. Tensors that are views of one another share a Storage, whose version counts
in-place writes; the tape compares versions, so that a saved tensor that was changed is an error at backward. A view knows
its base and the chain of view operations that leads to it: a write through a view gives the base a new history, and every
other view of that base follows when it is next used.

While a tracer listens, `_data` of a traced tensor is not an array but an `Abstract` (see jit.abstract) with a dtype and a
symbolic shape. Methods that torch has both as functions and as methods are attached by `headrace.functional`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace import scalar_types
from headrace.devices import CPU, check_device, device
from headrace.layouts import check_format, strided
from headrace.scalar_types import dtype

_CATEGORY = {row.numpy: row.category for row in scalar_types._BY_NAME.values()}
_TYPES = scalar_types._BY_NUMPY


class Size(tuple[int, ...]):
    """The shape of a tensor: a tuple that can tell its number of elements."""

    __slots__ = ()

    def numel(self) -> int:
        """The number of elements."""
        total = 1
        for dim in self:
            total = total * dim
        return total

    def __repr__(self) -> str:
        return f"headrace.Size([{', '.join(map(str, self))}])"

    def __getitem__(self, index: Any) -> Any:
        found = tuple.__getitem__(self, index)
        return Size(found) if isinstance(index, slice) else found


class Storage:
    """What views share: the count of in-place writes."""

    version = 0


class Tensor:
    """An array with a history. Make one with `headrace.tensor(...)`; `Tensor(...)` gives the default float type."""

    _data: Any  # an np.ndarray; an Abstract while a tracer listens
    _storage: Storage
    _node: Any = None  # what gave this tensor: a tape node, or the accumulator of a leaf that requires a gradient
    _index = 0  # which output of the node
    _grad: Tensor | None = None
    _base: Tensor | None = None  # the tensor whose memory this one shows
    _chain: tuple[Any, ...] = ()  # the view operations from the base to here
    _generation = 0  # of a base: how often its history was replaced; of a view: the state it follows
    _inference = False
    __array_priority__ = 1000.0

    if TYPE_CHECKING:  # what `headrace.functional` attaches

        def __getattr__(self, name: str) -> Any: ...
        def __eq__(self, other: object) -> Any: ...
        def __ne__(self, other: object) -> Any: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __floordiv__(self, other: Any) -> Tensor: ...
        def __rfloordiv__(self, other: Any) -> Tensor: ...
        def __mod__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __rpow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __and__(self, other: Any) -> Tensor: ...
        def __or__(self, other: Any) -> Tensor: ...
        def __xor__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __pos__(self) -> Tensor: ...
        def __invert__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __setitem__(self, index: Any, value: Any) -> None: ...

    def __init__(self, *args: Any, device: Any = None) -> None:
        check_device(device)
        default = scalar_types.get_default_dtype().numpy
        if len(args) == 1 and not isinstance(args[0], int):
            given = args[0]._data if isinstance(args[0], Tensor) else args[0]
            self._data = np.array([as_number(v) for v in given] if isinstance(given, list) else given, dtype=default)
        else:
            self._data = np.empty(args if args else (0,), dtype=default)
        self._storage = Storage()

    # ---------------------------------------------------------------- facts

    @property
    def shape(self) -> Size:
        return Size(self._data.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dimension."""
        return Size(self._data.shape) if dim is None else self._data.shape[check_dim(dim, self._data.ndim)]

    def dim(self) -> int:
        """The number of dimensions."""
        return self._data.ndim

    ndimension = dim
    ndim = property(dim)

    def numel(self) -> int:
        """The number of elements."""
        size = self._data.size
        return size if size >= 0 else Size(self._data.shape).numel()

    nelement = numel

    @property
    def dtype(self) -> dtype:
        return _TYPES[self._data.dtype]

    @property
    def device(self) -> device:
        return CPU

    @property
    def itemsize(self) -> int:
        return self._data.dtype.itemsize

    element_size = lambda self: self._data.dtype.itemsize  # noqa: E731
    nbytes = property(lambda self: self._data.nbytes)
    layout = strided
    is_cuda = is_sparse = is_mps = is_meta = is_quantized = is_mkldnn = is_nested = False

    def get_device(self) -> int:
        return -1

    def is_floating_point(self) -> bool:
        return _CATEGORY[self._data.dtype] == 2

    def is_complex(self) -> bool:
        return _CATEGORY[self._data.dtype] == 3

    def is_signed(self) -> bool:
        return self.dtype.is_signed

    def is_contiguous(self, memory_format: Any = None) -> bool:
        check_format(memory_format, self._data.ndim)
        return bool(self._data.flags.c_contiguous)

    def stride(self, dim: int | None = None) -> Any:
        """Elements between neighbours along each dimension, or along one."""
        size = max(1, self._data.dtype.itemsize)
        strides = tuple(s // size for s in self._data.strides)
        return strides if dim is None else strides[dim]

    def data_ptr(self) -> int:
        return int(self._data.ctypes.data)

    def storage_offset(self) -> int:
        base = self if self._base is None else self._base
        return (self._data.ctypes.data - base._data.ctypes.data) // max(1, self._data.dtype.itemsize)

    # ---------------------------------------------------------------- history

    @property
    def requires_grad(self) -> bool:
        return self._node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Whether operations on this leaf are recorded, so that `.grad` is filled at backward."""
        from headrace.autograd.tape import Accumulate

        if self._node is not None and not isinstance(self._node, Accumulate):
            if not requires_grad:
                raise RuntimeError(
                    "you can only change requires_grad flags of leaf variables; to use a computed tensor in a subgraph"
                    " that is not differentiated use var_no_grad = var.detach()."
                )
            return self
        if requires_grad and _CATEGORY[self._data.dtype] < 2:
            raise RuntimeError(f"only tensors of floating point dtype can require gradients, not {self.dtype}")
        if not requires_grad:
            self._node = None
        elif self._node is None:
            self._node = Accumulate(self)
        return self

    @property
    def is_leaf(self) -> bool:
        from headrace.autograd.tape import Accumulate

        return self._node is None or isinstance(self._node, Accumulate)

    @property
    def grad_fn(self) -> Any:
        """The tape node that gave this tensor; None for a leaf."""
        from headrace.autograd.tape import sync

        if self._base is not None:
            sync(self)
        return None if self.is_leaf else self._node

    @property
    def output_nr(self) -> int:
        return self._index

    @property
    def grad(self) -> Tensor | None:
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(f"assigned grad expected to be a Tensor or None but got {type(value).__name__}")
            if value._data.shape != self._data.shape:
                raise RuntimeError(f"assigned grad has shape {value.shape}; the tensor has {self.shape}")
            if value._data.dtype != self._data.dtype:
                raise RuntimeError(f"assigned grad has type {value.dtype}; the tensor has {self.dtype}")
        self._grad = value

    @grad.deleter
    def grad(self) -> None:
        self._grad = None

    @property
    def _version(self) -> int:
        return self._storage.version

    def is_inference(self) -> bool:
        return self._inference

    def _is_view(self) -> bool:
        return self._base is not None

    def backward(
        self, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False, inputs: Any = None
    ) -> None:
        """Add the gradient of this tensor to `.grad` of every leaf that it came from. See autograd.backward."""
        from headrace.autograd.engine import backward

        backward(self, gradient, retain_graph, create_graph, inputs=inputs)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Any:
        """Call `hook(grad)` when the gradient of this tensor is known; what it answers replaces the gradient."""
        from headrace.autograd.hooks import Handle

        if self._node is None:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        return Handle.add(self._node.tensor_hooks(self._index), hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> Any:
        """Call `hook(tensor)` after a gradient was added to `.grad` of this leaf."""
        from headrace.autograd.hooks import Handle

        if self._node is None or not self.is_leaf:
            raise RuntimeError(
                "post accumulate grad hooks can only be registered on leaf tensors that require gradient"
            )
        return Handle.add(self._node.post_hooks, hook)

    def retain_grad(self) -> None:
        """Fill `.grad` of this tensor at backward, although it is no leaf."""
        if self._node is None:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        if not self.is_leaf:
            self._node.retained[self._index] = weakref.ref(self)

    @property
    def retains_grad(self) -> bool:
        return not self.is_leaf and self._index in self._node.retained

    def detach(self) -> Tensor:
        """The same memory without history."""
        found = wrap(self._data)
        found._storage = self._storage
        return found

    def detach_(self) -> Tensor:
        """Forget the history of this tensor."""
        if self._base is not None:
            raise RuntimeError("can't detach views in-place; use detach() instead")
        self._node, self._index = None, 0
        return self

    @property
    def data(self) -> Tensor:
        """The same memory without history and with a version counter of its own."""
        return wrap(self._data)

    @data.setter
    def data(self, value: Tensor) -> None:
        self._data = value._data
        self._storage = Storage()

    # ---------------------------------------------------------------- to Python and NumPy

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The NumPy array that shares this tensor's memory. RuntimeError where the tensor requires a gradient."""
        if self._node is not None and not force:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        return concrete(self, "numpy()")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        return array if dtype is None or array.dtype == dtype else array.astype(dtype)

    def item(self) -> Any:
        """The only element as a Python number."""
        array = concrete(self, "item()")
        if array.size != 1:
            raise RuntimeError(f"a Tensor with {array.size} elements cannot be converted to Scalar")
        return as_python(array.reshape(()))

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        array = concrete(self, "tolist()")
        return (array.astype(np.float32) if array.dtype.kind == "V" else array).tolist()

    def __bool__(self) -> bool:
        array = concrete(self, "bool()")
        if array.size != 1:
            word = "no values" if array.size == 0 else "more than one value"
            raise RuntimeError(f"Boolean value of Tensor with {word} is ambiguous")
        return bool(array.reshape(()))

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        if _CATEGORY[self._data.dtype] > 1:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self.item())

    def __len__(self) -> int:
        if self._data.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return self._data.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if self._data.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.unbind(0))

    def __contains__(self, element: Any) -> bool:
        return bool((self == element).any())

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        from headrace.printing import tensor_text

        return tensor_text(self)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self._data.ndim == 0 and spec else str(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("tensors are not pickled; save them with headrace.save")

    def __copy__(self) -> Tensor:
        found = wrap(self._data, type(self))
        found._storage, found._node, found._index = self._storage, self._node, self._index
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError(
                "Only Tensors created explicitly by the user support the deepcopy protocol at the moment"
            )
        if id(self) in memo:
            return memo[id(self)]
        found = wrap(self._data.copy(), type(self))
        memo[id(self)] = found
        if self._node is not None:
            found.requires_grad_(True)
        if self._grad is not None:
            found._grad = wrap(self._grad._data.copy())
        found.__dict__.update({k: v for k, v in self.__dict__.items() if k not in _FIELDS})
        return found

    def __dlpack__(self, **options: Any) -> Any:
        return self.detach().numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._data.__dlpack_device__()

    def cpu(self) -> Tensor:
        return self

    def cuda(self, device: Any = None) -> Tensor:
        check_device("cuda")
        return self

    def pin_memory(self) -> Tensor:
        return self

    def share_memory_(self) -> Tensor:
        return self


_FIELDS = frozenset(["_data", "_storage", "_node", "_index", "_grad", "_base", "_chain", "_generation", "_inference"])


def wrap(array: Any, kind: type[Tensor] = Tensor) -> Tensor:
    """The tensor of an array (taken, not copied)."""
    found = object.__new__(kind)
    found._data = array
    found._storage = Storage()
    return found


def concrete(tensor: Tensor, construct: str) -> np.ndarray:
    """The array behind a tensor. TraceError, naming the construct, where it is only known when the graph runs."""
    data = tensor._data
    if type(data) is not np.ndarray:
        data.refuse(construct)
    return data


def as_python(array: np.ndarray) -> Any:
    """A 0-d array as a Python number."""
    value = array.item()
    return float(value) if array.dtype.kind == "V" else value


def as_number(value: Any) -> Any:
    """A nested list in which tensors have become arrays."""
    if isinstance(value, Tensor):
        return concrete(value, "tensor()")
    return [as_number(v) for v in value] if isinstance(value, list | tuple) else value


def check_dim(dim: int, rank: int, extra: int = 0) -> int:
    """A dimension as a non-negative number. IndexError outside [-rank, rank). A scalar counts as rank 1."""
    bound = max(rank + extra, 1)
    if not isinstance(dim, int):
        dim = dim.__index__()
    if not -bound <= dim < bound:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-bound}, {bound - 1}], but got {dim})")
    return dim + bound if dim < 0 else dim


def is_tensor(obj: Any) -> bool:
    """Whether `obj` is a Tensor."""
    return isinstance(obj, Tensor)


__all__ = ["Size", "Storage", "Tensor", "is_tensor"]

import headrace.functional  # noqa: E402, F401  attaches the methods
