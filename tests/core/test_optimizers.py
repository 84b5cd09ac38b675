"""Optimizers and schedules against torch's recorded parameters and rates, and live where torch is; state and groups."""

from pathlib import Path

import numpy as np
import pytest
from optimizer_runs import CASES, SCHEDULES, parameters, rates

import headrace
import headrace as torch
import headrace.nn as nn
import headrace.optim as optim

RECORD = Path(__file__).with_name("optimizers.npz")


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == want.dtype
    bound = {"rtol": 1e-9, "atol": 1e-12} if got.dtype == np.float64 else {"rtol": 2e-4, "atol": 2e-5}
    np.testing.assert_allclose(got, want, **bound)


@pytest.mark.parametrize("name", CASES)
def test_recorded_parameters(name: str) -> None:
    with np.load(RECORD, allow_pickle=False) as archive:
        for i, got in enumerate(parameters(headrace, name)):
            assert_same(got, archive[f"{name}/{i}"])


@pytest.mark.parametrize("name", SCHEDULES)
def test_recorded_rates(name: str) -> None:
    with np.load(RECORD, allow_pickle=False) as archive:
        np.testing.assert_allclose(rates(headrace, name), archive[f"schedule/{name}"], rtol=1e-6)


@pytest.mark.peer
@pytest.mark.parametrize("name", CASES)
def test_live_parameters(name: str) -> None:
    peer = pytest.importorskip(
        "torch", reason="the live comparison needs torch; recorded parameters are compared everywhere"
    )
    for got, want in zip(parameters(headrace, name), parameters(peer, name)):
        assert_same(got, want)


def problem(count: int = 3) -> tuple[list[nn.Parameter], object]:
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(4, i + 1)) for i in range(count)]
    return params, lambda: sum(((p - 1) ** 2).sum() for p in params)


@pytest.mark.parametrize(
    "kind",
    [
        "SGD",
        "Adam",
        "AdamW",
        "RMSprop",
        "Adagrad",
        "NAdam",
        "RAdam",
        "Adamax",
        "Adadelta",
        "ASGD",
        "Rprop",
        "Adafactor",
    ],
)
def test_a_loaded_state_continues_as_if_nothing_had_happened(kind: str, tmp_path: Path) -> None:
    def steps(params, optimizer, loss, count):
        for _ in range(count):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

    settings = {"momentum": 0.9} if kind == "SGD" else {}
    params, loss = problem()
    optimizer = getattr(optim, kind)(params, lr=0.05, **settings)
    steps(params, optimizer, loss, 3)
    headrace.save({"model": list(params), "optimizer": optimizer.state_dict()}, tmp_path / "state")
    steps(params, optimizer, loss, 3)
    others, other_loss = problem()
    again = getattr(optim, kind)(others, lr=0.9, **settings)
    saved = headrace.load(tmp_path / "state")
    with torch.no_grad():
        for p, value in zip(others, saved["model"]):
            p.copy_(value)
    again.load_state_dict(saved["optimizer"])
    steps(others, again, other_loss, 3)
    assert all(a.detach().numpy().tobytes() == b.detach().numpy().tobytes() for a, b in zip(params, others))


def test_small_parameters_together_are_as_apart() -> None:
    """Adam joins small parameters into one vector; amsgrad keeps them apart, and with rising squares it is the same."""
    joined, _ = problem(5)
    optimizer = optim.Adam(joined, lr=0.1)
    single = [nn.Parameter(p.detach().clone()) for p in joined]
    each = [optim.Adam([p], lr=0.1) for p in single]
    for step in range(5):
        for p, q in zip(joined, single):
            p.grad = q.grad = None
            if step == 2 and p is joined[1]:
                continue  # a parameter that misses a step falls behind the others
            p.grad, q.grad = (torch.full(p.shape, float(step - 1)) for _ in range(2))
        optimizer.step()
        for o in each:
            o.step()
    assert all(torch.equal(p, q) for p, q in zip(joined, single))
    assert optimizer.state[joined[1]]["step"] == 4 and optimizer.state[joined[0]]["exp_avg"].shape == joined[0].shape


def test_groups_and_errors() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = optim.SGD([{"params": [a], "lr": 1.0}], lr=0.1)
    optimizer.add_param_group({"params": b})
    assert [g["lr"] for g in optimizer.param_groups] == [1.0, 0.1]
    (a.sum() + b.sum()).backward()
    optimizer.step()
    assert a.tolist() == [0, 0] and np.allclose(b.tolist(), 0.9)
    optimizer.zero_grad()
    assert a.grad is None
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [a]})
    with pytest.raises(ValueError, match="empty parameter list"):
        optim.Adam([])
    with pytest.raises(ValueError, match="non-leaf"):
        optim.SGD([a * 2], lr=0.1)
    with pytest.raises(ValueError, match="Invalid lr"):
        optim.Adam([a], lr=-1)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict(optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1).state_dict())


def test_a_step_is_a_write() -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = optim.SGD([p], lr=0.1)
    loss = (p * p).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_plateau_and_sequence() -> None:
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    plateau = optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
    rates_ = []
    for metric in (1.0, 0.9, 0.9, 0.9, 0.9, 0.9):
        plateau.step(metric)
        rates_.append(optimizer.param_groups[0]["lr"])
    assert rates_ == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    warm = optim.lr_scheduler.ConstantLR(optimizer, 0.1, total_iters=2)
    late = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    both = optim.lr_scheduler.SequentialLR(optimizer, [warm, late], [2])
    seen = []
    for _ in range(5):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    np.testing.assert_allclose(seen, [0.1, 0.1, 1.0, 0.5, 0.25])
