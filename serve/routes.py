"""Which inferences need no Python: what the manager publishes and what the guard allows, told to the extension
(`serve/native/routes.h`). Requests that fit such a version without doubt go from a front straight into its queue.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from headrace.serve import _native
from headrace.serve.engine import refusal
from headrace.serve.guard import ALLOWED, HEADERS, Guard, Rules
from headrace.serve.manager import Manager, Published
from headrace.serve.scheduler import Watch


class Routes:
    """The routes of one server; needs the extension. Without a manager there are none."""

    def __init__(self, manager: Manager | None = None, guard: Guard | None = None) -> None:
        self.native: Any = _native.Routes()
        if guard is not None:
            guard.follow(self._set_gate)
        if manager is not None:
            manager.subscribe(self._publish)

    @property
    def waiting(self) -> int:
        """Threads in `infer`."""
        return int(self.native.waiting)

    def infer(
        self,
        message: bytes,
        left: float | None,
        metadata: Callable[[], Sequence[tuple[str, Any]]],
        watch: Watch,
        room: int,
    ) -> bytes | None:
        """The answer to a ModelInfer message, computed on this thread or waited for; None: it is the data plane's. ServeError
        as of the data plane. `left`: seconds to its deadline; `metadata` is asked where credentials matter, `watch` where the
        request has to wait; no more than `room` threads may be here."""
        found = self.native.infer(message, left, metadata, watch, room)
        if found is None or type(found) is bytes:
            return found
        raise refusal(*found)

    def refuse(self) -> None:
        """Inferences are the data plane's from now on, which refuses them."""
        self.native.set_refusing()

    def _publish(self, model: str, published: Published) -> None:
        """The manager swapped in what is ready of a model: versions with an engine take requests without us."""
        engines = {key: version.direct for key, version in published.versions.items() if version.direct is not None}
        self.native.publish(model, list(engines.items()), published.preferred if published.preferred in engines else "")

    def _set_gate(self, rules: Rules) -> None:
        """Inferences with good credentials need not come to Python; the rest do, and the methods answer them."""
        tokens = [
            (token.name, bytes.fromhex(token.sha256), math.inf if token.expires is None else token.expires.timestamp())
            for token in rules.tokens or ()
            if any("inference" in ALLOWED[role] for role in token.roles)
        ]
        for front, before in HEADERS.items():
            headers = [
                (before + row.key, bytes.fromhex(row.sha256))
                for row in rules.restricted
                if "inference" in row.groups and front in row.fronts
            ]
            self.native.set_gate(front == "http", rules.tokens is not None, tokens, headers)

    def set_tracing(self, model: str, on: bool, every: int) -> None:
        """Inferences that are traced come to Python: of a model ("": of every other) one in so many, and those whose caller
        traces them."""
        self.native.set_tracing(model, on, every)
