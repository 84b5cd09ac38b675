"""torch.linalg: norms, products, solutions and decompositions of matrices. Leading dimensions are batches."""

from __future__ import annotations

from typing import Any

import numpy as np

import headrace.functional  # noqa: F401  attaches the tensor methods
from headrace import scalar_types
from headrace.autograd.mode import MODE
from headrace.autograd.tape import ops
from headrace.functional.base import axes_input, cast, category, derived, named_tuple
from headrace.functional.linear import cross as _cross
from headrace.functional.linear import matmul
from headrace.functional.reduction import amax, amin, sum_, vector_norm
from headrace.functional.shape import movedim, transpose, unsqueeze
from headrace.tensors import Tensor, concrete, wrap

eigh_type = named_tuple("linalg_eigh", "eigenvalues eigenvectors")
qr_type = named_tuple("linalg_qr", "Q R")
svd_type = named_tuple("linalg_svd", "U S Vh")
slogdet_type = named_tuple("linalg_slogdet", "sign logabsdet")
lstsq_type = named_tuple("linalg_lstsq", "solution residuals rank singular_values")


def _matrices(x: Tensor, name: str, square: bool = True) -> Tensor:
    if x._data.ndim < 2:
        raise RuntimeError(f"linalg.{name}: The input tensor A must have at least 2 dimensions.")
    if category(x) != 2 or x._data.dtype.itemsize < 4:
        raise RuntimeError(f"linalg.{name}: Expected a floating point tensor of 32 or 64 bits. Got {x.dtype}")
    if square and x._data.shape[-1] != x._data.shape[-2]:
        raise RuntimeError(
            f"linalg.{name}: A must be batches of square matrices, but they are {x.shape[-2]} by {x.shape[-1]} matrices"
        )
    return x


def det(A: Tensor) -> Tensor:
    """The determinant."""
    found: Tensor = ops.Det(_matrices(A, "det"))
    return found


def slogdet(A: Tensor) -> Any:
    """(sign, log |det|)."""
    found = det(A)
    sign, size = np.linalg.slogdet(A.detach().numpy())
    logs = ops.Log(ops.Abs(found))
    if not np.isfinite(logs._data).all():
        logs = wrap(np.asarray(size, A._data.dtype))
    return slogdet_type(wrap(np.asarray(sign, A._data.dtype)), logs)


def inv(A: Tensor) -> Tensor:
    """The inverse. RuntimeError for a singular matrix."""
    return _solvable(lambda: ops.Inverse(_matrices(A, "inv")), "inv")


def _solvable(call: Any, name: str) -> Tensor:
    try:
        return call()  # type: ignore[no-any-return]
    except (np.linalg.LinAlgError, ValueError) as error:
        raise RuntimeError(f"linalg.{name}: {error}") from error


def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """X with A @ X = B (left) or X @ A = B."""
    _matrices(A, "solve")
    if A.dtype is not B.dtype:
        raise RuntimeError(
            f"linalg.solve: Expected A and B to have the same dtype, but found A of type {A.dtype} and B of type {B.dtype} instead"
        )
    vector = B._data.ndim == 1 or (A._data.ndim - 1 == B._data.ndim and B._data.shape == A._data.shape[:-1])
    b = unsqueeze(B, -1) if vector else B
    if not left:
        if vector:
            raise RuntimeError(
                "linalg.solve: Vector broadcasting of the left hand side is not supported for left=False."
            )
        return transpose(solve(transpose(A, -2, -1), transpose(b, -2, -1)), -2, -1)
    if b._data.shape[-2] != A._data.shape[-1]:
        raise RuntimeError(
            f"linalg.solve: Incompatible shapes of A and B for the equation AX = B ({A.shape[-2]}x{A.shape[-1]} and {b.shape[-2]}x{b.shape[-1]})"
        )
    lead = np.broadcast_shapes(A._data.shape[:-2], b._data.shape[:-2])
    a = A.expand(*lead, *A.shape[-2:])
    b = b.expand(*lead, *b.shape[-2:])
    found = _solvable(lambda: ops.Solve(a, b), "solve")
    return found.squeeze(-1) if vector else found


def cholesky(A: Tensor, *, upper: bool = False) -> Tensor:
    """The lower (or upper) triangular factor of a positive definite matrix."""
    found = _solvable(lambda: ops.Cholesky(_matrices(A, "cholesky")), "cholesky")
    return transpose(found, -2, -1) if upper else found


def eigh(A: Tensor, UPLO: str = "L") -> Any:
    """Eigenvalues (rising) and eigenvectors of a symmetric matrix, of which one triangle is read."""
    if UPLO.upper() not in ("L", "U"):
        raise RuntimeError(f"Expected UPLO argument to be 'L' or 'U', but got {UPLO}")
    _matrices(A, "eigh")
    lower = A.tril() if UPLO.upper() == "L" else transpose(A.triu(), -2, -1)
    full = lower + transpose(lower.tril(-1), -2, -1)
    return eigh_type(*ops.Eigh(full, outputs=2))


