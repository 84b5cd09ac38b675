"""Elementwise kernels (csrc/elementwise.cu)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from headrace.runtime.cuda.interface import Arg, Array, Device
from headrace.runtime.cuda.kernels._launch import (
    broadcast_steps,
    each,
    ints,
    longs,
    merge_dimensions,
    pointers,
    structure,
)
from headrace.runtime.cuda.sources import codes

RANK = 6
BROADCAST = np.dtype(
    [
        ("n", np.int64),
        ("rank", np.int32),
        ("unused", np.int32),
        ("shape", np.int64, RANK),
        ("stride", np.int64, (3, RANK)),
    ]
)
SUFFIX = {"float32": "f32", "int32": "i32", "int64": "i64", "uint8": "u8", "bool": "u8"}
Shape = Sequence[int]


def broadcast(*shapes: Shape) -> Array:
    """BROADCAST of up to three operands: neighbouring dimensions that every operand walks alike are merged. ValueError where
    more than six remain."""
    shape = np.broadcast_shapes(*(tuple(s) for s in shapes))
    steps = [broadcast_steps(s, len(shape)) for s in shapes]
    sizes, steps = merge_dimensions(shape, steps, f"operands {[tuple(s) for s in shapes]}", RANK)
    lead = next((i for i, size in enumerate(sizes) if size != 1), RANK - 1)  # ones in front cost divisions
    value = structure(BROADCAST, n=prod(shape), rank=RANK - lead)
    value["shape"][: RANK - lead] = sizes[lead:]
    for k, walk in enumerate(steps):
        value["stride"][k][: RANK - lead] = walk[lead:]
    return value


def unary(device: Device, function: str, x: int, y: int, n: int, a: float = 0.0, b: float = 0.0) -> None:
    """y = function(x) over n floats. a, b: its attributes (alpha, beta, or lower and upper bound)."""
    each(
        device,
        "unary_f32",
        n,
        [*pointers(x, y), *longs(n), *ints(codes("Unary")[function]), np.float32(a), np.float32(b)],
    )


def binary(device: Device, function: str, dtype: str, x: int, y: int, out: int, x_shape: Shape, y_shape: Shape) -> None:
    """out = function(x, y), broadcast; float32, int32 or int64."""
    layout = broadcast(x_shape, y_shape)
    args: list[Arg] = [*pointers(x, y, out), layout, *ints(codes("Binary")[function])]
    each(device, f"binary_{SUFFIX[dtype]}", int(layout["n"]), args)


def compare(
    device: Device, function: str, dtype: str, x: int, y: int, out: int, x_shape: Shape, y_shape: Shape
) -> None:
    """out (bool) = x function y, broadcast; float32, int32, int64, uint8 or bool."""
    layout = broadcast(x_shape, y_shape)
    args: list[Arg] = [*pointers(x, y, out), layout, *ints(codes("Compare")[function])]
    each(device, f"compare_{SUFFIX[dtype]}", int(layout["n"]), args)


def logical(device: Device, function: str, x: int, y: int, out: int, x_shape: Shape, y_shape: Shape) -> None:
    """out = x function y over bools, broadcast. `not` reads x only: y may be 0."""
    layout = broadcast(x_shape, y_shape)
    each(device, "logical", int(layout["n"]), [*pointers(x, y, out), layout, *ints(codes("Logical")[function])])


def where(
    device: Device,
    itemsize: int,
    condition: int,
    x: int,
    y: int,
    out: int,
    c_shape: Shape,
    x_shape: Shape,
    y_shape: Shape,
) -> None:
    """out = condition ? x : y, broadcast; items of 1, 4 or 8 bytes."""
    layout = broadcast(c_shape, x_shape, y_shape)
    each(device, f"where_{itemsize}", int(layout["n"]), [*pointers(condition, x, y, out), layout])


def cast(device: Device, x: int, y: int, n: int, from_dtype: str, to_dtype: str) -> None:
    """n values between float32, int32, int64, uint8, int8 and bool."""
    types = codes("Type", "elementwise.cu")
    each(device, "cast", n, [*pointers(x, y), *longs(n), *ints(types[from_dtype], types[to_dtype])])
