"""Tree ensembles: TreeEnsembleClassifier and -Regressor (ai.onnx.ml 1 to 3) and TreeEnsemble (5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import batch_first
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.ml._scores import post_transform, string_or_int
from headrace.runtime.types import TensorType, Type

NUMBERS = frozenset({"float32", "float64", "int64", "int32"})
FLOAT32 = frozenset({"float32"})
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER", "LEAF")
COMPARE = (np.less_equal, np.less, np.greater_equal, np.greater, np.equal, np.not_equal)
LEAF = MODES.index("LEAF")
NODE_ATTRIBUTES = {
    "nodes_treeids": Attr("ints"), "nodes_nodeids": Attr("ints"), "nodes_featureids": Attr("ints"), "nodes_values": Attr("floats"),
    "nodes_values_as_tensor": Attr("tensor"), "nodes_hitrates": Attr("floats"), "nodes_hitrates_as_tensor": Attr("tensor"),
    "nodes_modes": Attr("strings"), "nodes_truenodeids": Attr("ints"), "nodes_falsenodeids": Attr("ints"),
    "nodes_missing_value_tracks_true": Attr("ints"), "base_values": Attr("floats"), "base_values_as_tensor": Attr("tensor"),
    "post_transform": Attr("string", "NONE", ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")),
}  # fmt: skip


@dataclass(frozen=True)
class Forest:
    """All trees as flat arrays; entry i is node i. `yes` and `no` are node numbers, a leaf points to itself."""

    feature: Any
    threshold: Any
    mode: Any
    yes: Any
    no: Any
    missing_yes: Any
    roots: Any
    members: dict[int, frozenset[float]]

    def leaves(self, x: Any) -> Any:
        """The leaf that each row of x reaches in each tree: [rows, trees]."""
        at = np.broadcast_to(self.roots, (len(x), len(self.roots))).copy()
        rows = np.arange(len(x))[:, None]
        for _ in range(len(self.mode) + 1):
            inner = self.mode[at] != LEAF
            if not inner.any():
                return at
            value, mode = x[rows, self.feature[at]], self.mode[at]
            taken = np.zeros(at.shape, bool)
            for code, compare in enumerate(COMPARE):
                chosen = mode == code
                if chosen.any():
                    taken[chosen] = compare(value[chosen], self.threshold[at[chosen]])
            for r, t in zip(*np.nonzero(mode == MODES.index("BRANCH_MEMBER"))):
                taken[r, t] = float(value[r, t]) in self.members.get(int(at[r, t]), frozenset())
            if self.missing_yes is not None:
                taken |= np.isnan(value) & self.missing_yes[at]
            at = np.where(inner, np.where(taken, self.yes[at], self.no[at]), at)
        raise GraphError("a tree has a cycle")


def floats(attributes: Mapping[str, Any], name: str) -> Any:
    """A list of floats, or the tensor that stands for it in double precision."""
    tensor = attributes.get(f"{name}_as_tensor")
    if tensor is not None and np.asarray(tensor).size:
        return np.asarray(tensor).reshape(-1)
    return np.asarray(attributes.get(name) or (), np.float32)


def forest_of(attributes: Mapping[str, Any]) -> tuple[Forest, dict[tuple[int, int], int]]:
    """The trees of the classic attributes, and the node number of each (tree id, node id)."""
    trees, nodes = attributes["nodes_treeids"], attributes["nodes_nodeids"]
    number = {pair: index for index, pair in enumerate(zip(trees, nodes))}
    if len(number) != len(trees):
        raise GraphError("two nodes have the same tree and node id")
    mode = np.array([MODES.index(text) for text in attributes["nodes_modes"]], np.int8)
    own = np.arange(len(trees))
    targets = []
    for key in ("nodes_truenodeids", "nodes_falsenodeids"):
        try:
            targets.append(
                np.array(
                    [
                        own[i] if mode[i] == LEAF else number[tree, node]
                        for i, (tree, node) in enumerate(zip(trees, attributes[key]))
                    ],
                    np.int64,
                )
            )
        except KeyError as error:
            raise GraphError(f"{key} names (tree, node) {error}, which does not exist") from None
    inner = mode != LEAF
    pointed = {int(n) for n in np.concatenate([targets[0][inner], targets[1][inner]])}
    roots = np.array(
        [next(i for i in range(len(trees)) if trees[i] == tree and i not in pointed) for tree in dict.fromkeys(trees)],
        np.int64,
    )
    tracks = attributes["nodes_missing_value_tracks_true"]
    missing = np.array(tracks, bool) if tracks and any(tracks) else None
    return Forest(
        np.array(attributes["nodes_featureids"], np.int64),
        floats(attributes, "nodes_values"),
        mode,
        targets[0],
        targets[1],
        missing,
        roots,
        {},
    ), number


def leaf_weights(
    ids: tuple[Sequence[int], Sequence[int], Sequence[int]],
    weights: Any,
    number: Mapping[tuple[int, int], int],
    nodes: int,
    targets: int,
) -> Any:
    """[nodes, targets]: what reaching a leaf adds to each target."""
    table = np.zeros((nodes, targets), np.float64)
    for tree, node, target, weight in zip(*ids, weights):
        table[number[tree, node], target] += weight
    return table


class _Trees(Operator):
    domain = "ai.onnx.ml"
    versions: ClassVar[tuple[int, ...]] = (1, 3, 5)
    inputs = (In("X"),)
    types = {"T": NUMBERS}
    accuracy = Accuracy(32.0)
    differentiable = False

    def _rows(self, context: Context) -> Any:
        shape = context.shape(0)
        return None if shape is None else shape[0] if len(shape) > 1 else 1


def matrix(x: Any) -> Any:
    return x.reshape(1, -1) if x.ndim == 1 else x


class TreeEnsembleClassifier(_Trees):
    """Labels [N] (int64 or string) and scores float32 [N, classes]: the leaves' weights, summed and transformed."""

    outputs = (Out("Y", frozenset({"int64", "string"})), Out("Z", FLOAT32))
    attributes = {
        **NODE_ATTRIBUTES, "class_treeids": Attr("ints"), "class_nodeids": Attr("ints"), "class_ids": Attr("ints"),
        "class_weights": Attr("floats"), "class_weights_as_tensor": Attr("tensor"),
        "classlabels_int64s": Attr("ints"), "classlabels_strings": Attr("strings"),
    }  # fmt: skip

    def infer(self, context: Context) -> list[Type | None]:
        kind, labels = string_or_int(context.attributes)
        rows = self._rows(context)
        if rows is None:
            return [TensorType(kind), TensorType("float32")]
        return [TensorType(kind, (rows,)), TensorType("float32", (rows, max(2, len(labels))))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x = matrix(inputs[0])
        forest, number = forest_of(attributes)
        _, labels = string_or_int(attributes)
        ids = (attributes["class_treeids"], attributes["class_nodeids"], attributes["class_ids"])
        weights = floats(attributes, "class_weights")
        table = leaf_weights(ids, weights, number, len(forest.mode), max(len(labels), 1 + max(ids[2], default=0)))
        scores = table[forest.leaves(x)].sum(axis=1)
        base = floats(attributes, "base_values")
        scores = (scores + base if base.size == scores.shape[1] else scores).astype(np.float32)
        return classified(
            scores,
            labels,
            len(set(ids[2])) == 1 and len(labels) == 2,
            bool((weights >= 0).all()),
            attributes["post_transform"],
            base,
            ids[2],
        )

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        stump = {
            "nodes_treeids": (0, 0, 0, 1, 1, 1), "nodes_nodeids": (0, 1, 2, 0, 1, 2), "nodes_featureids": (0, 0, 0, 1, 0, 0),
            "nodes_values": (0.5, 0.0, 0.0, -1.0, 0.0, 0.0), "nodes_modes": ("BRANCH_LEQ", "LEAF", "LEAF") * 2,
            "nodes_truenodeids": (1, 0, 0, 1, 0, 0), "nodes_falsenodeids": (2, 0, 0, 2, 0, 0),
            "class_treeids": (0, 0, 1, 1), "class_nodeids": (1, 2, 1, 2), "class_ids": (0, 1, 2, 0), "class_weights": (0.6, 0.4, 0.7, 0.3),
        }  # fmt: skip
        for transform in ("NONE", "SOFTMAX", "LOGISTIC"):
            yield Sample(
                [draw(rng, (5, 3), "float32")], {**stump, "classlabels_int64s": (3, 5, 9), "post_transform": transform}
            )
        yield Sample([draw(rng, (5, 3), "float64")], {**stump, "classlabels_strings": ("a", "b", "c")})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags, 2)


