"""conformance: does a server speak the Open Inference Protocol, and Triton's extensions of it, as its clients expect?"""

from headrace.verbs.conformance.run import conformance

__all__ = ["conformance"]
