"""Four small trainings whose losses are compared with torch's, step by step, from equal weights and data.

Written against the names that torch and headrace share: `losses(torch, name)` runs under either. As a program it
records torch's losses beside the starting weights:

    python tests/core/curves.py tests/core/curves.npz        (where torch is installed)
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

STEPS = 100


def mlp(torch: Any, nn: Any) -> Any:
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))


def cnn(torch: Any, nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def binary(torch: Any, nn: Any) -> Any:
    return nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 1), nn.Sigmoid())


def words(torch: Any, nn: Any) -> Any:
    return nn.Sequential(
        nn.Embedding(12, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU(), nn.Flatten(), nn.Linear(32, 3)
    )


def cases(torch: Any, nn: Any, optim: Any) -> dict[str, tuple[Any, Any, Any, str, str]]:
    """name -> (model builder, loss, optimizer builder, kind of input, kind of target)."""
    return {
        "mlp": (mlp, nn.CrossEntropyLoss(), lambda p: optim.SGD(p, lr=0.1, momentum=0.9), "rows", "class"),
        "cnn": (cnn, nn.CrossEntropyLoss(), lambda p: optim.Adam(p, lr=0.01), "images", "class"),
        "binary": (binary, nn.BCELoss(), lambda p: optim.Adam(p, lr=0.01), "rows", "coin"),
        "words": (words, nn.MSELoss(), lambda p: optim.RMSprop(p, lr=0.003), "tokens", "rows3"),
    }


def data(kind: str, rng: np.random.Generator) -> np.ndarray:
    match kind:
        case "rows":
            return rng.standard_normal((64, 10)).astype(np.float32)
        case "images":
            return rng.standard_normal((32, 1, 8, 8)).astype(np.float32)
        case "tokens":
            return rng.integers(0, 12, (32, 4))
        case "class":
            return rng.integers(0, 3, 64)
        case "coin":
            return rng.integers(0, 2, (64, 1)).astype(np.float32)
    return rng.standard_normal((32, 3)).astype(np.float32)


def losses(
    torch: Any, name: str, weights: dict[str, np.ndarray] | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Losses of STEPS steps, and the weights at the start (given, or as the library draws them)."""
    nn, optim = torch.nn, torch.optim
    build, loss_of, make, x_kind, y_kind = cases(torch, nn, optim)[name]
    rng = np.random.default_rng(0)
    x = data(x_kind, rng)
    y = data(y_kind, rng)[: len(x)]
    model = build(torch, nn)
    if weights is not None:
        model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in weights.items()})
    start = {key: np.array(value.detach().numpy()) for key, value in model.state_dict().items()}
    optimizer = make(model.parameters())
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    found = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model(tx), ty)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return np.array(found), start


def main() -> None:
    import torch

    torch.manual_seed(0)
    arrays: dict[str, np.ndarray] = {"torch_version": np.array(torch.__version__)}
    for name in cases(torch, torch.nn, torch.optim):
        found, start = losses(torch, name)
        arrays[f"{name}/losses"] = found
        arrays |= {f"{name}/weights/{key}": value for key, value in start.items()}
    np.savez_compressed(sys.argv[1], **arrays)


if __name__ == "__main__":
    main()
