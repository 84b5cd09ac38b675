"""From equal weights and data, 100 steps give torch's losses to 1e-4: recorded ones everywhere, live ones where torch is."""

from pathlib import Path

import numpy as np
import pytest
from curves import losses

import headrace
import headrace.nn
import headrace.optim

RECORD = Path(__file__).with_name("curves.npz")
NAMES = ("mlp", "cnn", "binary", "words")


def recorded(name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    with np.load(RECORD, allow_pickle=False) as archive:
        prefix = f"{name}/weights/"
        return archive[f"{name}/losses"], {
            key.removeprefix(prefix): archive[key] for key in archive.files if key.startswith(prefix)
        }


@pytest.mark.parametrize("name", NAMES)
def test_recorded_losses(name: str) -> None:
    want, weights = recorded(name)
    found, _ = losses(headrace, name, weights)
    assert want[-1] < 0.8 * want[0]
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-4)


@pytest.mark.peer
@pytest.mark.parametrize("name", NAMES)
def test_live_losses(name: str) -> None:
    torch = pytest.importorskip(
        "torch", reason="the live comparison needs torch; recorded losses are compared everywhere"
    )
    _, weights = recorded(name)
    want, _ = losses(torch, name, weights)
    found, _ = losses(headrace, name, weights)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-4)
