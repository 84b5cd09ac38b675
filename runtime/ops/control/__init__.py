"""If, Loop and Scan."""

from headrace.runtime.ops.control._blocks import MAX_SCANNED, MAX_TRIPS, known_sizes

__all__ = ["MAX_SCANNED", "MAX_TRIPS", "known_sizes"]
