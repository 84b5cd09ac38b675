"""What verbs print: JSON for machines, rich text for people, progress on a terminal."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import click

Progress = Callable[[int, int], None]
FILE_WIDTH = 400  # columns of a table that goes to a file or a pipe: rows are not broken there


def common(function: Any) -> Any:
    """Options that every verb has."""
    function = click.option("--traceback", is_flag=True, expose_value=False, help="Show where an error came from.")(
        function
    )
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")(function)


def print_json(document: Any) -> None:
    """One JSON document on standard output; arrays become lists, NaN and infinity text."""
    click.echo(json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # of NumPy, which nothing else here needs
        return _plain(value.tolist())
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def table(
    columns: Iterable[str],
    rows: Iterable[Iterable[object]],
    title: str | None = None,
    *,
    numbers: Collection[str] = (),
) -> None:
    """A table for people. `numbers` names the columns that stand to the right; cells of rich.Text keep their colors."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in columns:
        grid.add_column(name, justify="right" if name in numbers else "left", no_wrap=name in numbers)
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False).print(grid)


@contextlib.contextmanager
def progress(label: str, quiet: bool = False) -> Iterator[Progress]:
    """A progress bar on standard error, on a terminal only. The callback takes (done, total)."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def size_text(count: float) -> str:
    """Bytes for people: 1.2 MB (decimal units)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def share_text(share: float, width: int = 12) -> tuple[str, str]:
    """A share between 0 and 1 as a percentage and as a bar of at most `width` cells."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    return f"{share:.1%}", "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
