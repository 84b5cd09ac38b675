"""Where the instances of a model run: `[instances]` of its configuration."""

import os
import queue
from collections.abc import Sequence

from headrace.serve.batch import Feeds
from headrace.serve.config import ConfigError, Instances
from headrace.serve.datatypes import Array
from headrace.serve.scheduler import Run


def allowed_cpus(settings: Instances) -> tuple[int, ...]:
    """The processors that are named. ConfigError for one that this process may not use, and for a device that is none."""
    if settings.device != "cpu":
        raise ConfigError(f"instances.device is {settings.device!r}; allowed is 'cpu'")
    allowed = sorted(os.sched_getaffinity(0))
    for cpu in settings.cpus:
        if cpu not in allowed:
            raise ConfigError(f"instances.cpus has {cpu}; allowed here are {', '.join(map(str, allowed))}")
    return settings.cpus


def pinned(run: Run, cpus: Sequence[int], instances: int) -> Run:
    """`run` on these processors, one instance on each in turn, whatever thread calls it. No more than `instances` at a time."""
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for instance in range(instances):
        free.put(cpus[instance % len(cpus)])

    def on_its_cpu(feeds: Feeds) -> dict[str, Array]:
        before, cpu = os.sched_getaffinity(0), free.get()
        try:
            os.sched_setaffinity(0, {cpu})  # of this thread
            return run(feeds)
        finally:
            os.sched_setaffinity(0, before)
            free.put(cpu)

    return on_its_cpu


__all__ = ["allowed_cpus", "pinned"]
