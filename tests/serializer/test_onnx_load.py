"""ONNX import: one small model per feature, answers compared with onnxruntime where it can run them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from serializer_graphs import every_array, same

from headrace.runtime import dtypes
from headrace.runtime.errors import LoadError, UnsupportedOperator
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Graph
from headrace.runtime.ops import find
from headrace.runtime.types import TensorType
from headrace.serializer.onnx.external import ExternalData
from headrace.serializer.onnx.load import open_program
from headrace.serializer.onnx.tensors import read_sparse, read_tensor, write_tensor

F = TensorProto.FLOAT
X = np.array([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]], np.float32)


def info(name: str, shape: Any = ("n", 3), dtype: int = F) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: list[Any],
    inputs: Any = None,
    outputs: Any = None,
    *,
    opset: int | None = 20,
    ir: int = 10,
    imports: Any = (),
    functions: Any = (),
    **graph: Any,
) -> Any:
    body = helper.make_graph(nodes, "g", inputs or [info("x")], outputs or [info("y", None)], **graph)
    opsets = ([helper.make_opsetid("", opset)] if opset else []) + [helper.make_opsetid(*item) for item in imports]
    return helper.make_model(body, opset_imports=opsets, functions=list(functions), ir_version=ir)


def load(source: Any) -> Graph:
    return open_program(source).program.main


def check(proto: Any, feeds: dict[str, np.ndarray] | None = None) -> Graph:
    """Load, run, and compare with onnxruntime."""
    feeds = {"x": X} if feeds is None else feeds
    graph = load(proto)
    found = run_graph(graph, feeds)
    onnxruntime = pytest.importorskip("onnxruntime", reason="compares with onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for output, wanted in zip(session.get_outputs(), session.run(None, feeds)):
        np.testing.assert_allclose(found[output.name], wanted, rtol=1e-5, atol=1e-6)
        assert found[output.name].dtype == wanted.dtype
    return graph


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def needs(*operators: str) -> None:
    missing = [name for name in operators if find(name) is None]
    if missing:
        pytest.skip(f"operators that do not exist yet: {', '.join(missing)}")


W = numpy_helper.from_array(np.arange(3, dtype=np.float32), "w")


# Sources


def test_path_bytes_and_proto(tmp_path: Path) -> None:
    proto = model([node("Add", "x w", "y")], initializer=[W])
    onnx.save(proto, tmp_path / "m.onnx")
    texts = {
        str(load(source))
        for source in (proto, proto.SerializeToString(), tmp_path / "m.onnx", str(tmp_path / "m.onnx"))
    }
    assert len(texts) == 1


@pytest.mark.parametrize("data", [b"", b"\xff", b"PK\3\4", b"hello world", b"\x08\x0a", b"\x3a\x00"])
def test_no_model(data: bytes) -> None:
    with pytest.raises(LoadError):
        load(data)


def test_missing_file_and_wrong_kind(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="cannot be read"):
        load(tmp_path / "none.onnx")
    with pytest.raises(LoadError, match="int"):
        load(3)


# Versions


@pytest.mark.parametrize("ir", range(3, 15))
def test_every_ir_version_since_3(ir: int) -> None:
    """With the operator set of its time, said or left out; weights are inputs too, as IR 3 demands."""
    newest = max(row[2] for row in helper.VERSION_TABLE if row[1] <= ir)
    inputs, nodes = [info("x"), info("w", [3])], [node("Add", "x w", "a"), node("Relu", "a", "y")]
    for opset in (newest, None):
        graph = load(model(nodes, inputs, initializer=[W], opset=opset, ir=ir))
        np.testing.assert_array_equal(run_graph(graph, {"x": X})["y"], np.maximum(X + [0, 1, 2], 0))


@pytest.mark.parametrize("ir", [2, 15, 1 << 40])
def test_ir_versions(ir: int) -> None:
    proto = model([node("Relu", "x", "y")])
    proto.ir_version = ir
    with pytest.raises(LoadError, match="IR version"):
        load(proto)


@pytest.mark.parametrize("version", [-1, 0, 29, 1 << 40])
def test_operator_sets(version: int) -> None:
    with pytest.raises(LoadError, match="operator set"):
        load(model([node("Relu", "x", "y")], opset=None, imports=[("", version)]))


def test_missing_and_repeated_default_domain() -> None:
    assert (
        load(model([node("Relu", "x", "y")], opset=None, imports=[("ai.onnx.ml", 1)], ir=3)).nodes[0].operator == "Relu"
    )
    assert load(model([node("Relu", "x", "y")], imports=[("ai.onnx", 20)])).nodes[0].version == 28
    with pytest.raises(LoadError, match="twice"):
        load(model([node("Relu", "x", "y")], imports=[("ai.onnx", 19)]))


def test_initializers_that_are_inputs() -> None:
    """IR 3 lists every weight as an input."""
    graph = check(model([node("Add", "x w", "y")], [info("x"), info("w", [3])], initializer=[W], opset=8, ir=3))
    assert [value.name for value in graph.inputs] == ["x"]


def test_old_broadcast_and_old_reductions() -> None:
    w = numpy_helper.from_array(np.array([1, 2], np.float32), "w")
    graph = load(model([node("Add", "x w", "y", broadcast=1, axis=0)], opset=6, ir=3, initializer=[w]))
    np.testing.assert_array_equal(run_graph(graph, {"x": X})["y"], X + np.array([[1], [2]]))
    check(model([node("ReduceMean", "x", "y", axes=[1], keepdims=0)], opset=13))
    check(model([node("ReduceSum", "x", "y", axes=[0])], opset=11, ir=7))


def test_outputs_keep_their_names_through_upgrades() -> None:
    graph = load(
        model(
            [node("ReduceMean", "x", "y", axes=[1]), node("Relu", "y", "z")],
            outputs=[info("y", None), info("z", None)],
            opset=11,
            ir=7,
        )
    )
    assert [value.name for value in graph.outputs] == ["y", "z"]


def test_inputs_of_every_common_kind() -> None:
    """A scalar, truth values, and integers of several sizes; every dimension of the others is free."""
    kinds = {"s": (F, []), "b": (TensorProto.BOOL, ["n", "m"]), "i": (TensorProto.INT32, [None, None]), "l": (TensorProto.INT64, ["k", "m"]), "u": (TensorProto.UINT8, ["n", "m"])}  # fmt: skip
    nodes = [
        node("Cast", "i", "i64", to=TensorProto.INT64), node("Cast", "u", "u64", to=TensorProto.INT64),
        node("Where", "b i64 l", "w"), node("Add", "w u64", "a"), node("Cast", "a", "f", to=F), node("Mul", "f s", "y"),
    ]  # fmt: skip
    proto = model(nodes, [info(name, shape, dtype) for name, (dtype, shape) in kinds.items()], [info("y", ["n", "m"])])
    rng = np.random.default_rng(0)
    for rows, columns in ((1, 1), (2, 5), (4, 3)):
        whole = rng.integers(0, 100, (rows, columns))
        feeds = {"s": np.array(0.5, np.float32), "b": whole > 50, "i": whole.astype(np.int32), "l": whole[:1] * 3, "u": whole.astype(np.uint8)}  # fmt: skip
        check(proto, feeds)


# Constants


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        ({"value": W}, np.arange(3, dtype=np.float32)), ({"value_float": 2.0}, np.array(2, np.float32)), ({"value_floats": [1.0, 2.0]}, np.array([1, 2], np.float32)),
        ({"value_int": 7}, np.array(7, np.int64)), ({"value_ints": [7, 8]}, np.array([7, 8], np.int64)),
        ({"value_string": "a"}, np.array("a", object)), ({"value_strings": ["a", "é"]}, np.array(["a", "é"], object)),
    ],
)  # fmt: skip
def test_constant_nodes_become_constants(attributes: dict[str, Any], wanted: np.ndarray) -> None:
    graph = load(
        model(
            [helper.make_node("Constant", [], ["c"], **attributes), node("Relu", "x", "y"), node("Identity", "c", "z")],
            outputs=[info("y", None), info("z", None, dtypes.of(wanted).onnx)],
        )
    )
    assert [item.operator for item in graph.nodes] == ["Relu", "Identity"]
    assert same(graph.constants["c"], wanted)


@pytest.mark.parametrize("attributes", [{}, {"value_int": 1, "value_float": 1.0}, {"other": 1}, {"value": 3}])
def test_constant_nodes_that_are_wrong(attributes: dict[str, Any]) -> None:
    with pytest.raises(LoadError, match="Constant"):
        load(model([helper.make_node("Constant", [], ["c"], **attributes), node("Relu", "x", "y")]))


def test_an_output_that_is_a_constant_or_an_input() -> None:
    graph = load(model([node("Relu", "x", "y")], outputs=[info("y", None), info("w", [3]), info("x")], initializer=[W]))
    found = run_graph(graph, {"x": X})
    assert same(found["w"], np.arange(3, dtype=np.float32)) and same(found["x"], X)


# Tensors


@pytest.mark.parametrize("name", [row.name for row in dtypes.TABLE])
def test_every_element_type(name: str) -> None:
    array = every_array()[name]
    proto = write_tensor(array, "t")
    assert same(read_tensor(proto, ExternalData(None), "t"), array)
    if name != "string":
        assert numpy_helper.to_array(proto).astype(array.dtype).tobytes() == array.tobytes()
        values = array.reshape(-1).tolist() if dtypes.of(array).kind in "iub" else array.reshape(-1)
        typed = helper.make_tensor("t", dtypes.of(array).onnx, array.shape, values)
        assert read_tensor(typed, ExternalData(None), "t").tobytes() == array.tobytes()


def _tensor(**fields: Any) -> Any:
    return TensorProto(**{"name": "t", "data_type": F, "dims": [2], "raw_data": bytes(8), **fields})


@pytest.mark.parametrize(
    "tensor",
    [
        _tensor(data_type=0), _tensor(data_type=99), _tensor(dims=[3]), _tensor(dims=[-2]), _tensor(dims=[1 << 62, 4]), _tensor(dims=[1] * 40), _tensor(raw_data=bytes(9)),
        _tensor(float_data=[1, 2]), _tensor(data_location=1), TensorProto(name="t", data_type=F, dims=[2]), TensorProto(name="t", data_type=F, dims=[2], float_data=[1]),
        TensorProto(name="t", data_type=F, dims=[2], int64_data=[1, 2]), TensorProto(name="t", data_type=3, dims=[1], int32_data=[200]),
        TensorProto(name="t", data_type=8, dims=[1], raw_data=b"a"), TensorProto(name="t", data_type=8, dims=[1], string_data=[b"\xff"]),
        TensorProto(name="t", data_type=22, dims=[3], int32_data=[1, 2, 3]), TensorProto(name="t", data_type=14, dims=[2], float_data=[1, 2]),
    ],
)  # fmt: skip
def test_tensors_that_are_wrong(tensor: Any) -> None:
    with pytest.raises(LoadError, match="initializer 't'"):
        load(model([node("Relu", "x", "y")], initializer=[tensor]))


def test_sparse_tensors() -> None:
    values, indices = (
        numpy_helper.from_array(np.array([5, 7], np.float32), "w"),
        numpy_helper.from_array(np.array([0, 2], np.int64), "i"),
    )
    sparse = helper.make_sparse_tensor(values, indices, [3])
    graph = load(model([node("Add", "x w", "y")], sparse_initializer=[sparse]))
    np.testing.assert_array_equal(graph.constants["w"], [5, 0, 7])
    pairs = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([[0, 1], [1, 0]], np.int64)), [2, 2])
    np.testing.assert_array_equal(read_sparse(pairs, ExternalData(None), "s"), [[0, 5], [7, 0]])


@pytest.mark.parametrize(
    ("indices", "dims"),
    [([0, 3], [3]), ([-1, 0], [3]), ([0], [3]), ([[0, 0], [0, 2]], [2, 2]), ([0, 1], [1 << 40]), ([0, 1], [-3])],
)
def test_sparse_tensors_that_are_wrong(indices: Any, dims: list[int]) -> None:
    values = numpy_helper.from_array(np.array([5, 7], np.float32), "w")
    sparse = onnx.SparseTensorProto(
        values=values, indices=numpy_helper.from_array(np.array(indices, np.int64)), dims=dims
    )
    with pytest.raises(LoadError, match="sparse"):
        load(model([node("Relu", "x", "y")], sparse_initializer=[sparse]))


# Dimensions


def shapes(*dims: Any) -> list[str]:
    proto = model([node("Relu", "x", "y")], [info("x", [1, 1, 1, 1])])
    del proto.graph.input[0].type.tensor_type.shape.dim[:]
    for dim in dims:
        item = proto.graph.input[0].type.tensor_type.shape.dim.add()
        if isinstance(dim, int):
            item.dim_value = dim
        elif dim is not None:
            item.dim_param = dim
    (value,) = load(proto).inputs
    assert isinstance(value.type, TensorType) and value.type.shape is not None
    return [str(dim) for dim in value.type.shape]


def test_dimension_names() -> None:
    assert shapes("batch", 3, "batch", "w") == ["batch", "3", "batch", "w"]
    assert shapes("?", "?", "-1", "") == ["x_dim0", "x_dim1", "x_dim2", "x_dim3"]
    assert shapes(-1, None, "None", "7") == ["x_dim0", "x_dim1", "x_dim2", "7"]
    assert shapes("a.b", "a/b", "2d", "if") == ["a_b", "a_b_2", "d_2d", "d_if"]
    assert shapes("x_dim1", None) == ["x_dim1", "x_dim1_2"]
    assert shapes("n", "2*n + 1", "n//2") == ["n", "2*n + 1", "(n//2)"]
    assert shapes("lambda", "é", "__import__('os')") == ["d_lambda", "x_dim1", "import___os"]


def test_unknown_rank_stays_unknown() -> None:
    (value,) = load(model([node("Relu", "x", "y")], [info("x", None)])).inputs
    assert value.type == TensorType("float32", None)


# Inner graphs


def _branch(operator: str, name: str) -> Any:
    """Both branches use the same inner names, as exporters do; `x` and `w` are captured."""
    return helper.make_graph(
        [helper.make_node("Constant", [], ["k"], value_float=2.0), node(operator, "x w", "t"), node("Mul", "t k", "r")],
        name,
        [],
        [info("r", None)],
    )


@pytest.mark.parametrize("flag", [True, False])
def test_if_with_captured_values(flag: bool) -> None:
    needs("If")
    proto = model(
        [helper.make_node("If", ["c"], ["y"], then_branch=_branch("Add", "a"), else_branch=_branch("Sub", "b"))],
        [info("x"), info("c", [], TensorProto.BOOL)],
        initializer=[W],
    )
    graph = check(proto, {"x": X, "c": np.array(flag)})
    assert len(graph.names()) == len(set(graph.names()))


def test_loop() -> None:
    needs("Loop")
    body = helper.make_graph(
        [
            node("Identity", "cond", "go"),
            node("Add", "carried w", "next"),
            node("Cast", "i", "f", to=F),
            node("Add", "next f", "scan"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("cond", TensorProto.BOOL, []),
            info("carried", None),
        ],
        [helper.make_tensor_value_info("go", TensorProto.BOOL, []), info("next", None), info("scan", None)],
    )
    proto = model(
        [helper.make_node("Loop", ["trips", "", "x"], ["y", "s"], body=body)],
        [info("x"), info("trips", [], TensorProto.INT64)],
        [info("y", None), info("s", None)],
        initializer=[W],
    )
    check(proto, {"x": X, "trips": np.array(3)})


def test_names_inside_do_not_leak_out() -> None:
    needs("If")
    proto = model(
        [
            helper.make_node("If", ["c"], ["y"], then_branch=_branch("Add", "a"), else_branch=_branch("Sub", "b")),
            node("Relu", "t", "z"),
        ],
        [info("x"), info("c", [], TensorProto.BOOL)],
        [info("z", None)],
        initializer=[W],
    )
    with pytest.raises(LoadError, match="'t' is not defined"):
        load(proto)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Relu", "missing", "y")],
        [node("Relu", "z", "y"), node("Relu", "x", "z")],
        [node("Relu", "x", "y"), node("Neg", "x", "y")],
        [node("Relu", "x", "x"), node("Relu", "x", "y")],
        [node("", "x", "y")],
        [node("Relu", "x x", "y")],
        [node("Relu", "x", "y", alpha=1.0)],
        [node("Relu", "x", "y z")],
        [node("MatMul", "x x", "y")],
        [helper.make_node("Relu", ["x"] * 5000, ["y"])],
    ],
)
def test_broken_nodes_are_named(nodes: list[Any]) -> None:
    with pytest.raises(LoadError):
        load(model(nodes, [info("x", [2, 3])]))


def test_broken_interfaces() -> None:
    for inputs, outputs in (
        ([info("x"), info("x")], None),
        ([info("")], None),
        (None, [info("y"), info("y")]),
        (None, [info("nothing")]),
        (None, [info("y", None, TensorProto.INT64)]),
    ):
        with pytest.raises(LoadError):
            load(model([node("Relu", "x", "y")], inputs, outputs))
    proto = model([node("Relu", "x", "y")])
    del proto.graph.output[:]
    with pytest.raises(LoadError, match="no outputs"):
        load(proto)


def test_a_repeated_initializer() -> None:
    with pytest.raises(LoadError, match="twice"):
        load(model([node("Add", "x w", "y")], initializer=[W, W]))


# Functions


def function(
    name: str, nodes: list[Any], inputs: str = "a", outputs: str = "b", attributes: Any = (), **more: Any
) -> Any:
    return helper.make_function(
        "local",
        name,
        inputs.split(),
        outputs.split(),
        nodes,
        [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)],
        attributes=list(attributes),
        **more,
    )


def call(name: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(name, inputs.split(), outputs.split(), domain="local", **attributes)


def test_functions_are_inlined() -> None:
    leaky = node("LeakyRelu", "a", "t")
    leaky.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    inner = function(
        "Inner",
        [leaky, helper.make_node("Constant", [], ["k"], value_float=2.0), node("Mul", "t k", "b")],
        attributes=["slope"],
    )
    outer = function(
        "Outer", [call("Inner", "a", "p", slope=0.25), call("Inner", "p", "q", slope=0.5), node("Add", "p q", "b")]
    )
    graph = check(
        model([call("Outer", "x", "m"), call("Outer", "m", "y")], imports=[("local", 1)], functions=[inner, outer])
    )
    assert [value.name for value in graph.outputs] == ["y"]
    assert all(item.domain == "" for item in graph.nodes)


def test_function_defaults_and_absent_attributes() -> None:
    leaky = node("LeakyRelu", "a", "b")
    leaky.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    with_default = function("D", [leaky], attribute_protos=[helper.make_attribute("slope", 0.5)])
    without = function("N", [leaky], attributes=["slope"])
    graph = load(
        model([call("D", "x", "m"), call("N", "m", "y")], imports=[("local", 1)], functions=[with_default, without])
    )
    assert [item.attributes.get("alpha") for item in graph.nodes] == [0.5, None]


def test_recursion_and_explosion_are_refused_before_they_happen() -> None:
    with pytest.raises(LoadError, match="calls itself"):
        load(
            model(
                [call("A", "x", "y")],
                imports=[("local", 1)],
                functions=[function("A", [call("B", "a", "b")]), function("B", [call("A", "a", "b")])],
            )
        )
    layers = [function(f"F{i}", [call(f"F{i + 1}", "a", "t"), call(f"F{i + 1}", "t", "b")]) for i in range(25)]
    start = time.perf_counter()
    with pytest.raises(LoadError, match="nodes after"):
        load(
            model(
                [call("F0", "x", "y")],
                imports=[("local", 1)],
                functions=[*layers, function("F25", [node("Relu", "a", "b")])],
            )
        )
    assert time.perf_counter() - start < 5


# What is not there


def test_all_unknown_operators_are_listed() -> None:
    branch = helper.make_graph(
        [helper.make_node("Deep", [], ["r"], domain="z", name="inner")], "b", [], [info("r", None)]
    )
    nodes = [
        node("Foo", "x", "a", name="first"),
        node("Relu", "a", "b"),
        node("Foo", "b", "c"),
        helper.make_node("Bar", ["c"], ["y"], domain="my.ops"),
        helper.make_node("Foo", ["c"], ["q"], sub=branch),
    ]
    with pytest.raises(UnsupportedOperator) as caught:
        load(model(nodes, imports=[("my.ops", 1), ("z", 1)]))
    text = str(caught.value)
    assert all(
        word in text for word in ("3 operators", "Foo", "my.ops.Bar", "z.Deep", "'first'", "node 2", "'inner'")
    ), text


def test_attributes_that_are_wrong() -> None:
    relu = node("Relu", "x", "y")
    for attribute in (
        onnx.AttributeProto(name="a", type=9),
        onnx.AttributeProto(name="a"),
        onnx.AttributeProto(name="", type=2, i=1),
        onnx.AttributeProto(name="a", ref_attr_name="b", type=2),
    ):
        proto = model([relu])
        proto.graph.node[0].attribute.append(attribute)
        with pytest.raises(LoadError):
            load(proto)


# What is kept


def test_metadata_and_paths() -> None:
    proto = model([node("Relu", "x", "a", name="/net/block.0/Relu"), node("Neg", "a", "y")])
    proto.metadata_props.add(key="character", value="a\nb")
    proto.graph.metadata_props.add(key="k", value="v")
    proto.graph.node[1].metadata_props.add(
        key="pkg.torch.onnx.name_scopes", value="['', 'layers', 'layers.0.linear', 'neg']"
    )
    opened = open_program(proto)
    assert opened.properties == {"character": "a\nb"} == opened.program.metadata
    assert opened.program.main.metadata == {"k": "v"}
    assert [item.path for item in opened.program.main.nodes] == ["net.block.0", "layers.0.linear"]


def test_value_info_fills_in_what_inference_cannot_know() -> None:
    proto = model(
        [node("Expand", "x s", "t"), node("Relu", "t", "y")],
        [info("x", [3]), info("s", None, TensorProto.INT64)],
        value_info=[info("t", ["k", 3])],
    )
    t = load(proto).nodes[0].outputs[0]
    assert t is not None and str(t.type) == "float32[k, 3]"


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"),
    [("HardSwish", "x", {}), ("LayerNormalization", "x w", {"axis": -1}), ("Clip", "x low", {})],
)
def test_standard_bodies_stand_in_for_missing_operators(
    operator: str, inputs: str, attributes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator without a class here, whose definition in the standard is a function, is read as that function."""
    from headrace.serializer.onnx import reader, support

    def hidden(name, domain=""):
        return None if (name, domain) == (operator, "") else find(name, domain)

    monkeypatch.setattr(support, "find", hidden)
    monkeypatch.setattr(reader, "find", hidden)
    low = numpy_helper.from_array(np.float32(0.5), "low")
    graph = check(model([node(operator, inputs, "y", **attributes)], initializer=[W, low]))
    assert operator not in {item.operator for item in graph.nodes}


