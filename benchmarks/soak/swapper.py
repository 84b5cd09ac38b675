"""Puts versions of a model in place and asks for them, from a process of its own: the load shares no interpreter with it."""

import json
import sys
import time
from pathlib import Path

from benchmarks.processes import Beside

from headrace.serve import Client


class Swapper(Beside):
    """`swapper(versions, pace, until)` brings up one version after the other, `pace` a second (0: at once), each in place of the
    one before; seconds that each swap took. Folders come from `made` and go back there. It stops at `until`, on the clock of
    `time.monotonic`. A context manager."""

    def __init__(self, port, place, made):
        super().__init__("benchmarks.soak.swapper", port, place, made)

    def __call__(self, versions, pace, until):
        self._process.stdin.write(json.dumps([versions, pace, until]) + "\n")
        self._process.stdin.flush()
        times = json.loads(self._process.stdout.readline())
        if len(times) < len(versions):
            raise TimeoutError(f"{len(times)} of {len(versions)} versions were up in time")
        return times


def main(port, place, made):
    place, made = Path(place), Path(made)
    now = max(place.iterdir())
    with Client(f"127.0.0.1:{port}") as client:
        for line in sys.stdin:
            versions, pace, until = json.loads(line)
            times, began = [], time.perf_counter()
            for number, version in enumerate(versions):
                if time.monotonic() > until:
                    break
                if pace:
                    time.sleep(max(0.0, began + number / pace - time.perf_counter()))
                before = now
                if version is not None:
                    now = place / str(version)
                    (made / str(version)).rename(now)
                    if int(before.name) > version:  # the highest number is served
                        before.rename(made / before.name)
                asked = time.perf_counter()
                client.load(place.name)
                times.append(time.perf_counter() - asked)
                if before != now and before.exists():
                    before.rename(made / before.name)
            print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
