"""One small function for each kernel of csrc/: it computes grid, block and arguments and calls `device.launch`. Buffers are
addresses; 0 stands for an absent one. Layouts are NumPy's: C order, sizes in elements."""

from headrace.runtime.cuda.kernels.elementwise import binary, cast, compare, logical, unary, where
from headrace.runtime.cuda.kernels.gemm import gemm_f32, gemm_s8
from headrace.runtime.cuda.kernels.move import concat, copy, gather, slice_, split, transpose
from headrace.runtime.cuda.kernels.norm import arg_extreme, layer_norm, lp_normalize, reduce, scale_shift, softmax
from headrace.runtime.cuda.kernels.quant import (
    Levels,
    add_levels,
    dequantize,
    lookup,
    quantize,
    quantize_rows,
    row_sums,
)
from headrace.runtime.cuda.kernels.requantize import Epilogue, fold_columns, pack_weights
from headrace.runtime.cuda.kernels.window import (
    OUTSIDE,
    Window,
    average_pool,
    conv_depthwise_s8,
    conv_f32,
    conv_s8,
    conv_transpose_f32,
    max_pool,
    pack_conv_weights,
)
