"""Operators of the domain "headrace" that the training core needs and ONNX lacks."""
