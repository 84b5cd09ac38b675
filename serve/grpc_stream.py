"""The requests of one bidirectional stream: several run at a time, the answers leave in the order of the requests.

So the requests of one stream meet in batches as those of many callers do. The parts of a model that answers in parts leave
as they come, and wait for nobody. A stream holds as many requests as its window; beyond it the transport's flow control stops
the client.
"""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor

from headrace.serve import incidents
from headrace.serve.errors import ServeError
from headrace.serve.grpc_codec import stream_answer, stream_error, write_infer
from headrace.serve.request import InferRequest, InferResponse, Parameter

WINDOW = 16  # requests of one stream in progress
PARTS = 64  # answers that wait for the client to take them
NEW, PART, END = range(3)  # events: a request came, a part of its answer, its end (of no request: no more will come)
_STEP_SECONDS = 0.1

Run = Callable[[InferRequest], Generator[InferResponse, None, None]]
Read = Callable[[bytes], tuple[InferRequest, Run]]


class _Step:
    """One request. `outcome` is its only answer, or its error; None where all its answers were parts."""

    def __init__(self, request: InferRequest | None, run: Run | None = None, error: ServeError | None = None) -> None:
        self.request, self.run = request, run
        self.outcome: InferResponse | ServeError | None = error
        self.done = error is not None
        self.loose = False  # has sent parts: waits for nobody
        self.told = False  # its end has come to the thread that answers
        self.follower: _Step | None = None  # of the same sequence: runs after this one


def answers(messages: Iterator[bytes], read: Read, pool: Executor, strict: bool) -> Iterator[bytes]:
    """A ModelStreamInferResponse for each ModelInferRequest message, or several. `read` answers a message's request and what
    runs it.

    An error of one request is its answer and the stream goes on; with `strict` the first error is raised instead.
    """
    stream = _Stream(read, pool)
    threading.Thread(target=stream.read, args=(messages,), name="headrace-grpc-stream", daemon=True).start()
    try:
        for step, outcome in stream.outcomes():
            if isinstance(outcome, ServeError):
                if strict:
                    raise outcome
                yield stream_error(step.request, outcome)
                continue
            outcome.parameters = {**outcome.parameters, "triton_final_response": outcome.final}
            yield stream_answer(write_infer(outcome))
    finally:
        stream.closed.set()


class _Stream:
    """The steps of one stream and the events between the threads that read, run and answer."""

    def __init__(self, read: Read, pool: Executor) -> None:
        self._read, self._pool = read, pool
        self._events: queue.Queue[tuple[int, _Step | None, InferResponse | None]] = queue.Queue(PARTS)
        self._window = threading.BoundedSemaphore(WINDOW)
        self._lock = threading.Lock()
        self._last: dict[Parameter, _Step] = {}  # by sequence: the latest request
        self.closed = threading.Event()

    def outcomes(self) -> Iterator[tuple[_Step, InferResponse | ServeError]]:
        """What is to be sent, as it may be sent: a part at once, an only answer after those of the requests before it."""
        order: deque[_Step] = deque()
        open_steps = 0
        reading = True
        while reading or open_steps:
            kind, step, part = self._events.get()
            if step is None:
                reading = False
                continue
            if kind == NEW:
                open_steps += 1
                order.append(step)
            elif part is not None:
                if not step.loose:
                    step.loose = True
                    order.remove(step)
                yield step, part
            else:
                step.told = True
                if step.loose:
                    order.appendleft(step)
            while order and order[0].told:
                first = order.popleft()
                open_steps -= 1
                self._window.release()
                if first.outcome is not None:
                    yield first, first.outcome

    def read(self, messages: Iterator[bytes]) -> None:
        """The client's messages, until it has closed its side or the call is over (grpcio's iterator then raises whatever
        it likes: the call has its status)."""
        with contextlib.suppress(Exception):
            for data in messages:
                while not self._window.acquire(timeout=_STEP_SECONDS):
                    if self.closed.is_set():
                        return
                self._begin(data)
                if self.closed.is_set():
                    return
        self._tell(END, None)

    def _begin(self, data: bytes) -> None:
        try:
            request, run = self._read(data)
        except ServeError as error:
            failed = _Step(None, error=error)
            self._tell(NEW, failed)
            self._tell(END, failed)
            return
        request.streamed, request.size = True, len(data)
        step = _Step(request, run)
        self._tell(NEW, step)
        number = request.parameters.get("sequence_id")
        with self._lock:
            before = self._last.get(number) if number else None
            if number:
                self._last[number] = step
            if before is not None and not before.done:
                before.follower = step
                return
        self._pool.submit(self._work, step)

    def _work(self, step: _Step) -> None:
        assert step.request is not None and step.run is not None
        outcome: InferResponse | ServeError | None = None
        try:
            with contextlib.closing(step.run(step.request)) as found:
                for response in found:
                    if not response.part:
                        outcome = response
                    elif not self._tell(PART, step, response):
                        break
        except ServeError as error:
            outcome = error
        except Exception as error:
            outcome = incidents.internal("a request of a stream", error)
        with self._lock:
            step.outcome, step.done = outcome, True
            number = step.request.parameters.get("sequence_id")
            if number and self._last.get(number) is step:
                del self._last[number]
        self._tell(END, step)
        if step.follower is not None:
            self._pool.submit(self._work, step.follower)

    def _tell(self, kind: int, step: _Step | None, part: InferResponse | None = None) -> bool:
        """An event; False: the stream is over."""
        while not self.closed.is_set():
            with contextlib.suppress(queue.Full):
                self._events.put((kind, step, part), timeout=_STEP_SECONDS)
                return True
        return False
