"""The framework: patterns, patches, renaming, order, dead code."""

import numpy as np
import pytest
from graph_cases import count, kinds, make, same

from headrace.runtime.builder import Builder
from headrace.runtime.errors import GraphError
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.passes import optimize, portable
from headrace.runtime.passes.edit import clone, drop_dead, in_order
from headrace.runtime.passes.pattern import any_value, constant, match, one_of, op
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Names, Scope
from headrace.runtime.types import TensorType

F = "float32"


def scope_of(graph: Graph) -> Scope:
    return Scope(graph, graph.block, Names(graph))


def test_a_pattern_is_arithmetic() -> None:
    x = any_value("x")
    graph = make(lambda o, x: o.Mul(o.Sigmoid(x), x), x=(F, (2, 3)))
    found = match(x * op("Sigmoid", x), graph.nodes[-1], scope_of(graph))
    assert found is not None and found["x"] is graph.inputs[0] and [n.kind for n in found.nodes] == ["Sigmoid", "Mul"]


def test_a_name_that_occurs_twice_is_one_value() -> None:
    x = any_value("x")
    graph = make(lambda o, x, y: o.Mul(o.Sigmoid(x), y), x=(F, (2,)), y=(F, (2,)))
    assert match(x * op("Sigmoid", x), graph.nodes[-1], scope_of(graph)) is None


def test_inner_values_must_not_be_read_elsewhere() -> None:
    x = any_value("x")
    graph = make(lambda o, x: [o.Mul(x, s := o.Sigmoid(x)), o.Relu(s)], x=(F, (2,)))
    assert match(x * op("Sigmoid", x), graph.nodes[1], scope_of(graph)) is None
    graph = make(lambda o, x: [o.Mul(x, s := o.Sigmoid(x)), s], x=(F, (2,)))
    assert match(x * op("Sigmoid", x), graph.nodes[1], scope_of(graph)) is None


@pytest.mark.parametrize(
    ("number", "fits"),
    [(0.5, True), (0.500001, True), (0.6, False), ([0.5], True), ([[0.5]], False), ([0.5, 0.5], False)],
)
def test_numbers_match_constants_that_add_no_dimensions(number: object, fits: bool) -> None:
    graph = make(lambda o, x: o.Mul(x, o.const(number)), x=(F, (2,)))
    assert (match(any_value("x") * 0.5, graph.nodes[-1], scope_of(graph)) is not None) == fits


def test_choices_attributes_and_constants() -> None:
    pattern = one_of(op("Relu", any_value("x")), op("LeakyRelu", any_value("x"), alpha=lambda a: a > 0.5))
    graph = make(lambda o, x: [o.LeakyRelu(x, alpha=0.7), o.LeakyRelu(x, alpha=0.1), o.Relu(x)], x=(F, (2,)))
    assert [match(pattern, node, scope_of(graph)) is not None for node in graph.nodes] == [True, False, True]
    graph = make(lambda o, x, y: [o.Add(x, o.const([1.0, 2.0])), o.Add(x, y)], x=(F, (2,)), y=(F, (2,)))
    assert [match(any_value("x") + constant("c"), node, scope_of(graph)) is not None for node in graph.nodes] == [
        True,
        False,
    ]


def test_rewriting_leaves_the_given_graph_alone() -> None:
    graph = make(lambda o, x: o.Relu(o.Identity(x)), x=(F, (2,)))
    text = str(graph)
    result = rewrite(graph, {"Identity": lambda node, scope: Patch([node], rename={node.outputs[0]: node.inputs[0]})})
    assert str(graph) == text and kinds(result) == ["Relu"] and result.outputs[0].name == graph.outputs[0].name


def test_nothing_to_do_is_the_same_object() -> None:
    graph = make(lambda o, x: o.Relu(x), x=(F, (2,)))
    assert rewrite(graph, {"Conv": lambda node, scope: None}) is graph


def test_an_output_keeps_its_name_when_it_is_renamed() -> None:
    graph = make(lambda o, x: o.Identity(o.Relu(x)), x=(F, (2,)))
    result = rewrite(graph, {"Identity": lambda node, scope: Patch([node], rename={node.outputs[0]: node.inputs[0]})})
    assert [v.name for v in result.outputs] == [v.name for v in graph.outputs] and kinds(result) == ["Relu"]
    same(graph, result)


def test_two_outputs_of_one_value_need_a_bridge() -> None:
    graph = make(lambda o, x: [o.Identity(r := o.Relu(x)), o.Identity(r)], x=(F, (2,)))
    result = rewrite(graph, {"Identity": _drop_once()})
    assert [v.name for v in result.outputs] == [v.name for v in graph.outputs]
    same(graph, result)


