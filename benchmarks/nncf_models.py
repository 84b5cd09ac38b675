#!/usr/bin/env python3
"""Quantizes models by NNCF, OpenVINO's quantizer, for benchmarks/models.py --precisions nncf.

    python benchmarks/nncf_models.py FOLDER --only bert_base,minilm_l6

It needs nncf (3.4 and later: pip install nncf), in an environment of its own where that would change versions of this one.
Writes NAME.nncf.onnx (QuantizeLinear and DequantizeLinear around what is to run in 8 bits) beside NAME.onnx, calibrated on a few
inputs made at random from meta.json: the speed is that of a file calibrated on data, the accuracy says nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import onnx
from feeds import feeds_of

try:
    import nncf
except ImportError:
    raise SystemExit("nncf is not installed; pip install nncf") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="comma-separated models (default: all)")
    parser.add_argument("--samples", type=int, default=8, help="inputs to calibrate on")
    options = parser.parse_args()
    models = json.loads((options.folder / "meta.json").read_text())
    for name in options.only.split(",") if options.only else models:
        about = models[name]
        calibration = [feeds_of(about["inputs"], 1, seed) for seed in range(1, options.samples + 1)]
        kind = nncf.ModelType.TRANSFORMER if about["family"] == "transformer" else None
        model = onnx.load(options.folder / f"{name}.onnx")
        quantized = nncf.quantize(model, nncf.Dataset(calibration), model_type=kind, subset_size=options.samples)
        onnx.save(quantized, options.folder / f"{name}.nncf.onnx")


if __name__ == "__main__":
    main()
