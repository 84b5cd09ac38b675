"""onnxruntime's LSTM with 8-bit weights, as imported models hold it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops import work
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.quant._arithmetic import centred, exact_matmul, quantize_rows
from headrace.runtime.ops.rnn._cells import COMMON, Step, activations, reverse
from headrace.runtime.types import TensorType, Type

FLOAT32, INT32, EITHER8 = frozenset({"float32"}), frozenset({"int32"}), frozenset({"int8", "uint8"})
GATES = 4


def quantized_product(x: Any, weight: Any, scale: Any, zero: Any) -> Any:
    """x, quantized with one range for all of it, times 8-bit weights [K, N]: exact sums, then (sum * scale) * weight scale."""
    q, x_scale, x_zero = quantize_rows(x.reshape(1, -1))
    total = exact_matmul(q.reshape(x.shape).astype(np.int64) - int(x_zero[0, 0]), centred(weight, zero, 1))
    return (total.astype(np.float32) * x_scale[0, 0]) * scale


def _unroll(projected: Any, states: list[Any], lengths: Any, step: Step) -> tuple[Any, list[Any]]:
    """As `_cells.unroll`, but `step` also gets the output before: zero once a sequence is over, and quantized with the rest."""
    outputs = np.zeros((projected.shape[0], *states[0].shape), projected.dtype)
    shown = states[0]
    for time in range(projected.shape[0]):
        alive = np.full((projected.shape[1], 1), True) if lengths is None else (time < lengths)[:, None]
        new = step(projected[time], [*states, shown])
        states = [np.where(alive, after, before) for after, before in zip(new, states)]
        shown = outputs[time] = np.where(alive, new[0], 0)
    return outputs, states


class DynamicQuantizeLSTM(Operator):
    """LSTM over X [seq, batch, input] with W [directions, input, 4 * hidden] and R [directions, hidden, 4 * hidden] of 8-bit
    integers, their scales and zero points one a direction or one a column. X as a whole and the state of all sequences at
    each step (zero for those that are over) are quantized as DynamicQuantizeLinear does, so sequences of a batch influence each other.

    Source: onnxruntime, contrib operators, com.microsoft.DynamicQuantizeLSTM-1.
    """

    domain = "com.microsoft"
    inputs = (
        In("X", FLOAT32), In("W", EITHER8), In("R", EITHER8), In("B", FLOAT32, optional=True),
        In("sequence_lens", INT32, optional=True), In("initial_h", FLOAT32, optional=True),
        In("initial_c", FLOAT32, optional=True), In("P", FLOAT32, optional=True),
        In("W_scale", FLOAT32), In("W_zero_point", EITHER8), In("R_scale", FLOAT32), In("R_zero_point", EITHER8),
    )  # fmt: skip
    outputs = (
        Out("Y", FLOAT32, optional=True),
        Out("Y_h", FLOAT32, optional=True),
        Out("Y_c", FLOAT32, optional=True),
    )
    types = {}
    attributes = {
        **{key: attr for key, attr in COMMON.items() if key != "layout"},
        "input_forget": Attr("int", 0, (0, 1)),
    }
    accuracy = Accuracy(256.0, 1.0)
    differentiable = False
    prepack = (1, 2)
    flops = work.recurrence()

    def infer(self, context: Context) -> list[Type | None]:
        x, w, r = (context.shape(i) for i in range(3))
        hidden = context.attributes["hidden_size"]
        if hidden is None:
            hidden = r[1] if r is not None else context.fresh("hidden")
        for name, shape in (("X", x), ("W", w), ("R", r)):
            if shape is not None and len(shape) != 3:
                raise GraphError(f"{name} has rank {len(shape)}; allowed: 3")
        directions = 2 if context.attributes["direction"] == "bidirectional" else 1
        if x is None:
            return [TensorType("float32")] * context.n_outputs
        last = TensorType("float32", (directions, x[1], hidden))
        found: list[Type | None] = [TensorType("float32", (x[0], directions, x[1], hidden)), last, last]
        return found[: context.n_outputs]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, w, r, bias, lengths, h, c, peephole, w_scale, w_zero, r_scale, r_zero = inputs
        x, hidden = x.astype(np.float32), r.shape[1]
        if w.shape[2] != GATES * hidden or w.shape[1] != x.shape[2]:
            raise RunError(f"W is {list(w.shape)}; allowed: [directions, {x.shape[2]}, {GATES * hidden}]")
        functions = activations(attributes, ("Sigmoid", "Tanh", "Tanh"), w.shape[0])
        results = []
        for d, f in enumerate(functions):
            backward = attributes["direction"] == "reverse" or d == 1
            total = 0 if bias is None else bias[d, : GATES * hidden] + bias[d, GATES * hidden :]
            projected = quantized_product(x, w[d], w_scale[d], w_zero[d]) + total
            p_i, p_o, p_f = (0, 0, 0) if peephole is None else np.split(peephole[d], 3)

            def step(
                p: Any, states: list[Any], d: int = d, f: Any = f, peep: tuple[Any, Any, Any] = (p_i, p_o, p_f)
            ) -> list[Any]:
                _, c, shown = states
                inner = quantized_product(shown, r[d], r_scale[d], r_zero[d])
                i, o, forget, candidate = np.split(p + inner, GATES, axis=1)
                i = f[0](i + peep[0] * c)
                forget = 1 - i if attributes["input_forget"] else f[0](forget + peep[2] * c)
                c = forget * c + i * f[1](candidate)
                return [f[0](o + peep[1] * c) * f[2](c), c]

            zeros = np.zeros((x.shape[1], hidden), np.float32)
            initial = [zeros if start is None else start[d].astype(np.float32) for start in (h, c)]
            every, final = _unroll(reverse(projected, lengths) if backward else projected, initial, lengths, step)
            results.append([reverse(every, lengths) if backward else every, *final])
        y = np.stack([item[0] for item in results], axis=1)
        finals = [np.stack([item[1 + i] for item in results]) for i in range(2)]
        return [np.ascontiguousarray(item).astype(np.float32) for item in (y, *finals)][: max(1, n_outputs)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        seq, batch, size, hidden = 4, 3, 6, 5
        for direction, count in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
            for columns, kind in ((GATES * hidden, np.int8), (1, np.uint8)):
                info = np.iinfo(kind)
                w, r = (
                    rng.integers(info.min, info.max + 1, (count, k, GATES * hidden)).astype(kind)
                    for k in (size, hidden)
                )
                scales = [rng.uniform(0.001, 0.01, (count, columns)).astype(np.float32) for _ in range(2)]
                zeros = [rng.integers(-3, 4, (count, columns)).astype(kind) if kind == np.int8 else np.full((count, 1), 128, kind) for _ in range(2)]  # fmt: skip
                if columns == 1:
                    scales, zeros = [s[:, 0] for s in scales], [z[:, 0] for z in zeros]
                tail = [scales[0], zeros[0], scales[1], zeros[1]]
                x, b = draw(rng, (seq, batch, size), "float32"), draw(rng, (count, 8 * hidden), "float32", -1, 1)
                h, c = (draw(rng, (count, batch, hidden), "float32", -1, 1) for _ in range(2))
                attributes = {"hidden_size": hidden, "direction": direction}
                yield Sample([x, w, r, None, None, None, None, None, *tail], attributes, outputs=3)
                lengths = np.array([4, 1, 2], np.int32)
                yield Sample([x, w, r, b, lengths, h, c, None, *tail], attributes, outputs=3)
                p = draw(rng, (count, 3 * hidden), "float32", -1, 1)
                yield Sample([x, w, r, b, None, h, c, p, *tail], attributes, outputs=3)
