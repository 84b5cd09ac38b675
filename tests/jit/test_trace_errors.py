"""What cannot be traced is refused: file, line, construct and a rewrite."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import headrace as torch
from headrace import jit, nn


def if_(x: Any) -> Any:
    if x.sum() > 0:
        return x
    return -x


def while_(x: Any) -> Any:
    while x.abs().max() > 1:
        x = x / 2
    return x


def assert_(x: Any) -> Any:
    assert (x == x).all()
    return x


def ternary(x: Any) -> Any:
    return x if x.mean() > 0 else -x


def and_(x: Any) -> Any:
    return (x.sum() > 0) and x


def not_(x: Any) -> Any:
    return not x.any()


def in_(x: Any) -> Any:
    found = 1.0 in x
    return x, found


def item(x: Any) -> Any:
    return x * x.sum().item()


def float_(x: Any) -> Any:
    return x * float(x[0, 0])


def int_(x: Any) -> Any:
    return x[int(x[0, 0])]


def sqrt(x: Any) -> Any:
    return x / math.sqrt(x.abs().sum())


def range_(x: Any) -> Any:
    return [x for _ in range(x.long().max() + 1)]


def tolist(x: Any) -> Any:
    return x + sum(x[0].tolist())


def numpy(x: Any) -> Any:
    return x + x.numpy().sum()


def asarray(x: Any) -> Any:
    return torch.from_numpy(np.tanh(x))


def size_range(x: Any) -> Any:
    for i in range(x.shape[0]):
        x = x + i
    return x


def size_compare(x: Any) -> Any:
    return x if x.shape[0] > 1 else -x


def size_int(x: Any) -> Any:
    return x.view(int(x.shape[0]), -1)


def size_truth(x: Any) -> Any:
    return x if len(x) else -x


def size_loop(x: Any) -> Any:
    return torch.stack(list(x))


def size_of_data(x: Any) -> Any:
    return x[x > 0].sum() if x[x > 0].shape[0] == 3 else x


VALUE = "needs values of a traced tensor, which are known only when the graph runs"
STATIC = r"declare the dimension static, trace\(..., dynamic=\{'x': \{0: None\}\}\)"
REFUSED: list[tuple[Callable[[Any], Any], int, str]] = [
    (if_, 1, rf"`if x.sum\(\) > 0:`: a Python `if` {VALUE}.*torch.where\(condition, a, b\)"),
    (while_, 1, rf"a Python `while` {VALUE}.*number of steps"),
    (assert_, 1, rf"a Python `assert` {VALUE}.*check shapes"),
    (ternary, 1, rf"a Python `if` {VALUE}.*torch.where"),
    (and_, 1, rf"a Python `and` {VALUE}.*torch.logical_and"),
    (not_, 1, rf"not {VALUE}.*torch.logical_not"),
    (in_, 1, rf"in {VALUE}.*any\(\)"),
    (item, 1, rf"item\(\) {VALUE}.*keep the tensor"),
    (float_, 1, rf"float\(\) {VALUE}.*keep the tensor"),
    (int_, 1, rf"int\(\) {VALUE}.*keep the tensor"),
    (sqrt, 1, rf"float\(\) {VALUE}.*keep the tensor"),
    (range_, 1, rf"range\(\) or an index {VALUE}.*index with a tensor"),
    (tolist, 1, rf"tolist\(\) {VALUE}.*index or unbind"),
    (numpy, 1, rf"numpy\(\) {VALUE}.*functions of headrace"),
    (asarray, 1, rf"numpy\(\) {VALUE}.*functions of headrace"),
    (size_range, 1, rf"range\(\) or an index needs the number behind the symbolic size 'batch'.*{STATIC}"),
    (size_compare, 1, rf"the comparison batch > 1 needs the number behind.*{STATIC}"),
    (size_int, 1, rf"int\(\) needs the number behind.*leave out int\(\).*{STATIC}"),
    (size_truth, 1, rf"batch.*{STATIC}"),
    (size_loop, 1, rf"iteration over a dimension of symbolic size needs.*{STATIC}"),
    (size_of_data, 1, r"the symbolic size 'nonzero'.*the size depends on values"),
]


@pytest.mark.parametrize(("function", "line", "message"), REFUSED, ids=lambda v: getattr(v, "__name__", None))
def test_refused(function: Callable[[Any], Any], line: int, message: str) -> None:
    with pytest.raises(jit.TraceError) as caught:
        jit.trace(function, torch.full((3, 4), 0.5))
    text = str(caught.value)
    assert text.startswith(f"{__file__}:{function.__code__.co_firstlineno + line}: "), text
    assert re.search(message, text), text
    assert "\n" not in text


def test_a_module_is_named_by_its_own_line() -> None:
    class Inner(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.sum().item() * x

    with pytest.raises(jit.TraceError, match=r"test_trace_errors.py:\d+: `return x.sum\(\).item\(\) \* x`"):
        jit.trace(nn.Sequential(nn.Linear(4, 4), Inner()), torch.ones(2, 4))


def test_a_function_of_the_library_without_a_graph_form() -> None:
    with pytest.raises(jit.TraceError, match=r"linspace\(\) reads values of a traced tensor"):
        jit.trace(lambda x: torch.linspace(0, x.sum(), 4) + x, torch.ones(2, 4))


def test_random_numbers_show_in_the_comparison() -> None:
    with pytest.raises(
        jit.TraceError, match=r"output 'output' of the graph deviates from the original by .*Random numbers"
    ):
        jit.trace(lambda x: x + torch.randn(3, 4), torch.ones(3, 4))


def test_a_size_that_was_frozen_shows_in_the_comparison() -> None:
    frozen: list[int] = []

    def function(x: Any) -> Any:
        frozen.append(3 if not frozen else frozen[0])
        return x + (0 if jit.is_tracing() else x.shape[0] - frozen[0])

    with pytest.raises(jit.TraceError, match="with one row more"):
        jit.trace(function, torch.ones(3, 4))


def test_the_originals_own_errors_are_seen_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        jit.trace(nn.Linear(5, 2), torch.ones(3, 4))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("text", "answers str without a tensor"),
        (object(), "an output is a object"),
        ((), "answers tuple without a tensor"),
    ],
)
def test_answers_that_are_no_tensors(answer: Any, message: str) -> None:
    with pytest.raises(jit.TraceError, match=message):
        jit.trace(lambda x: answer, torch.ones(2))


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(jit.TraceError, match=r"example inputs do not fit \(x\)"):
        jit.trace(lambda x: x, (torch.ones(2), torch.ones(2)))
    with pytest.raises(jit.TraceError, match="at least one tensor"):
        jit.trace(lambda x: x, (3,))
    exported = jit.trace(lambda x: x, torch.ones(2))
    with pytest.raises(TypeError, match=r"the program has 1 inputs \(x\); given: 2"):
        exported.run(np.ones(2, np.float32), np.ones(2, np.float32))


def test_a_trace_inside_a_trace() -> None:
    with pytest.raises(jit.TraceError, match="a trace runs already"):
        jit.trace(lambda x: jit.trace(lambda y: y, torch.ones(2)) and x if jit.is_tracing() else x, torch.ones(2))


def test_a_traced_tensor_that_outlives_its_trace() -> None:
    kept: list[Any] = []
    jit.trace(lambda x: kept.append(x) or x + 1, torch.ones(2))
    with pytest.raises(jit.TraceError, match="after its trace has ended"):
        kept[1] * 2
