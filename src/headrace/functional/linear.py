"""Products of vectors and matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.tape import ops
from headrace.functional.arithmetic import add, mul
from headrace.functional.base import METHODS, axes_input, both, category, convert, function, inplace
from headrace.functional.shape import expand, permute, reshape, unsqueeze
from headrace.tensors import Tensor, check_dim, wrap


def _same(a: Tensor, b: Tensor, name: str) -> None:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        raise TypeError(f"{name}(): arguments must be Tensors")
    if a._data.dtype != b._data.dtype:
        raise RuntimeError(f"expected m1 and m2 to have the same dtype, but got: {a.dtype} != {b.dtype}")


@both
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The matrix product with NumPy's rules for vectors and batches."""
    _same(input, other, "matmul")
    a, b = input._data.shape, other._data.shape
    if not a or not b:
        raise RuntimeError(
            "both arguments to matmul need to be at least 1D, but they are " + f"{len(a)}D and {len(b)}D"
        )
    inner = b[-2] if len(b) > 1 else b[0]
    if type(a[-1]) is int and type(inner) is int and a[-1] != inner:
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied ({'x'.join(map(str, a))} and {'x'.join(map(str, b))})"
        )
    return ops.MatMul(input, other)


@both
def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices."""
    if input._data.ndim != 2 or mat2._data.ndim != 2:
        raise RuntimeError("mm: both arguments must be matrices")
    return matmul(input, mat2)


@both
def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """Products of two batches of matrices."""
    if input._data.ndim != 3 or mat2._data.ndim != 3:
        raise RuntimeError("batch1 and batch2 must be 3D tensors")
    if (
        type(input._data) is np.ndarray
        and type(mat2._data) is np.ndarray
        and input._data.shape[0] != mat2._data.shape[0]
    ):
        raise RuntimeError(
            f"batch1 and batch2 must have same number of batches, got {input.shape[0]} and {mat2.shape[0]}"
        )
    return matmul(input, mat2)


@both
def mv(input: Tensor, vec: Tensor) -> Tensor:
    """A matrix times a vector."""
    if input._data.ndim != 2 or vec._data.ndim != 1:
        raise RuntimeError(
            f"vector + matrix @ vector expected, got {vec._data.ndim}, {input._data.ndim}, {vec._data.ndim}"
        )
    return matmul(input, vec)


@both
def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The sum of products of two vectors."""
    if input._data.ndim != 1 or tensor._data.ndim != 1:
        raise RuntimeError(f"1D tensors expected, but got {input._data.ndim}D and {tensor._data.ndim}D tensors")
    if input._data.dtype != tensor._data.dtype:
        raise RuntimeError(
            f"dot : expected both vectors to have same dtype, but found {input.dtype} and {tensor.dtype}"
        )
    if input._data.shape != tensor._data.shape:
        raise RuntimeError(
            f"inconsistent tensor size, expected tensor {list(input.shape)} and src {list(tensor.shape)} to have the same number of elements"
        )
    return matmul(input, tensor)


@both
def vdot(input: Tensor, other: Tensor) -> Tensor:
    """dot, with the first vector conjugated."""
    return dot(input, other)


@both
def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products over the last dimensions."""
    if not input._data.ndim or not other._data.ndim:
        return mul(input, other)
    if input._data.shape[-1] != other._data.shape[-1]:
        raise RuntimeError(
            f"inner() the last dimension must match on both input tensors but got shapes {list(input.shape)} and {list(other.shape)}"
        )
    return tensordot(input, other, dims=([-1], [-1]))


@both
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """All products of two vectors."""
    if input._data.ndim != 1 or vec2._data.ndim != 1:
        raise RuntimeError("outer: Expected 1-D arguments")
    return mul(unsqueeze(input, 1), vec2)


for _table in (METHODS,):
    _table["ger"] = outer


def _blend(input: Tensor, product: Tensor, beta: Any, alpha: Any) -> Tensor:
    """beta * input + alpha * product; with beta 0 the input is not read."""
    if category(product) < 2 and (isinstance(beta, float) or isinstance(alpha, float)):
        raise RuntimeError("For integral input tensors, argument beta and alpha must not be floating point numbers.")
    if input._data.dtype != product._data.dtype:
        raise RuntimeError(f"self and mat2 must have the same dtype, but got {input.dtype} and {product.dtype}")
    if alpha != 1:
        product = mul(product, alpha)
    expand(input, *product.shape)
    if beta == 0:
        return product
    return add(input if beta == 1 else mul(input, beta), product)


@inplace
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * (mat1 @ mat2)."""
    return _blend(input, mm(mat1, mat2), beta, alpha)


@inplace
def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * (mat @ vec)."""
    return _blend(input, mv(mat, vec), beta, alpha)


@inplace
def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * outer(vec1, vec2)."""
    found = outer(vec1, vec2)
    kind = scalar_types.result_type(input, found)
    return _blend(convert(input, kind), convert(found, kind), beta, alpha)


@inplace
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * bmm(batch1, batch2)."""
    return _blend(input, bmm(batch1, batch2), beta, alpha)


@inplace
def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * the sum of bmm(batch1, batch2) over the batch."""
    return _blend(input, ops.ReduceSum(bmm(batch1, batch2), axes_input((0,)), keepdims=0), beta, alpha)


