"""Lists whose length only the graph knows, as sequences of the graph; and the operators on sequences as functions of lists.

`headrace.jit.operators` offers every operator as a function of tensors. Those on sequences take and answer lists here, so
that the text of a program runs both eagerly and compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import headrace.functional as F
from headrace.autograd.mode import MODE
from headrace.autograd.tape import ops
from headrace.jit.script import specs
from headrace.jit.script.values import List
from headrace.runtime import dtypes
from headrace.runtime.types import TensorType
from headrace.tensors import Tensor, check_dim


def inserted(tracer: Any, items: List, item: Any) -> List:
    """The list with one more element at its end. Raises specs.Mismatch where it is of another type."""
    element = specs.join_elements([items.element, specs.spec_of(item)])
    found = tracer.node("SequenceInsert", [items.sequence, specs.item_value(item, element, tracer)], {})
    return specs.dynamic_list(found, element, tracer)


def concatenate(tracer: Any, items: List, dim: int, *, stacked: bool) -> Tensor:
    """torch.stack or torch.cat of a list."""
    shape = items.element.shape
    attributes: dict[str, Any] = {"axis": dim}
    if stacked:
        attributes["new_axis"] = 1
    found = tracer.node("ConcatFromSequence", [items.sequence], attributes)
    if shape is not None:
        fresh = tracer.builder.inference.fresh
        sizes = [fresh("item") if size is None else size for size in shape]
        axis = check_dim(dim, len(shape), int(stacked))
        sizes[axis : axis + (not stacked)] = [fresh("joined")]
        found.type = TensorType(items.element.dtype, tuple(sizes))
    return tracer._tensor(found)


# -------------------------------------------------------------------- operators as functions


def _empty(dtype: int = 1) -> List:
    found = List()
    if MODE.tracer is not None:
        element = specs.Array(dtypes.BY_ONNX[dtype].name, None)
        value = MODE.tracer.node("SequenceEmpty", [], {"dtype": dtype})
        found = specs.dynamic_list(value, element, MODE.tracer)
    return found


def _construct(*items: Tensor) -> List:
    found = List(items)
    if MODE.tracer is not None:
        element = specs.join_elements(list(map(specs.spec_of, items)))
        value = specs.sequence_value(found, element, MODE.tracer)
        found = specs.dynamic_list(value, element, MODE.tracer)
    return found


def _insert(items: List, item: Tensor) -> List:
    return inserted(MODE.tracer, items, item) if items.sequence is not None else List([*items, item])


def _erase(items: List) -> List:
    if items.sequence is None:
        return List(items[:-1])
    return specs.dynamic_list(MODE.tracer.node("SequenceErase", [items.sequence], {}), items.element, MODE.tracer)


def _at(items: List, position: Tensor) -> Tensor:
    if items.sequence is None:
        return items[int(position)]
    tracer = MODE.tracer
    value = tracer.node("SequenceAt", [items.sequence, tracer.value(position)], {})
    return specs.item_of(value, items.element, tracer)


def _length(items: List) -> Tensor:
    if items.sequence is None:
        return F.tensor(len(items))
    return MODE.tracer._tensor(MODE.tracer.node("SequenceLength", [items.sequence], {}))


def _concat(items: List, axis: int, new_axis: int = 0) -> Tensor:
    if items.sequence is None:
        return (F.stack if new_axis else F.cat)(items, axis)
    return concatenate(MODE.tracer, items, axis, stacked=bool(new_axis))


SEQUENCES: dict[str, Callable[..., Any]] = {
    "SequenceEmpty": _empty,
    "SequenceConstruct": _construct,
    "SequenceInsert": _insert,
    "SequenceErase": _erase,
    "SequenceAt": _at,
    "SequenceLength": _length,
    "ConcatFromSequence": _concat,
}


class Operators:
    """Every operator as a function: `operators.Add(x, y)`."""

    def __getattr__(self, name: str) -> Any:
        return SEQUENCES.get(name) or getattr(ops, name)


operators: Any = Operators()
