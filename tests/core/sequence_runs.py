"""Outputs and gradients of sequence layers with given weights, under torch or headrace; as a program it records torch's.

python tests/core/sequence_runs.py tests/core/sequences.npz        (where torch is installed)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

PLAIN = {"dropout": 0.0, "batch_first": True}
# name -> (the layer, the shapes of what it is called with)
CASES: dict[str, tuple[Callable[[Any], Any], list[tuple[int, ...]]]] = {
    "rnn": (lambda nn: nn.RNN(3, 4, 2, nonlinearity="relu"), [(5, 2, 3)]),
    "lstm": (lambda nn: nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True), [(2, 5, 3)]),
    "lstm-projected": (lambda nn: nn.LSTM(3, 4, proj_size=2), [(5, 2, 3)]),
    "gru": (lambda nn: nn.GRU(3, 4, 2, bidirectional=True), [(5, 2, 3)]),
    "lstm-cell": (lambda nn: nn.LSTMCell(3, 4), [(2, 3)]),
    "gru-cell": (lambda nn: nn.GRUCell(3, 4), [(2, 3)]),
    "attention": (lambda nn: nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True), [(2, 3, 8), (2, 5, 6), (2, 5, 4)]),
    "attention-extra": (lambda nn: nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True), [(3, 2, 8)] * 3),
    "encoder": (lambda nn: nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, activation="gelu", **PLAIN), [(2, 5, 8)]),
    "decoder": (lambda nn: nn.TransformerDecoderLayer(8, 2, 16, **PLAIN), [(2, 3, 8), (2, 5, 8)]),
    "transformer": (lambda nn: nn.Transformer(8, 2, 1, 1, 16, **PLAIN), [(2, 5, 8), (2, 3, 8)]),
}  # fmt: skip


def flat(value: Any) -> list[Any]:
    """The tensors of nested tuples."""
    return [value] if hasattr(value, "shape") else [t for v in value if v is not None for t in flat(v)]


def results(torch: Any, name: str) -> list[np.ndarray]:
    """Outputs, then gradients of the inputs and of all parameters, of the sum of the outputs' sines."""
    make, shapes = CASES[name]
    layer, rng = make(torch.nn), np.random.default_rng(7)

    def draw(shape: tuple[int, ...]) -> Any:
        return torch.tensor((0.5 * rng.standard_normal(shape)).astype(np.float32))

    layer.load_state_dict({key: draw(tuple(value.shape)) for key, value in layer.state_dict().items()})
    inputs = [draw(shape).requires_grad_() for shape in shapes]
    outputs = flat(layer(*inputs))
    sum(t.sin().sum() for t in outputs).backward()
    return [t.detach().numpy() for t in outputs] + [t.grad.numpy() for t in (*inputs, *layer.parameters())]


def main() -> None:
    import torch

    arrays: dict[str, np.ndarray] = {"torch_version": np.array(torch.__version__)}
    for name in CASES:
        arrays |= {f"{name}/{i}": value for i, value in enumerate(results(torch, name))}
    np.savez_compressed(sys.argv[1], **arrays)


if __name__ == "__main__":
    main()
