"""The runtime's errors: what is wrong, where, and what is allowed.

HeadraceError
├── GraphError     a graph breaks a rule (names the node)
├── LoadError      a file cannot become a model (names the file)
│   └── UnsupportedOperator   lists every operator the runtime lacks
├── InputError     a feed does not fit the interface (names the input)
└── RunError       an operator failed while running (names the node)
"""

from __future__ import annotations


class HeadraceError(ValueError):
    """Base of every error that headrace raises on purpose."""


class GraphError(HeadraceError):
    """A graph breaks a rule; the text names the node and the rule."""


class LoadError(HeadraceError):
    """A file cannot become a model; the text names the file, the place inside it, and the rule."""


class UnsupportedOperator(LoadError):
    """The graph uses operators that this runtime does not have; all of them are listed."""


class InputError(HeadraceError):
    """A feed does not fit the model's interface; the text names the input and what is allowed."""


class RunError(HeadraceError):
    """An operator failed while running; the text names the node and the operator."""