@function
def einsum(equation: Any, *given: Any) -> Tensor:
    """Sums of products by an equation, as NumPy's einsum."""
    operands = list(given[0]) if len(given) == 1 and isinstance(given[0], tuple | list) else list(given)
    if isinstance(equation, Tensor):
        equation, operands = _sublists([equation, *operands])
    if not operands:
        raise RuntimeError("einsum(): must provide at least one operand")
    equation = equation.replace(" ", "")
    left = equation.split("->")[0].split(",")
    if len(left) != len(operands):
        raise RuntimeError(
            f"einsum(): {'fewer' if len(left) > len(operands) else 'more'} operands were provided than specified in the equation"
        )
    return ops.Einsum(*operands, equation=_with_output(equation))


def _sublists(parts: list[Any]) -> tuple[str, list[Any]]:
    """einsum(x, [0, 1], y, [1, 2], [0, 2]) as an equation."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

    def text(places: Any) -> str:
        return "".join("..." if p is Ellipsis else letters[p] for p in places)

    count = len(parts) // 2
    equation = ",".join(text(parts[2 * i + 1]) for i in range(count))
    if len(parts) % 2:
        equation += "->" + text(parts[-1])
    return equation, [parts[2 * i] for i in range(count)]


def _with_output(equation: str) -> str:
    """The equation with its right side: letters that occur once, upper case first, as torch has them."""
    if "->" in equation:
        return equation
    letters = equation.replace(",", "").replace("...", "")
    once = sorted(c for c in set(letters) if letters.count(c) == 1)
    return equation + "->" + ("..." if "..." in equation else "") + "".join(once)


@function
def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Sums of products over pairs of dimensions."""
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, int):
        if dims < 0:
            raise RuntimeError(f"tensordot expects dims >= 0, but got dims={dims}")
        dims = (list(range(-dims, 0)), list(range(dims)))
    left, right = ([d] if isinstance(d, int) else list(d) for d in dims)
    if len(left) != len(right):
        raise RuntimeError("both dimension lists should have same length")
    left, right = [check_dim(d, a._data.ndim) for d in left], [check_dim(d, b._data.ndim) for d in right]
    for i, j in zip(left, right):
        if (
            1 in (a._data.shape[i], b._data.shape[j]) and a._data.shape[i] != b._data.shape[j]
        ):  # a size of 1 is stretched
            if a._data.shape[i] == 1:
                b = ops.ReduceSum(b, axes_input((j,)), keepdims=1)
            else:
                a = ops.ReduceSum(a, axes_input((i,)), keepdims=1)
        if a._data.shape[i] != b._data.shape[j]:
            raise RuntimeError(
                f"contracted dimensions need to match, but first has size {a.shape[i]} in dim {i} and second has size {b.shape[j]} in dim {j}"
            )
    kept_a = [i for i in range(a._data.ndim) if i not in left]
    kept_b = [i for i in range(b._data.ndim) if i not in right]
    rows, inner_, columns = (
        _count(s) for s in ([a.shape[i] for i in kept_a], [a.shape[i] for i in left], [b.shape[i] for i in kept_b])
    )
    first = reshape(permute(a, [*kept_a, *left]), (rows, inner_))
    second = reshape(permute(b, [*right, *kept_b]), (inner_, columns))
    return reshape(matmul(first, second), (*(a.shape[i] for i in kept_a), *(b.shape[i] for i in kept_b)))


def _count(sizes: Any) -> Any:
    total: Any = 1
    for size in sizes:
        total = total * size
    return total


@both
def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product."""
    rank = max(input._data.ndim, other._data.ndim)
    a = reshape(input, (1,) * (rank - input._data.ndim) + tuple(input.shape))
    b = reshape(other, (1,) * (rank - other._data.ndim) + tuple(other.shape))
    spread_a = reshape(a, tuple(d for n in a.shape for d in (n, 1)))
    spread_b = reshape(b, tuple(d for n in b.shape for d in (1, n)))
    return reshape(mul(spread_a, spread_b), tuple(m * n for m, n in zip(a.shape, b.shape)))


@both
def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """The cross product along a dimension of size 3."""
    from headrace.functional.arithmetic import sub
    from headrace.functional.moves import roll
    from headrace.functional.shape import broadcast_tensors

    if input._data.ndim != other._data.ndim:
        raise RuntimeError("inconsistent tensors dimensions")
    a, b = broadcast_tensors(input, other)
    if dim is None:
        dim = next((i for i, n in enumerate(a.shape) if n == 3), None)
        if dim is None:
            raise RuntimeError("no dimension of size 3 in input")
    axis = check_dim(dim, a._data.ndim)
    if a._data.shape[axis] != 3:
        raise RuntimeError(f"inputs dimension {dim} must have length 3. Got {a.shape[axis]} and {b.shape[axis]}")
    return sub(mul(roll(a, -1, axis), roll(b, -2, axis)), mul(roll(a, -2, axis), roll(b, -1, axis)))


@function
def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    """p-norm distances of all pairs of rows."""
    from headrace.functional.arithmetic import sub
    from headrace.functional.reduction import vector_norm

    if x1._data.ndim < 2 or x2._data.ndim < 2:
        raise RuntimeError("cdist only supports at least 2D tensors")
    if x1._data.shape[-1] != x2._data.shape[-1]:
        raise RuntimeError(f"X1 and X2 must have the same number of columns. X1: {x1.shape[-1]} X2: {x2.shape[-1]}")
    if p < 0:
        raise RuntimeError("cdist only supports non-negative p values")
    gap = sub(unsqueeze(x1, -2), unsqueeze(x2, -3))
    if gap._data.shape[-1] == 0:
        return wrap(np.zeros(gap._data.shape[:-1], gap._data.dtype))
    return vector_norm(gap, p, -1)
