"""Puts versions of a model in place and asks for them, from a process of its own: the load shares no interpreter with it."""

import json
import sys
import time
from pathlib import Path

from benchmarks.processes import Beside

from headrace.serve import Client


class Swapper(Beside):
    """`swapper(first, last, pace)` brings up versions `first` to `last` - 1 from folders in `made`, `pace` a second (0: one
    after the other), each in place of the one before; seconds that each swap took. A context manager."""

    def __init__(self, port, place, made):
        super().__init__("benchmarks.soak.swapper", port, place, made)

    def __call__(self, first, last, pace):
        self._process.stdin.write(f"{first} {last} {pace}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def main(port, place, made):
    place, made = Path(place), Path(made)
    with Client(f"127.0.0.1:{port}") as client:
        for line in sys.stdin:
            first, last, pace = line.split()
            times, began = [], time.perf_counter()
            for number, version in enumerate(range(int(first), int(last))):
                if float(pace):
                    time.sleep(max(0.0, began + number / float(pace) - time.perf_counter()))
                (made / str(version)).rename(place / str(version))
                asked = time.perf_counter()
                client.load(place.name)
                times.append(time.perf_counter() - asked)
                old = place / str(version - 1)
                (old / "model.hr").unlink()
                old.rmdir()
            print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
