"""What RNN, LSTM and GRU share: directions, lengths, layouts and activations.

Inside, sequences are [seq, batch, ...], time first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import batch_first
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, Operator
from headrace.runtime.ops.common import widen
from headrace.runtime.shapes import Dim, equal
from headrace.runtime.types import TensorType, Type

FLOAT = frozenset({"float32", "float64", "float16", "bfloat16"})
INT32 = frozenset({"int32"})
DIRECTIONS = ("forward", "reverse", "bidirectional")
COMMON = {
    "activation_alpha": Attr("floats"),
    "activation_beta": Attr("floats"),
    "activations": Attr("strings"),
    "clip": Attr("float"),
    "direction": Attr("string", "forward", DIRECTIONS),
    "hidden_size": Attr("int"),
    "layout": Attr("int", 0, (0, 1)),
}
# name (lower case) -> (function of x, alpha, beta; default alpha; default beta)
ACTIVATIONS: dict[str, tuple[Callable[[Any, float, float], Any], float, float]] = {
    "relu": (lambda x, a, b: np.maximum(x, 0), 0, 0),
    "tanh": (lambda x, a, b: np.tanh(x), 0, 0),
    "sigmoid": (lambda x, a, b: 1 / (1 + np.exp(-x)), 0, 0),
    "affine": (lambda x, a, b: a * x + b, 1, 0),
    "leakyrelu": (lambda x, a, b: np.where(x < 0, a * x, x), 0.01, 0),
    "thresholdedrelu": (lambda x, a, b: np.where(x > a, x, 0), 1, 0),
    "scaledtanh": (lambda x, a, b: a * np.tanh(b * x), 1, 1),
    "hardsigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5),
    "elu": (lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x), 1, 0),
    "softsign": (lambda x, a, b: x / (1 + np.abs(x)), 0, 0),
    "softplus": (lambda x, a, b: np.logaddexp(x, 0), 0, 0),
}


def activations(
    attributes: Mapping[str, Any], defaults: Sequence[str], directions: int
) -> list[list[Callable[[Any], Any]]]:
    """The activation functions of each direction. alphas and betas are taken in order by those that use them."""
    names = attributes["activations"] or tuple(defaults) * directions
    if len(names) != len(defaults) * directions:
        raise GraphError(f"there are {len(names)} activations; allowed: {len(defaults) * directions}")
    alphas, betas = list(attributes["activation_alpha"] or ()), list(attributes["activation_beta"] or ())
    functions = []
    for name in names:
        if name.lower() not in ACTIVATIONS:
            raise GraphError(f"the activation {name!r} is not known; allowed: {', '.join(ACTIVATIONS)}")
        function, alpha, beta = ACTIVATIONS[name.lower()]
        if name.lower() in ("affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu") and alphas:
            alpha = alphas.pop(0)
        if name.lower() in ("affine", "scaledtanh", "hardsigmoid") and betas:
            beta = betas.pop(0)
        functions.append(_bound(function, alpha, beta, attributes["clip"]))
    return [functions[i * len(defaults) : (i + 1) * len(defaults)] for i in range(directions)]


def _bound(
    function: Callable[[Any, float, float], Any], alpha: float, beta: float, clip: float | None
) -> Callable[[Any], Any]:
    def run(x: Any) -> Any:
        x = x if clip is None else np.clip(x, -clip, clip)
        with np.errstate(over="ignore"):
            return function(x, x.dtype.type(alpha), x.dtype.type(beta))

    return run


def by_rows(x: Any, w: Any) -> Any:
    """x [batch, k] times w [n, k] turned. One product for each row: of all rows together, BLAS sums in an order that depends on
    how many there are, and a row that has no native kernel must have the same bits in every batch as well."""
    return np.matmul(x[:, None, :], w.T)[:, 0]


def reverse(x: Any, lengths: Any) -> Any:
    """Each sequence of [seq, batch, ...] backward within its own length."""
    if lengths is None:
        return x[::-1]
    steps = np.arange(x.shape[0])[:, None]
    places = np.where(steps < lengths, lengths - 1 - steps, steps)
    return np.take_along_axis(x, places.reshape(*places.shape, *[1] * (x.ndim - 2)), axis=0)


Step = Callable[[Any, list[Any]], list[Any]]


def unroll(x: Any, states: list[Any], lengths: Any, step: Step) -> tuple[Any, list[Any]]:
    """Run `step(x_t, states) -> new states` over [seq, batch, ...]. Past its length a sequence keeps its states, and its
    output (the first state) is zero."""
    outputs = np.zeros((x.shape[0], *states[0].shape), x.dtype)
    for time in range(x.shape[0]):
        new = step(x[time], states)
        if lengths is None:
            states, outputs[time] = new, new[0]
            continue
        alive = (time < lengths)[:, None]
        states = [np.where(alive, after, before) for after, before in zip(new, states)]
        outputs[time] = np.where(alive, new[0], 0)
    return outputs, states


class _Recurrent(Operator):
    """Base of the three: subclasses give the gates, the names of their activations, and one direction's step."""

    gates = 1
    states = 1
    defaults: tuple[str, ...] = ("Tanh",)
    accuracy = Accuracy(64.0)
    types = {"T": FLOAT, "T1": INT32}
    differentiable = False
    prepack = (1, 2, 3)
    steps = True

    def infer(self, context: Context) -> list[Type | None]:
        attributes = context.attributes
        directions = 2 if attributes["direction"] == "bidirectional" else 1
        x, r = context.shape(0), context.shape(2)
        hidden: Dim | None = (
            attributes["hidden_size"] if attributes["hidden_size"] is not None else r[2] if r is not None else None
        )
        if x is None:
            return [TensorType(context.dtype())] * context.n_outputs
        if len(x) != 3:
            raise GraphError(f"X has rank {len(x)}; allowed: 3")
        if r is not None and hidden is not None and (equal(r[2], hidden) is False or equal(r[0], directions) is False):
            raise GraphError(
                f"R has shape {list(r)}; allowed: [{directions}, {self.gates} * hidden, hidden] with hidden {hidden}"
            )
        w = context.shape(1)
        if w is not None and (
            len(w) != 3
            or equal(w[2], x[2]) is False
            or (hidden is not None and equal(w[1], hidden * self.gates) is False)
        ):
            raise GraphError(f"W has shape {list(w)}; allowed: [{directions}, {self.gates} * hidden, {x[2]}]")
        hidden = context.fresh("hidden") if hidden is None else hidden
        if attributes["layout"]:
            batch, seq = x[0], x[1]
            every = TensorType(context.dtype(), (batch, seq, directions, hidden))
            last = TensorType(context.dtype(), (batch, directions, hidden))
        else:
            seq, batch = x[0], x[1]
            every = TensorType(context.dtype(), (seq, directions, batch, hidden))
            last = TensorType(context.dtype(), (directions, batch, hidden))
        found: list[Type | None] = [every, *[last] * self.states]
        return found[: context.n_outputs]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        given = (*inputs, *[None] * 8)[:8]
        x, w, r, b, lengths, *rest = (
            widen(item) if item is not None and item.dtype.kind != "i" else item for item in given
        )
        starts = list(rest[: self.states])
        extra = rest[self.states] if self.states == 2 else None
        if attributes["layout"]:
            x = np.swapaxes(x, 0, 1)
            starts = [None if start is None else np.swapaxes(start, 0, 1) for start in starts]
        directions, hidden = w.shape[0], r.shape[2]
        functions = activations(attributes, self.defaults, directions)
        results = []
        for place in range(directions):
            backward = attributes["direction"] == "reverse" or place == 1
            zeros = np.zeros((x.shape[1], hidden), x.dtype)
            initial = [zeros if start is None else start[place] for start in starts]
            bias = np.zeros(2 * w.shape[1], x.dtype) if b is None else b[place]
            step = self.step(
                w[place], r[place], bias, None if extra is None else extra[place], functions[place], attributes
            )
            every, final = unroll(reverse(x, lengths) if backward else x, initial, lengths, step)
            results.append([reverse(every, lengths) if backward else every, *final])
        y = np.stack([item[0] for item in results], axis=1)
        finals = [np.stack([item[1 + i] for item in results]) for i in range(self.states)]
        if attributes["layout"]:
            y, finals = y.transpose(2, 0, 1, 3), [np.swapaxes(item, 0, 1) for item in finals]
        return [np.ascontiguousarray(item).astype(inputs[0].dtype) for item in (y, *finals)][: max(1, n_outputs)]

    def step(
        self, w: Any, r: Any, bias: Any, peephole: Any, f: list[Callable[[Any], Any]], attributes: Mapping[str, Any]
    ) -> Step:
        raise NotImplementedError

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        """The batch lies on axis 1 (layout 1: axis 0) of X, and on its axis of the states and lengths, if they carry it."""
        if all(tag is None for tag in tags):
            return [None] * context.n_outputs
        if context.attributes["layout"]:
            carried = [tags[0], *(tags[i] for i in range(5, len(tags)) if tags[i] is not None)]
            good = all(tag == 0 for tag in carried) and batch_first(tags[:4])[0] == 0
            return [0 if good else MIXED] * context.n_outputs
        good = tags[0] == 1 and all(tag is None for tag in tags[1:4])
        good = (
            good
            and (len(tags) < 5 or tags[4] in (None, 0))
            and all(tag == 1 or (tag is None and not context.has(5 + i)) for i, tag in enumerate(tags[5:7]))
        )
        found: list[int | None] = [2, *[1] * self.states] if good else [MIXED] * 3
        return found[: context.n_outputs]

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        node.attributes.pop("output_sequence", None)
