"""The whole path in under a minute: train, capture, pack, quantize, verify, serve, call. Run this first."""

from pathlib import Path

import numpy as np
import pytest
from headrace.utils.data import DataLoader, TensorDataset

import headrace
import headrace as torch
import headrace.nn as nn
import headrace.optim as optim


def blobs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three noisy clusters in eight dimensions; the centres are the same for every seed."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(3, 8)) * 2
    labels = rng.integers(0, 3, count)
    return (centres[labels] + rng.normal(size=(count, 8))).astype(np.float32), labels.astype(np.int64)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    x, y = blobs(600, 1)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = optim.Adam(net.parameters(), lr=0.01)
    loss_of = nn.CrossEntropyLoss()
    for _ in range(5):
        for images, labels in DataLoader(
            TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=32, shuffle=True
        ):
            optimizer.zero_grad()
            loss = loss_of(net(images), labels)
            loss.backward()
            optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def packed(trained: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "blobs" / "1" / "model.hr"
    x, y = blobs(300, 2)
    report = headrace.pack(trained, x[:4], path, evaluate=({_only_input(trained, x): x}, y))
    assert report.accuracy is not None and report.accuracy > 0.9
    return path


def _only_input(net: nn.Module, x: np.ndarray) -> str:
    from headrace.jit import trace

    return trace(net, (x[:4],)).program.main.inputs[0].name


def test_the_packed_file_gives_the_answers_of_training(trained: nn.Module, packed: Path) -> None:
    x, _ = blobs(50, 3)
    model = headrace.runtime.load(packed)
    (answer,) = model.run({model.inputs[0].name: x}).values()
    with torch.no_grad():
        want = trained(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(answer, want, rtol=1e-5, atol=1e-5)


def test_a_row_has_the_same_bits_alone_and_in_a_batch(packed: Path) -> None:
    x, _ = blobs(33, 4)
    model = headrace.runtime.load(packed)
    name = model.inputs[0].name
    (whole,) = model.run({name: x}).values()
    for i in (0, 7, 32):
        (alone,) = model.run({name: x[i : i + 1]}).values()
        assert alone.tobytes() == whole[i : i + 1].tobytes()


def test_the_file_verifies_bit_exactly_here(packed: Path) -> None:
    report = headrace.verify(packed)
    assert report.ok and report.max_error == 0.0


def test_int8_keeps_the_accuracy(packed: Path, tmp_path: Path) -> None:
    x, y = blobs(300, 2)
    name = headrace.runtime.load(packed).inputs[0].name
    result = headrace.quantize(
        packed, tmp_path / "int8.hr", method="static", calibration=[{name: x[:128]}], labels=({name: x}, y)
    )
    assert abs(result.report["accuracy"]["drop_points"]) <= 1.0
    assert headrace.verify(tmp_path / "int8.hr").ok


def test_a_server_answers_with_the_bits_of_the_model(packed: Path) -> None:
    x, _ = blobs(5, 5)
    model = headrace.runtime.load(packed)
    name = model.inputs[0].name
    want = model.run({name: x})
    with headrace.serve.Server(packed.parent.parent.parent, grpc_port=0, http_port=0, metrics_port=0) as server:
        for url in (f"127.0.0.1:{server.grpc_port}", f"http://127.0.0.1:{server.http_port}"):
            with headrace.serve.Client(url) as client:
                got = client.infer("blobs", **{name: x})
            assert {key: value.tobytes() for key, value in got.items()} == {
                key: value.tobytes() for key, value in want.items()
            }
