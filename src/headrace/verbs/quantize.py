"""`headrace.quantize`: make a quantized package from a model, with a report (see `headrace.quantization`)."""

from __future__ import annotations

from headrace.quantization import Blocks, QuantizeResult, quantize

__all__ = ["Blocks", "QuantizeResult", "quantize"]
