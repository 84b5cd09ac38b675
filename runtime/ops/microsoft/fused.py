"""onnxruntime's fusions of a convolution or a product with what follows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops import find
from headrace.runtime.ops.base import Attr, In, Out, Sample
from headrace.runtime.ops.common import draw, scalar
from headrace.runtime.ops.nn.conv import WINDOW
from headrace.runtime.ops.spelled import Spelled, total

# Activation -> the names of its parameters, in the order in which files give them.
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "Relu": (), "Tanh": (), "Sigmoid": (), "Softplus": (), "Softsign": (), "HardSwish": (), "LeakyRelu": ("alpha",), "Elu": ("alpha",),
    "ThresholdedRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Selu": ("alpha", "gamma"), "Clip": ("min", "max"),
}  # fmt: skip


def activate(F: Any, y: Any, name: str | None, values: Sequence[float | None]) -> Any:
    """The activation of a fused operator; parameters that are absent take the activation's own defaults."""
    if not name:
        return y
    if name not in _PARAMETERS:
        raise GraphError(f"the activation is {name!r}; allowed: {', '.join(_PARAMETERS)}")
    given = {key: value for key, value in zip(_PARAMETERS[name], values) if value is not None}
    if name == "Clip":
        return F.Clip(
            y, *(None if (bound := given.get(key)) is None else scalar(F, bound, y) for key in ("min", "max"))
        )
    operator = find(name)
    assert operator is not None
    return getattr(F, name)(y, **given)


class FusedConv(Spelled):
    """activation(Conv(X, W, B) + Z). Source: onnxruntime, com.microsoft.FusedConv-1."""

    inputs = (In("X"), In("W"), In("B", optional=True), In("Z", optional=True))
    outputs = (Out("Y"),)
    types = {"T": dtypes.FLOAT}
    attributes = {**WINDOW, "activation": Attr("string"), "activation_params": Attr("floats", ())}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        y = F.Conv(*inputs[:3], **{key: attributes[key] for key in WINDOW})
        return activate(F, total(F, [y, inputs[3]]), attributes["activation"], attributes["activation_params"])

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x, w, b = draw(rng, (2, 3, 7, 6), "float32"), draw(rng, (4, 3, 3, 3), "float32"), draw(rng, (4,), "float32")
        for name, values in (("Relu", ()), ("LeakyRelu", (0.2,)), ("Clip", (-1.0, 2.0)), ("HardSigmoid", (0.3, 0.4)), ("Tanh", ()), ("Sigmoid", ())):  # fmt: skip
            given = {"activation": name, "activation_params": values} if values else {"activation": name}
            yield Sample([x, w, b], {**given, "pads": (1, 1, 1, 1)})
        yield Sample([x, w, b, draw(rng, (2, 4, 5, 4), "float32")], {"activation": "Relu"})
        yield Sample([x, w[:, :1].repeat(2, 0)[:6], None], {"activation": "Relu", "group": 3, "strides": (2, 2)})


class FusedGemm(Spelled):
    """activation(Gemm(A, B, C)). Source: onnxruntime, com.microsoft.FusedGemm-1."""

    inputs = (In("A"), In("B"), In("C", optional=True))
    outputs = (Out("Y"),)
    types = {"T": dtypes.FLOAT}
    attributes = {
        "activation": Attr("string"), "activation_alpha": Attr("float"), "activation_beta": Attr("float"), "activation_gamma": Attr("float"),
        "alpha": Attr("float", 1.0), "beta": Attr("float", 1.0), "transA": Attr("int", 0, (0, 1)), "transB": Attr("int", 0, (0, 1)),
    }  # fmt: skip

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        y = F.Gemm(*inputs, **{key: attributes[key] for key in ("alpha", "beta", "transA", "transB")})
        names = _PARAMETERS.get(attributes["activation"] or "", ())
        return activate(F, y, attributes["activation"], [attributes[f"activation_{name}"] for name in names])

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        a, b, c = draw(rng, (5, 4), "float32"), draw(rng, (4, 3), "float32"), draw(rng, (3,), "float32")
        yield Sample([a, b, c], {"activation": "Relu"})
        yield Sample([a, b], {"activation": "LeakyRelu", "activation_alpha": 0.3, "alpha": 0.5})
        yield Sample([a, b.T.copy(), c], {"activation": "Sigmoid", "transB": 1, "beta": 2.0})
        yield Sample([a.T.copy(), b, c], {"activation": "Tanh", "transA": 1})


class TransposeMatMul(Spelled):
    """alpha * (A' @ B'), the last two axes exchanged where transA and transB say so. Source: onnxruntime,
    com.microsoft.TransposeMatMul-1, the older name of FusedMatMul."""

    inputs, outputs = (In("A"), In("B")), (Out("Y"),)
    types = {"T": dtypes.FLOAT}
    attributes = {"alpha": Attr("float", 1.0), "transA": Attr("int", 0, (0, 1)), "transB": Attr("int", 0, (0, 1))}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        given = {key: attributes[key] * (F.rank(x) > 1) for key, x in zip(("transA", "transB"), inputs)}
        return F.FusedMatMul(*inputs, alpha=attributes["alpha"], **given)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for a, b, given in (
            ((3, 4), (4, 5), {}),
            ((2, 3, 4), (2, 5, 4), {"transB": 1, "alpha": 0.125}),
            ((2, 2, 4, 3), (4, 5), {"transA": 1}),
        ):
            yield Sample([draw(rng, a, "float32"), draw(rng, b, "float32")], given)


class FusedMatMul(TransposeMatMul):
    """TransposeMatMul, where transBatchA and transBatchB also move the first axis behind the other batch axes.
    Source: onnxruntime, com.microsoft.FusedMatMul-1."""

    attributes = {
        **TransposeMatMul.attributes,
        "transBatchA": Attr("int", 0, (0, 1)),
        "transBatchB": Attr("int", 0, (0, 1)),
    }

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        moved = []
        for x, key in zip(inputs, ("transBatchA", "transBatchB")):
            rank = F.rank(x)
            perm = (*range(1, rank - 1), 0, rank - 1)
            moved.append(F.Transpose(x, perm=perm) if attributes[key] and rank > 2 else x)
        return super().spell(F, moved, attributes, n_outputs)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield from super().samples(rng)
        a, b = draw(rng, (5, 2, 3, 4), "float32"), draw(rng, (2, 3, 4, 6), "float32")
        yield Sample([a, b], {"transBatchA": 1})
        yield Sample([a[:, 0].copy(), b[0].copy()], {"transBatchA": 1})
        yield Sample(
            [a[:, 0].copy(), draw(rng, (5, 3, 6), "float32")], {"transBatchA": 1, "transBatchB": 1, "transA": 1}
        )
