"""What the clients take and give: settings of a connection, requests, answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from headrace.serve.datatypes import DATATYPES, Array, decode_bytes, of_array
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.request import NO_PARAMETERS, Parameters

Compression = Literal["", "gzip", "deflate"]


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM files: the authority that the server's certificate must come from ("": those of the system), and the client's
    own certificate and key where the server asks for one."""

    authority: str = ""
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a server: seconds for every call, trust, bearer token, coding of the messages."""

    url: str
    timeout: float = 60.0
    tls: ClientTls | None = None
    token: str = ""
    compression: Compression = ""


@dataclass(frozen=True, slots=True)
class SharedTensor:
    """A tensor that lies in a registered shared memory region: `byte_size` bytes at `offset` (0: as many as datatype and
    shape say; BYTES must say)."""

    region: str
    datatype: str
    shape: tuple[int, ...]
    offset: int = 0
    byte_size: int = 0

    @property
    def parameters(self) -> dict[str, int | str]:
        """As the protocol has them."""
        size = self.byte_size or math.prod(self.shape) * DATATYPES[self.datatype].size
        place = {"shared_memory_offset": self.offset} if self.offset else {}
        return {"shared_memory_region": self.region, "shared_memory_byte_size": size, **place}


Feeds = Mapping[str, Array | SharedTensor]
Wanted = Mapping[str, SharedTensor | None]  # outputs by name, and where those go that shall not come back


@dataclass(frozen=True, slots=True)
class Ask:
    """One inference as a transport carries it. `outputs` empty: all."""

    model: str
    version: str
    inputs: Feeds
    outputs: Wanted = field(default_factory=dict)
    parameters: Parameters = field(default_factory=dict)
    id: str = ""

    @property
    def repeatable(self) -> bool:
        """Whether it does no harm to run it twice: a request of a sequence changes the state of the model."""
        return not self.parameters.get("sequence_id")


@dataclass(frozen=True, slots=True)
class Inference:
    """An answer: outputs by name (BYTES as object arrays of bytes), the version that gave them, and what else it says."""

    outputs: dict[str, Array]
    model: str = ""
    version: str = ""
    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


def make_ask(
    model: str,
    inputs: Mapping[str, Any],
    version: str | int,
    outputs: Sequence[str] | Wanted | None,
    parameters: Parameters | None,
    id: str,
) -> Ask:
    """The request; ServeError (bad_argument) for an array that has no wire form."""
    wanted = outputs if isinstance(outputs, Mapping) else dict.fromkeys(outputs or ())
    return Ask(model, str(version), feeds_of(inputs), wanted, parameters or NO_PARAMETERS, id)


def feeds_of(arrays: Mapping[str, Any]) -> Feeds:
    """The arrays, each of a dtype that can be sent."""
    feeds = {name: a if isinstance(a, SharedTensor) else np.asarray(a) for name, a in arrays.items()}
    for name, array in feeds.items():
        if isinstance(array, SharedTensor):
            continue
        try:
            of_array(array)
        except KeyError:
            known = ", ".join(row.dtype.name for row in DATATYPES.values() if row.size)
            text = f"input {name!r}: {array.dtype} has no wire form; allowed are {known} and strings"
            raise ServeError(Meaning.BAD_ARGUMENT, text) from None
    return feeds


def connection_of(
    url: str, timeout: float, tls: ClientTls | str | None, token: str, compression: Compression
) -> Connection:
    """ServeError (bad_argument) for a url or a coding that is none."""
    tls = ClientTls(tls) if isinstance(tls, str) else tls
    if compression not in ("", "gzip", "deflate"):
        raise ServeError(Meaning.BAD_ARGUMENT, f"compression {compression!r}: allowed are gzip and deflate")
    if url.startswith("http://") and tls is not None:
        raise ServeError(Meaning.BAD_ARGUMENT, f"url {url!r}: TLS is asked for; write https://")
    if "://" in url and not is_rest(url):
        text = f"url {url!r}: expected host:port, http://host:port or https://host:port"
        raise ServeError(Meaning.BAD_ARGUMENT, text)
    if url.startswith("https://"):
        tls = tls or ClientTls()
    return Connection(url, timeout, tls, token, compression)


def is_rest(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def read_array(datatype: str, shape: Any, data: bytes | bytearray | memoryview) -> Array:
    """An output from its raw form."""

    row = DATATYPES[datatype]
    sizes = tuple(int(size) for size in shape)
    if row.size == 0:
        return decode_bytes(data, math.prod(sizes)).reshape(sizes)
    return np.frombuffer(data, row.dtype).reshape(sizes)
