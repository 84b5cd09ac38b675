"""One contract for every operator that exists, on its own samples. A new operator is tested by existing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import (
    Tape,
    Tracked,
    assert_close,
    float_inputs,
    in_float64,
    output_count,
    reference,
    samples_of,
    shape_inputs,
    single_node,
    text_of,
    type_of,
)
from oracle import oracles, within_a_level

from headrace.runtime import dtypes
from headrace.runtime.builder import Builder
from headrace.runtime.errors import GraphError
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph
from headrace.runtime.infer import check_inputs, expand_formals, infer_operator
from headrace.runtime.namespaces import BuilderNamespace, NumpyNamespace
from headrace.runtime.ops import registry
from headrace.runtime.ops.base import MIXED, Context, Operator, Sample
from headrace.runtime.shapes import Expr, substitute, symbol, symbols
from headrace.runtime.types import TensorType

OPERATORS = sorted(registry().values(), key=lambda operator: operator.kind)
every_operator = pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.kind)


@every_operator
def test_declaration(operator: Operator) -> None:
    """The class says what it must, and has samples that its own declaration accepts."""
    assert samples_of(operator), f"{operator.kind} has no samples"
    assert operator.versions == tuple(sorted(set(operator.versions)))
    names = {*operator.types}
    for formal in (*operator.inputs, *operator.outputs):
        assert isinstance(formal.types, frozenset) or formal.types in names, (
            f"{formal.name}: {formal.types} is not in types"
        )
        assert not isinstance(formal.types, frozenset) or formal.types <= dtypes.ANY
    for sample in samples_of(operator):
        check_inputs(operator, [type_of(x) for x in sample.inputs])
        operator.complete(sample.attributes)


def fits(inferred: Any, value: Any, values: dict[str, int]) -> bool:
    """Whether an inferred type is true of a value; symbols that are not in `values` may be anything."""
    if not isinstance(inferred, TensorType):
        return inferred is None or not isinstance(value, np.ndarray)
    actual = type_of(value)
    if not isinstance(actual, TensorType) or inferred.dtype != actual.dtype:
        return False
    if inferred.shape is None:
        return True
    dims = [substitute(dim, values) for dim in inferred.shape]
    return len(dims) == len(actual.shape or ()) and all(
        isinstance(d, Expr) or d == a for d, a in zip(dims, actual.shape or ())
    )


@every_operator
def test_shape_rule(operator: Operator) -> None:
    """Types inferred with and without constants, and with every dimension symbolic, are those of the reference."""
    for sample in samples_of(operator):
        results = reference(operator, sample)
        count = output_count(operator, sample)
        arrays = [x if isinstance(x, np.ndarray) else None for x in sample.inputs]
        types = [type_of(x) for x in sample.inputs]
        values: dict[str, int] = {}
        symbolic = []
        for index, type in enumerate(types):
            if isinstance(type, TensorType) and type.shape and index not in shape_inputs(sample):
                names = [f"d{index}_{axis}" for axis in range(len(type.shape))]
                values.update(zip(names, type.shape))
                type = type.with_shape(tuple(symbol(name) if size != 1 else 1 for name, size in zip(names, type.shape)))
            symbolic.append(type)
        shaped = [array if i in shape_inputs(sample) else None for i, array in enumerate(arrays)]
        unranked = [TensorType(type.dtype) if isinstance(type, TensorType) else type for type in types]
        for what, given, constants in (
            ("static", types, arrays),
            ("unknown values", types, None),
            ("symbolic", symbolic, shaped),
            ("unknown rank", unranked, None),
        ):
            if any(isinstance(value, Block) for value in sample.attributes.values()):
                continue  # blocks are inferred inside a graph: see test_graph
            fresh = iter(range(10**6))
            found = infer_operator(
                operator,
                given,
                sample.attributes,
                count,
                constants,
                lambda hint, fresh=fresh: symbol(f"{hint}_{next(fresh)}"),
            )
            assert len(found) >= count
            for inferred, value in zip(found, results):
                assert fits(inferred, value, values), (
                    f"{what}: inferred {inferred}, the reference gives {type_of(value)}; {text_of(sample)}"
                )


@every_operator
def test_graph(operator: Operator) -> None:
    """A graph of the one node runs as the reference does."""
    for sample in samples_of(operator):
        expected = reference(operator, sample)
        for constants in ((), shape_inputs(sample)):
            graph, feeds = single_node(operator, sample, constants)
            found = run_graph(graph, feeds)
            if operator.deterministic:
                for value, result in zip(graph.outputs, expected):
                    assert_close(found[value.name], result, text_of(sample))
                    assert fits(value.type, result, {}), (
                        f"inferred {value.type}, the reference gives {type_of(result)}; {text_of(sample)}"
                    )


@every_operator
def test_onnx_semantics(operator: Operator) -> None:
    """The reference agrees with the ONNX reference evaluator or with onnxruntime, where either implements it."""
    if operator.domain == "headrace":
        pytest.skip("the domain headrace has no other implementation")
    if not operator.deterministic:
        pytest.skip("random operators have no numbers to compare")
    compared = 0
    for sample in samples_of(operator):
        count = output_count(operator, sample)
        mistakes = []
        expected_types = [dtypes.of(y).name if isinstance(y, np.ndarray) else None for y in reference(operator, sample)]
        answers = [
            (name, outputs)
            for name, outputs in oracles(operator, sample, count)
            if all(
                t is None or not isinstance(y, np.ndarray) or dtypes.of(y).name == t
                for t, y in zip(expected_types, outputs)
            )
        ]  # an answer of another element type than the specification's is a mistake of the oracle
        for name, outputs in answers:
            try:
                for found, expected in zip(reference(operator, sample), outputs):
                    if expected is not None:
                        wide = np.asarray(expected).dtype == np.float64  # attributes are float32 there
                        found = within_a_level(operator, found, expected)
                        assert_close(found, expected, f"{name}: {text_of(sample)}", 1e3 if wide else 1.0)
                mistakes = []
                break
            except AssertionError as error:
                mistakes.append(str(error))
        compared += bool(answers)
        assert not mistakes, "\n".join(mistakes)
    if not compared:
        pytest.skip("neither onnx.reference nor onnxruntime implements it for these samples")


def smooth_samples(operator: Operator) -> list[Sample]:
    """Samples in float64 for which differences tell the gradient."""
    found = []
    for sample in samples_of(operator):
        wide = in_float64(sample)
        if wide is None:
            continue
        try:
            check_inputs(operator, [type_of(x) for x in wide.inputs])
            outputs = reference(operator, wide)
        except (GraphError, ValueError, TypeError):
            continue  # it does not take float64
        if any(isinstance(y, np.ndarray) and y.dtype.kind == "f" and y.dtype != np.float64 for y in outputs):
            continue
        if any(isinstance(y, np.ndarray) and y.dtype == np.float64 for y in outputs):
            found.append(wide)
    return found


def cotangents(operator: Operator, outputs: list[Any], rng: np.random.Generator) -> list[Any]:
    """A random gradient for each output through which gradients flow."""
    formals = expand_formals(operator.outputs, len(outputs)) or []
    flows = [
        formal.gradient and isinstance(y, np.ndarray) and y.dtype == np.float64 for formal, y in zip(formals, outputs)
    ]
    return [rng.normal(size=y.shape) if flow else None for y, flow in zip(outputs, flows)]


def weighted(operator: Operator, sample: Sample, inputs: list[Any], weights: list[Any]) -> float:
    outputs = reference(operator, Sample(inputs, sample.attributes, sample.outputs))
    return float(sum(np.sum(y * w) for y, w in zip(outputs, weights) if w is not None))


def gradient_of(
    F: Any, operator: Operator, sample: Sample, inputs: list[Any], outputs: list[Any], grads: list[Any]
) -> list[Any]:
    with np.errstate(all="ignore"):
        return operator.gradient(F, inputs, outputs, grads, operator.complete(sample.attributes))


STEP = 1e-6


def assert_slope(measured: float, claimed: float, scale: float, context: str) -> None:
    both_nan = np.isnan(measured) and np.isnan(claimed)
    assert both_nan or abs(measured - claimed) <= 2e-5 * max(1.0, scale, abs(claimed)), (
        f"differences {measured}, gradient {claimed}; {context}"
    )


@every_operator
def test_gradient(operator: Operator) -> None:
    """Gradients are the finite differences in float64 along random directions."""
    if not operator.differentiable:
        pytest.skip("not differentiable")
    rng = np.random.default_rng(5)
    checked = 0
    for sample in smooth_samples(operator):
        outputs = reference(operator, sample)
        weights = cotangents(operator, outputs, rng)
        grads = gradient_of(NumpyNamespace(), operator, sample, sample.inputs, outputs, weights)
        assert len(grads) == len(sample.inputs), (
            f"{len(grads)} gradients for {len(sample.inputs)} inputs; {text_of(sample)}"
        )
        flowing = [i for i in float_inputs(sample) if grads[i] is not None]
        for i in flowing:
            assert_close(np.zeros_like(grads[i]), np.zeros_like(sample.inputs[i]), f"gradient {i}: {text_of(sample)}")
            direction = rng.normal(size=sample.inputs[i].shape)
            ahead, behind = list(sample.inputs), list(sample.inputs)
            ahead[i], behind[i] = sample.inputs[i] + STEP * direction, sample.inputs[i] - STEP * direction
            high, low = weighted(operator, sample, ahead, weights), weighted(operator, sample, behind, weights)
            scale = float(np.abs(grads[i] * direction).sum()) + abs(high) * 1e-3
            assert_slope(
                (high - low) / (2 * STEP), float((grads[i] * direction).sum()), scale, f"input {i}: {text_of(sample)}"
            )
        checked += bool(flowing)
    assert checked, f"{operator.kind} says that it is differentiable; no sample shows it"


def inner_product(F: Tape, grads: list[Any], factors: list[Any]) -> Any:
    total = None
    for g, v in zip(grads, factors):
        if g is not None and g.array.dtype == np.float64 and v is not None:
            axes = F.constant(np.arange(g.array.ndim, dtype=np.int64))
            part = F.ReduceSum(F.Mul(g, F.constant(v)), axes, keepdims=0) if g.array.ndim else F.Mul(g, F.constant(v))
            total = part if total is None else F.Add(total, part)
    return total


@every_operator
def test_second_gradient(operator: Operator) -> None:
    """The gradient of the gradient is the finite difference of the gradient."""
    if not operator.differentiable or not operator.twice_differentiable:
        pytest.skip("not twice differentiable")
    rng = np.random.default_rng(6)
    for sample in smooth_samples(operator)[:8]:
        outputs = reference(operator, sample)
        weights = cotangents(operator, outputs, rng)
        factors = [rng.normal(size=x.shape) if i in float_inputs(sample) else None for i, x in enumerate(sample.inputs)]

        def slope(inputs: list[Any]) -> tuple[float, Tape, list[Any], Any]:
            F = Tape()
            tracked = [None if x is None else Tracked(x) for x in inputs]
            given = [None if w is None else Tracked(w) for w in weights]  # noqa: B023
            count = output_count(operator, sample)  # noqa: B023
            results = F.apply(operator, list(tracked), dict(sample.attributes), count)  # noqa: B023
            grads = gradient_of(F, operator, sample, tracked, results, given)  # noqa: B023
            total = inner_product(F, grads, factors)  # noqa: B023
            return (0.0 if total is None else float(total.array)), F, tracked, total

        _, F, tracked, total = slope(list(sample.inputs))
        if total is None:
            continue
        first = gradient_of(NumpyNamespace(), operator, sample, sample.inputs, outputs, weights)
        sources = [i for i in float_inputs(sample) if first[i] is not None]
        second = F.gradients(total, [tracked[i] for i in sources])
        directions = [rng.normal(size=sample.inputs[i].shape) for i in sources]
        ahead, behind = list(sample.inputs), list(sample.inputs)
        for i, direction in zip(sources, directions):
            ahead[i], behind[i] = sample.inputs[i] + STEP * direction, sample.inputs[i] - STEP * direction
        high, low = slope(ahead)[0], slope(behind)[0]
        claimed = float(sum((g * d).sum() for g, d in zip(second, directions)))
        scale = float(sum(np.abs(g * d).sum() for g, d in zip(second, directions))) + abs(high) * 1e-3
        assert_slope((high - low) / (2 * STEP), claimed, scale, text_of(sample))


@every_operator
@pytest.mark.parametrize("leading", ["static", "symbolic"])
def test_gradient_graph(operator: Operator, leading: str) -> None:
    """The same gradient rule, built into a graph (dimension 0 of the first input symbolic), gives the same numbers."""
    if not operator.differentiable:
        pytest.skip("not differentiable")
    rng = np.random.default_rng(7)
    for sample in smooth_samples(operator)[:10]:
        outputs = reference(operator, sample)
        weights = cotangents(operator, outputs, rng)
        expected = gradient_of(NumpyNamespace(), operator, sample, sample.inputs, outputs, weights)
        types = {}
        first = type_of(sample.inputs[0])
        if leading == "symbolic":
            if not isinstance(first, TensorType) or not first.shape:
                continue
            types[0] = first.with_shape((symbol("batch"), *first.shape[1:]))
        try:
            graph, feeds = single_node(operator, sample, shape_inputs(sample), types)
        except GraphError:
            if leading == "symbolic":
                continue  # another input fixes this dimension
            raise
        builder = Builder(graph)
        given = []
        for index, weight in enumerate(weights):
            if weight is None:
                given.append(None)
                continue
            given.append(builder.input(f"g{index}", graph.outputs[index].type))
            feeds[f"g{index}"] = weight
        node = graph.nodes[0]
        try:
            grads = gradient_of(BuilderNamespace(builder), operator, sample, node.inputs, list(node.outputs), given)
        except GraphError as error:
            if leading == "symbolic" and "needs" in str(error):
                continue  # the rule says what it must know
            raise
        wanted = [(g, e) for g, e in zip(grads, expected) if g is not None and e is not None]
        assert [g is None for g in grads] == [e is None for e in expected], text_of(sample)
        graph.outputs[:] = [g for g, _ in wanted]
        found = run_graph(graph, feeds)
        for value, e in wanted:
            assert_close(found[value.name], e, text_of(sample))


def batched(operator: Operator, sample: Sample) -> list[dict[int, int]]:
    """Ways to lay the batch: one input on one axis, or all float inputs on the same axis."""
    shapes = {
        i: x.shape for i, x in enumerate(sample.inputs) if isinstance(x, np.ndarray) and x.dtype.kind != "O" and x.ndim
    }
    ways: list[dict[int, int]] = [
        {i: axis} for i, shape in shapes.items() for axis in range(len(shape)) if shape[axis] > 1
    ]
    ways += [dict.fromkeys(shapes, 0)] if len(shapes) > 1 and len({shape[0] for shape in shapes.values()}) == 1 else []
    return [way for way in ways if all(shapes[i][axis] > 1 for i, axis in way.items())]


@every_operator
def test_rows(operator: Operator) -> None:
    """Where the operator says that rows are independent, a part of the rows gives that part of the result."""
    if not operator.deterministic:
        pytest.skip("random operators are never merged")
    for sample in samples_of(operator)[:24]:
        if any(isinstance(value, Block) for value in sample.attributes.values()):
            continue
        for way in batched(operator, sample):
            types = [type_of(x) for x in sample.inputs]
            for i, axis in way.items():
                shape = list(types[i].shape)
                shape[axis] = symbol("batch")
                types[i] = TensorType(types[i].dtype, tuple(shape))
            constants = [None if i in way or not isinstance(x, np.ndarray) else x for i, x in enumerate(sample.inputs)]
            count = output_count(operator, sample)
            context = Context(types, operator.complete(sample.attributes), constants=constants, n_outputs=count)
            context.batch = symbol("batch")
            try:
                inferred = operator.infer(context)
            except GraphError:
                continue  # this dimension cannot be a batch
            tags = operator.rows([way.get(i) for i in range(len(types))], context)
            assert len(tags) == count, f"{len(tags)} row tags for {count} outputs"
            chosen = (
                np.array([1, 0]) if all(sample.inputs[i].shape[axis] == 2 for i, axis in way.items()) else np.array([1])
            )
            part = [np.take(x, chosen, way[i]) if i in way else x for i, x in enumerate(sample.inputs)]
            believed = [
                t
                for t, type in zip(tags, inferred)
                if t not in (None, MIXED)
                and isinstance(type, TensorType)
                and type.shape
                and type.shape[t] == symbol("batch")
            ]
            if not believed:
                continue
            whole, piece = (
                reference(operator, sample),
                reference(operator, Sample(part, sample.attributes, sample.outputs)),
            )
            for tag, type, a, b in zip(tags, inferred, whole, piece):
                if (
                    tag in (None, MIXED)
                    or not isinstance(type, TensorType)
                    or type.shape is None
                    or type.shape[tag] != symbol("batch")
                ):
                    continue
                if any("batch" in symbols(dim) for place, dim in enumerate(type.shape) if place != tag):
                    continue
                assert_close(b, np.take(a, chosen, tag), f"batch at {way}, tag {tag}; {text_of(sample)}")


def test_registry_is_found_by_folder() -> None:
    assert ("", "Relu") in registry() and ("headrace", "SumTo") in registry()


def test_empty_graph() -> None:
    assert run_graph(Graph(Block([], [], [])), {}) == {}
