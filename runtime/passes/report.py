"""What each pass did to a graph, for people who want to see it. Not a pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from headrace.runtime.graph import Block, Graph, Node


@dataclass
class Rewrites:
    """What one pass did in all its rounds: nodes that went and that came, by kind, and how many stayed with other inputs
    or attributes."""

    name: str
    portable: bool
    gone: Counter[str] = field(default_factory=Counter)
    came: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """Nodes that went or changed."""
        return self.gone.total() + self.changed.total()

    def __str__(self) -> str:
        """ "Conv 2 + Relu 2 -> headrace.FusedConv 2; changed: Reshape 1"."""
        parts = []
        if self.gone or self.came:
            parts.append(f"{_counted(self.gone) or 'nothing'} -> {_counted(self.came) or 'nothing'}")
        if self.changed:
            parts.append(f"changed: {_counted(self.changed)}")
        return "; ".join(parts)


class Watch:
    """Given to `optimize` and to the machine passes, it is told of every pass; `rewrites` has one entry for each that
    ran, in order, also where it found nothing to do."""

    def __init__(self) -> None:
        self.rewrites: dict[str, Rewrites] = {}

    def __call__(self, name: str, portable: bool, before: Graph, after: Graph) -> None:
        entry = self.rewrites.setdefault(name, Rewrites(name, portable))
        if before is after:
            return
        old, new = _nodes(before.block), _nodes(after.block)
        entry.gone.update(node.kind for key, node in old.items() if key not in new)
        entry.came.update(node.kind for key, node in new.items() if key not in old)
        entry.changed.update(node.kind for key, node in new.items() if key in old and _differ(old[key], node))


def _nodes(block: Block) -> dict[tuple[str, ...], Node]:
    """Nodes by what stays the same while a pass rewires them: kind and names of the outputs."""
    return {(node.kind, *(v.name if v is not None else "" for v in node.outputs)): node for node in block.walk()}


def _differ(old: Node, new: Node) -> bool:
    """Whether attributes, how many inputs there are, or element types of results changed; inputs under another name are the
    neighbours' doing."""
    plain = [
        {key: value for key, value in node.attributes.items() if not isinstance(value, Block)} for node in (old, new)
    ]
    dtypes = [[getattr(value.type, "dtype", "") for value in node.outputs if value is not None] for node in (old, new)]
    return len(old.inputs) != len(new.inputs) or dtypes[0] != dtypes[1] or repr(plain[0]) != repr(plain[1])


def _counted(kinds: Counter[str]) -> str:
    return " + ".join(kind if count == 1 else f"{kind} {count}" for kind, count in kinds.most_common())
