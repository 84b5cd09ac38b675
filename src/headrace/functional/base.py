"""What all functions share: the registers of public names, promotion, constants, shapes as operator inputs."""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from headrace import scalar_types
from headrace.autograd.mode import MODE
from headrace.autograd.tape import PythonNode, adopt, check_write, edge_of, ops
from headrace.scalar_types import dtype
from headrace.tensors import _CATEGORY, Tensor, check_dim, concrete, wrap

F = TypeVar("F", bound=Callable[..., Any])
FUNCTIONS: dict[str, Any] = {}  # name -> what `headrace.name` is
METHODS: dict[str, Any] = {}  # name -> what `Tensor.name` is


def function(f: F) -> F:
    """Public as `headrace.<name>`."""
    FUNCTIONS[f.__name__.rstrip("_") if f.__name__.rstrip("_") in _BUILTIN else f.__name__] = f
    return f


def method(f: F) -> F:
    """Public as `Tensor.<name>`."""
    METHODS[f.__name__.rstrip("_") if f.__name__.rstrip("_") in _BUILTIN else f.__name__] = f
    return f


def both(f: F) -> F:
    """Public as a function and as a method."""
    return method(function(f))


def inplace(f: F) -> F:
    """Public as a function, a method, and as the method with an underscore that writes into its tensor."""
    name = both(f).__name__.rstrip("_")
    METHODS[f"{name}_"] = in_place(f, name)
    return f


