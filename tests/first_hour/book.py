"""The mistakes of a first hour: each is a function that makes one, and what headrace answers is kept as text.

A chapter is a module with a list of mistakes and a golden file beside it, which is Markdown: the title, what was typed
(the body of the function), and the answer. `docs/first-hour.md` is all of them. To write the files anew after a change:

    python tests/first_hour/book.py
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import re
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "first-hour.md"
CHAPTERS = ("inputs", "files", "packing", "training", "quantizing", "serving", "settings")
INTRODUCTION = """# The first hour

Mistakes that everybody makes, and what headrace answers: what is wrong, where, what is allowed, and what to do next.
This page is made of the golden files of `tests/first_hour`, which run every line of it.
"""


class Chapter:
    """Mistakes of one area, in order."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.mistakes: dict[str, Callable[[], object]] = {}

    def mistake(self, title: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
        def add(function: Callable[[], object]) -> Callable[[], object]:
            assert title not in self.mistakes
            self.mistakes[title] = function
            return function

        return add

    def entry(self, title: str) -> str:
        """The Markdown of one mistake, made now. The current folder is scratch and holds the files of `files.make`."""
        function = self.mistakes[title]
        typed = _typed(function)
        return f"### {title}\n\n```{'console' if '$ ' in typed else 'python'}\n{typed}```\n> {_answer(function)}\n"


def chapter(name: str) -> Chapter:
    found: Chapter = importlib.import_module(f"first_hour_{name}").CHAPTER
    return found


def _typed(function: Callable[[], object]) -> str:
    """The body of the function, as it was typed: commands with a prompt."""
    lines = inspect.getsource(function).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("def ")) + 1
    body = textwrap.dedent("\n".join(lines[start:]))
    return re.sub(r'^(?:return )?terminal\((?:f?"(.*)"|f?\'(.*)\')\)$', r"$ \1\2", body, flags=re.M).strip() + "\n"


def _answer(function: Callable[[], object]) -> str:
    """The error that the function ends with, or the text that it returns; paths, ports and what depends on the machine masked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = function()
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
    assert isinstance(found, str), f"no error: {found!r}"
    text = found.replace(os.getcwd() + "/", "").replace(os.path.realpath(os.getcwd()) + "/", "")
    text = re.sub(re.escape(str(HERE)) + r"/first_hour_\w+\.py:\d+", "model.py:LINE", text)
    text = re.sub(r"allowed here: .*", "allowed here: ...", text)
    text = re.sub(r"(127\.0\.0\.1:|port )\d{4,5}\b", r"\1PORT", text)
    return "\n> ".join(line.rstrip() for line in text.strip().splitlines())


def terminal(line: str) -> str:
    """Run a command line of headrace in this process; the last line that it writes as an error."""
    from headrace.cli import main

    words = line.split()
    changes = dict(word.split("=", 1) for word in words[: words.index("headrace")])
    arguments = words[words.index("headrace") + 1 :]
    out, err = io.StringIO(), io.StringIO()
    before = {key: os.environ.get(key) for key in changes}
    os.environ.update(changes)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
            main(arguments)
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)
    lines = [one for one in err.getvalue().splitlines() if one.strip()]
    assert lines, f"nothing on standard error, but: {out.getvalue()}"
    return lines[-1]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A fresh current folder with the files that a newcomer has."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            importlib.import_module("first_hour_kit").make(Path(folder))
            yield Path(folder)
        finally:
            os.chdir(before)


def golden(name: str) -> Path:
    return HERE / f"{name}.md"


def read(name: str) -> dict[str, str]:
    """The entries of a golden file by title."""
    parts = golden(name).read_text(encoding="utf-8").split("\n### ")
    return {part.splitlines()[0]: "### " + part.rstrip("\n") + "\n" for part in parts[1:]}


def page() -> str:
    return INTRODUCTION + "".join("\n" + golden(name).read_text(encoding="utf-8") for name in CHAPTERS)


def write() -> None:
    for name in CHAPTERS:
        made = chapter(name)
        entries = []
        for title in made.mistakes:
            with scratch():
                entries.append(made.entry(title))
        golden(name).write_text(f"## {made.title}\n\n" + "\n".join(entries), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(ROOT / "src")]
    importlib.import_module("book").write()