def test_a_known_condition_leaves_one_branch() -> None:
    condition = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
    impossible = helper.make_graph([node("Reshape", "w bad", "r")], "b", [], [info("r", None)])
    bad = numpy_helper.from_array(np.array([99, 99], np.int64), "bad")
    proto = model(
        [condition, helper.make_node("If", ["c"], ["y"], then_branch=_branch("Add", "a"), else_branch=impossible)],
        initializer=[W, bad],
    )
    graph = load(proto)
    assert [item.operator for item in graph.nodes] == ["Add", "Mul"] and graph.outputs[0].name == "y"
    np.testing.assert_array_equal(run_graph(graph, {"x": X})["y"], (X + np.arange(3, dtype=np.float32)) * 2)


def test_scan_with_untyped_body() -> None:
    """The body's inputs take their types from the inputs of the node."""
    body = helper.make_graph(
        [node("Add", "s i", "t"), node("Identity", "t", "o")],
        "body",
        [onnx.ValueInfoProto(name="s"), onnx.ValueInfoProto(name="i")],
        [onnx.ValueInfoProto(name="t"), onnx.ValueInfoProto(name="o")],
    )
    proto = model(
        [helper.make_node("Scan", ["w", "x"], ["y", "z"], body=body, num_scan_inputs=1)],
        outputs=[info("y", None), info("z", None)],
        initializer=[W],
    )
    found = run_graph(load(proto), {"x": X})
    sums = np.cumsum(np.vstack([np.arange(3, dtype=np.float32), X]), axis=0)[1:]
    np.testing.assert_array_equal(found["z"], sums)
    np.testing.assert_array_equal(found["y"], sums[-1])
