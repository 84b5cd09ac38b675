"""The classical models of ai.onnx.ml."""