def classified(
    scores: Any, labels: Sequence[Any], binary: bool, positive: bool, transform: str, base: Any, ids: Sequence[int]
) -> list[Any]:
    """Labels and transformed scores; one score for two classes is spread over both as onnxruntime does."""
    kind: Any = object if isinstance(labels[0], str) else np.int64
    names = np.array(labels, kind)
    if not binary:
        return [names[scores.argmax(1)], post_transform(scores, transform)]
    score = scores[:, ids[0] : ids[0] + 1] + (base[:1] if base.size == 1 else np.float32(0))
    if positive:
        chosen, spread = score[:, 0] > 0.5, np.concatenate([1 - score, score], axis=1)
    else:
        chosen, spread = score[:, 0] > 0, np.concatenate([-score, score], axis=1)
    if transform == "LOGISTIC" and not positive:
        return [names[chosen.astype(np.int64)], post_transform(spread, transform)]
    return [names[chosen.astype(np.int64)], post_transform(spread, transform)]


class TreeEnsembleRegressor(_Trees):
    """float32 [N, n_targets]: the leaves' weights, summed, averaged, or the smallest or largest of them."""

    outputs = (Out("Y", FLOAT32),)
    attributes = {
        **NODE_ATTRIBUTES, "target_treeids": Attr("ints"), "target_nodeids": Attr("ints"), "target_ids": Attr("ints"),
        "target_weights": Attr("floats"), "target_weights_as_tensor": Attr("tensor"), "n_targets": Attr("int", 1),
        "aggregate_function": Attr("string", "SUM", ("SUM", "AVERAGE", "MIN", "MAX")),
    }  # fmt: skip

    def infer(self, context: Context) -> list[Type | None]:
        rows = self._rows(context)
        return [TensorType("float32", None if rows is None else (rows, context.attributes["n_targets"]))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x = matrix(inputs[0])
        forest, number = forest_of(attributes)
        ids = (attributes["target_treeids"], attributes["target_nodeids"], attributes["target_ids"])
        table = leaf_weights(
            ids, floats(attributes, "target_weights"), number, len(forest.mode), attributes["n_targets"]
        )
        y = aggregate(table[forest.leaves(x)], attributes["aggregate_function"])
        base = floats(attributes, "base_values")
        return [post_transform((y + base if base.size else y).astype(np.float32), attributes["post_transform"])]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        stump = {
            "nodes_treeids": (0, 0, 0, 1, 1, 1), "nodes_nodeids": (0, 1, 2, 0, 1, 2), "nodes_featureids": (0, 0, 0, 1, 0, 0),
            "nodes_values": (0.5, 0.0, 0.0, -1.0, 0.0, 0.0), "nodes_modes": ("BRANCH_GT", "LEAF", "LEAF") * 2,
            "nodes_truenodeids": (1, 0, 0, 1, 0, 0), "nodes_falsenodeids": (2, 0, 0, 2, 0, 0),
            "target_treeids": (0, 0, 1, 1), "target_nodeids": (1, 2, 1, 2), "target_ids": (0, 0, 0, 0), "target_weights": (0.6, -0.4, 0.7, 0.3),
        }  # fmt: skip
        for function in ("SUM", "AVERAGE", "MIN", "MAX"):
            yield Sample(
                [draw(rng, (5, 3), "float32")], {**stump, "aggregate_function": function, "base_values": (0.5,)}
            )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)


