"""The instruction-set tiers that kernel tests run on."""

from headrace.runtime import _native

# avx512_bf16 adds products of low precision alone (test_bf16.py); the rest is avx512_vnni's code.
TIERS = [name for name in _native.cpu_tiers() if name != "avx512_bf16"]
