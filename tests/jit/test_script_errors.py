"""What cannot be compiled: each error names the file, the line, the construct and a rewrite."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import headrace as torch
from headrace import jit, nn

COUNT = 0


def try_(x: Any) -> Any:
    try:
        return x
    except Exception:
        return -x


def with_(x: Any) -> Any:
    with open("f"):
        return x


def yield_(x: Any) -> Any:
    yield x


def global_(x: Any) -> Any:
    global COUNT
    COUNT = 1
    return x


def del_(x: Any) -> Any:
    y = x
    del y
    return x


def lambda_(x: Any) -> Any:
    f = lambda t: t  # noqa: E731
    return f(x)


def comp_(x: Any) -> Any:
    return torch.stack([r * 2 for r in x])


def compif_(x: Any) -> Any:
    return sum([i for i in range(3) if x[i].sum() > 0]) + x


def types_(x: Any) -> Any:
    if x.sum() > 0:
        y = x
    else:
        y = x[0]
    return y


def dtype_(x: Any) -> Any:
    total = torch.zeros(3, dtype=torch.int64)
    for i in range(x.shape[0]):
        total = total + x[i]
    return total


def rank_(x: Any) -> Any:
    total = 0
    for i in range(x.shape[0]):
        total = total + x[i]
    return total


def looponly_(x: Any) -> Any:
    for i in range(x.shape[0]):
        y = x[i]
    return y


def raise_(x: Any) -> Any:
    if x.sum() > 0:
        raise ValueError("no")
    return x


def print_(x: Any) -> Any:
    print(x)
    return x


def mods_(x: Any) -> Any:
    ms = [torch.relu, torch.tanh]
    k = int(x.sum())
    return ms[k](x)


def str_(x: Any) -> Any:
    m = "a" if x.sum() > 0 else "b"
    return x if m == "a" else -x


def forelse_(x: Any) -> Any:
    for _ in range(3):
        x = x + 1
    else:
        x = x - 1
    return x


def recursion_(x: Any) -> Any:
    return recursion_(x - 1) if x.sum() > 0 else x


def numpy_(x: Any) -> Any:
    while x.sum() > 0:
        x = x - torch.from_numpy(x.numpy())
    return x


def format_(x: Any) -> Any:
    assert x.sum() > 0, f"bad {x}"
    return x


def walrus_(x: Any) -> Any:
    if (y := x.sum()) > 0:
        return x + y
    return -x


def match_(x: Any) -> Any:
    match x.dim():
        case 2:
            return x
    return -x


def import_(x: Any) -> Any:
    import math

    return x * math.pi


def nested_(x: Any) -> Any:
    def g(y: Any) -> Any:
        return y

    return g(x)


def flow_(x: Any) -> Any:
    if x.sum() > 0:
        return x
    return x[0]


def shape_(x: Any) -> Any:
    y = x
    while y.sum() > 0:
        y = y.unsqueeze(0)
    return y


def swap_(x: Any) -> Any:
    z = [x, x]
    z[int(x.sum())] = x * 2
    return z[0]


def listout_(x: Any) -> Any:
    o: list[Any] = []
    for r in x:
        o.append(r)
    return o


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Any) -> Any:
        self.calls = self.calls + 1
        return x * self.calls


REFUSED: list[tuple[Callable[[Any], Any], int, str]] = [
    (try_, 1, "`try` needs exceptions.*Rewrite: test the condition"),
    (with_, 1, "`with` runs code at entry and exit.*Rewrite: leave it out"),
    (yield_, 1, "`yield` makes a generator.*Rewrite: append to a list"),
    (global_, 1, "`global` would change a variable outside.*Rewrite: take the value as an argument"),
    (del_, 2, "`del` removes a name.*Rewrite: leave it out"),
    (lambda_, 1, "`lambda` has no name in the graph.*Rewrite: define a function"),
    (comp_, 1, "as many items as only the graph knows.*Rewrite: a `for` loop that appends"),
    (compif_, 1, "a comprehension whose length only the graph knows.*Rewrite: a `for` loop with `if`"),
    (
        types_,
        5,
        r"`y` is a tensor float32\[batch, 3\] or a tensor float32\[3\], by the way that line \d+ .*Rewrite: assign it",
    ),
    (
        dtype_,
        3,
        r"`total` is a tensor int64\[3\] before the loop of line .* float32\[3\] after a trip. Rewrite: begin with `total = torch.zeros\(\(3,\), dtype=torch.float32\)`",
    ),
    (rank_, 3, r"`total` is 0 before the loop .*Rewrite: begin with `total = torch.zeros"),
    (
        looponly_,
        3,
        "`y` is assigned inside the loop of line .* only, which may make no trip. Rewrite: give it a first value",
    ),
    (raise_, 2, "`raise` where the graph decides.*Rewrite: return a value that tells"),
    (print_, 1, r"print\(\) has no form as a graph. Rewrite: leave it out"),
    (mods_, 3, "an index that only the graph knows into a list that holds function.*Rewrite: a list of tensors"),
    (str_, 1, "the value is str or str, by the way.*Rewrite: "),
    (forelse_, 1, "`for ... else`. Rewrite: set a flag"),
    (recursion_, 0, "functions that call each other without end. Rewrite: a loop"),
    (numpy_, 2, r"numpy\(\) needs values of a traced tensor.*Rewrite: use the functions of headrace"),
    (format_, 1, "an f-string as the message of an assert. Rewrite: a plain text"),
    (walrus_, 1, "`:=` assigns inside of an expression. Rewrite: assign in a statement"),
    (match_, 1, "`match` is not part of the compiled subset. Rewrite: if / elif / else"),
    (import_, 1, "`import` inside of the compiled function. Rewrite: import at the top"),
    (nested_, 1, "a function inside of the compiled function. Rewrite: define it in the module"),
    (
        flow_,
        1,
        r"the value is a tensor float32\[batch, 3\] or a tensor float32\[3\], by the way.*Rewrite: let both ways",
    ),
    (
        shape_,
        3,
        r"`y` is a tensor float32\[batch, 3\] before the loop .* float32\[1, batch, 3\] after a trip. Rewrite: ",
    ),
    (swap_, 2, "an assignment to an item of this list. Rewrite: "),
    (Counts(), 1, "the attribute 'calls', which is no buffer.*Rewrite: self.register_buffer"),
]


@pytest.mark.parametrize(("program", "line", "message"), REFUSED, ids=lambda v: getattr(v, "__name__", None))
def test_refused(program: Any, line: int, message: str) -> None:
    with pytest.raises(jit.TraceError) as caught:
        jit.script(program, (torch.zeros(4, 3),))
    text = str(caught.value)
    code = (program.forward if isinstance(program, nn.Module) else program).__code__
    assert text.startswith(f"{__file__}:{code.co_firstlineno + line}: `"), text
    assert re.search(message, text), text
    assert "\n" not in text


def test_syntax_is_checked_at_the_decorator() -> None:
    with pytest.raises(jit.ScriptError, match="`try` needs exceptions"):
        jit.script(try_)


def test_code_without_source() -> None:
    with pytest.raises(jit.ScriptError, match=r"no source that can be read as one `def`.*Rewrite: define it"):
        jit.script(lambda x: x, (torch.ones(2),))


def test_a_list_as_output() -> None:
    with pytest.raises(
        jit.TraceError, match=r"an output is a list of a tensor float32\[3\].*Rewrite: torch.stack the list"
    ):
        jit.script(listout_, (torch.ones(4, 3),))


def test_errors_of_the_library_say_where() -> None:
    def wrong(x: Any) -> Any:
        if torch.jit.is_tracing():
            return x @ x
        return x

    with pytest.raises(Exception, match=r"matmul|multiplied") as caught:
        jit.script(wrong, (torch.ones(2, 3),), dynamic={})
    assert "`return x @ x`" in "".join([str(caught.value), *getattr(caught.value, "__notes__", ())])


def test_an_assert_on_values_is_reported() -> None:
    def positive(x: Any) -> Any:
        assert x.dim() == 2, "two dimensions"
        assert x.min() > 0
        return x + 1

    report = jit.script(positive, (torch.ones(2, 3),)).report
    assert "the assert of" in report
    assert "`assert x.min() > 0` is not checked by the graph" in report


def test_a_trace_points_to_script() -> None:
    def branch(x: Any) -> Any:
        return x if x.sum() > 0 else -x

    with pytest.raises(
        jit.TraceError, match=r"a Python `if` needs values.*Rewrite: headrace.jit.script in place of trace"
    ):
        jit.trace(branch, (torch.ones(2),))
