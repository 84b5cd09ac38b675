"""export: a model file as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headrace.runtime import atomic
from headrace.runtime.source import open_source


def export(model: str | Path, output: str | Path, *, opset: int | None = None, inline: bool = False) -> dict[str, Any]:
    """Write `model` (.hr or .onnx) as an ONNX file at `output`.

    opset: version of ai.onnx, 13 or newer; None takes the default of `serializer.onnx.save`.
    inline: write out the bodies of headrace's own operators, for readers that know no functions.
    Answers {"path", "bytes", "opset"}. Raises LoadError, and GraphError naming a node that has no ONNX form.
    """
    from headrace.serializer.onnx.save import to_model

    proto = to_model(open_source(Path(model)).program, opset=opset, functions=not inline)
    data = proto.SerializeToString(deterministic=True)
    atomic.replace(output, [data])
    version = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    return {"path": str(output), "bytes": len(data), "opset": version}
