"""Float convolutions, and pools of any type."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.runtime.cuda.kernels import window as kernels
from headrace.runtime.cuda.rules.base import Bound, NoKernel, Rule, Site, Work
from headrace.runtime.cuda.rules.elementwise import activation
from headrace.runtime.ops.nn._pooling import arranged
from headrace.runtime.ops.nn.conv import window_of
from headrace.runtime.ops.nn.conv_transpose import transposed_sizes

F32 = ("float32",)
LAST = "headrace.cuda"  # the domain of nodes over channels-last tensors


def is_last(site: Site) -> bool:
    return site.node.domain == LAST


def sizes_of(shape: Sequence[int], last: bool) -> tuple[int, ...]:
    """(n, channels, *spatial) of a stored shape."""
    return (shape[0], shape[-1], *shape[1:-1]) if last else tuple(shape)


def conv_window(site: Site, w: Sequence[int]) -> kernels.Window:
    """The geometry of a convolution with weights of shape `w` [features, channels of a group, *kernel]."""
    last = is_last(site)
    x, y = sizes_of(site.shape(), last), sizes_of(site.out_shape(), last)
    window = window_of(site.attributes, tuple(w)).resolve(x[2:])
    return _limited(x, w[0], y[2:], window, site.attributes["group"], last)


def _limited(
    x: Sequence[int], features: int, counts: Sequence[int], window: object, group: int, last: bool
) -> kernels.Window:
    try:
        return kernels.Window.of(x, features, counts, window, group, x_last=last, y_last=last)
    except ValueError as error:
        raise NoKernel(str(error)) from error


def _conv(site: Site) -> Work:
    site.need_dtypes(F32, 0, 1, 2, 3)
    window = conv_window(site, site.shape(1))
    function, a, b = activation({"activation": "", **site.attributes})

    def emit(at: Bound) -> None:
        x, w, bias, r = (*at.inputs, 0, 0)[:4]
        kernels.conv_f32(at.device, x, w, bias, r, at.outputs[0], window, function, a, b)

    return Work("conv_f32", emit)


def _conv_transpose(site: Site) -> Work:
    site.need_dtypes(F32, 0, 1, 2)
    x, w = site.shape(), site.shape(1)
    sizes, reversed_window = transposed_sizes(x[2:], w[2:], site.attributes)
    group = site.attributes["group"]
    counts = [int(size) for size in sizes if isinstance(size, int)]
    window = _limited(x, w[1] * group, counts, reversed_window, group, False)

    def emit(at: Bound) -> None:
        x, w, bias = (*at.inputs, 0)[:3]
        kernels.conv_transpose_f32(at.device, x, w, bias, at.outputs[0], window)

    return Work("conv_transpose_f32", emit)


def _pool_window(site: Site) -> kernels.Window:
    last = is_last(site)
    x = sizes_of(site.shape(), last)
    window, counts = arranged(site.attributes, x[2:])
    return _limited(x, x[1], counts, window, 1, last)


def _max_pool(site: Site) -> Work:
    site.need_dtypes(("float32", "uint8", "int8"), 0)
    site.need(all(value is None for value in site.node.outputs[1:]), "indices of the largest")
    window, dtype = _pool_window(site), site.dtype()

    def emit(at: Bound) -> None:
        kernels.max_pool(at.device, dtype, at.inputs[0], at.outputs[0], window)

    return Work(f"max_pool {dtype}", emit)


def _average_pool(site: Site) -> Work:
    site.need_dtypes(F32, 0)
    window, include = _pool_window(site), bool(site.attributes["count_include_pad"])

    def emit(at: Bound) -> None:
        kernels.average_pool(at.device, at.inputs[0], at.outputs[0], window, include)

    return Work("average_pool", emit)


RULES: dict[str, Rule] = {
    "Conv": _conv, "headrace.FusedConv": _conv, "MaxPool": _max_pool, f"{LAST}.MaxPool": _max_pool,
    "AveragePool": _average_pool, "ConvTranspose": _conv_transpose,
}  # fmt: skip
