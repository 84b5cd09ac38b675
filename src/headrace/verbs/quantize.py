"""`headrace.quantize`: make an int8 package from a model, with a report (see `headrace.quantization`)."""

from __future__ import annotations

from headrace.quantization import QuantizeResult, quantize

__all__ = ["QuantizeResult", "quantize"]