def eigvalsh(A: Tensor, UPLO: str = "L") -> Tensor:
    """Eigenvalues of a symmetric matrix, rising."""
    return eigh(A, UPLO)[0]  # type: ignore[no-any-return]


def qr(A: Tensor, mode: str = "reduced") -> Any:
    """A = Q @ R."""
    if mode not in ("reduced", "complete", "r"):
        raise RuntimeError(
            f"qr received unrecognized mode '{mode}' but expected one of 'reduced' (default), 'r', or 'complete'"
        )
    _matrices(A, "qr", square=False)
    if mode == "reduced":
        return qr_type(*ops.QR(A, outputs=2))
    if mode == "r":
        return qr_type(wrap(np.zeros(0, A._data.dtype)), ops.QR(A, outputs=2)[1])
    if A._data.shape[-2] <= A._data.shape[-1]:
        return qr_type(*ops.QR(A, outputs=2))
    return qr_type(*(wrap(v) for v in np.linalg.qr(A.detach().numpy(), mode="complete")))


def svd(A: Tensor, full_matrices: bool = True, *, driver: str | None = None) -> Any:
    """A = U @ diag(S) @ Vh, S falling."""
    _matrices(A, "svd", square=False)
    if not full_matrices or A._data.shape[-1] == A._data.shape[-2]:
        return svd_type(*ops.SVD(A, outputs=3))
    u, _, vh = np.linalg.svd(A.detach().numpy(), full_matrices=True)
    _, values, _ = ops.SVD(A, outputs=3)
    return svd_type(wrap(u), values, wrap(vh))


def svdvals(A: Tensor, *, driver: str | None = None) -> Tensor:
    """Singular values, falling."""
    return ops.SVD(_matrices(A, "svdvals", square=False), outputs=3)[1]  # type: ignore[no-any-return]


