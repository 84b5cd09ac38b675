"""The request and the response of the data plane: the same objects behind every front.

Tensors are views of the received message, or element lists where a front got them one by one (typed contents, JSON).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headrace.serve.datatypes import Array, Buffer

if TYPE_CHECKING:
    from headrace.serve.tracing import Active

Parameter = bool | int | float | str
Parameters = Mapping[str, Parameter]
NO_PARAMETERS: Parameters = {}


@dataclass(slots=True)
class Elements:
    """Element values given one by one: `source` is a typed field name such as "fp32_contents", or "json" (nested)."""

    source: str
    values: Sequence[Any]


@dataclass(slots=True)
class InputTensor:
    """One input as received; nothing about it has been checked."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer | Elements
    parameters: Parameters = field(default_factory=lambda: NO_PARAMETERS)


@dataclass(slots=True)
class RequestedOutput:
    """One output the client asks for."""

    name: str
    parameters: Parameters = field(default_factory=lambda: NO_PARAMETERS)


@dataclass(slots=True)
class InferRequest:
    """One inference. `deadline` is absolute on the monotonic clock, in seconds; `watch` registers a cancel callback
    and returns False when the client is already gone."""

    model: str
    version: str
    inputs: list[InputTensor]
    id: str = ""
    parameters: Parameters = field(default_factory=lambda: NO_PARAMETERS)
    outputs: list[RequestedOutput] = field(default_factory=list)
    deadline: float | None = None
    watch: Callable[[Callable[[], None]], bool] | None = None
    front: str = "local"
    trace: "Active | None" = None
    size: int = 0  # bytes of the message or body
    principal: str = ""  # the name of its token
    streamed: bool = False  # one of many on a stream


@dataclass(slots=True)
class OutputTensor:
    """One output: `array` has the shape and, for everything but BYTES, the memory that goes on the wire."""

    name: str
    datatype: str
    array: Array
    placed: Parameters = field(default_factory=lambda: NO_PARAMETERS)  # where its bytes are, when not in the answer


@dataclass(slots=True)
class InferResponse:
    """The answer: outputs in the order requested, or in the order of the interface. `part`: one of several, `final` the last
    of them."""

    model: str
    version: str
    id: str
    outputs: list[OutputTensor]
    parameters: Parameters = field(default_factory=lambda: NO_PARAMETERS)
    part: bool = False
    final: bool = True
