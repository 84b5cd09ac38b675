// LSTM, GRU and RNN in float32, built once for every tier.
#include "kernels/rnn/recurrent.inc.h"

namespace hr::HR_TIER {
namespace {

HR_KERNEL("LSTM", recurrent);
HR_KERNEL("GRU", recurrent);
HR_KERNEL("RNN", recurrent);

}  // namespace
}  // namespace hr::HR_TIER
