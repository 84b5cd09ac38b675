// The convolution family's leaf kernels and Winograd's transforms, built once for every tier.
#include "kernels/conv/kernels.inc.h"
#include "kernels/conv/winograd.inc.h"

namespace hr::HR_TIER {

extern const ConvTable conv_kernels;
#define HR_TEXT2(x) #x
#define HR_TEXT(x) HR_TEXT2(x)
const ConvTable conv_kernels = {HR_TEXT(HR_TIER),    kLanes,  depthwise, max_f32, sum_f32, max_int<uint8_t>,
                                max_int<int8_t>, nullptr, nullptr,   gather};

extern const WinogradTable winograd_kernels;
const WinogradTable winograd_kernels = {{input<2>, input<4>}, {output<2>, output<4>}, {weights<2>, weights<4>}, {panel<2>, panel<4>}};

}  // namespace hr::HR_TIER
