"""Run a server under load and faults, every answer checked.

    scripts/soak R1 --seconds 3600 --markdown hour.md
    scripts/soak R3 -- --workers 2
    scripts/soak R2 R3 R5 R14 --seconds 40 --every 6 --plan

What follows `--` are flags of `headrace serve`. It says how long each run takes and how far it is, and ends a run that takes twice as
long; figures are printed in any case. The exit status is 1 where a check fails.
"""

import argparse
import datetime
import json
import os
import platform
import sys
from pathlib import Path

from benchmarks.soak.modes import MODES, announced, perform
from benchmarks.soak.run import to_stderr


def main():
    arguments = sys.argv[1:]
    flags = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    parser = argparse.ArgumentParser(
        "scripts/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"of {', '.join(MODES)}; all where none is named")
    parser.add_argument(
        "--seconds", type=float, default=60, help="of load in each run (R2, R14: of what is compared, too)"
    )
    parser.add_argument("--probe", type=float, default=6, help="seconds of measuring the capacity")
    parser.add_argument("--deaths", type=int, default=20, help="of R3 (R4: at most 4)")
    parser.add_argument("--every", type=float, default=10, help="seconds between them")
    parser.add_argument("--swaps", type=int, default=1000, help="of R5")
    parser.add_argument("--pace", type=float, default=20, help="swaps a second, of R5; 0: one at once after the other")
    parser.add_argument("--rounds", type=int, default=1000, help="of R16")
    parser.add_argument("--cycles", type=int, default=200, help="of cycles")
    parser.add_argument("--plan", action="store_true", help="only say how long it takes")
    parser.add_argument("--table", type=Path, help="write there what was compared with what, a row a figure")
    parser.add_argument("--markdown", type=Path, help="write all figures and checks there, a table a run")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(own)
    options.flags = flags
    for name in options.modes:
        if name not in MODES:
            parser.error(f"there is no run {name!r}; there are {', '.join(MODES)}")
    names = options.modes or list(MODES)
    plan = {name: announced(name, options) for name in names}
    for name, (what, seconds) in plan.items():
        to_stderr(f"{name}: {what}, about {seconds:.0f} s")
    to_stderr(f"all: about {sum(seconds for _, seconds in plan.values()):.0f} s")
    if options.plan:
        return
    runs, rows = [], []
    for name in names:
        run = perform(name, options, to_stderr)
        runs.append(run)
        rows.append({"run": run.title, "flags": flags, "checks": run.checks, "seconds": run.took, **run.figures})
        print(json.dumps(rows[-1]), flush=True)
        for row in run.compared:
            print(f"{run.title}: {' | '.join(cells(row))}", flush=True)
        if failed := [check for check, holds in run.checks.items() if not holds]:
            to_stderr(f"{run.title}: FAILED: {', '.join(failed)}")
    if options.json:
        options.json.write_text(json.dumps({"host": host(), "rows": rows}, indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(rows))
    if options.table:
        options.table.write_text(table(runs))
    sys.exit(not all(holds for run in runs for holds in run.checks.values()))


def host():
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"


def cells(row):
    """One comparison as texts: what, its value, beside what, its value, the goal."""
    return ["" if cell is None else f"{cell:.3g}" if isinstance(cell, float) else f"{cell}" for cell in row]


def table(runs):
    """What was compared with what, for the documents."""
    lines = ["| run | figure | | compared with | | goal |", "|---|---|--:|---|--:|---|"]
    for run in runs:
        lines += [f"| {run.title} | {' | '.join(cells(row))} |" for row in run.compared]
        bad = [check for check, holds in run.checks.items() if not holds]
        lines.append(
            f"| {run.title} | {len(run.checks)} checks | {'all hold' if not bad else 'not: ' + ', '.join(bad)} | | | all |"
        )
    return "\n".join(lines) + "\n"


def markdown(rows):
    """A table a run: figures and checks."""
    parts = [
        f"{host()}; load averages at the end {os.getloadavg()}; {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC\n"
    ]
    for row in rows:
        parts.append(f"## {row['run']}\n\n| what | figure |\n|---|--:|")
        for key, value in row.items():
            if key not in ("run", "checks"):
                shown = f"{value:.2f}" if isinstance(value, float) else " ".join(value) if key == "flags" else value
                parts.append(f"| {key.replace('_', ' ')} | {shown} |")
        parts += [f"| {check} | {'yes' if holds else '**NO**'} |" for check, holds in row["checks"].items()]
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    main()
