"""An If whose condition is known is the branch that it takes."""

from __future__ import annotations

from headrace.runtime.graph import Block, Graph, Node
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope

PORTABLE = True
ORDER = 32


def run(graph: Graph) -> Graph:
    return rewrite(graph, {"If": _if})


def _if(node: Node, scope: Scope) -> Patch | None:
    condition = scope.array(node.inputs[0])
    if condition is None or condition.size != 1:
        return None
    branch = node.attributes["then_branch" if bool(condition.reshape(())) else "else_branch"]
    pairs = (
        [(old, new) for old, new in zip(node.outputs, branch.outputs) if old is not None]
        if isinstance(branch, Block)
        else []
    )
    if not isinstance(branch, Block) or any(
        id(old) in scope.outputs and not _made_in(new, branch) for old, new in pairs
    ):
        return None
    return Patch([node], branch.nodes, dict(pairs))


def _made_in(value: object, block: Block) -> bool:
    return any(value is made for node in block.nodes for made in node.outputs)
