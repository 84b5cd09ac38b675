"""Generated programs: what Python answers, the graph answers, and so does the graph of its code, which is the same one."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from script_check import compiled_again, imported

import headrace as torch
from headrace import jit
from headrace.runtime.canonical import canonical_text

NUMBERS, FLOATS, TENSORS = ("a", "b", "c"), ("f", "g"), ("x", "y")


class Writer:
    """Writes a function of two numbers and a tensor: nested branches and loops that end, with every way out of them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: list[str] = []
        self.fresh = 0

    def source(self) -> str:
        self.lines = [
            "import headrace as torch",
            "",
            "def program(a: int, b: int, x):",
            "    c, f, g, y, kept, flag = 1, 0.5, 1.5, x * 2, [], False",
        ]
        self.block(1, 0, in_loop=False)
        self.lines.append("    kept.append(x)")
        self.lines.append("    return a, b, c, f, g, y, torch.stack(kept).sum(0), len(kept), flag")
        return "\n".join(self.lines) + "\n"

    def block(self, depth: int, loops: int, *, in_loop: bool) -> None:
        for _ in range(self.random.randint(1, 4)):
            self.statement(depth, loops, in_loop)

    def say(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def number(self) -> str:
        pick = self.random.random()
        left = self.random.choice((*NUMBERS, str(self.random.randint(-3, 9))))
        if pick < 0.4:
            return left
        right = self.random.choice((*NUMBERS, str(self.random.randint(1, 9))))
        sign = self.random.choice(("+", "-", "*", "// 3 +", "% 5 -"))
        return f"({left} {sign} {right}) % 97"

    def real(self) -> str:
        left, right = self.random.choice(FLOATS), self.random.choice((*FLOATS, *NUMBERS, "2", "0.25"))
        return f"({left} {self.random.choice(('+', '-', '*'))} {right}) % 11"

    def tensor(self) -> str:
        left, right = self.random.choice(TENSORS), self.random.choice((*TENSORS, *NUMBERS, *FLOATS, "1.5"))
        return f"torch.tanh({left} {self.random.choice(('+', '-', '*'))} {right})"

    def condition(self) -> str:
        simple = [
            f"{self.number()} {self.random.choice(('<', '>', '==', '!=', '<=', '>='))} {self.number()}",
            f"{self.random.choice(TENSORS)}.sum() > {self.random.choice(FLOATS)}",
            f"{self.random.randint(-5, 0)} < {self.number()} <= {self.random.randint(1, 60)}",
            "flag",
            f"not {self.random.choice(NUMBERS)}",
            "len(kept) > 1",
        ]
        first, second = self.random.choice(simple), self.random.choice(simple)
        return self.random.choice((first, f"{first} and {second}", f"{first} or {second}", f"not ({first})"))

    def statement(self, depth: int, loops: int, in_loop: bool) -> None:
        kinds = ["number", "real", "tensor", "swap", "append", "flag", "choose", "write"]
        if depth < 4:
            kinds += ["if", "if"]
        if loops < 2 and depth < 4:
            kinds += ["while", "for"]
        if in_loop:
            kinds += ["break", "continue"]
        if depth > 1:
            kinds.append("return")
        match self.random.choice(kinds):
            case "number":
                self.say(depth, f"{self.random.choice(NUMBERS)} = {self.number()}")
            case "real":
                self.say(depth, f"{self.random.choice(FLOATS)} = {self.real()}")
            case "tensor":
                self.say(depth, f"{self.random.choice(TENSORS)} = {self.tensor()}")
            case "swap":
                self.say(depth, "a, b = b, (a + c) % 97")
            case "append":
                self.say(depth, f"kept.append({self.tensor()})")
            case "flag":
                self.say(depth, f"flag = {self.condition()}")
            case "choose":
                self.say(depth, f"c = {self.number()} if {self.condition()} else {self.number()}")
            case "write":
                self.say(
                    depth,
                    f"y = y.clone()\n{'    ' * depth}y[{self.random.randint(0, 1)}] += {self.random.choice(FLOATS)}",
                )
            case "if":
                self.branch(depth, loops, in_loop)
            case "while":
                self.fresh += 1
                steps = f"n{self.fresh}"
                self.say(depth, f"{steps} = {self.random.choice(('a', 'b', '5'))} % 7")
                self.say(depth, f"while {steps} > 0:")
                self.say(depth + 1, f"{steps} -= 1")
                self.block(depth + 1, loops + 1, in_loop=True)
            case "for":
                self.fresh += 1
                count = self.random.choice(("3", "12", "a % 6", "b % 11"))
                self.say(depth, f"for i{self.fresh} in range({count}):")
                self.say(depth + 1, f"c = (c + i{self.fresh}) % 97")
                self.block(depth + 1, loops + 1, in_loop=True)
            case "return":
                self.say(depth, f"if {self.condition()}:")
                self.say(
                    depth + 1,
                    f"return a, c, b, g, f, {self.tensor()}, y.sum(0) + x[0] * 0 + torch.zeros_like(x), c, not flag",
                )
            case leave:
                self.say(depth, f"if {self.condition()}:")
                self.say(depth + 1, leave)

    def branch(self, depth: int, loops: int, in_loop: bool) -> None:
        self.say(depth, f"if {self.condition()}:")
        self.block(depth + 1, loops, in_loop=in_loop)
        if self.random.random() < 0.3:
            self.say(depth, f"elif {self.condition()}:")
            self.block(depth + 1, loops, in_loop=in_loop)
        if self.random.random() < 0.6:
            self.say(depth, "else:")
            self.block(depth + 1, loops, in_loop=in_loop)


@pytest.mark.parametrize("seed", [*range(16), 34, 37, 48, 75, 90, 134, 195, 201])
def test_generated(seed: int, tmp_path: Path) -> None:
    text = Writer(seed).source()
    program = imported(text, tmp_path).program
    x = torch.tensor([[0.3, -1.1, 0.7], [0.9, -0.4, 0.2]])  # no sum is near a bound that programs compare with
    exported = jit.script(program, (3, 5, x), dynamic={})
    for a, b, scale in ((3, 5, 1.0), (0, 0, -2.0), (40, 13, 0.1), (6, 95, 3.0)):
        feeds = [np.asarray(a), np.asarray(b), (x * scale).numpy()]
        for got, want in zip(exported.run(*feeds), exported.eager(*feeds), strict=True):
            assert got.dtype == want.dtype and got.shape == want.shape, text
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=text)
    again = compiled_again(exported, tmp_path)
    assert canonical_text(again.graph) == canonical_text(exported.graph), text
