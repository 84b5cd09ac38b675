"""`headrace top`"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.output import FILE_WIDTH, common, print_json
from headrace.cli.secure import secure

if TYPE_CHECKING:
    from headrace.verbs.top import ModelRow

Column = tuple[str, "Callable[[ModelRow], str]", int]
HISTORY = 40  # looks that the line of requests a second shows
BARS = "▁▂▃▄▅▆▇█"
BAR = 12  # longest bar of a model's load
GAP = 2  # between columns
NAMES: tuple[tuple[str, Callable[[ModelRow], str]], ...] = (
    ("model", lambda row: row.model),
    ("version", lambda row: row.version),
    ("state", lambda row: row.state),
)
# name, text, and in which order columns go where a terminal is too narrow for all: the highest first
COLUMNS: tuple[Column, ...] = (
    ("req/s", lambda row: f"{row.per_second:,.0f}", 0),
    ("failed/s", lambda row: f"{row.failed_per_second:,.0f}", 1),
    ("rows/s", lambda row: f"{row.rows_per_second:,.0f}", 7),
    ("batch", lambda row: f"{row.batch:.1f}", 4),
    ("queue ms", lambda row: f"{row.queue_ms:.2f}", 3),
    ("compute ms", lambda row: f"{row.compute_ms:.2f}", 6),
    ("request ms", lambda row: f"{row.request_ms:.2f}", 5),
    ("busy", lambda row: f"{row.busy:.0%}", 2),
    ("requests", lambda row: f"{row.total:,}", 8),
    ("", lambda row: "█" * round(min(row.busy, 1.0) * BAR), 9),
)


@click.command("top", short_help="Watch a running server.")
@click.argument("url", default="127.0.0.1:8001")
@click.option(
    "--every", type=click.FloatRange(min=0.01), default=1.0, show_default=True, help="Seconds between two looks."
)
@click.option("--once", is_flag=True, help="Print one picture and stop.")
@secure
@common
def command(url: str, every: float, once: bool, tls: Any, token: str, as_json: bool) -> None:
    """Watch the server at URL (host:port for gRPC, http://host:port for REST): requests, batches, times and load of every
    model, until Ctrl-C. Any server with Triton's statistics will do.

    \b
    headrace top
    headrace top http://127.0.0.1:8000 --once --json
    """
    from headrace.verbs.top import Watcher

    watcher = Watcher(url, tls=tls, token=token)
    try:
        rows = watcher.look()
        if once or as_json:
            time.sleep(every)
            rows = watcher.look()
            if as_json:
                print_json([dataclasses.asdict(row) for row in rows])
            else:
                from rich.console import Console

                console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)
                console.print(_picture(url, watcher.server, rows, [], console.width))
            return
        _live(url, watcher, every, rows)
    except KeyboardInterrupt:
        pass
    finally:
        watcher.close()


def _live(url: str, watcher: Any, every: float, rows: list[ModelRow]) -> None:
    from rich.live import Live

    history: list[float] = []
    with Live(screen=True, auto_refresh=False) as live:
        live.update(_picture(url, watcher.server, rows, history, live.console.width), refresh=True)
        while True:
            time.sleep(every)
            rows = watcher.look()
            history = [*history, sum(row.per_second for row in rows)][-HISTORY:]
            live.update(_picture(url, watcher.server, rows, history, live.console.width), refresh=True)


def _picture(url: str, server: dict[str, Any], rows: list[ModelRow], history: list[float], width: int) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    total = sum(row.per_second for row in rows)
    head = Text.assemble(
        (f"{server.get('name', '?')} {server.get('version', '')}", "bold"), f"  {url}  ", (f"{total:,.0f}", "bold"),
        " requests/s  ", (_line(history), "cyan"),
    )  # fmt: skip
    grid = Table(box=None, header_style="bold", pad_edge=False, expand=False)
    names = [max(len(name), *(len(text(row)) for row in rows), 0) for name, text in NAMES]
    for name, _ in NAMES:
        grid.add_column(name, no_wrap=True)
    shown = _fitting(rows, width - sum(names) - GAP * len(names))
    for name, *_ in shown:
        grid.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in rows:
        grid.add_row(
            row.model,
            row.version,
            Text(row.state, style={"READY": "green", "LOADING": "yellow", "UNLOADING": "yellow"}.get(row.state, "red")),
            *(Text(text(row), style=_style(name, row)) for name, text, _ in shown),
            style="" if row.per_second or row.failed_per_second else "dim",
        )
    return Group(head, Text(), grid)


def _style(name: str, row: ModelRow) -> str:
    if not name:
        return "cyan"
    return "red" if name == "failed/s" and row.failed_per_second else ""


def _fitting(rows: list[ModelRow], width: int) -> list[Column]:
    """The columns that have room in `width`."""
    shown = list(COLUMNS)
    while shown and sum(GAP + max(len(name), *(len(text(row)) for row in rows), 0) for name, text, _ in shown) > width:
        shown.remove(max(shown, key=lambda column: column[2]))
    return shown


def _line(history: list[float]) -> str:
    top = max(history, default=0.0)
    return "".join(BARS[min(7, int(value / top * 7.99))] if top else BARS[0] for value in history)
