"""bench of a server: loads, measured step by step, with every answer checked."""

from headrace.verbs.load.run import load_server

__all__ = ["load_server"]
