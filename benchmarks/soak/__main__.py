"""Run a server under load and faults, every answer checked.

    scripts/soak R1 --seconds 3600 --markdown docs/soak.md
    scripts/soak R3 -- --workers 2
    scripts/soak R1 R2 R5 R6 --seconds 30 -- --workers 2

What follows `--` are flags of `headrace serve`. The exit status is 1 where a check fails.
"""

import argparse
import datetime
import json
import os
import platform
import sys
from pathlib import Path

from benchmarks.soak.modes import MODES


def main():
    arguments = sys.argv[1:]
    flags = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    parser = argparse.ArgumentParser(
        "scripts/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"of {', '.join(MODES)}; all where none is named")
    parser.add_argument("--seconds", type=float, default=60, help="of load in each run")
    parser.add_argument("--probe", type=float, default=6, help="seconds of measuring the capacity")
    parser.add_argument("--deaths", type=int, default=20, help="of R3 (R4: at most 4)")
    parser.add_argument("--every", type=float, default=10, help="seconds between them")
    parser.add_argument("--swaps", type=int, default=1000, help="of R5")
    parser.add_argument("--pace", type=float, default=20, help="swaps a second, of R5; 0: one after the other")
    parser.add_argument("--rounds", type=int, default=1000, help="of R16")
    parser.add_argument("--cycles", type=int, default=200, help="of cycles")
    parser.add_argument("--markdown", type=Path, help="write the table there, too")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(own)
    options.flags = flags
    for name in options.modes:
        if name not in MODES:
            parser.error(f"there is no run {name!r}; there are {', '.join(MODES)}")
    rows, bad = [], False
    for name in options.modes or MODES:
        title, figures, checks = MODES[name](options)
        failed = [check for check, holds in checks.items() if not holds]
        bad |= bool(failed)
        rows.append({"run": title, "flags": flags, "checks": checks, **figures})
        print(json.dumps(rows[-1]), flush=True)
        if failed:
            print(f"{title}: FAILED: {', '.join(failed)}", file=sys.stderr, flush=True)
    if options.json:
        options.json.write_text(json.dumps({"host": host(), "rows": rows}, indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(rows))
    sys.exit(bad)


def host():
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"


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