def pinv(A: Tensor, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Tensor:
    """The Moore-Penrose inverse; singular values below max(atol, rtol * largest) count as 0."""
    if 0 in A._data.shape and A._data.ndim > 1:
        return transpose(A, -2, -1).clone()  # type: ignore[no-any-return]
    data = concrete(_matrices(A, "pinv", square=hermitian), "linalg.pinv")
    if hermitian:  # only the lower triangle is read
        data = np.tril(data) + np.tril(data, -1).swapaxes(-2, -1)
    u, s, vh = np.linalg.svd(data, full_matrices=False)
    eps = scalar_types.finfo(A.dtype).eps
    if rtol is None:
        rtol = 0.0 if atol is not None else max(A._data.shape[-2:]) * eps
    edge = np.maximum(_value(0.0 if atol is None else atol), _value(rtol) * s.max(-1))
    keep = s > np.asarray(edge)[..., None]
    inverse = np.where(keep, 1 / np.where(keep, s, 1), 0)[..., None, :]
    array = ((vh.swapaxes(-2, -1) * inverse) @ u.swapaxes(-2, -1)).astype(A._data.dtype)

    def backward(g: Tensor) -> list[Tensor]:
        p = pinv(A, atol=atol, rtol=rtol, hermitian=hermitian) if MODE.grad else wrap(array)
        return [_pinv_gradient(A, p, g)]

    return derived("PinvBackward", array, (A,), backward)


def _pinv_gradient(a: Tensor, p: Tensor, g: Tensor) -> Any:
    """Golub and Pereyra (1973): the differential of the pseudo-inverse p of a, where the rank stays as it is."""
    gt, pt = transpose(g, -2, -1), transpose(p, -2, -1)
    if a._data.shape[-2] <= a._data.shape[-1]:
        k = matmul(gt, p)
        kp = matmul(k, pt)
        rest = matmul(matmul(pt, p), gt - matmul(k, a))
        return kp - matmul(matmul(a, p), kp) + rest - transpose(matmul(p, k), -2, -1)
    k = matmul(p, gt)
    pk = matmul(pt, k)
    rest = matmul(gt - matmul(a, k), matmul(p, pt))
    return rest + pk - matmul(matmul(pk, p), a) - transpose(matmul(k, p), -2, -1)


def _value(x: Any) -> Any:
    return x._data if isinstance(x, Tensor) else x


def matrix_power(A: Tensor, n: int) -> Tensor:
    """A multiplied by itself n times; a negative n takes the inverse."""
    if A._data.ndim < 2 or A._data.shape[-1] != A._data.shape[-2]:
        raise RuntimeError("linalg.matrix_power: A must be batches of square matrices")
    if n == 0:  # a constant, whose gradient is zero rather than absent
        eye = np.eye(A._data.shape[-1], dtype=A._data.dtype)
        return ops.Where(np.ones(A._data.shape, np.bool_), eye, A)  # type: ignore[no-any-return]
    base, n = (inv(A), -n) if n < 0 else (A, n)
    found: Tensor | None = None
    while n:
        if n & 1:
            found = base if found is None else matmul(found, base)
        n >>= 1
        if n:
            base = matmul(base, base)
    assert found is not None
    return found.clone() if found is A else found


def multi_dot(tensors: Any) -> Tensor:
    """The product of several matrices; the first and last may be vectors."""
    given = list(tensors)
    if len(given) < 2:
        raise RuntimeError("multi_dot(): expected at least 2 tensors")
    for i, t in enumerate(given):
        if t._data.ndim != 2 and not (i in (0, len(given) - 1) and t._data.ndim == 1):
            raise RuntimeError(f"multi_dot(): tensor {i} must be 2D but got {t._data.ndim}D")
    found: Tensor = given[0]
    for t in given[1:]:
        found = matmul(found, t)
    return found


def lstsq(A: Tensor, B: Tensor, rcond: float | None = None, *, driver: str | None = None) -> Any:
    """The least-squares solution of A @ X = B by the pseudo-inverse; rank and singular values where the driver gives them."""
    if driver not in (None, "gels", "gelsy", "gelsd", "gelss"):
        raise RuntimeError(
            f"torch.linalg.lstsq: parameter `driver` should be one of (gels, gelsy, gelsd, gelss), got {driver}"
        )
    vector = A._data.ndim - 1 == B._data.ndim
    b = unsqueeze(B, -1) if vector else B
    if A._data.ndim < 2 or b._data.shape[-2] != A._data.shape[-2]:
        raise RuntimeError("torch.linalg.lstsq: input.size(-2) should match other.size(-2)")
    solution = matmul(pinv(A), b)
    rows, columns = A._data.shape[-2:]
    rank = wrap(np.asarray(np.linalg.matrix_rank(A.detach().numpy()), np.int64))
    residuals = empty = wrap(np.zeros(0, A._data.dtype))
    if rows > columns and driver not in (None, "gelsy") and np.all(rank._data == columns):
        gap = matmul(A, solution) - b
        residuals = sum_(gap * gap, -2)
    return lstsq_type(
        solution.squeeze(-1) if vector else solution,
        residuals,
        wrap(np.zeros(0, np.int64)) if driver == "gels" else rank,
        svdvals(A.detach()) if driver in ("gelsd", "gelss") else empty,
    )


def matrix_norm(
    A: Tensor, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """The norm of matrices: "fro", "nuc", inf, -inf, 1, -1, 2, -2."""
    x = A if dtype is None else cast(A, scalar_types.of(dtype))
    if x._data.ndim < 2 or category(x) < 2:
        raise RuntimeError(
            f"linalg.matrix_norm: The input tensor A must have at least 2 dimensions and floating-point elements, got {list(x.shape)} {x.dtype}"
        )
    rows, columns = (d % x._data.ndim for d in dim)
    if rows == columns:
        raise RuntimeError(f"linalg.matrix_norm: dims must be different. Got ({dim[0]}, {dim[1]})")
    if ord == "fro":
        return vector_norm(x, 2, (rows, columns), keepdim)
    fold = {True: amax, False: amin}
    if ord in (1, -1, float("inf"), -float("inf")):
        first, second = (rows, columns) if abs(ord) == 1 else (columns, rows)
        total = sum_(ops.Abs(x), first, True)
        found = fold[ord > 0](total, second, True)
        return found if keepdim else ops.Squeeze(found, axes_input(sorted((rows, columns))))
    if ord not in ("nuc", 2, -2):
        raise RuntimeError(f"linalg.matrix_norm: Order {ord} not supported.")
    values = svdvals(movedim(x, (rows, columns), (-2, -1)))
    found = sum_(values, -1) if ord == "nuc" else fold[ord > 0](values, -1)
    if keepdim:
        for axis in sorted((rows, columns)):
            found = unsqueeze(found, axis)
    return found


def norm(A: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """A vector norm, or a matrix norm where `ord` names one or two dimensions are given with an order."""
    if dim is not None and not isinstance(dim, int) and len(dim) > 2 and ord is not None:
        raise RuntimeError(f"linalg.norm: If dim is specified, it must be of length 1 or 2. Got {list(dim)}")
    pair = not isinstance(dim, int) and dim is not None and len(dim) == 2
    if ord is not None and (pair or (dim is None and A._data.ndim == 2)):
        return matrix_norm(A, ord, (-2, -1) if dim is None else dim, keepdim, dtype=dtype)
    if isinstance(ord, str):
        raise RuntimeError(f"linalg.norm: Order {ord} not supported for vectors")
    if ord is not None and dim is None and A._data.ndim > 2:
        raise RuntimeError("linalg.norm: If dim is not specified but ord is, the input must be 1D or 2D")
    return vector_norm(A, 2 if ord is None else ord, dim, keepdim, dtype=dtype)


def cross(input: Tensor, other: Tensor, *, dim: int = -1) -> Tensor:
    """The cross product along a dimension of size 3."""
    return _cross(input, other, dim)


def matrix_rank(A: Tensor, tol: Any = None, **_: Any) -> Tensor:
    """How many singular values are not 0."""
    return wrap(np.asarray(np.linalg.matrix_rank(A.detach().numpy(), tol), np.int64))


__all__ = [
    "cholesky", "cross", "det", "eigh", "eigvalsh", "inv", "lstsq", "matmul", "matrix_norm", "matrix_power", "matrix_rank", "multi_dot",
    "norm", "pinv", "qr", "slogdet", "solve", "svd", "svdvals", "vector_norm",
]  # fmt: skip
