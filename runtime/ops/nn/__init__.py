"""Layers: convolution, pooling, normalization, softmax, losses, attention."""
