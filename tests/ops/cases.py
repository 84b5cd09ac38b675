"""What the contract test needs around an operator: its samples, graphs of one node, oracles, a tape, comparisons."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.builder import Builder
from headrace.runtime.executor import run_node
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.namespaces import Namespace, NumpyNamespace
from headrace.runtime.ops.base import Operator, Sample
from headrace.runtime.shapes import Dim
from headrace.runtime.types import MapType, SequenceType, TensorType, Type

# Relative and absolute error that a correctly working float kernel of another library may have.
TOLERANCE = {"float64": (1e-9, 1e-11), "float32": (2e-4, 2e-5), "float16": (1e-2, 2e-3), "bfloat16": (4e-2, 2e-2)}


def samples_of(operator: Operator) -> list[Sample]:
    """The operator's samples, the same in every run."""
    return list(operator.samples(np.random.default_rng(zlib.crc32(operator.kind.encode()))))


def output_count(operator: Operator, sample: Sample) -> int:
    return sample.outputs if sample.outputs is not None else max(1, sum(not out.optional for out in operator.outputs))


def type_of(value: Any) -> Type | None:
    """The type of a run-time value; None for an absent one."""
    if value is None:
        return None
    if isinstance(value, list):
        inner = type_of(value[0]) if value else TensorType("float32")
        return SequenceType(inner.with_shape(None) if isinstance(inner, TensorType) else inner)  # type: ignore[arg-type]
    if isinstance(value, dict):
        key = next(iter(value), "")
        inner = next(iter(value.values()), 0.0)
        return MapType(
            "string" if isinstance(key, str) else "int64",
            TensorType("float32" if isinstance(inner, float) else "int64", ()),
        )
    return TensorType(dtypes.of(value).name, tuple(np.shape(value)))


def reference(operator: Operator, sample: Sample) -> list[Any]:
    return run_node(operator, sample.inputs, sample.attributes, output_count(operator, sample))


def text_of(sample: Sample) -> str:
    """What a failure message says about a sample."""
    return f"inputs {[str(type_of(x)) for x in sample.inputs]}, attributes {sample.attributes}"


def single_node(
    operator: Operator, sample: Sample, constants: Sequence[int] = (), types: Mapping[int, Type] | None = None
) -> tuple[Graph, dict[str, Any]]:
    """A graph of one node and its feeds; the inputs listed in `constants` become constants of the graph."""
    graph = Graph(Block([], [], []))
    builder = Builder(graph)
    inputs: list[Value | None] = []
    feeds: dict[str, Any] = {}
    for index, value in enumerate(sample.inputs):
        if value is None:
            inputs.append(None)
        elif index in constants:
            inputs.append(builder.constant(value, f"c{index}"))
        else:
            inputs.append(builder.input(f"x{index}", (types or {}).get(index, type_of(value))))
            feeds[f"x{index}"] = value
    names = [f"y{i}" for i in range(output_count(operator, sample))]
    outputs = builder.node(operator.name, inputs, sample.attributes, domain=operator.domain, outputs=names)
    graph.outputs.extend(outputs)
    return graph, feeds


def shape_inputs(sample: Sample) -> list[int]:
    """Small integer inputs: in real graphs they are constants that decide shapes."""
    return [
        i for i, x in enumerate(sample.inputs)
        if i > 0 and isinstance(x, np.ndarray) and x.ndim <= 1 and x.size <= 16 and x.dtype.kind in "iu" and x.dtype.itemsize == 8
    ]  # fmt: skip


