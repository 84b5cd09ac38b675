"""RNN, LSTM and GRU: layers over sequences, and their cells for one step.

Under recording a layer is one product for the inputs of all steps and one tape node over the steps (see scan); in evaluation
and tracing each layer is one recurrent operator of ONNX. With a projection it is written out step by step.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace.autograd.tape import ops
from headrace.eager.registry import WIDE
from headrace.functional.base import axes_input, eager, recorded
from headrace.functional.creation import empty, zeros
from headrace.functional.joins import cat, stack
from headrace.functional.shape import slice_axes
from headrace.nn import functional as F
from headrace.nn import init
from headrace.nn.module import Module
from headrace.nn.parameter import Parameter
from headrace.nn.scan import scan
from headrace.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from headrace.tensors import Tensor, wrap

# mode -> (gates, operator of ONNX, order of torch's gates in ONNX's rows)
_MODES: dict[str, tuple[int, str, tuple[int, ...]]] = {
    "RNN_TANH": (1, "RNN", (0,)),
    "RNN_RELU": (1, "RNN", (0,)),
    "LSTM": (4, "LSTM", (0, 3, 1, 2)),
    "GRU": (3, "GRU", (1, 0, 2)),
}
State = tuple[Tensor, ...]


def step_rnn(activation: Any, gates: Tensor, h: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """h' = f(x W + h U + b)."""
    return activation(ops.Add(gates, F.linear(h, w, b)))


def step_lstm(gates: Tensor, state: State, w: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor]:
    """(h', c') of one LSTM step; `gates` is the input's part of the four gates i, f, g, o."""
    h, c = state
    i, f, g, o = ops.Add(gates, F.linear(h, w, b)).chunk(4, -1)
    c = ops.Add(ops.Mul(ops.Sigmoid(f), c), ops.Mul(ops.Sigmoid(i), ops.Tanh(g)))
    return ops.Mul(ops.Sigmoid(o), ops.Tanh(c)), c


