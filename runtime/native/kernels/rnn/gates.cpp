#include "kernels/rnn/gates.h"

#include "kernels/gemm/tiers.h"

namespace hr {

HR_TIER_TABLE(GateTable, gate_kernels);

const GateTable& gate_table() { return HR_OF_TIER(gate_kernels, cpu_tier()); }

}  // namespace hr