def assert_close(found: Any, expected: Any, context: str, scale: float = 1.0) -> None:
    """Equal types and values; floats within the tolerance of their dtype, NaN equal to NaN."""
    if isinstance(expected, list):
        assert isinstance(found, list | tuple) and len(found) == len(expected), f"{context}: {found} for {expected}"
        for a, b in zip(found, expected):
            assert_close(a, b, context, scale)
        return
    if expected is None or isinstance(expected, dict):
        assert found == expected, f"{context}: {found} for {expected}"
        return
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"{context}: shape {found.shape} for {expected.shape}"
    name = dtypes.of(expected).name
    assert dtypes.of(found).name == name, f"{context}: {dtypes.of(found).name} for {name}"
    if name == "string":
        assert found.astype(str).tolist() == expected.astype(str).tolist(), context
        return
    if dtypes.of(name).kind == "f":
        rtol, atol = TOLERANCE.get(name, (0.0, 0.0))
        with np.errstate(all="ignore"):
            found, expected = found.astype(np.float64), expected.astype(np.float64)
            np.testing.assert_allclose(found, expected, rtol * scale, atol * scale, equal_nan=True, err_msg=context)
        return
    np.testing.assert_array_equal(found.astype(object), expected.astype(object), err_msg=context)


def in_float64(sample: Sample) -> Sample | None:
    """The sample with its floats as float64; None where it has none, or where differences make no sense."""
    floats = [x for x in sample.inputs if isinstance(x, np.ndarray) and dtypes.of(x).name in dtypes.FLOAT]
    if not sample.smooth or not floats or any(isinstance(x, list | dict) for x in sample.inputs):
        return None
    for x in floats:
        wide = x.astype(np.float64)
        if x.dtype.itemsize < 4:
            return None  # rounded values lie on kinks
        if wide.size and not (np.isfinite(wide).all() and np.abs(wide).max() < 1e6):
            return None
    inputs = [
        x.astype(np.float64) if isinstance(x, np.ndarray) and dtypes.of(x).name in dtypes.FLOAT else x
        for x in sample.inputs
    ]
    return Sample(inputs, sample.attributes, sample.outputs)


def float_inputs(sample: Sample) -> list[int]:
    return [i for i, x in enumerate(sample.inputs) if isinstance(x, np.ndarray) and x.dtype == np.float64]


class Tracked:
    """An array on the tape."""

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array


class Tape(Namespace):
    """Records calls and answers gradients: what the core's tape does, in forty lines, for tests."""

    def __init__(self) -> None:
        self.calls: list[tuple[Operator, list[Any], list[Tracked], dict[str, Any]]] = []

    def apply(self, operator: Operator, inputs: list[Any], attributes: dict[str, Any], outputs: int) -> list[Any]:
        while inputs and inputs[-1] is None:
            inputs.pop()
        complete = operator.complete(attributes)
        arrays = [None if x is None else x.array for x in inputs]
        with np.errstate(all="ignore"):
            results = [Tracked(y) for y in operator.reference(arrays, complete, outputs)[:outputs]]
        self.calls.append((operator, inputs, results, complete))
        return results

    def constant(self, array: object) -> Any:
        return Tracked(np.asarray(array))

    def type(self, value: Any) -> TensorType:
        return TensorType(dtypes.of(value.array).name, tuple(value.array.shape))

    def gradients(self, result: Tracked, sources: Sequence[Tracked]) -> list[np.ndarray]:
        """d result / d source for a scalar result."""
        F = NumpyNamespace()
        grads: dict[int, np.ndarray] = {id(result): np.ones_like(result.array)}
        for operator, inputs, outputs, attributes in reversed(self.calls):
            given = [grads.get(id(y)) for y in outputs]
            if all(g is None for g in given) or not any(x is not None and x.array.dtype.kind == "f" for x in inputs):
                continue
            arrays = [None if x is None else x.array for x in inputs]
            with np.errstate(all="ignore"):
                found = operator.gradient(F, arrays, [y.array for y in outputs], given, attributes)
            for x, g in zip(inputs, found):
                if x is not None and g is not None:
                    grads[id(x)] = grads[id(x)] + g if id(x) in grads else g
        return [grads.get(id(source), np.zeros_like(source.array)) for source in sources]


def evaluate(dim: Dim, values: Mapping[str, int]) -> Dim:
    from headrace.runtime.shapes import substitute

    return substitute(dim, values)
