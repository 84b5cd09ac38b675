"""Models for the tests of capture, and what every captured model must satisfy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import headrace as torch
from headrace import jit, nn
from headrace.nn import functional as F


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(64, 5)
        self.bn.running_mean.copy_(torch.randn(4))
        self.bn.running_var.copy_(torch.rand(4) + 0.5)

    def forward(self, image: Any) -> Any:
        x = self.pool(F.relu(self.bn(self.conv(image))))
        return self.fc(self.drop(x.view(x.size(0), -1)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.down = nn.Conv2d(4, 8, 1, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.norm(self.first(x)), inplace=True) + x
        return self.fc(torch.flatten(self.pool(self.down(x)), 1))


class Attention(nn.Module):
    """One transformer block over token numbers, written out."""

    def __init__(self, heads: int = 4, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.heads = heads
        self.embed = nn.Embedding(20, width, padding_idx=0)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))

    def forward(self, ids: Any) -> Any:
        x = self.embed(ids)
        b, t, d = x.shape
        h = self.norm(x)
        q, k, v = (
            f(h).view(b, t, self.heads, d // self.heads).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(-2, -1) / (d // self.heads) ** 0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(b, t, d))
        return x + self.mlp(self.norm(x))


def cases() -> list[tuple[str, nn.Module, tuple[Any, ...]]]:
    torch.manual_seed(4)
    return [
        ("mlp", mlp(), (torch.randn(2, 4),)),
        ("cnn", CNN(), (torch.randn(2, 3, 8, 8),)),
        ("residual", Residual(), (torch.randn(2, 4, 8, 8),)),
        ("attention", Attention(), (torch.randint(0, 20, (2, 6)),)),
    ]


def check(exported: jit.Exported, *others: Sequence[np.ndarray]) -> jit.Exported:
    """The graph, its code, and the original agree, on the examples and on other inputs."""
    for arrays in (exported.structure.examples, *others):
        wanted = exported.eager(*arrays)
        same(exported.run(*arrays), wanted)
        same(run_code(exported, arrays), wanted)
    return exported


def run_code(exported: jit.Exported, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of `exported.code`, executed as the program text that it is."""
    space: dict[str, Any] = {}
    exec(exported.code, space)
    found = space["forward"](*map(torch.from_numpy, arrays), exported.weights)
    found = tuple(found.values()) if isinstance(found, dict) else found
    return [t.detach().numpy() for t in (found if isinstance(found, tuple) else (found,))]


def same(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> None:
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def rows(array: np.ndarray, count: int, seed: int = 5) -> np.ndarray:
    """Another batch of the kind of an example."""
    rng = np.random.default_rng(seed)
    shape = (count, *array.shape[1:])
    if array.dtype.kind == "f":
        return rng.standard_normal(shape).astype(array.dtype)
    return rng.integers(0, int(array.max(initial=1)) + 1, shape).astype(array.dtype)
