// The same for values that are bf16: half the bytes between layers.
#define HR_BF16
#include "kernels/conv/kernels.inc.h"
#include "kernels/conv/winograd.inc.h"

namespace hr::HR_TIER {

extern const ConvTable conv_kernels;
const ConvTable conv_kernels = {"avx512_bf16",   kLanes,   depthwise, max_f32, sum_f32, max_int<uint8_t>,
                                max_int<int8_t>, max_bf16, sum_bf16,  gather};

extern const WinogradTable winograd_kernels;
const WinogradTable winograd_kernels = {{input<2>, input<4>}, {output<2>, output<4>}, {weights<2>, weights<4>}, {panel<2>, panel<4>}};

}  // namespace hr::HR_TIER