def aggregate(weights: Any, function: str) -> Any:
    """[rows, trees, targets] over the trees."""
    functions: dict[str, Any] = {"SUM": np.sum, "AVERAGE": np.mean, "MIN": np.min, "MAX": np.max}
    return functions[function](weights, axis=1)


class TreeEnsemble(_Trees):
    """The form of ai.onnx.ml 5: nodes and leaves in tensors of their own; [N, n_targets] in the type of X."""

    versions = (5,)
    outputs = (Out("Y"),)
    types = {"T": frozenset({"float32", "float64", "float16"})}
    attributes = {
        "aggregate_function": Attr("int", 1), "leaf_targetids": Attr("ints"), "leaf_weights": Attr("tensor"), "membership_values": Attr("tensor"),
        "n_targets": Attr("int", 1), "nodes_falseleafs": Attr("ints"), "nodes_falsenodeids": Attr("ints"), "nodes_featureids": Attr("ints"),
        "nodes_hitrates": Attr("tensor"), "nodes_missing_value_tracks_true": Attr("ints"), "nodes_modes": Attr("tensor"), "nodes_splits": Attr("tensor"),
        "nodes_trueleafs": Attr("ints"), "nodes_truenodeids": Attr("ints"), "post_transform": Attr("int", 0), "tree_roots": Attr("ints"),
    }  # fmt: skip
    # Codes of nodes_modes in this version, as positions in MODES.
    CODES = np.array(
        [MODES.index(f"BRANCH_{name}") for name in ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ", "MEMBER")], np.int8
    )

    def infer(self, context: Context) -> list[Type | None]:
        rows = self._rows(context)
        return [TensorType(context.dtype(), None if rows is None else (rows, context.attributes["n_targets"]))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x = matrix(inputs[0])
        forest, leaf_table = self._forest(attributes)
        y = aggregate(leaf_table[forest.leaves(x)], ("AVERAGE", "SUM", "MIN", "MAX")[attributes["aggregate_function"]])
        transform = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")[attributes["post_transform"]]
        return [post_transform(y.astype(x.dtype), transform)]

    def _forest(self, attributes: Mapping[str, Any]) -> tuple[Forest, Any]:
        inner, leaves = len(attributes["nodes_featureids"]), len(attributes["leaf_targetids"])

        def place(ids: Any, leafs: Any) -> Any:
            nodes = [inner + i if leaf else i for i, leaf in zip(ids, leafs)]
            return np.array(nodes + list(range(inner, inner + leaves)), np.int64)

        def fill(values: Any) -> Any:
            return np.concatenate([np.asarray(values), np.zeros(leaves, np.asarray(values).dtype)])

        mode = np.concatenate(
            [self.CODES[np.asarray(attributes["nodes_modes"]).astype(np.int64)], np.full(leaves, LEAF, np.int8)]
        )
        tracks = attributes["nodes_missing_value_tracks_true"]
        missing = np.array([*tracks, *[0] * leaves], bool) if tracks and any(tracks) else None
        sets, members = iter(self._sets(attributes)), {}
        for index in np.nonzero(mode[:inner] == MODES.index("BRANCH_MEMBER"))[0]:
            members[int(index)] = next(sets)
        # A root may itself stand for a leaf: then both branches of the node lead to the same one.
        forest = Forest(
            fill(np.asarray(attributes["nodes_featureids"], np.int64)), fill(attributes["nodes_splits"]), mode,
            place(attributes["nodes_truenodeids"], attributes["nodes_trueleafs"]), place(attributes["nodes_falsenodeids"], attributes["nodes_falseleafs"]),
            missing, np.asarray(attributes["tree_roots"], np.int64), members,
        )  # fmt: skip
        table = np.zeros((inner + leaves, attributes["n_targets"]), np.float64)
        table[np.arange(inner, inner + leaves), attributes["leaf_targetids"]] = attributes["leaf_weights"]
        return forest, table

    @staticmethod
    def _sets(attributes: Mapping[str, Any]) -> Iterator[frozenset[float]]:
        """The member sets, which NaN separates."""
        current: list[float] = []
        values = attributes["membership_values"]
        for value in [] if values is None else np.asarray(values, np.float64):
            if np.isnan(value):
                yield frozenset(current)
                current = []
            else:
                current.append(float(value))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([np.array([1.2, 3.4, -0.12, 1.66, 4.14, 1.77], np.float64).reshape(3, 2)], {
            "aggregate_function": 1, "leaf_targetids": (0, 1, 0, 1), "leaf_weights": np.array([5.23, 12.12, -12.23, 7.21]), "n_targets": 2,
            "nodes_falseleafs": (0, 1, 1), "nodes_falsenodeids": (2, 1, 3), "nodes_featureids": (0, 0, 0), "nodes_modes": np.array([0, 0, 0], np.uint8),
            "nodes_splits": np.array([3.14, 1.2, 4.2]), "nodes_trueleafs": (0, 1, 1), "nodes_truenodeids": (1, 0, 2), "tree_roots": (0,),
        })  # fmt: skip

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)
