"""The one validator: a request is checked completely against a model's interface before anything is queued.

Order: input set, then each input (datatype, rank, dimensions, byte or element count), then parameters, then requested
outputs. The first violation answers, naming the place. Nothing is allocated in proportion to a claimed size.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.runtime.errors import HeadraceError
from headrace.runtime.hints import shape_hint
from headrace.serve.config import LABEL
from headrace.serve.datatypes import Array, Buffer, Datatype, decode_bytes, of_dtype
from headrace.serve.elements import to_array
from headrace.serve.errors import ServeError, bad_argument, quoted, unsupported
from headrace.serve.model import TensorSpec
from headrace.serve.request import Elements, InferRequest, InputTensor, Parameters, RequestedOutput

MAX_RANK = 32
MAX_DIMENSION = 2**63 - 1
MAX_PARAMETERS = 256
MAX_KEY_BYTES = 256
MAX_STRING_BYTES = 64 * 1024
MAX_ID_BYTES = 1024

Shape = tuple[int | str | None, ...] | None

_MODEL_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_LABEL = re.compile(LABEL)
_FLAGS = ("sequence_start", "sequence_end", "binary_data_output", "headrace_explain")
_SHARED_MEMORY = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


class InterfaceError(HeadraceError):
    """An input or output of a model cannot be put on the wire."""


@dataclass(frozen=True, slots=True)
class Port:
    """A row of the table a request is checked against."""

    name: str
    datatype: Datatype
    shape: Shape

    @classmethod
    def of(cls, spec: TensorSpec) -> "Port":
        """InterfaceError when the element type has no wire form."""
        try:
            datatype = of_dtype(spec.dtype)
        except KeyError:
            raise InterfaceError(f"{spec.name!r} has element type {spec.dtype}, which has no wire form") from None
        if spec.shape is None:
            return cls(spec.name, datatype, None)
        shape = tuple(size if size is None or isinstance(size, int) else str(size) for size in spec.shape)
        return cls(spec.name, datatype, shape)

    @property
    def wire_shape(self) -> list[int]:
        """The shape of metadata: -1 for every dimension that is not fixed."""
        return [-1] if self.shape is None else [d if isinstance(d, int) else -1 for d in self.shape]


class Interface:
    """The inputs and outputs of one loaded version, compiled for checking.

    `max_batch_size` 0: requests are not batched; above 0 dimension 0 of every input is the batch, 1 to that many rows.
    """

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_batch_size: int = 0) -> None:
        self.inputs = tuple(Port.of(spec) for spec in inputs)
        self.outputs = tuple(Port.of(spec) for spec in outputs)
        self.max_batch_size = max_batch_size
        self._inputs = {port.name: port for port in self.inputs}
        self._outputs = {port.name: port for port in self.outputs}

    def check(self, request: InferRequest) -> tuple[dict[str, Array], int, tuple[Port, ...]]:
        """Feeds by input name (views where possible), their rows (1 when not batched) and the outputs to return.

        Raises ServeError (bad_argument, or unsupported for a feature that is off).
        """
        given = request.inputs
        if len(given) != len(self.inputs) or {t.name for t in given} != self._inputs.keys():
            raise self._wrong_set([tensor.name for tensor in given])
        feeds: dict[str, Array] = {}
        bound: dict[str, int] = {}
        for tensor in given:
            port = self._inputs[tensor.name]
            count = _check_shape(tensor, port, bound)
            if tensor.parameters:
                _check_tensor_parameters(tensor)
            feeds[tensor.name] = _materialise(tensor, port.datatype, count)
        rows = self._rows(given) if self.max_batch_size else 1
        if len(request.id) > MAX_ID_BYTES:
            raise bad_argument(f"id is longer than {MAX_ID_BYTES} bytes")
        if request.parameters:
            check_parameters(request.parameters, request.streamed)
        return feeds, rows, self._requested(request.outputs) if request.outputs else self.outputs

    def check_tensors(self, given: list[InputTensor]) -> int:
        """The rows of inputs whose data are arrays already (a step of an ensemble); raises as `check`."""
        if len(given) != len(self.inputs) or {t.name for t in given} != self._inputs.keys():
            raise self._wrong_set([tensor.name for tensor in given])
        bound: dict[str, int] = {}
        for tensor in given:
            _check_shape(tensor, self._inputs[tensor.name], bound)
        return self._rows(given) if self.max_batch_size else 1

    def _wrong_set(self, names: list[str]) -> ServeError:
        takes = ", ".join(quoted(port.name) for port in self.inputs) or "no input"
        for name in names:
            if name not in self._inputs:
                return bad_argument(f"input {quoted(name)} is unknown; the model takes {takes}")
            if names.count(name) > 1:
                return bad_argument(f"input {quoted(name)} is given more than once")
        missing = next(port.name for port in self.inputs if port.name not in names)
        return bad_argument(f"input {quoted(missing)} is missing; the model takes {takes}")

    def _rows(self, given: list[InputTensor]) -> int:
        rows = given[0].shape[0]
        for tensor in given:
            if tensor.shape[0] != rows:
                raise bad_argument(
                    f"input {quoted(tensor.name)}: {tensor.shape[0]} rows, input {quoted(given[0].name)} has {rows}; "
                    "dimension 0 is the batch and must agree"
                )
        if not 1 <= rows <= self.max_batch_size:
            raise bad_argument(
                f"input {quoted(given[0].name)}: batch of {rows} rows, allowed are 1 to {self.max_batch_size}"
            )
        return rows

    def _requested(self, outputs: list[RequestedOutput]) -> tuple[Port, ...]:
        seen: dict[str, Port] = {}
        for output in outputs:
            port = self._outputs.get(output.name)
            if port is None:
                has = ", ".join(quoted(known.name) for known in self.outputs)
                raise bad_argument(f"output {quoted(output.name)} is unknown; the model has {has}")
            if output.name in seen:
                raise bad_argument(f"output {quoted(output.name)} is requested more than once")
            if output.parameters:
                _check_output_parameters(output)
            seen[output.name] = port
        return tuple(seen.values())


def _check_shape(tensor: InputTensor, port: Port, bound: dict[str, int]) -> int:
    """The element count, after datatype, rank, fixed and symbolic dimensions were checked."""
    if tensor.datatype != port.datatype.name:
        hint = f'; convert it first (NumPy: x.astype("{port.datatype.dtype.name}"))' if port.datatype.size else ""
        raise bad_argument(
            f"input {quoted(tensor.name)}: datatype {quoted(tensor.datatype)}, expected {port.datatype.name}{hint}"
        )
    shape, spec = tensor.shape, port.shape
    if len(shape) > MAX_RANK or (spec is not None and len(shape) != len(spec)):
        if spec is None or len(shape) > MAX_RANK:
            raise bad_argument(f"input {quoted(tensor.name)}: rank {len(shape)}, expected at most {MAX_RANK}")
        raise bad_argument(
            f"input {quoted(tensor.name)}: rank {len(shape)}, expected {len(spec)}: {_expected(tensor, spec)}"
        )
    for axis, size in enumerate(shape):
        want = spec[axis] if spec is not None else None
        if not 0 <= size <= MAX_DIMENSION:
            raise bad_argument(f"input {quoted(tensor.name)}: dimension {axis} is {size}, allowed are 0 to 2^63-1")
        if isinstance(want, str):
            first = bound.setdefault(want, size)
            if first != size:
                raise bad_argument(
                    f"input {quoted(tensor.name)}: dimension {axis} ({want}) is {size}, but was {first} before"
                )
        elif want is not None and size != want:
            raise bad_argument(
                f"input {quoted(tensor.name)}: dimension {axis} is {size}, expected {want}: {_expected(tensor, spec)}"
            )
    return math.prod(shape)


def _expected(tensor: InputTensor, spec: Shape) -> str:
    """The shape that is wanted beside the one that came, and how to get from here to there."""
    wanted = ", ".join("?" if size is None else str(size) for size in spec or ())
    return f"the shape is [{wanted}], given {list(tensor.shape)}{shape_hint(tensor.shape, spec or ())}"


def _materialise(tensor: InputTensor, datatype: Datatype, count: int) -> Array:
    data = tensor.data
    if isinstance(data, Elements):
        try:
            return to_array(data, datatype, tensor.shape, count)
        except ValueError as error:
            raise bad_argument(f"input {quoted(tensor.name)}: {error}") from None
    if datatype.size == 0:
        try:
            return decode_bytes(data, count).reshape(tensor.shape)
        except ValueError as error:
            raise bad_argument(f"input {quoted(tensor.name)}: BYTES data does not fit: {error}") from None
    if len(data) != count * datatype.size:
        raise bad_argument(
            f"input {quoted(tensor.name)}: {len(data)} bytes, shape {list(tensor.shape)} of {datatype.name} "
            f"needs {count * datatype.size}"
        )
    return _view(data, datatype, tensor.shape)


def _view(data: Buffer, datatype: Datatype, shape: tuple[int, ...]) -> Array:
    if not len(data):
        return np.empty(shape, datatype.dtype)
    if datatype.name == "BOOL":  # a byte other than 0 and 1 is true, and must not reach a kernel as it is
        truth: Array = np.frombuffer(data, np.uint8) != 0
        return truth.reshape(shape)
    array: Array = np.frombuffer(data, datatype.dtype).reshape(shape)
    return array if array.flags.aligned else array.copy()


def _check_tensor_parameters(tensor: InputTensor) -> None:
    if any(key in tensor.parameters for key in _SHARED_MEMORY):
        raise unsupported(f"input {quoted(tensor.name)}: shared memory is switched off")
    _check_size(tensor.parameters, f"input {quoted(tensor.name)}")


def _check_output_parameters(output: RequestedOutput) -> None:
    where = f"output {quoted(output.name)}"
    if any(key in output.parameters for key in _SHARED_MEMORY):
        raise unsupported(f"{where}: shared memory is switched off")
    _check_size(output.parameters, where)
    if "classification" in output.parameters:
        _whole(output.parameters["classification"], f"{where}: parameter 'classification'", 1)


def check_parameters(parameters: Parameters, streamed: bool = False) -> None:
    """Types and ranges of the known request parameters; reserved prefixes are refused, the rest is capped.

    `streamed`: the request came on a stream, where a client may ask for an empty final response (which only a model
    that answers in parts would send).
    """
    _check_size(parameters, "request")
    for key, value in parameters.items():
        where = f"parameter {quoted(key)}"
        if key in ("priority", "timeout"):
            _whole(value, where, 0)
        elif key == "sequence_id":
            if not isinstance(value, str):
                _whole(value, where, 0)
        elif key in _FLAGS or (streamed and key == "triton_enable_empty_final_response"):
            if not isinstance(value, bool):
                raise bad_argument(f"{where} must be true or false")
            if value and key.startswith("sequence_") and not parameters.get("sequence_id"):
                raise bad_argument(f"{where} needs a sequence_id")
        elif key.startswith(("triton_", "headrace_")):
            raise bad_argument(f"{where} is reserved")


def _check_size(parameters: Parameters, where: str) -> None:
    if len(parameters) > MAX_PARAMETERS:
        raise bad_argument(f"{where}: {len(parameters)} parameters, allowed are {MAX_PARAMETERS}")
    for key, value in parameters.items():
        if len(key) > MAX_KEY_BYTES:
            raise bad_argument(f"{where}: a parameter name is longer than {MAX_KEY_BYTES} bytes")
        if isinstance(value, str) and len(value) > MAX_STRING_BYTES:
            raise bad_argument(f"{where}: parameter {quoted(key)} is longer than {MAX_STRING_BYTES} bytes")


def _whole(value: Any, where: str, least: int) -> int:
    if type(value) is not int or not least <= value < 2**64:
        raise bad_argument(f"{where} must be a whole number from {least}")
    return value


def check_model_name(name: str) -> str:
    """`name` when it is a possible model name; bad_argument otherwise. Names never become paths unchecked."""
    if not _MODEL_NAME.fullmatch(name) or name in (".", ".."):
        raise bad_argument(f"model name {quoted(name)} is not 1 to 128 characters of A-Z a-z 0-9 . _ -")
    return name


def parse_version(text: str) -> int | str | None:
    """None for "" (policy decides), an int for a canonical number, a str for a label; bad_argument for the rest."""
    if not text:
        return None
    if _NUMBER.fullmatch(text):
        return int(text)
    if _LABEL.fullmatch(text):
        return text
    raise bad_argument(f"version {quoted(text)} is neither a number without leading zeros nor a label a-z 0-9 _ -")
