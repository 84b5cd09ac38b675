"""Quantization: ONNX's operators and headrace's integer layers."""
