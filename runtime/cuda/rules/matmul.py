"""Matrix products: MatMul, Gemm and the fused one, by cuBLASLt where the device has it, else by the own kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from headrace.runtime.cuda import lt
from headrace.runtime.cuda.kernels import elementwise, gemm
from headrace.runtime.cuda.rules.base import Bound, Rule, Site, Work
from headrace.runtime.cuda.rules.elementwise import activation

F32 = ("float32",)


@dataclass(frozen=True)
class Product:
    """function(alpha * (a' @ b') + bias + beta * r) of one node. `bias` and `r` are numbers of inputs; None: absent."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    y: tuple[int, ...]
    trans_a: bool = False
    trans_b: bool = False
    alpha: float = 1.0
    bias: int | None = None
    bias_size: int = 0
    r: int | None = None
    r_shape: tuple[int, ...] = ()
    beta: float = 1.0
    function: tuple[str, float, float] = ("identity", 0.0, 0.0)

    def flattened(self) -> Product:
        """As one matrix product where B is one matrix for all: the batch goes into the rows of A."""
        whole = self.r is None or self.r_shape == self.y or math.prod(self.r_shape[:-1]) == 1
        if len(self.a) <= 2 or math.prod(self.b[:-2]) != 1 or self.trans_a or not whole:
            return self
        rows = math.prod(self.a[:-1])
        r_shape = self.r_shape if self.r is None else (rows if self.r_shape == self.y else 1, self.r_shape[-1])
        return Product(**{
            **self.__dict__, "a": (rows, self.a[-1]), "b": self.b[-2:], "y": (rows, self.y[-1]), "r_shape": r_shape,
        })  # fmt: skip


def _work(site: Site, product: Product) -> Work:
    site.need_dtypes(F32, 0, 1)
    product = product.flattened()
    problem = _problem(product) if site.blas else None
    return Work("cublasLt float32", lambda at: _library(at, product, problem)) if problem else _own(product)


def _own(p: Product) -> Work:
    function, f_a, f_b = p.function

    def emit(at: Bound) -> None:
        gemm.gemm_f32(
            at.device, at.inputs[0], at.inputs[1], at.outputs[0], p.a, p.b, trans_a=p.trans_a, trans_b=p.trans_b,
            alpha=p.alpha, bias=0 if p.bias is None else at.inputs[p.bias], bias_size=p.bias_size,
            r=0 if p.r is None else at.inputs[p.r], r_shape=p.r_shape, beta=p.beta, function=function, f_a=f_a, f_b=f_b,
        )  # fmt: skip

    return Work("gemm_f32", emit)


def _problem(p: Product) -> lt.Problem | None:
    """The product as cuBLASLt takes it, or None: batches that broadcast in part, a scaled residual, one bias for all."""
    m, k = (p.a[-1], p.a[-2]) if p.trans_a else p.a[-2:]
    n = p.b[-2] if p.trans_b else p.b[-1]
    batches = [math.prod(shape[:-2]) for shape in (p.a, p.b, p.y)]
    alike = all(batch in (1, batches[2]) for batch in batches) and p.beta == 1.0
    if not alike or (p.bias is not None and p.bias_size != n):
        return None
    strides = [0 if batch == 1 and batches[2] > 1 else None for batch in batches[:2]]
    relu = p.function[0] == "relu" and p.r is None
    return lt.Problem(
        m, n, k, batches[2], trans_a=p.trans_a, trans_b=p.trans_b, stride_a=strides[0], stride_b=strides[1],
        bias=p.bias is not None, relu=relu, alpha=p.alpha,
    )  # fmt: skip


def _library(at: Bound, p: Product, problem: lt.Problem) -> None:
    """The product with its bias and Relu; then what cuBLASLt does not do: a residual, and our other activations."""
    y, n = at.outputs[0], math.prod(p.y)
    bias = 0 if p.bias is None else at.inputs[p.bias]
    call = at.blas.plan(problem, at.inputs[0], at.inputs[1], y, bias)
    at.device.call("cublasLt float32", call)  # type: ignore[attr-defined]  # a Recorder
    if p.r is not None:
        elementwise.binary(at.device, "add", "float32", y, at.inputs[p.r], y, p.y, p.r_shape)
    function, f_a, f_b = p.function
    if function != "identity" and not problem.relu:
        elementwise.unary(at.device, function, y, y, n, f_a, f_b)


def _operands(site: Site) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Shapes of a, b and y as matrices: a vector is a row on the left, a column on the right."""
    a, b, y = site.shape(0), site.shape(1), site.out_shape()
    y = (*y, 1) if len(b) == 1 else y
    y = (*y[:-1], 1, y[-1]) if len(a) == 1 else y
    return (1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b, y


def _matmul(site: Site) -> Work:
    return _work(site, Product(*_operands(site)))


def _fused(site: Site) -> Work:
    site.need_dtypes(F32, 2, 3)
    a, b, y = _operands(site)
    given = site.attributes
    return _work(
        site,
        Product(
            a, b, y, bool(given["transA"]), bool(given["transB"]), float(given["alpha"]),
            2 if site.has(2) else None, site.size(2) if site.has(2) else 0,
            3 if site.has(3) else None, site.shape(3) if site.has(3) else (), function=activation(given),
        ),
    )  # fmt: skip


def _gemm(site: Site) -> Work:
    site.need_dtypes(F32, 2)
    given, beta = site.attributes, float(np.float32(site.attributes["beta"]))
    a, b, y = _operands(site)
    c = site.shape(2) if site.has(2) else ()
    row = site.has(2) and beta == 1.0 and math.prod(c[:-1]) == 1 and (not c or c[-1] == y[-1])
    parts = (
        {"bias": 2, "bias_size": math.prod(c)} if row else {"r": 2, "r_shape": c, "beta": beta} if site.has(2) else {}
    )
    return _work(
        site,
        Product(a, b, y, bool(given["transA"]), bool(given["transB"]), float(np.float32(given["alpha"])), **parts),
    )


RULES: dict[str, Rule] = {"MatMul": _matmul, "headrace.FusedMatMul": _fused, "Gemm": _gemm}
