"""In-place code becomes values: a write through a view is a write to its base and to all its other views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from jit_models import check, rows

import headrace as torch
from headrace import jit, nn
from headrace.nn import functional as F

CASES: dict[str, Callable[[Any], Any]] = {}


def case(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    CASES[function.__name__] = function
    return function


@case
def operators_and_underscores(x: Any) -> Any:
    y = x.clone()
    y += 1
    y *= 2
    y.relu_().clamp_(max=3).add_(x)
    F.relu(y, inplace=True)
    return y, x


@case
def the_argument_itself(x: Any) -> Any:
    x += 1
    return x * 2


@case
def rows_and_columns(x: Any) -> Any:
    y = x.clone()
    y[:, 0] = 0
    y[:, 1:3] += 1
    y[0] = 5
    y[-1] = 7
    y[..., -2:] = y[..., :2]
    return y, x


@case
def several_axes_at_once(x: Any) -> Any:
    y = x.clone()
    y[1:, 1:3] = 9
    y[0, 3] = 2
    return y


@case
def every_second(x: Any) -> Any:
    y = x.clone()
    y[:, ::2] = 9
    y[:, 1::2] *= -1
    return y


@case
def masks(x: Any) -> Any:
    y = x.clone()
    y[y > 0] = 0
    y.masked_fill_(x < -1, 4.0)
    return y


@case
def places(x: Any) -> Any:
    y = x.clone()
    y[:, torch.tensor([0, 2])] = 1.5
    return y


@case
def views_see_the_write(x: Any) -> Any:
    y = x.clone()
    transposed, flat, row = y.t(), y.view(-1), y[0]
    transposed[0] = 1
    flat[3] = 2
    row += 10
    y.mul_(2)
    return y, transposed, flat, row


@case
def views_of_views(x: Any) -> Any:
    y = x.clone()
    y.view(-1, 2, 2).transpose(1, 2)[:, 0].unsqueeze(1)[..., 1] = 3
    return y


@case
def parts(x: Any) -> Any:
    y = x.clone()
    a, b = y.chunk(2, 1)
    a += 1
    b *= 2
    return y, a, b


@case
def into_fresh_memory(x: Any) -> Any:
    out = torch.zeros(3, 4)
    first = out[0]
    out[:, 0] = x.sum(0)[:3]
    out[1] = x.sum(0)
    return out, first


@case
def into_memory_of_symbolic_size(x: Any) -> Any:
    out = torch.zeros(x.shape[0], 4)
    out[:, 1] = x[:, 1]
    out[:, -1] = 2
    out[1:] += 1
    return out


@case
def fills(x: Any) -> Any:
    y = torch.empty_like(x)
    y.fill_(3)
    y[:, 2].zero_()
    y[:, 3].copy_(x[:, 0])
    return y


@case
def contiguous_copies(x: Any) -> Any:
    y = x.t().contiguous()
    y += 1
    return x, y


@pytest.mark.parametrize("name", CASES)
def test_in_place(name: str) -> None:
    torch.manual_seed(0)
    example = torch.randn(3, 4)
    check(jit.trace(CASES[name], example), [rows(example.numpy(), 5)], [rows(example.numpy(), 2)])


def test_a_write_to_a_reshaped_part_is_refused() -> None:
    def function(x: Any) -> Any:
        y = x.clone()
        y.t().reshape(-1).add_(1)
        return y

    with pytest.raises(jit.TraceError, match=r"in-place write to a reshape of a part.*clone\(\)"):
        jit.trace(function, torch.randn(3, 4))


class Counter(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Any) -> Any:
        if self.kind == "add":
            self.seen += 1
        elif self.kind == "replace":
            self.seen = x.sum(0)
        elif self.kind == "write":
            self.seen[0] = x[0, 0]
        return x + self.seen


@pytest.mark.parametrize("kind", ["add", "replace", "write"])
def test_a_graph_has_no_memory(kind: str) -> None:
    model = Counter(kind)
    with pytest.raises(jit.TraceError, match=r"forward writes to 'seen'.*argument of forward"):
        jit.trace(model, torch.ones(3, 4))
    assert model.seen.tolist() == [0, 0, 0, 0]
