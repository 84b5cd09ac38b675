"""What to do with a file of another framework. headrace reads `.hr` and `.onnx`; this only knows the way there."""

from __future__ import annotations

from pathlib import Path

_TORCH = "it holds pickled Python objects, which headrace never runs; where its module is defined, "
_PICKLE = (
    "a pickle runs code when it is read, so headrace never reads one; where the estimator was trained, pack it: "
    'headrace.sklearn.pack(estimator, X, "model.hr")'
)
_TENSORFLOW = "export it as ONNX: python -m tf2onnx.convert {} {} --output model.onnx"

_EXPORT = _TORCH + 'pack it: headrace.torch.pack(module, example_inputs, "model.hr")'
_WEIGHTS = _TORCH + 'save its weights: safetensors.torch.save_file(module.state_dict(), "weights.safetensors")'
_SAFETENSORS = (
    "weights alone are no model; load them into their module, then pack it: "
    "module.load_state_dict(headrace.load({!r})), headrace.pack(module, example_inputs)"
)


def model_advice(path: Path) -> str:
    """How a model in the file (or folder) `path` could be made one that headrace runs; "" where nothing is known."""
    suffix = path.suffix.lower()
    if suffix in (".pt", ".pth", ".ckpt", ".bin"):
        return _EXPORT
    if suffix in (".pkl", ".pickle", ".joblib"):
        return _PICKLE
    if suffix in (".h5", ".keras"):
        return _TENSORFLOW.format("--keras", path.name)
    if suffix == ".tflite":
        return _TENSORFLOW.format("--tflite", path.name)
    if suffix == ".safetensors":
        return _SAFETENSORS.format(path.name)
    if path.is_dir() and (path / "saved_model.pb").exists():
        return _TENSORFLOW.format("--saved-model", path.name)
    return ""


def weights_advice(path: Path) -> str:
    """How weights in the file `path` could be made a checkpoint that headrace loads; "" where nothing is known."""
    suffix = path.suffix.lower()
    if suffix in (".pt", ".pth", ".ckpt", ".bin"):
        return _WEIGHTS
    return _PICKLE if suffix in (".pkl", ".pickle", ".joblib") else ""