def in_place(f: Callable[..., Any], name: str) -> Callable[..., Tensor]:
    """The in-place form of a function: compute, then write the result into the first operand."""

    @functools.wraps(f)
    def write(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        check_write(self)
        result = f(shadow(self), *args, **kwargs)
        if _CATEGORY[result._data.dtype] > _CATEGORY[self._data.dtype]:
            raise RuntimeError(f"result type {result.dtype} can't be cast to the desired output type {self.dtype}")
        if result._data.dtype != self._data.dtype:
            result = cast(result, self.dtype)
        return adopt(self, result)

    write.__name__ = f"{name}_"
    write.__doc__ = f"In-place version of `{name}`."
    return write


def shadow(tensor: Tensor) -> Tensor:
    """What an in-place operation reads: a copy where the tape would save values that are about to be overwritten."""
    if type(tensor._data) is not np.ndarray or not MODE.grad:
        return tensor
    from headrace.autograd.tape import sync

    if tensor._base is not None:
        sync(tensor)
    found = wrap(tensor._data.copy())
    found._node, found._index = tensor._node, tensor._index
    return found


# Names that would hide built-ins are written with an underscore here and published without.
_BUILTIN = frozenset(
    [
        "abs",
        "all",
        "any",
        "max",
        "min",
        "sum",
        "pow",
        "round",
        "float",
        "int",
        "bool",
        "complex",
        "range",
        "slice",
        "sorted",
        "hash",
        "type",
        "chr",
        "ord",
    ]
)


def alias(target: str, *names: str) -> None:
    """More public names of a function, method and in-place method."""
    for name in names:
        for table in (FUNCTIONS, METHODS):
            if target in table:
                table[name] = table[target]
        if f"{target}_" in METHODS:
            METHODS[f"{name}_"] = METHODS[f"{target}_"]


# -------------------------------------------------------------------- constants and promotion

_constants: dict[Any, np.ndarray] = {}


def constant(value: Any, numpy_dtype: Any) -> np.ndarray:
    """A Python number as a 0-d array; small ones are kept. Nobody writes into it."""
    key = (value, type(value), numpy_dtype)
    found = _constants.get(key)
    if found is None:
        found = np.asarray(value)
        if found.dtype != numpy_dtype:
            with np.errstate(all="ignore"):
                found = found.astype(numpy_dtype)
        if len(_constants) < 10000:
            _constants[key] = found
    return found


@functools.cache
def named_tuple(name: str, fields: str) -> Any:
    """The class of several results, called as torch calls it ("max" with "values indices")."""
    make: Any = namedtuple
    return make(name, fields)


_FITS = {bool: 0, int: 1, float: 2, complex: 3}


def pair(a: Any, b: Any) -> tuple[Any, Any]:
    """Two operands in their common dtype; Python numbers become constants."""
    if isinstance(a, Tensor):
        left = a._data.dtype
        if isinstance(b, Tensor):
            if left is b._data.dtype:
                return a, b
        elif type(b) in _FITS and _FITS[type(b)] <= _CATEGORY[left]:
            return a, constant(b, left)
    elif isinstance(b, Tensor) and type(a) in _FITS and _FITS[type(a)] <= _CATEGORY[b._data.dtype]:
        return constant(a, b._data.dtype), b
    found = scalar_types.result_type(*map(operand, (a, b)))
    return convert(a, found), convert(b, found)


def operand(value: Any) -> Any:
    """A value that promotion understands. TypeError for what is neither a tensor nor a number."""
    if (
        isinstance(value, Tensor | bool | int | float | complex | np.generic)
        or getattr(value, "expr", None) is not None
    ):
        return value
    if isinstance(value, np.ndarray):
        return wrap(value)
    raise TypeError(f"expected a Tensor or a number, got {type(value).__name__}")


def convert(value: Any, to: dtype) -> Any:
    """A tensor cast, a number as a constant."""
    if isinstance(value, Tensor):
        return cast(value, to)
    if isinstance(value, np.ndarray):
        return value.astype(to.numpy)
    if getattr(value, "expr", None) is not None:
        return cast(size_tensor(value), to)
    return constant(value, to.numpy)


def cast(x: Tensor, to: dtype) -> Tensor:
    """The same elements in another dtype; the tensor itself where it has it already."""
    if x._data.dtype == to.numpy:
        return x
    if x.dtype.is_complex or to.is_complex:
        return _cast_complex(x, to)
    from headrace.runtime import dtypes

    return ops.Cast(x, to=dtypes.of(to.name).onnx)


def _cast_complex(x: Tensor, to: dtype) -> Tensor:
    source, data = x.dtype, concrete(x, "a conversion from or to complex numbers")
    if to.category < 2:
        return wrap(data.real.astype(to.numpy))
    array = data.astype(to.numpy) if to.is_complex else data.real.astype(to.numpy)
    return derived("ToCopyBackward", array, (x,), lambda g: [cast(g, source)])


def derived(name: str, array: Any, inputs: Sequence[Tensor], backward: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
    """A tensor that NumPy computed from `inputs`; `backward` answers their gradients as functions of tensors."""
    found = wrap(np.asarray(array))
    if MODE.grad and any(x._node is not None for x in inputs):

        def call(grads: list[Tensor | None]) -> Sequence[Tensor | None]:
            return [None] * len(inputs) if grads[0] is None else backward(grads[0])

        found._node = PythonNode(name, [edge_of(x) for x in inputs], 1, call)
    return found


def promote(*values: Any) -> list[Any]:
    """Any number of operands in their common dtype."""
    found = scalar_types.result_type(*map(operand, values))
    return [convert(value, found) for value in values]


def floating(x: Any) -> Tensor:
    """An integer or truth tensor as the default float type; a float tensor as it is."""
    x = tensor_of(x)
    return x if _CATEGORY[x._data.dtype] >= 2 else cast(x, scalar_types.get_default_dtype())


def tensor_of(x: Any) -> Tensor:
    """TypeError unless a tensor (numbers and arrays are taken)."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, np.ndarray):
        return wrap(x)
    if isinstance(x, bool | int | float | complex):
        return wrap(np.asarray(x, scalar_types.scalar_dtype(x).numpy))
    raise TypeError(f"expected a Tensor, got {type(x).__name__}")


def scalar(value: float, like: Tensor) -> np.ndarray:
    """A constant of rank 0 in the dtype of `like`."""
    return constant(value, like._data.dtype)


def eager(*tensors: Any) -> bool:
    """Whether all values are at hand (nothing is traced)."""
    return all(not isinstance(t, Tensor) or type(t._data) is np.ndarray for t in tensors)


def recorded(*tensors: Any) -> bool:
    """Whether an operation on these would be recorded."""
    return MODE.grad and any(isinstance(t, Tensor) and t._node is not None for t in tensors)


# -------------------------------------------------------------------- dimensions and shapes


def axes_of(dim: Any, rank: int, *, empty_is_all: bool = True) -> tuple[int, ...]:
    """Dimensions as non-negative numbers. RuntimeError for one named twice."""
    if dim is None or (empty_is_all and isinstance(dim, tuple | list) and not dim):
        return tuple(range(rank))
    dims = dim if isinstance(dim, tuple | list) else (dim,)
    found = tuple(check_dim(d, rank) for d in dims)
    if len(set(found)) != len(found):
        raise RuntimeError(
            f"dim {next(d for d in found if found.count(d) > 1)} appears multiple times in the list of dims"
        )
    return tuple(d for d in found if d < rank)


_axes: dict[Any, np.ndarray] = {}


def axes_input(axes: Sequence[int]) -> np.ndarray:
    """Axes as an operator's input."""
    key = tuple(axes)
    found = _axes.get(key)
    if found is None:
        found = np.array(key, np.int64)
        if len(_axes) < 10000:
            _axes[key] = found
    return found


def is_symbolic(value: Any) -> bool:
    """Whether a size is only known when the graph runs."""
    return getattr(value, "expr", None) is not None or (
        isinstance(value, Tensor) and type(value._data) is not np.ndarray
    )


def plain_size(value: Any) -> Any:
    """A size as an int, or as it is where it is symbolic."""
    return value if type(value) is int or is_symbolic(value) else value.__index__()


def shape_input(dims: Sequence[Any]) -> Any:
    """A shape as an operator's input: an int64 array, or a traced tensor where a size is symbolic."""
    if any(is_symbolic(d) for d in dims):
        return MODE.tracer.shape_input(dims)
    return axes_input([int(d) for d in dims])


def size_tensor(size: Any) -> Tensor:
    """A symbolic size as a 0-d int64 tensor."""
    return MODE.tracer.size_tensor(size)


def shape_args(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shape in `f(2, 3)` or `f((2, 3))`."""
    if len(args) == 1 and isinstance(args[0], tuple | list):
        args = tuple(args[0])
    return tuple(plain_size(d) for d in args)


def category(x: Any) -> int:
    """0 truth, 1 whole, 2 floating, 3 complex."""
    return _CATEGORY[(x._data if isinstance(x, Tensor) else x).dtype]


def result(x: Any) -> Tensor:
    """A constant as a tensor; a tensor as it is."""
    return x if isinstance(x, Tensor) else wrap(x)
