"""ONNX in (`load.open_program`) and out (`save.to_onnx`). The package `onnx` is imported only when one of them runs."""
