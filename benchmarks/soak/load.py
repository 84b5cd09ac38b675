"""Load on a gRPC port: an open loop that sends at its own pace, whatever comes back, and a closed one that measures how much
can be sent at all. Every answer is checked, every call has exactly one outcome."""

import threading
import time
from array import array
from collections import Counter

import grpc
import numpy as np
from benchmarks.soak.models import WIDTH

from headrace.protos import inference_pb2 as pb

INFER = "/inference.GRPCInferenceService/ModelInfer"
TICK = 0.001
POOL = 512
LONGEST = 30.0


class Lines:
    """Requests to `line` models, each with its own numbers and id, and what must come back."""

    def __init__(self, model, factor=2.0, offset=1.0):
        """`factor` None: any version may answer, and its number is its factor."""
        self.factor, self.offset = factor, offset
        self._known = {}
        self.messages, self.inputs = [], []
        random = np.random.default_rng(7)
        for index in range(POOL):
            x = random.integers(-1000, 1000, (1, WIDTH)).astype(np.float32)
            message = pb.ModelInferRequest(model_name=model, id=f"{model}-{index}", raw_input_contents=[x.tobytes()])
            message.inputs.add(name="x", datatype="FP32", shape=x.shape)
            self.messages.append(message.SerializeToString())
            self.inputs.append(x)

    def right(self, index, data):
        """Whether `data` is the answer to request `index`, bit for bit."""
        if self._known.get(index) == data:
            return True
        answer = pb.ModelInferResponse.FromString(data)
        factor = float(answer.model_version) if self.factor is None else self.factor
        wanted = self.inputs[index] * np.float32(factor) + np.float32(self.offset)
        model = self.messages[index]
        good = answer.id.encode() in model and answer.id.endswith(f"-{index}")
        good = good and list(answer.raw_output_contents) == [wanted.tobytes()]
        if good and self.factor is not None:
            self._known[index] = data
        return good


class Echoed(Lines):
    """The same requests to a server that answers each with its own bytes."""

    def right(self, index, data):
        return data == self.messages[index]


class Work:
    """Requests to `work` that take `trips` trips of its loop."""

    def __init__(self, trips):
        x = np.arange(1024, dtype=np.float32)[None]
        message = pb.ModelInferRequest(model_name="work", raw_input_contents=[np.int64(trips).tobytes(), x.tobytes()])
        message.inputs.add(name="n", datatype="INT64", shape=[1])
        message.inputs.add(name="x", datatype="FP32", shape=x.shape)
        self.messages = [message.SerializeToString()] * POOL
        self._wanted = x.tobytes()

    def right(self, index, data):
        return list(pb.ModelInferResponse.FromString(data).raw_output_contents) == [self._wanted]


class Load:
    """Calls on one port, over a few connections. `mangle(index)` may change how a call is made: (timeout, cancel after)."""

    def __init__(self, port, requests, connections=4, mangle=None):
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.insecure_channel(f"127.0.0.1:{port}", options) for _ in range(connections)]
        self._calls = [channel.unary_unary(INFER) for channel in self._channels]
        self._requests, self._mangle = requests, mangle
        self.outcomes = Counter()
        self.wrong = self.sent = 0
        self.times = array("f")  # of good answers, seconds
        self.refusals = array("f")  # of calls refused as overloaded
        self.late = array("f")  # of calls whose deadline passed
        self.newest_good = 0.0  # when the latest call that was answered well began
        self._lock = threading.Lock()
        self._open = 0
        self._slots = threading.Semaphore(0)

    def _send(self, closed=False):
        index = self.sent % POOL
        number, self.sent = self.sent, self.sent + 1
        timeout, cancel = self._mangle(number) if self._mangle else (LONGEST, None)
        began = time.perf_counter()
        with self._lock:
            self._open += 1
        call = self._calls[number % len(self._calls)].future(self._requests.messages[index], timeout=timeout)
        if cancel is not None:
            call.cancel()
        call.add_done_callback(lambda done: self._done(done, index, began, closed))

    def _done(self, call, index, began, closed):
        took = time.perf_counter() - began
        code = call.code()
        good = code is grpc.StatusCode.OK and self._requests.right(index, call.result())
        with self._lock:
            self._open -= 1
            self.outcomes[code.name] += 1
            if code is grpc.StatusCode.OK:
                self.wrong += not good
                self.times.append(took)
                self.newest_good = max(self.newest_good, began)
            elif code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                self.refusals.append(took)
            elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
                self.late.append(took)
        if closed:
            self._slots.release()

    def open_loop(self, rate, seconds, stop=None, burst=0):
        """Send `burst` calls at once and `rate` calls a second for `seconds`, then wait for the outcomes. What the sender itself
        is late by is made up for in the next tick."""
        began = time.monotonic()
        first = self.sent
        while (now := time.monotonic()) < began + seconds and not (stop is not None and stop.is_set()):
            for _ in range(burst + int((now - began) * rate) - (self.sent - first)):
                self._send()
                if time.monotonic() > began + seconds:  # the sender cannot keep that pace: the time ends it, too
                    break
            time.sleep(TICK)
        self.settle()

    def closed_loop(self, inflight, seconds):
        """Keep `inflight` calls open for `seconds`; good answers a second."""
        for _ in range(inflight):
            self._send(closed=True)
        end, before = time.monotonic() + seconds, len(self.times)
        while time.monotonic() < end:
            if self._slots.acquire(timeout=0.1):
                self._send(closed=True)
        rate = (len(self.times) - before) / seconds
        self.settle()
        return rate

    def settle(self):
        """Wait until every call has its outcome; those that have none are lost."""
        end = time.monotonic() + LONGEST + 5
        while self._open and time.monotonic() < end:
            time.sleep(0.01)

    @property
    def lost(self):
        return self._open

    def close(self):
        for channel in self._channels:
            channel.close()


def percentile(times, share):
    """In milliseconds; None of nothing."""
    return float(np.percentile(np.frombuffer(times, np.float32), share) * 1e3) if len(times) else None
