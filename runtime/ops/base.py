"""The operator contract: one class says all that headrace knows about an operator.

A class in `runtime/ops/<family>/<op>.py` answers: which inputs, attributes and element types are allowed; the types and
shapes of the outputs (`infer`); the NumPy reference (`reference`); the gradient as calls of other operators
(`gradient`); sample cases (`samples`); how older ONNX versions become this one (`upgrade`); how rows of the batch pass
through (`rows`); and whether it is deterministic, may run in place, and which inputs may be packed ahead.
Everything else (eager functions, tape, tracer, checker, planner, contract test, ONNX mapping) reads these answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.shapes import Dim, Shape
from headrace.runtime.types import TensorType, Type

REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "REQUIRED"})()


@dataclass(frozen=True)
class Attr:
    """One attribute. kind: int float string ints floats strings tensor block type. A missing one takes `default`
    (None: stays absent; REQUIRED: an error). `choices` lists the allowed values where they are few."""

    kind: str
    default: Any = None
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class In:
    """One formal input: its name, the type variable or the set of dtypes that it takes."""

    name: str
    types: str | frozenset[str] = "T"
    optional: bool = False
    variadic: bool = False  # only for the last input: one or more actual inputs


@dataclass(frozen=True)
class Out:
    """One formal output. gradient=False: statistics and the like, whose gradient the operator does not answer for."""

    name: str
    types: str | frozenset[str] = "T"
    optional: bool = False
    variadic: bool = False
    gradient: bool = True


@dataclass(frozen=True)
class Accuracy:
    """How near every kernel must come to the reference, computed in float64: the error in units in the last place of
    max(|reference|, scale). From 8 units on (sums, whose terms may cancel) the scale is at least a quarter of the
    largest result. `Accuracy.exact()` allows no difference but that of zeros' signs and NaNs' bits."""

    ulp: float = 0.0
    scale: float = 0.0  # for functions whose formula cancels near zero: Gelu, HardSigmoid

    @staticmethod
    def exact() -> Accuracy:
        return Accuracy(0.0)


@dataclass
class Sample:
    """One case of the contract test: arrays (None for an absent input; lists for sequences) and attributes. Blocks among
    the attributes read their own inputs only."""

    inputs: list[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int | None = None  # how many outputs to ask for; None: all that are not optional
    smooth: bool = True  # False: at a kink or a tie, where differences say nothing about the gradient


class Context:
    """What `infer` sees of one node: input types, attributes, and input values where they are known.

    `value(i)` answers the elements of a small integer input as dimensions (integers or symbolic expressions), so that
    shape arithmetic (Shape -> Gather -> Concat -> Reshape) stays exact; None where unknown.
    `fresh(hint)` makes a new bounded symbol for a size that depends on data.
    """

    def __init__(
        self,
        inputs: Sequence[Type | None],
        attributes: Mapping[str, Any],
        values: Sequence[tuple[Dim, ...] | Dim | None] | None = None,
        constants: Sequence[np.ndarray | None] | None = None,
        fresh: Callable[[str], Dim] | None = None,
        n_outputs: int = 1,
        version: int = 0,
        infer_block: Callable[[Any, Sequence[Type | None]], list[Type | None]] | None = None,
    ) -> None:
        self.inputs, self.attributes = list(inputs), attributes
        self.values = list(values) if values is not None else [None] * len(self.inputs)
        self.constants = list(constants) if constants is not None else [None] * len(self.inputs)
        self._fresh, self.n_outputs, self.version = fresh, n_outputs, version
        self.infer_block = infer_block
        self.batch: Dim | None = (
            None  # the batch's symbol while `rows` is asked, so that made-up rows can be recognised
        )

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None

    def type(self, index: int) -> TensorType:
        """The tensor type of input `index`; GraphError if it is no tensor."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if not isinstance(found, TensorType):
            raise GraphError(f"input {index} must be a tensor, not {found}")
        return found

    def dtype(self, index: int = 0) -> str:
        return self.type(index).dtype

    def shape(self, index: int = 0) -> Shape | None:
        return self.type(index).shape

    def constant(self, index: int) -> np.ndarray | None:
        """The whole array of input `index` where it is a constant."""
        return self.constants[index] if index < len(self.constants) else None

    def value(self, index: int) -> tuple[Dim, ...] | Dim | None:
        """Elements of a rank-0 (a Dim) or rank-1 (a tuple) integer input, where known."""
        known = self.values[index] if index < len(self.values) else None
        if known is not None:
            return known
        array = self.constant(index)
        if array is not None and array.ndim <= 1 and array.dtype.kind in "iu":
            return int(array) if array.ndim == 0 else tuple(int(x) for x in array)
        return None

    def fresh(self, hint: str) -> Dim:
        from headrace.runtime.shapes import symbol

        return self._fresh(hint) if self._fresh else symbol(hint)


