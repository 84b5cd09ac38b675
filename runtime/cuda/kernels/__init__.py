"""One small function for each kernel of csrc/: it computes grid, block and arguments and calls `device.launch`. Buffers are
addresses; 0 stands for an absent one. Layouts are NumPy's: C order, sizes in elements."""

from headrace.runtime.cuda.kernels.elementwise import binary, cast, compare, logical, unary, where
from headrace.runtime.cuda.kernels.gemm import gemm_s8
from headrace.runtime.cuda.kernels.requantize import Epilogue
