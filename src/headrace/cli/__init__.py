"""The command line: each verb parses, calls one public function, and prints.

    headrace pack train.py:model --example in.npz -o net.hr

A verb lives in `cli/<verb>.py` as `command` and is imported only when it is used, so that `headrace --help` and the
server start fast. Errors are one line that says what to do next; `--traceback` shows where they came from.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence

import click

# Verb -> one line for `headrace --help`, in the order in which a newcomer meets them.
VERBS = {
    "pack": "Turn a model into one checked .hr file, with golden data.",
    "inspect": "Show what a model file holds: interface, operators, figures.",
    "verify": "Check a package's digests and re-run its golden data here.",
    "run": "Run a model file on inputs from an .npz file.",
    "quantize": "Make an int8 package from a model, with a report.",
    "export": "Write a model as ONNX.",
    "serve": "Serve a folder of models, or files, over gRPC and REST.",
    "config": "Check a configuration, or show what is in force.",
    "top": "Watch a running server.",
    "infer": "Send one inference request to a server.",
    "bench": "Time a model file, or load a running server.",
    "conformance": "Compare any server with the Open Inference Protocol.",
}


class Verbs(click.Group):
    """Loads a verb's module when it is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(VERBS)

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if arguments and arguments[0] not in VERBS and not arguments[0].startswith("-"):
            from headrace.runtime.hints import nearest

            context.fail(f"no command {arguments[0]!r}; {nearest(arguments[0], VERBS)}")
        return super().resolve_command(context, arguments)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"headrace.cli.{name}").command
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from headrace import __version__

        click.echo(f"headrace {__version__}")
        context.exit()


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, callback=_version, expose_value=False, is_eager=True, help="Print the version and stop."
)
def headrace() -> None:
    """Train, capture, quantize, pack and serve models.

    Start with `headrace pack --help`. Every verb prints JSON with --json.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit status: 0 done, 1 refused or failed (one line on standard error), 2 wrong usage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(headrace.main(given, prog_name="headrace", standalone_mode=False))
    except click.exceptions.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except (ValueError, OSError, ImportError, TypeError, RuntimeError) as error:
        if "--traceback" in given:
            traceback.print_exc()
        click.echo(click.style("error: ", fg="red", bold=True) + _one_line(error), err=True)
        sys.exit(1)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = str(error) or type(error).__name__
    from headrace.runtime.errors import HeadraceError

    known = isinstance(error, HeadraceError | OSError | ValueError)
    return text if known else f"{type(error).__name__}: {text} (run again with --traceback for more)"
