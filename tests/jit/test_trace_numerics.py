"""Captured models give the numbers of the original, at any batch size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from jit_models import CNN, Attention, cases, check, rows, run_code, same

import headrace as torch
from headrace import jit, nn
from headrace.nn import functional as F

MODELS = cases()


@pytest.mark.parametrize(("model", "example"), [case[1:] for case in MODELS], ids=[case[0] for case in MODELS])
def test_models_at_other_batch_sizes(model: nn.Module, example: tuple[Any, ...]) -> None:
    exported = jit.trace(model, example)
    check(exported, *([rows(e.numpy(), n) for e in example] for n in (1, 7)))


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize(("model", "example"), [case[1:] for case in MODELS], ids=[case[0] for case in MODELS])
def test_an_example_batch_of_one_or_none_is_no_special_case(
    model: nn.Module, example: tuple[Any, ...], batch: int
) -> None:
    if batch == 0 and isinstance(model, CNN):
        pytest.skip("the model itself refuses an empty batch: x.view(0, -1) is ambiguous")
    small = tuple(e[:batch] for e in example)
    exported = jit.trace(model, small)
    assert str(exported.graph) == str(jit.trace(model, example).graph)
    check(exported, [rows(e.numpy(), 5) for e in example])


def test_a_symbolic_length() -> None:
    exported = jit.trace(Attention(), (torch.randint(0, 20, (2, 6)),), dynamic={"ids": {1: "length"}})
    ids = np.random.default_rng(0).integers(0, 20, (3, 9))
    check(exported, [ids], [ids[:1, :1]])
    assert not [node for node in exported.graph.nodes if node.operator == "Shape"]  # no shape arithmetic is left


def test_training_mode_is_switched_off() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9), nn.BatchNorm1d(4)).train()
    exported = jit.trace(model, torch.randn(3, 4))
    x = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    same(exported.run(x), exported.eager(x))
    assert [node.operator for node in exported.graph.nodes] == ["Gemm", "BatchNormalization"]


LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding="same"), (2, 4, 9)),
    "conv transpose": (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1), (2, 4, 8, 8)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (2, 4, 5)),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True), (2, 4, 5, 5)),
    "layer norm": (lambda: nn.LayerNorm((8, 8)), (2, 4, 8, 8)),
    "rms norm": (lambda: nn.RMSNorm(6), (2, 6)),
    "average pool": (lambda: nn.AvgPool2d(3, 2, 1), (2, 4, 8, 8)),
    "adaptive, uneven": (lambda: nn.AdaptiveAvgPool2d((3, 2)), (2, 4, 8, 8)),
    "max pool, ceil": (lambda: nn.MaxPool1d(2, ceil_mode=True), (2, 4, 9)),
    "upsample": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (2, 4, 5, 5)),
    "pixel shuffle": (lambda: nn.PixelShuffle(2), (2, 4, 3, 3)),
    "pad": (lambda: nn.ReflectionPad2d(1), (2, 3, 4, 4)),
    "flatten, unflatten": (lambda: nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 3))), (2, 3, 4)),
    "in place": (lambda: nn.SiLU(inplace=True), (2, 6)),
    "glu": (lambda: nn.GLU(1), (2, 4, 3)),
    "softmax": (lambda: nn.Softmax(-1), (2, 6)),
    "prelu": (lambda: nn.PReLU(), (2, 4, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    example = torch.randn(shape)
    check(jit.trace(make(), example), [rows(example.numpy(), 1)], [rows(example.numpy(), 7)])


FUNCTIONS: dict[str, Any] = {
    "activations": lambda x: F.gelu(x) + F.silu(x) + F.softplus(x) + F.elu(x) + F.hardswish(x) + x.clamp(-1, 1),
    "powers": lambda x: x.pow(2) + x**3 + x.abs().sqrt() + x.exp().log1p(),
    "normalize": lambda x: (
        F.normalize(x),
        x.norm(dim=1),
        (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5),
    ),
    "reduce": lambda x: (x.logsumexp(1), x.prod(1), x.amax(1), (x > 0).any(1), x.argmax(1), x.cumsum(0)),
    "where": lambda x: (torch.where(x > 0, x, -x), x.masked_fill(x > 0, -1e9).softmax(-1)),
    "order": lambda x: (x.topk(2, dim=1), x.max(1).values, x.sort(1).indices),
    "join and cut": lambda x: (
        torch.cat(x.chunk(2, 1)[::-1], 1),
        torch.stack([x, x * 2], 1).flatten(1),
        x.split([1, 3], 1),
        x.unbind(1),
    ),
    "move": lambda x: (x.flip(1), x.roll(1, 1), x.repeat(1, 2), F.pad(x, (1, 2)), x.t().contiguous().t()),
    "index": lambda x: (
        x[:, 1],
        x[:, ::2],
        x[:, None, [0, 2]],
        x[..., -1:],
        x[:, torch.tensor([True, False, True, False])],
    ),
    "whole numbers": lambda x: ((x * 9).long() // 2, (x * 9).int() % 3, (x > 0) & (x < 1) | ~(x == 0)),
    "types": lambda x: (x.double().half(), x.to(torch.uint8) if x.dtype is torch.bool else x.long()),
    "einsum": lambda x: torch.einsum("bi,bj->bij", x, x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    torch.manual_seed(0)
    example = torch.randn(3, 4)
    check(jit.trace(FUNCTIONS[name], example), [rows(example.numpy(), 1)], [rows(example.numpy(), 7)])


def test_gather_by_row_numbers() -> None:
    def function(x: Any, index: Any) -> Any:
        return x[torch.arange(x.shape[0]), index] + x.gather(1, index.unsqueeze(1)).squeeze(1)

    exported = jit.trace(function, (torch.randn(3, 4), torch.tensor([0, 2, 1])))
    check(exported, [rows(np.ones((1, 4), np.float32), 7), np.arange(7) % 4])


def test_a_custom_batch_of_two_inputs() -> None:
    exported = jit.trace(lambda x, weight: x * weight.unsqueeze(1), (torch.randn(3, 4), torch.ones(3)))
    assert str(exported.graph.inputs) == "[%x: float32[batch, 4], %weight: float32[batch]]"


def test_code_of_special_numbers() -> None:
    def function(x: Any) -> Any:
        return F.leaky_relu(x.clamp(min=-float("inf")), 0.3) + torch.tensor([1.0, float("nan"), 2.0, -0.0])

    exported = jit.trace(function, torch.randn(2, 4))
    same(run_code(exported, exported.structure.examples), exported.eager(*exported.structure.examples))