def _drop_once():
    def rule(node: Node, scope: Scope) -> Patch | None:
        if not scope.replaceable(node.outputs[0], node.inputs[0]):
            return None
        return Patch([node], rename={node.outputs[0]: node.inputs[0]})

    return rule


def test_inner_blocks_are_rewritten_and_follow_renames() -> None:
    graph = make(lambda o, x: o.Identity(x), x=(F, (2,)))
    inner = graph.nodes[0].outputs[0]
    out = Value("inner", TensorType(F, (2,)))
    block = Block([], [Node("Relu", [inner], [out])], [out])
    condition = graph.constant("go", np.array(True))
    result = Value("result", TensorType(F, (2,)))
    graph.nodes.append(Node("If", [condition], [result], {"then_branch": block, "else_branch": block}))
    graph.block.outputs = [result]
    after = rewrite(graph, {"Identity": _drop_once()})
    assert kinds(after) == ["If"]
    assert after.nodes[0].blocks["then_branch"].captured() == [graph.inputs[0]]


def test_patches_that_overlap_wait_for_the_next_sweep() -> None:
    graph = make(lambda o, x: o.Neg(o.Neg(o.Neg(x))), x=(F, (2,)))

    def pair(node: Node, scope: Scope) -> Patch | None:
        first = scope.producer(node.inputs[0], "Neg")
        if first is None or not scope.replaceable(node.outputs[0], first.inputs[0]):
            return None
        return Patch([node, first], rename={node.outputs[0]: first.inputs[0]})

    assert kinds(rewrite(graph, {"Neg": pair})) == ["Neg"]


def test_a_rule_without_end_is_an_error() -> None:
    graph = make(lambda o, x: o.Relu(x), x=(F, (2,)))
    again = lambda node, scope: Patch([node], [scope.node("Relu", node.inputs, node.outputs[0])])  # noqa: E731
    with pytest.raises(GraphError, match="did not settle"):
        rewrite(graph, {"Relu": again})


def test_order_is_restored_and_cycles_are_named() -> None:
    a, b, c = (Value(name) for name in "abc")
    first, second = Node("Relu", [a], [b]), Node("Relu", [b], [c])
    assert in_order([second, first], Block([a], [], [c])) == [first, second]
    with pytest.raises(GraphError, match="depends on itself"):
        in_order([Node("Relu", [c], [b], name="n"), second], Block([a], [], [c]))


def test_dead_code_and_unread_constants_go_but_inputs_stay() -> None:
    graph = make(
        lambda o, x, unused: [o.Relu(o.Add(x, o.const(2.0))), o.Exp(o.Add(x, o.const(3.0)))][0],
        x=(F, (2,)),
        unused=(F, (2,)),
    )
    result = drop_dead(graph)
    assert kinds(result) == ["Add", "Relu"] and len(result.constants) == 1 and len(result.inputs) == 2


def test_a_clone_shares_arrays_only() -> None:
    graph = make(lambda o, x: o.Add(x, o.const([1.0, 2.0])), x=(F, (2,)))
    copy = clone(graph)
    assert str(copy) == str(graph) and copy.nodes[0] is not graph.nodes[0] and copy.inputs[0] is not graph.inputs[0]
    assert all(copy.constants[name] is array for name, array in graph.constants.items())


def test_every_pass_says_what_it_does_and_can_be_skipped() -> None:
    names = [name for name, _ in portable()]
    assert names.index("fold") < names.index("fuse_conv") < names.index("dead") and len(set(names)) == len(names)
    import importlib

    for name in names:
        assert importlib.import_module(f"headrace.runtime.passes.{name}").__doc__
    graph = make(lambda o, x: o.Identity(o.Relu(x)), x=(F, (2,)))
    assert count(optimize(graph, skip=names)) == count(graph)
    with pytest.raises(ValueError, match="no pass is called nothing"):
        optimize(graph, skip=["nothing"])


def test_optimize_leaves_the_given_graph_alone_and_types_everything() -> None:
    graph = make(lambda o, x: o.Mul(x, o.Sigmoid(o.Add(x, o.const(0.0)))), x=(F, ("n", 4)))
    text = str(graph)
    result = optimize(graph)
    assert str(graph) == text
    assert all(value.type is not None for node in result.nodes for value in node.outputs if value is not None)
    assert str(optimize(result)) == str(result)
    same(graph, result)


def test_builder_and_scope_agree_on_names() -> None:
    graph = make(lambda o, x: o.Relu(x), x=(F, (2,)))
    assert Builder(graph).fresh("relu") == Names(graph).fresh("relu") == "relu_2"
