"""A booster's trees as plain arrays: parsed from the libraries' formats, evaluated by kernels.

Training, backtest, API and batch all use it. The libraries' own calls take some 640 microseconds
for one row and 49 for each of many; these kernels take less than a twentieth and a fifth of that,
and give a row the same result whatever the number of rows (``benchmarks/tree_inference.py``). The
libraries are needed only to fit and to attribute a forecast to features.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.models.trees.node_trees import COLUMN_BITS, NodeTrees, pack_nodes, predict_node_trees
from rossmann.models.trees.oblivious_trees import (
    ObliviousTrees,
    build_split_index,
    predict_oblivious_trees,
)
from rossmann.models.trees.row_encoding import LEFT, RIGHT, ZERO
from rossmann.schema import FEATURES, FeatureMatrix, FloatArray

_MIN_ROWS_PER_THREAD: Final = 512
ArrayDict = dict[str, npt.NDArray[Any]]


class Forest:
    """Trees whose leaves, added to ``start``, are a booster's raw output."""

    def __init__(self, trees: NodeTrees | ObliviousTrees, start: float) -> None:
        self.trees = trees
        self.start = start
        self._fill: Callable[[FeatureMatrix, int, int, float, FloatArray], None] = (
            partial(predict_node_trees, pack_nodes(trees))
            if isinstance(trees, NodeTrees)
            else partial(predict_oblivious_trees, trees, build_split_index(trees))
        )

    def __call__(self, matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
        """The raw output (n,) for (n, 46) of float32."""
        rows = np.ascontiguousarray(matrix, np.float32)
        if rows.ndim != 2 or rows.shape[1] != len(FEATURES):
            raise ValueError(f"the matrix is {rows.shape}, not (n, {len(FEATURES)})")
        out = np.empty(len(rows))
        parts = max(min(threads, len(rows) // _MIN_ROWS_PER_THREAD), 1)
        if parts == 1:
            self._fill(rows, 0, len(rows), self.start, out)
            return out
        ends = np.linspace(0, len(rows), parts + 1).astype(int).tolist()
        with ThreadPoolExecutor(parts) as pool:
            futures = [
                pool.submit(self._fill, rows, low, high, self.start, out)
                for low, high in pairwise(ends)
            ]
        for future in futures:
            future.result()
        return out

    def to_arrays(self) -> ArrayDict:
        """The arrays by name, as ``from_arrays`` takes them."""
        return {"start": np.array(self.start), **self.trees._asdict()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "Forest":
        """The forest of ``arrays``; raises ``KeyError`` where one is missing."""
        tree_type = NodeTrees if "root" in arrays else ObliviousTrees
        trees = tree_type(*(np.ascontiguousarray(arrays[name]) for name in tree_type._fields))
        return cls(trees, float(arrays["start"]))


_LARGEST: Final = np.finfo(np.float32).max
_NAN, _DEFAULT_LEFT, _CATEGORICAL = 2, 2, 1
"""LightGBM's ``decision_type``: bit 0 categorical, bit 1 default left, then the missing type."""


@dataclass(frozen=True)
class Tree:
    """One tree: ``left`` is -1 at leaves; a row goes right if its column is above the threshold."""

    column: npt.NDArray[np.int64]
    threshold: npt.NDArray[np.float32]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    value: FloatArray


def parse_lightgbm(text: str) -> Forest:
    """From ``Booster.model_to_string``."""
    return Forest(_pack(_lightgbm_tree(block) for block in _lightgbm_blocks(text)), 0.0)


def _lightgbm_blocks(text: str) -> Iterator[dict[str, str]]:
    body = text.partition("end of trees")[0]
    for part in body.split("\nTree=")[1:]:
        yield dict(line.split("=", 1) for line in part.splitlines() if "=" in line)


def _lightgbm_tree(block: dict[str, str]) -> Tree:
    leaves = np.array(block["leaf_value"].split(), np.float64)
    inner = len(leaves) - 1
    size = inner + len(leaves)
    left, right = np.full(size, -1), np.full(size, -1)
    column = np.zeros(size, np.int64)
    threshold = np.full(size, np.inf, np.float32)
    if inner:
        decision = np.array(block["decision_type"].split(), np.int64)
        if (decision & _CATEGORICAL).any():
            raise ValueError("a tree splits on categories: features must be numbers")
        for side, name in ((left, "left_child"), (right, "right_child")):
            child = np.array(block[name].split(), np.int64)
            side[:inner] = np.where(child >= 0, child, inner + ~child)
        missing = np.where(decision & _DEFAULT_LEFT, LEFT, RIGHT)
        missing = np.where((decision >> 2) & 3 == _NAN, missing, ZERO)
        feature = np.array(block["split_feature"].split(), np.int64)
        column[:inner] = feature + len(FEATURES) * missing
        threshold[:inner] = _round_down(np.array(block["threshold"].split(), np.float64))
    return Tree(column, threshold, left, right, np.concatenate([np.zeros(inner), leaves]))


def _round_down(limit: FloatArray) -> npt.NDArray[np.float32]:
    """The largest float32 that is not above each limit: the same rows go left."""
    nearest = np.clip(limit, -_LARGEST, _LARGEST).astype(np.float32)
    return np.where(nearest > limit, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def parse_xgboost(model: bytes) -> Forest:
    """From ``Booster.save_raw("json")`` of a model whose base score is 0."""
    learner = json.loads(model)["learner"]
    base = float(learner["learner_model_param"]["base_score"].strip("[]"))
    trees = learner["gradient_booster"]["model"]["trees"]
    return Forest(_pack(_xgboost_tree(tree) for tree in trees), base)


def _xgboost_tree(tree: dict[str, Any]) -> Tree:
    left = np.array(tree["left_children"], np.int64)
    limit = np.array(tree["split_conditions"], np.float32)
    leaf = left < 0
    missing = np.where(np.array(tree["default_left"]) > 0, LEFT, RIGHT)
    column = np.array(tree["split_indices"], np.int64) + len(FEATURES) * missing
    # XGBoost sends x < limit to the left, which is x <= the number before it
    threshold = np.nextafter(limit, np.float32(-np.inf))
    return Tree(
        np.where(leaf, 0, column),
        np.where(leaf, np.float32(np.inf), threshold),
        left,
        np.array(tree["right_children"], np.int64),
        np.where(leaf, limit, 0.0).astype(np.float64),
    )


def parse_catboost(model: dict[str, Any]) -> Forest:
    """From the JSON that ``CatBoost.save_model(format="json")`` writes."""
    missing = {
        feature["feature_index"]: RIGHT if feature["nan_value_treatment"] == "AsTrue" else LEFT
        for feature in model["features_info"]["float_features"]
    }
    column, threshold, first, leaf, value = [], [], [0], [], []
    leaves = 0
    scale, (bias,) = model["scale_and_bias"]
    for tree in model["oblivious_trees"]:
        for split in tree["splits"] or ():
            index = split["float_feature_index"]
            column.append(index + len(FEATURES) * missing[index])
            threshold.append(split["border"])
        first.append(len(column))
        leaf.append(leaves)
        leaves += len(tree["leaf_values"])
        value.append(np.array(tree["leaf_values"], np.float64) * scale)
    trees = ObliviousTrees(
        np.array(column, np.int32),
        np.array(threshold, np.float32),
        np.array(first, np.int64),
        np.array(leaf, np.int64),
        np.concatenate(value),
    )
    return Forest(trees, float(bias))


def _pack(trees: Iterable[Tree]) -> NodeTrees:
    """All trees in one set of arrays: each tree level by level, children adjacent."""
    links, thresholds, values, roots, depths = [], [], [], [], []
    base = 0
    for tree in trees:
        order, child, depth = _breadth_first(tree)
        links.append((child + base << COLUMN_BITS) | tree.column[order])
        thresholds.append(tree.threshold[order])
        values.append(tree.value[order])
        roots.append(base)
        depths.append(depth)
        base += len(order)
    if base >= 1 << (32 - COLUMN_BITS):
        raise ValueError(f"{base:,} nodes are more than a forest can hold")
    return NodeTrees(
        np.concatenate(links).astype(np.uint32),
        np.concatenate(thresholds),
        np.concatenate(values),
        np.array(roots, np.uint32),
        np.array(depths, np.int32),
    )


def _breadth_first(tree: Tree) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """The order of the nodes, the index of each one's left child (a leaf: its own), the depth."""
    order: list[int] = [0]
    child: list[int] = []
    level, depth = [0], 0
    while level:
        next_level: list[int] = []
        for node in level:
            if tree.left[node] < 0:
                child.append(len(child))
            else:
                child.append(len(order))
                pair = [int(tree.left[node]), int(tree.right[node])]
                order += pair
                next_level += pair
        depth += bool(next_level)
        level = next_level
    return np.array(order), np.array(child), depth
