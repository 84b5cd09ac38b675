"""The requests of one bidirectional stream: several run at a time, the answers leave in the order of the requests.

So the requests of one stream meet in batches as those of many callers do. A stream holds as many requests as its window;
beyond it the transport's flow control stops the client.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, wait

from headrace.serve.errors import ServeError
from headrace.serve.grpc_codec import read_infer, stream_answer, stream_error, write_infer
from headrace.serve.request import InferRequest, InferResponse

WINDOW = 16  # requests of one stream in progress
_STEP_SECONDS = 0.1

Run = Callable[[InferRequest], InferResponse]
Step = tuple[InferRequest | None, "Future[InferResponse]"]


def answers(messages: Iterator[bytes], run: Run, pool: Executor, strict: bool) -> Iterator[bytes]:
    """A ModelStreamInferResponse for each ModelInferRequest message.

    An error of one request is its answer and the stream goes on; with `strict` the first error is raised instead.
    """
    steps: queue.Queue[Step | None] = queue.Queue(WINDOW)
    closed = threading.Event()

    def put(step: Step | None) -> None:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                steps.put(step, timeout=_STEP_SECONDS)
                return

    def read() -> None:
        last: Future[InferResponse] | None = None  # of a sequence: its requests run one after the other
        try:
            for data in messages:
                request, step = _begin(data, run, pool, last)
                if request is not None and request.parameters.get("sequence_id"):
                    last = step
                put((request, step))
                if closed.is_set():
                    return
        finally:  # the client has closed its side, or the call is over (the iterator raises)
            put(None)

    reader = threading.Thread(target=_quiet, args=(read,), name="headrace-grpc-stream", daemon=True)
    reader.start()
    try:
        while (step := steps.get()) is not None:
            request, future = step
            try:
                response = future.result()
            except ServeError as error:
                if strict:
                    raise
                yield stream_error(request, error)
                continue
            response.parameters = {**response.parameters, "triton_final_response": True}
            yield stream_answer(write_infer(response))
    finally:
        closed.set()


def _begin(
    data: bytes, run: Run, pool: Executor, last: "Future[InferResponse] | None"
) -> tuple[InferRequest | None, "Future[InferResponse]"]:
    try:
        request = read_infer(data)
    except ServeError as error:
        failed: Future[InferResponse] = Future()
        failed.set_exception(error)
        return None, failed
    request.streamed, request.size = True, len(data)
    if last is not None and request.parameters.get("sequence_id"):
        wait([last])
    return request, pool.submit(run, request)


def _quiet(read: Callable[[], None]) -> None:
    """grpcio's request iterator raises whatever it likes when a call ends early; the call has its status by then."""
    with contextlib.suppress(Exception):
        read()
