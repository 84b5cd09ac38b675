"""The activation that fused operators apply to their result, by the reference of the operator that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headrace.runtime.ops.base import Attr

# Name -> (operator, its fixed attributes, which of alpha and beta it takes).
_OPERATORS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "Relu": ("Relu", {}, ()),
    "HardSwish": ("HardSwish", {}, ()),
    "Sigmoid": ("Sigmoid", {}, ()),
    "Tanh": ("Tanh", {}, ()),
    "Silu": ("Swish", {"alpha": 1.0}, ()),
    "LeakyRelu": ("LeakyRelu", {}, ("alpha",)),
    "HardSigmoid": ("HardSigmoid", {}, ("alpha", "beta")),
    "Gelu": ("Gelu", {"approximate": "none"}, ()),
    "GeluTanh": ("Gelu", {"approximate": "tanh"}, ()),
}
ACTIVATIONS = ("", "Clip", *_OPERATORS)
PLAIN = ("", "Clip", *(name for name, (_, _, own) in _OPERATORS.items() if not own))  # without alpha or beta
ATTRIBUTES = {
    "activation": Attr("string", "", ACTIVATIONS),
    "beta": Attr("float"),
    "clip_min": Attr("float"),
    "clip_max": Attr("float"),
}


def activate(y: Any, attributes: Mapping[str, Any]) -> Any:
    """The activated array, in its own dtype. `alpha` and `beta` that are absent take the operator's defaults."""
    from headrace.runtime.ops import find

    name = attributes["activation"]
    if name == "":
        return y
    if name == "Clip":
        low, high = attributes.get("clip_min"), attributes.get("clip_max")
        y = y if low is None else np.maximum(y, np.asarray(low, y.dtype))
        return y if high is None else np.minimum(y, np.asarray(high, y.dtype))
    operator_name, fixed, own = _OPERATORS[name]
    operator = find(operator_name)
    assert operator is not None
    given = fixed | {key: attributes[key] for key in own if attributes.get(key) is not None}
    return operator.reference([y], operator.complete(given))[0]
