"""The second device: CUDA kernels of our own, and their emulator for machines without a GPU. cupy is imported only where a
device is opened."""