# Which rows of the outputs depend on which rows of the inputs, for the proof that batches may be merged.
# Row tag of a value: an axis number that carries the batch (rows independent along it), None for "does not carry the
# batch" (the same for all requests), or MIXED for "rows influence each other".
MIXED = -1


class Operator:
    """Base of all operators. Subclasses are found by folder, never listed; one instance each lives in the registry."""

    domain: ClassVar[str] = ""
    name: ClassVar[str] = ""  # default: the class name
    versions: ClassVar[tuple[int, ...]] = (1,)  # since-versions of the definitions that this class understands
    inputs: ClassVar[tuple[In, ...]] = (In("X"),)
    outputs: ClassVar[tuple[Out, ...]] = (Out("Y"),)
    types: ClassVar[Mapping[str, frozenset[str]]] = {"T": dtypes.NUMERIC}
    attributes: ClassVar[Mapping[str, Attr]] = {}
    accuracy: ClassVar[Accuracy] = Accuracy(4.0)
    deterministic: ClassVar[bool] = True
    in_place: ClassVar[tuple[int, ...]] = ()  # inputs whose buffer output 0 may take over
    view: ClassVar[bool] = False  # output 0 has the bytes of input 0 under another shape (Reshape, Squeeze, ...)
    steps: ClassVar[bool] = False  # goes through its weights again at every step of a sequence, for all rows at once
    prepack: ClassVar[tuple[int, ...]] = ()  # inputs that a kernel may re-arrange once, where they are constant
    differentiable: ClassVar[bool] = True
    twice_differentiable: ClassVar[bool] = True

    def infer(self, context: Context) -> list[Type | None]:
        """Types of the outputs. Raises GraphError (what is wrong, what is allowed; the caller adds the node)."""
        raise GraphError(f"{self.kind} has no shape rule")

    def values(self, context: Context) -> list[tuple[Dim, ...] | Dim | None] | None:
        """Symbolic values of small integer outputs (shape arithmetic), or None."""
        return None

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        """The outputs as NumPy arrays, from the specification's text; absent inputs are None. `attributes` has every
        default filled in. `run_block(block, inputs)` runs an inner block (If, Loop, Scan)."""
        raise NotImplementedError(self.kind)

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        """One gradient for each input (None: no gradient flows), built only by calling operators of the namespace `F`
        (eager tape, graph builder, or NumPy), so that it is differentiable again. `grads` holds None for outputs
        without a gradient."""
        raise NotImplementedError(f"{self.kind} has no gradient")

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        """Cases for the contract test: usual, odd and extreme shapes and values."""
        return iter(())

    def flops(self, inputs: Sequence[tuple[int, ...] | None], outputs: Sequence[tuple[int, ...] | None]) -> int | None:
        """Arithmetic operations of one run on tensors of these sizes, a multiply-add counted as two, in any layout that
        kernels use; None for an operator whose time goes by the bytes that it moves. Families: runtime/ops/work.py."""
        return None

    def upgrade(self, node: Any, version: int, builder: Any) -> list[Any] | None:
        """Bring a node of an older operator-set version to the newest.

        Called by ONNX import for every node, before the node itself is added; the node's inputs are already values of
        `builder`. Answers None where the node (perhaps changed in place) means the same in the newest version, or the
        values that replace `node.outputs`, one for each (None where node.outputs has None), made with `builder`. Raises
        GraphError for what the newest version cannot say.
        """
        return None

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        """The row tag of each output from those of the inputs (see MIXED). The default is the safe answer."""
        return [MIXED if any(tag is not None for tag in tags) else None] * context.n_outputs

    @property
    def kind(self) -> str:
        return f"{self.domain}.{self.name}" if self.domain else self.name

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

    @cached_property
    def attribute_defaults(self) -> dict[str, Any]:
        """Of every attribute; REQUIRED where there is none."""
        return {key: attribute.default for key, attribute in self.attributes.items()}

    @cached_property
    def _required(self) -> list[str]:
        return [key for key, attribute in self.attributes.items() if attribute.default is REQUIRED]

    def complete(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes with defaults filled in. GraphError for an unknown or missing one, or a value not allowed."""
        full = dict(self.attribute_defaults)
        for key, value in attributes.items():
            attr = self.attributes.get(key)
            if attr is None:
                allowed = ", ".join(self.attributes) or "none"
                raise GraphError(f"{self.kind} has no attribute {key!r}; allowed: {allowed}")
            if value is None:
                continue
            if attr.choices and value not in attr.choices:
                raise GraphError(f"{self.kind}: {key} is {value!r}; allowed: {', '.join(map(repr, attr.choices))}")
            full[key] = value
        for key in self._required:
            if full[key] is REQUIRED:
                raise GraphError(f"{self.kind} needs the attribute {key!r}")
        return full