def step_gru(gates: Tensor, h: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """h' of one GRU step with the gates r, z, n."""
    r_x, z_x, n_x = gates.chunk(3, -1)
    r_h, z_h, n_h = F.linear(h, w, b).chunk(3, -1)
    z = ops.Sigmoid(ops.Add(z_x, z_h))
    n = ops.Tanh(ops.Add(n_x, ops.Mul(ops.Sigmoid(ops.Add(r_x, r_h)), n_h)))
    return ops.Add(n, ops.Mul(z, ops.Sub(h, n)))


class RNNBase(Module):
    """What RNN, LSTM and GRU share. Input [T, N, input_size] ([N, T, ...] with batch_first, [T, ...] without a batch)."""

    def __init__(self, mode: str, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
                 dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None) -> None:  # fmt: skip
        super().__init__()
        if hidden_size <= 0 or num_layers <= 0:
            raise ValueError(
                f"hidden_size and num_layers must be greater than zero, got {hidden_size} and {num_layers}"
            )
        if not 0 <= dropout <= 1:
            raise ValueError(
                "dropout should be a number in range [0, 1] representing the probability of an element being zeroed"
            )
        if proj_size < 0 or proj_size >= hidden_size:
            raise ValueError("proj_size has to be smaller than hidden_size and not negative")
        self.mode, self.input_size, self.hidden_size, self.num_layers = mode, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional, self.proj_size = (
            bias,
            batch_first,
            float(dropout),
            bidirectional,
            proj_size,
        )
        self.directions = 2 if bidirectional else 1
        rows = _MODES[mode][0] * hidden_size
        width = proj_size or hidden_size
        for layer in range(num_layers):
            size = input_size if layer == 0 else width * self.directions
            for suffix in self._suffixes(layer):
                self._add(f"weight_ih_{suffix}", (rows, size), dtype)
                self._add(f"weight_hh_{suffix}", (rows, width), dtype)
                if bias:
                    self._add(f"bias_ih_{suffix}", (rows,), dtype)
                    self._add(f"bias_hh_{suffix}", (rows,), dtype)
                if proj_size:
                    self._add(f"weight_hr_{suffix}", (proj_size, hidden_size), dtype)
        self.reset_parameters()

    def _add(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.register_parameter(name, Parameter(empty(*shape, dtype=dtype)))

    def _suffixes(self, layer: int) -> list[str]:
        return [f"l{layer}", f"l{layer}_reverse"][: self.directions]

    def _weights(self, suffix: str) -> tuple[Any, ...]:
        return tuple(
            self._parameters.get(f"{name}_{suffix}")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        )

    def reset_parameters(self) -> None:
        """Uniform within 1 / sqrt(hidden_size)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def flatten_parameters(self) -> None:
        """Nothing to do: weights are used where they are."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        if isinstance(input, PackedSequence):
            return self._packed(input, hx)
        if input._data.ndim not in (2, 3):
            raise RuntimeError(
                f"{type(self).__name__}: Expected input to be 2D or 3D, got {input._data.ndim}D tensor instead"
            )
        single = input._data.ndim == 2
        x = input.unsqueeze(1) if single else input.transpose(0, 1) if self.batch_first else input
        if type(x._data.shape[2]) is int and x._data.shape[2] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {x.shape[2]}"
            )
        states = self._states(x, hx, single)
        y, finals = self._layers(x, states, None)
        y = y.squeeze(1) if single else y.transpose(0, 1) if self.batch_first else y
        finals = tuple(s.squeeze(1) for s in finals) if single else finals
        return y, (finals if self.mode == "LSTM" else finals[0])

    def _states(self, x: Tensor, hx: Any, single: bool) -> State:
        count = self.num_layers * self.directions
        sizes = [self.proj_size or self.hidden_size, self.hidden_size][: 2 if self.mode == "LSTM" else 1]
        if hx is None:
            return tuple(zeros(count, x.shape[1], size, dtype=x.dtype) for size in sizes)
        given = tuple(hx) if self.mode == "LSTM" else (hx,)
        given = tuple(s.unsqueeze(1) for s in given) if single else given
        for s, size in zip(given, sizes):
            want = (count, x._data.shape[1], size)
            if all(type(d) is int for d in (*s._data.shape, *want)) and tuple(s.shape) != want:
                raise RuntimeError(f"Expected hidden size {want}, got {list(s.shape)}")
        return given

    def _packed(self, packed: PackedSequence, hx: Any) -> Any:
        x, lengths = pad_packed_sequence(packed)
        states = self._states(x, None, False)
        if hx is not None:
            states = tuple(hx) if self.mode == "LSTM" else (hx,)
        y, finals = self._layers(x, states, lengths._data)
        again = pack_padded_sequence(y, lengths, enforce_sorted=False)
        return again, (finals if self.mode == "LSTM" else finals[0])

    def _layers(self, x: Tensor, states: State, lengths: Any) -> tuple[Tensor, State]:
        finals: list[list[Tensor]] = [[] for _ in states]
        for layer in range(self.num_layers):
            start = layer * self.directions
            mine = tuple(slice_axes(s, [(0, start, start + self.directions, 1)]) for s in states)
            x, last = self._layer(layer, x, mine, lengths)
            for column, value in zip(finals, last):
                column.append(value)
            if self.dropout and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(column[0] if len(column) == 1 else cat(column, 0) for column in finals)

    def _layer(self, layer: int, x: Tensor, states: State, lengths: Any) -> tuple[Tensor, State]:
        """y [T, N, directions * hidden] and the last states [directions, N, hidden] of one layer."""
        if not self.proj_size and not recorded(x, *states, *self.parameters()):
            return self._operator(layer, x, states, lengths)
        outputs, finals = [], []
        for d, suffix in enumerate(self._suffixes(layer)):
            own = tuple(s.select(0, d) for s in states)
            y, last = self._direction(suffix, _turned(x, lengths) if d else x, own, lengths)
            outputs.append(_turned(y, lengths) if d else y)
            finals.append(last)
        y = outputs[0] if len(outputs) == 1 else cat(outputs, 2)
        return y, tuple(stack(column, 0) for column in zip(*finals))

    def _direction(self, suffix: str, x: Tensor, states: State, lengths: Any) -> tuple[Tensor, State]:
        w_ih, w_hh, b_ih, b_hh, w_hr = self._weights(suffix)
        gates = F.linear(x, w_ih, b_ih)
        if w_hr is None and x._data.dtype in WIDE and eager(x) and x._data.shape[0]:
            live = None if lengths is None else (np.arange(x._data.shape[0])[:, None] < lengths)[:, :, None]

            def again() -> tuple[Tensor, ...]:
                y, last = self._steps(gates, states, w_hh, b_hh, None, lengths)
                return (y, *last)

            y, *last = scan(self.mode, gates, states, w_hh, b_hh, live, again)
            return y, tuple(last)
        return self._steps(gates, states, w_hh, b_hh, w_hr, lengths)

    def _steps(
        self, gates: Tensor, states: State, w_hh: Tensor, b_hh: Tensor | None, w_hr: Tensor | None, lengths: Any
    ) -> tuple[Tensor, State]:
        """Written out step by step in operators."""
        outputs = []
        for t, part in enumerate(gates.unbind(0)):
            new = self._step(part, states, w_hh, b_hh)
            if w_hr is not None:
                new = (F.linear(new[0], w_hr), *new[1:])
            if lengths is not None and not (lengths > t).all():
                live = (lengths > t)[:, None]
                outputs.append(ops.Where(live, new[0], np.zeros((), gates._data.dtype)))
                states = tuple(ops.Where(live, a, b) for a, b in zip(new, states))
            else:
                outputs.append(new[0])
                states = new
        return stack(outputs, 0), states

    def _step(self, gates: Tensor, states: State, w: Tensor, b: Tensor | None) -> State:
        match self.mode:
            case "LSTM":
                return step_lstm(gates, states, w, b)
            case "GRU":
                return (step_gru(gates, states[0], w, b),)
        activation = ops.Tanh if self.mode == "RNN_TANH" else ops.Relu
        return (step_rnn(activation, gates, states[0], w, b),)

    def _operator(self, layer: int, x: Tensor, states: State, lengths: Any) -> tuple[Tensor, State]:
        """One recurrent operator of ONNX."""
        _, name, _ = _MODES[self.mode]
        parts = [self._onnx_weights(suffix, x) for suffix in self._suffixes(layer)]
        w, r, b = (stack([p[i] for p in parts], 0) for i in range(3))
        sizes = None if lengths is None else np.asarray(lengths, np.int32)
        options: dict[str, Any] = {
            "hidden_size": self.hidden_size,
            "direction": "bidirectional" if self.bidirectional else "forward",
        }
        if name == "RNN":
            options["activations"] = ("Tanh" if self.mode == "RNN_TANH" else "Relu",) * self.directions
        if name == "GRU":
            options["linear_before_reset"] = 1
        y, *finals = getattr(ops, name)(x, w, r, b, sizes, *states, **options, outputs=1 + len(states))
        if self.bidirectional:
            y = ops.Transpose(y, perm=(0, 2, 1, 3)).reshape(*x.shape[:2], 2 * self.hidden_size)
        else:
            y = ops.Squeeze(y, axes_input((1,)))
        return y, tuple(finals)

    def _onnx_weights(self, suffix: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights and joined biases with ONNX's order of gates."""
        gates, _, order = _MODES[self.mode]
        w_ih, w_hh, b_ih, b_hh, _ = self._weights(suffix)

        def ordered(value: Tensor) -> Tensor:
            rows = value.chunk(gates, 0)
            return value if gates == 1 else cat([rows[i] for i in order], 0)

        if b_ih is None:
            b_ih = b_hh = wrap(np.zeros(gates * self.hidden_size, x._data.dtype))
        return ordered(w_ih), ordered(w_hh), cat([ordered(b_ih), ordered(b_hh)], 0)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        for name, default in (
            ("proj_size", 0),
            ("num_layers", 1),
            ("bias", True),
            ("batch_first", False),
            ("dropout", 0.0),
            ("bidirectional", False),
        ):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text


def _turned(x: Tensor, lengths: Any) -> Tensor:
    """Time reversed, each sequence within its own length."""
    if lengths is None:
        return x.flip(0)
    steps = np.arange(x._data.shape[0])[:, None]
    places = np.where(steps < lengths, lengths - 1 - steps, steps)
    spread = np.broadcast_to(places[:, :, None], x._data.shape)
    return ops.GatherElements(x, np.ascontiguousarray(spread, np.int64), axis=0)


class RNN(RNNBase):
    """h' = tanh(x W + h U + b), or relu in its place. `RNN(input_size, hidden_size, num_layers, nonlinearity=...)`."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True, batch_first: bool = False,
                 dropout: float = 0.0, bidirectional: bool = False, device: Any = None, dtype: Any = None) -> None:  # fmt: skip
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        self_mode = "RNN_TANH" if nonlinearity == "tanh" else "RNN_RELU"
        super().__init__(
            self_mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )
        self.nonlinearity = nonlinearity


class LSTM(RNNBase):
    """Long short-term memory (Hochreiter and Schmidhuber 1997); proj_size projects h. Answers y, (h, c)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)


class GRU(RNNBase):
    """Gated recurrent unit (Cho et al. 2014)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.pop("proj_size", 0):
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        super().__init__("GRU", *args, **kwargs)


class _Cell(Module):
    """One step. Input [N, input_size] or [input_size]."""

    gates = 1

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = self.gates * hidden_size
        self.weight_ih = Parameter(empty(rows, input_size, dtype=dtype))
        self.weight_hh = Parameter(empty(rows, hidden_size, dtype=dtype))
        self.register_parameter("bias_ih", Parameter(empty(rows, dtype=dtype)) if bias else None)
        self.register_parameter("bias_hh", Parameter(empty(rows, dtype=dtype)) if bias else None)
        bound = 1 / math.sqrt(hidden_size) if hidden_size > 0 else 0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _prepared(self, input: Tensor, hx: Any, count: int) -> tuple[Tensor, list[Tensor], bool]:
        if input._data.ndim not in (1, 2):
            raise ValueError(f"{type(self).__name__}: Expected input to be 1D or 2D, got {input._data.ndim}D instead")
        single = input._data.ndim == 1
        x = input.unsqueeze(0) if single else input
        if hx is None:
            states = [zeros(x.shape[0], self.hidden_size, dtype=x.dtype) for _ in range(count)]
        else:
            states = [s.unsqueeze(0) if single else s for s in (hx if count > 1 else (hx,))]
        return F.linear(x, self.weight_ih, self.bias_ih), states, single

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(_Cell):
    """One step of an RNN."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity: {nonlinearity}")
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        gates, (h,), single = self._prepared(input, hx, 1)
        found = step_rnn(ops.Tanh if self.nonlinearity == "tanh" else ops.Relu, gates, h, self.weight_hh, self.bias_hh)
        return found.squeeze(0) if single else found


class LSTMCell(_Cell):
    """One step of an LSTM: (h, c)."""

    gates = 4

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Tensor]:
        gates, states, single = self._prepared(input, hx, 2)
        h, c = step_lstm(gates, (states[0], states[1]), self.weight_hh, self.bias_hh)
        return (h.squeeze(0), c.squeeze(0)) if single else (h, c)


class GRUCell(_Cell):
    """One step of a GRU."""

    gates = 3

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        gates, (h,), single = self._prepared(input, hx, 1)
        found = step_gru(gates, h, self.weight_hh, self.bias_hh)
        return found.squeeze(0) if single else found


__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNBase", "RNNCell"]
