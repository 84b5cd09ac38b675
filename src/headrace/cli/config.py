"""`headrace config`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from headrace.cli.output import common, print_json, table


@click.group("config", short_help="Check a configuration, or show what is in force.")
def command() -> None:
    """The settings of a server (headrace.toml) and of a model (config.toml).

    \b
    headrace config check headrace.toml models/*/config.toml
    headrace config show --config headrace.toml
    """


@command.command("check")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@common
def check(files: tuple[str, ...], as_json: bool) -> None:
    """Check FILES: a config.toml or config.pbtxt is a model's, any other TOML file a server's. What only the model itself
    can tell (names, sizes) is checked when it loads.

    \b
    headrace config check headrace.toml models/*/config.toml
    headrace config check models/*/config.pbtxt
    """
    from headrace.serve.config import ConfigError

    found: dict[str, str] = {}
    wrong = False
    for file in files:
        try:
            found[file] = _checked(Path(file))
        except ConfigError as error:
            found[file], wrong = str(error).removeprefix(f"{Path(file).name}: "), True
    if as_json:
        print_json(found)
    else:
        for file, text in found.items():
            click.echo(f"{file}: {text}")
    if wrong:
        raise SystemExit(1)


def _checked(path: Path) -> str:
    """ConfigError where the file is not valid; else "ok", and what in it has no effect."""
    from headrace.serve import pbtxt
    from headrace.serve.config import ModelConfig, Settings, read

    if path.name == pbtxt.NAME:
        _, ignored = pbtxt.read(path, path.resolve().parent.name)
        return "ok" + (f"; without effect: {', '.join(ignored)}" if ignored else "")
    read(ModelConfig if path.name == "config.toml" else Settings, path)
    return "ok"


@command.command("show")
@click.option("--config", type=click.Path(exists=True, dir_okay=False), help="A headrace.toml.")
@common
def show(config: str | None, as_json: bool) -> None:
    """Show every setting of a server that would be started here, and where it comes from.

    \b
    headrace config show --config headrace.toml
    """
    import msgspec

    from headrace.serve.config import with_origins

    settings, origins = with_origins({"config": config})
    document: dict[str, dict[str, Any]] = msgspec.to_builtins(settings)
    rows = [
        (f"{section}.{key}", value, origins.get((section, key), "default"))
        for section, values in document.items()
        for key, value in values.items()
    ]
    if as_json:
        print_json({name: {"value": value, "from": origin} for name, value, origin in rows})
        return
    table(("setting", "value", "from"), [(name, _text(value), origin) for name, value, origin in rows])


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return str(value)
