// LSTM, GRU and RNN over bf16 factors, for nodes that allow it (passes/machine/low_precision.py).
#define HR_BF16
#include "kernels/rnn/recurrent.inc.h"

namespace hr::HR_TIER {
namespace {

HR_KERNEL("headrace.cpu.LSTM", recurrent);
HR_KERNEL("headrace.cpu.GRU", recurrent);
HR_KERNEL("headrace.cpu.RNN", recurrent);

}  // namespace
}  // namespace hr::HR_TIER
