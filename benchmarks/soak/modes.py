"""The runs by name."""

from benchmarks.soak import faults, limits, steady

MODES = {
    "R1": steady.r1,
    "R2": steady.r2,
    "R3": faults.r3,
    "R4": faults.r4,
    "R5": faults.r5,
    "R6": faults.r6,
    "R14": limits.r14,
    "R15": limits.r15,
    "R16": limits.r16,
    "cycles": faults.cycles,
}
