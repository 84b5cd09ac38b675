"""RNN, GRU and LSTM after the equations of the ONNX specification."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from headrace.runtime.ops import work
from headrace.runtime.ops.base import Attr, In, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.rnn._cells import COMMON, Step, _Recurrent, by_rows

_INPUTS = (
    In("X"),
    In("W"),
    In("R"),
    In("B", optional=True),
    In("sequence_lens", "T1", optional=True),
    In("initial_h", optional=True),
)


def _cases(rng: np.random.Generator, gates: int) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """Every direction, with and without bias, lengths and initial state."""
    seq, batch, size, hidden = 4, 3, 5, 2
    for direction, count in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
        x = draw(rng, (seq, batch, size), "float32")
        w, r = (
            draw(rng, (count, gates * hidden, size), "float32", -1, 1),
            draw(rng, (count, gates * hidden, hidden), "float32", -1, 1),
        )
        b, h = draw(rng, (count, 2 * gates * hidden), "float32"), draw(rng, (count, batch, hidden), "float32")
        attributes = {"hidden_size": hidden, "direction": direction}
        yield [x, w, r], attributes
        yield [x, w, r, b, np.array([4, 1, 2], np.int32), h], attributes
        yield [np.swapaxes(x, 0, 1).copy(), w, r, b], {**attributes, "layout": 1}


class RNN(_Recurrent):
    """H = f(X W' + H R' + biases)."""

    versions = (1, 7, 14, 22)
    inputs = _INPUTS
    outputs = (Out("Y", optional=True), Out("Y_h", optional=True))
    attributes = {**COMMON, "activations": Attr("strings")}
    flops = work.recurrence()

    def step(
        self, w: Any, r: Any, bias: Any, peephole: Any, f: list[Callable[[Any], Any]], attributes: Mapping[str, Any]
    ) -> Step:
        total = bias[: len(w)] + bias[len(w) :]
        return lambda x, states: [f[0](by_rows(x, w) + by_rows(states[0], r) + total)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for arrays, attributes in _cases(rng, 1):
            yield Sample(arrays, attributes, outputs=2)
        arrays, attributes = next(_cases(rng, 1))
        yield Sample(arrays, {**attributes, "activations": ("Relu",), "clip": 1.5}, outputs=2)


class GRU(_Recurrent):
    """Gates z (update), r (reset), h (candidate): H = (1 - z) * h + z * H."""

    gates = 3
    defaults = ("Sigmoid", "Tanh")
    versions = (1, 3, 7, 14, 22)
    inputs = _INPUTS
    outputs = (Out("Y", optional=True), Out("Y_h", optional=True))
    attributes = {**COMMON, "linear_before_reset": Attr("int", 0, (0, 1))}
    flops = work.recurrence()

    def step(
        self, w: Any, r: Any, bias: Any, peephole: Any, f: list[Callable[[Any], Any]], attributes: Mapping[str, Any]
    ) -> Step:
        hidden = r.shape[1]
        w_bias, r_bias = bias[: 3 * hidden], bias[3 * hidden :]
        split = 2 * hidden

        def run(x: Any, states: list[Any]) -> list[Any]:
            h = states[0]
            projected = by_rows(x, w) + w_bias
            gates = f[0](projected[:, :split] + by_rows(h, r[:split]) + r_bias[:split])
            z, reset = gates[:, :hidden], gates[:, hidden:]
            if attributes["linear_before_reset"]:
                inner = reset * (by_rows(h, r[split:]) + r_bias[split:])
            else:
                inner = by_rows(reset * h, r[split:]) + r_bias[split:]
            return [(1 - z) * f[1](projected[:, split:] + inner) + z * h]

        return run

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for arrays, attributes in _cases(rng, 3):
            for linear in (0, 1):
                yield Sample(arrays, {**attributes, "linear_before_reset": linear}, outputs=2)


class LSTM(_Recurrent):
    """Gates i, o, f, c: C = f * C + i * c, H = o * h(C); peepholes P add C to the gates."""

    gates = 4
    states = 2
    defaults = ("Sigmoid", "Tanh", "Tanh")
    versions = (1, 7, 14, 22)
    inputs = (*_INPUTS, In("initial_c", optional=True), In("P", optional=True))
    outputs = (Out("Y", optional=True), Out("Y_h", optional=True), Out("Y_c", optional=True))
    attributes = {**COMMON, "input_forget": Attr("int", 0, (0, 1))}
    flops = work.recurrence()

    def step(
        self, w: Any, r: Any, bias: Any, peephole: Any, f: list[Callable[[Any], Any]], attributes: Mapping[str, Any]
    ) -> Step:
        hidden = r.shape[1]
        total = bias[: 4 * hidden] + bias[4 * hidden :]
        p_i, p_o, p_f = (0, 0, 0) if peephole is None else np.split(peephole, 3)

        def run(x: Any, states: list[Any]) -> list[Any]:
            h, c = states
            i, o, forget, candidate = np.split(by_rows(x, w) + by_rows(h, r) + total, 4, axis=1)
            i = f[0](i + p_i * c)
            forget = 1 - i if attributes["input_forget"] else f[0](forget + p_f * c)
            c = forget * c + i * f[1](candidate)
            return [f[0](o + p_o * c) * f[2](c), c]

        return run

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for arrays, attributes in _cases(rng, 4):
            yield Sample(arrays, attributes, outputs=3)
            if len(arrays) == 6:
                count = arrays[1].shape[0]
                c, p = draw(rng, (count, 3, 2), "float32"), draw(rng, (count, 6), "float32", -1, 1)
                yield Sample([*arrays, c, p], attributes, outputs=3)
        arrays, attributes = next(_cases(rng, 4))
        yield Sample(
            arrays,
            {
                **attributes,
                "activations": ("HardSigmoid", "Softsign", "ScaledTanh"),
                "activation_alpha": (0.3, 0.9),
                "activation_beta": (0.4, 1.1),
            },
            outputs=3,
        )
