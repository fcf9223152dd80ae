"""From the names of the three checkpoint dialects to canonical names, one table each.

A canonical name is the TF1 variable name without `:0` and without `/ExponentialMovingAverage`. Facts: how
google/automl (6a54c87) names variables in backbone/efficientnet_model.py, tf2/efficientdet_keras.py,
tf2/train_lib.py and det_model_fn.py. A raw name translates by exactly one row, or is ignored for a
stated reason, or is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from effdet_model.errors import InputError
from effdet_model.fpn_graph import build_fpn_graph
from porting.checkpoint.object_graph import ObjectGraph, unescape

TF1, H5, OBJECT, SAVED_MODEL, TFLITE = "tf1", "h5", "object", "savedmodel", "tflite"
PLACEHOLDER_SCOPE = "backbone"  # where an object-based checkpoint does not tell the backbone's name
VALUE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
EMA_SUFFIX = "/ExponentialMovingAverage"

MAX_NAME = 1024
"""Characters of a name; no model has longer ones."""

_CONV = r"(?P<leaf>kernel|bias|depthwise_kernel|pointwise_kernel)"
_BN = r"(?P<leaf>gamma|beta|moving_mean|moving_variance)"
_SCOPE = r"(?:.+/)?(?P<scope>[^/]+)"
_BLOCK = _SCOPE + r"/blocks_(?P<block>\d+)"
_NODE = r"(?:.+/)?fpn_cells/cell_(?P<cell>\d+)/fnode(?P<node>\d+)"
_HEAD = r"(?:.+/)?(?P<net>class|box)_net/(?P=net)"

# Keras numbers layers without a name of their own within one process (`stem_1/conv2d_1`): the stem and its
# convolution are such layers; every other layer of the model is named.
VARIABLE_ROWS: list[tuple[str, str]] = [
    (rf"{_SCOPE}/stem(?:_\d+)?/conv2d(?:_\d+)?/{_CONV}", "{scope}/stem/conv2d/{leaf}"),
    (rf"{_SCOPE}/stem(?:_\d+)?/tpu_batch_normalization(?:_\d+)?/{_BN}",
     "{scope}/stem/tpu_batch_normalization/{leaf}"),
    (rf"{_BLOCK}/(?P<layer>conv2d(?:_\d+)?|depthwise_conv2d|se/conv2d(?:_1)?|super_pixel/conv2d)/{_CONV}",
     "{scope}/blocks_{block}/{layer}/{leaf}"),
    (rf"{_BLOCK}/(?P<layer>(?:super_pixel/)?tpu_batch_normalization(?:_\d+)?)/{_BN}",
     "{scope}/blocks_{block}/{layer}/{leaf}"),
    (rf"(?:.+/)?resample_p(?P<level>\d+)/conv2d/{_CONV}", "resample_p{level}/conv2d/{leaf}"),
    (rf"(?:.+/)?resample_p(?P<level>\d+)/bn/{_BN}", "resample_p{level}/bn/{leaf}"),
    (rf"{_NODE}/(?P<leaf>WSM(?:_\d+)?)", "fpn_cells/cell_{cell}/fnode{node}/{leaf}"),
    (rf"{_NODE}/(?P<layer>resample_\d+_\d+_\d+/conv2d|op_after_combine\d+/conv)/{_CONV}",
     "fpn_cells/cell_{cell}/fnode{node}/{layer}/{leaf}"),
    (rf"{_NODE}/(?P<layer>resample_\d+_\d+_\d+/bn|op_after_combine\d+/bn)/{_BN}",
     "fpn_cells/cell_{cell}/fnode{node}/{layer}/{leaf}"),
    (rf"{_HEAD}-(?P<layer>\d+|predict)/{_CONV}", "{net}_net/{net}-{layer}/{leaf}"),
    (rf"{_HEAD}-(?P<layer>\d+)-bn-(?P<level>\d+)/{_BN}", "{net}_net/{net}-{layer}-bn-{level}/{leaf}"),
]  # fmt: skip

_PATH_BLOCK = r"backbone/_blocks/(?P<block>\d+)"
_PATH_NODE = r"fpn_cells/cells/(?P<cell>\d+)/fnodes/(?P<node>\d+)"
_PATH_HEAD = r"(?P<net>class|box)_net"
_TO_BLOCK = "{scope}/blocks_{block}"
_TO_NODE = "fpn_cells/cell_{cell}/fnode{node}"

# Words in braces that no group gives are context: see `_Context`.
OBJECT_ROWS: list[tuple[str, str]] = [
    (rf"backbone/_stem/_conv_stem/{_CONV}", "{scope}/stem/conv2d/{leaf}"),
    (rf"backbone/_stem/_bn/{_BN}", "{scope}/stem/tpu_batch_normalization/{leaf}"),
    (rf"{_PATH_BLOCK}/super_pixel/_superpixel/{_CONV}", _TO_BLOCK + "/super_pixel/conv2d/{leaf}"),
    (rf"{_PATH_BLOCK}/super_pixel/_bnsp/{_BN}", _TO_BLOCK + "/super_pixel/tpu_batch_normalization/{leaf}"),
    (rf"{_PATH_BLOCK}/(?:_expand_conv|_fused_conv)/{_CONV}", _TO_BLOCK + "/conv2d/{leaf}"),
    (rf"{_PATH_BLOCK}/_depthwise_conv/{_CONV}", _TO_BLOCK + "/depthwise_conv2d/{leaf}"),
    (rf"{_PATH_BLOCK}/_project_conv/{_CONV}", _TO_BLOCK + "/conv2d{project}/{leaf}"),
    (rf"{_PATH_BLOCK}/_bn0/{_BN}", _TO_BLOCK + "/tpu_batch_normalization/{leaf}"),
    (rf"{_PATH_BLOCK}/_bn1/{_BN}", _TO_BLOCK + "/tpu_batch_normalization{bn1}/{leaf}"),
    (rf"{_PATH_BLOCK}/_bn2/{_BN}", _TO_BLOCK + "/tpu_batch_normalization{bn2}/{leaf}"),
    (rf"{_PATH_BLOCK}/_se/_se_reduce/{_CONV}", _TO_BLOCK + "/se/conv2d/{leaf}"),
    (rf"{_PATH_BLOCK}/_se/_se_expand/{_CONV}", _TO_BLOCK + "/se/conv2d_1/{leaf}"),
    (rf"resample_layers/(?P<extra>\d+)/conv2d/{_CONV}", "resample_p{extra_level}/conv2d/{leaf}"),
    (rf"resample_layers/(?P<extra>\d+)/bn/{_BN}", "resample_p{extra_level}/bn/{leaf}"),
    (rf"{_PATH_NODE}/(?P<leaf>WSM(?:_\d+)?)", _TO_NODE + "/{leaf}"),
    (rf"{_PATH_NODE}/vars/(?P<edge>\d+)", _TO_NODE + "/{wsm}"),
    (rf"{_PATH_NODE}/resample_layers/(?P<edge>\d+)/conv2d/{_CONV}",
     _TO_NODE + "/resample_{edge}_{offset}_{inputs}/conv2d/{leaf}"),
    (rf"{_PATH_NODE}/resample_layers/(?P<edge>\d+)/bn/{_BN}",
     _TO_NODE + "/resample_{edge}_{offset}_{inputs}/bn/{leaf}"),
    (rf"{_PATH_NODE}/op_after_combine/conv_op/{_CONV}", _TO_NODE + "/op_after_combine{inputs}/conv/{leaf}"),
    (rf"{_PATH_NODE}/op_after_combine/bn/{_BN}", _TO_NODE + "/op_after_combine{inputs}/bn/{leaf}"),
    (rf"{_PATH_HEAD}/conv_ops/(?P<layer>\d+)/{_CONV}", "{net}_net/{net}-{layer}/{leaf}"),
    (rf"{_PATH_HEAD}/(?:classes|boxes)/{_CONV}", "{net}_net/{net}-predict/{leaf}"),
    (rf"{_PATH_HEAD}/bns/(?P<layer>\d+)/(?P<step>\d+)/{_BN}", "{net}_net/{net}-{layer}-bn-{level}/{leaf}"),
]  # fmt: skip

_UNUSED_HEAD = "classification head of the backbone, which EfficientDet does not use"
_SEGMENTATION = "segmentation head; detection is converted"
_SLOT = r"Momentum|(?:Adam|AdamW|RMSProp|Adadelta|Ftrl)(?:_\d+)?|Adagrad|LARS|m|v|vhat"
TF1_IGNORED: list[tuple[str, str]] = [
    (rf".+/(?:{_SLOT}|[A-Za-z]+Optimizer(?:_\d+)?)(?:/ExponentialMovingAverage)?", "optimizer slot"),
    (r"(?:.+/)?beta[12]_power(?:_\d+)?(?:/ExponentialMovingAverage)?", "optimizer state"),
    (r"(?:.+/)?global_step(?:/.+)?", "step counter"),
    (r"(?:.+/)?moving_normalizer(?:_\d+)?(?:/.+)?", "moving average of the training loss"),
    (r"(?:.+/)?(?:current_)?loss_scale|(?:.+/)?good_steps", "loss scaling state"),
    (r"(?:.+/)?seg_head/.+", _SEGMENTATION),
]
H5_IGNORED: list[tuple[str, str]] = [
    (r"(?:.+/)?(?:iteration|iter|learning_rate|decay|momentum)", "optimizer state"),
    (r"(?:.+/)?moving_normalizer(?:_\d+)?", "moving average of the training loss"),
    (r"(?:.+/)?seg_head/.+", _SEGMENTATION),
    (r"(?:.+/)?head/(?:conv2d|tpu_batch_normalization|dense)(?:_\d+)?/[a-z_]+", _UNUSED_HEAD),
]
OBJECT_IGNORED: list[tuple[str, str]] = [
    (r"_CHECKPOINTABLE_OBJECT_GRAPH", "object graph"),
    (rf"(?:.+/)?save_counter{VALUE_SUFFIX}", "save counter"),
    (r".+/\.OPTIMIZER_SLOT/.+", "optimizer slot"),
    (r"(?:[^/]+/)*?_?optimizer(?:_\d+)?/.+", "optimizer state"),
    (r"(?:.+/)?keras_api/metrics/.+", "training metric"),
    (rf"(?:.+/)?(?:global_step|step|epoch|iterations|_train_counter|_test_counter|_predict_counter){VALUE_SUFFIX}",
     "step counter"),
    (rf"(?:.+/)?moving_normalizer{VALUE_SUFFIX}", "moving average of the training loss"),
    (r"(?:.+/)?backbone/_head/.+", _UNUSED_HEAD),
    (r"(?:.+/)?seg_head/.+", _SEGMENTATION),
]  # fmt: skip


@dataclass
class Translation:
    """`raw` and `ema`: canonical name -> raw name. With `ignored` and `unknown` they hold each raw name once."""

    raw: dict[str, str] = field(default_factory=dict)
    ema: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def add(self, canonical: str, raw_name: str, ema: bool = False) -> None:
        table = self.ema if ema else self.raw
        if canonical in table:
            raise InputError(
                f"expected one tensor for {canonical}, found two: {table[canonical]} and {raw_name}; "
                "save the checkpoint from one model."
            )
        table[canonical] = raw_name

    @property
    def backbone_scope(self) -> str | None:
        """The first part of the backbone's names (`efficientnet-b0`); None where no variable tells it."""
        for canonical in (*self.raw, *self.ema):
            match = re.match(r"([^/]+)/(?:stem|blocks_\d+)/", canonical)
            if match:
                return match[1]
        return None


def _compile(rows: Iterable[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    """Rows ready to match; a number in a name (block, cell, level, ...) has at most three digits, so that nothing
    of another size is made from it. Keras's own counts (`conv2d_1`) may have more.
    """
    bounded = [(pattern.replace(r"(?:_\d+)?", r"(?:_\d{1,6})?"), target) for pattern, target in rows]
    return [(re.compile(pattern.replace(r"\d+", r"\d{1,3}")), target) for pattern, target in bounded]


_VARIABLES, _OBJECTS = _compile(VARIABLE_ROWS), _compile(OBJECT_ROWS)
_IGNORED = {TF1: _compile(TF1_IGNORED), H5: _compile(H5_IGNORED), OBJECT: _compile(OBJECT_IGNORED)}


def ignored_reason(raw_name: str, dialect: str) -> str | None:
    """Why a raw name is no part of the model, None when no row says so."""
    if len(raw_name) > MAX_NAME:
        return None
    for pattern, reason in _IGNORED[dialect]:
        if pattern.fullmatch(raw_name):
            return reason
    return None


def canonical_variable(name: str) -> str | None:
    """The canonical name of a variable name (TF1, Keras .h5 without `:0`), None when no row knows it."""
    if len(name) > MAX_NAME:
        return None
    for pattern, target in _VARIABLES:
        match = pattern.fullmatch(name)
        if match:
            return target.format(**match.groupdict())
    return None


def translate_tf1(raw_names: Iterable[str]) -> Translation:
    """TF1 Saver names: the canonical name itself, or with `/ExponentialMovingAverage` behind it."""
    result = Translation()
    for raw_name in raw_names:
        reason = ignored_reason(raw_name, TF1)
        if reason:
            result.ignored[raw_name] = reason
            continue
        name = raw_name.removesuffix(EMA_SUFFIX)
        if canonical_variable(name) == name:
            result.add(name, raw_name, ema=name != raw_name)
        else:
            result.unknown.append(raw_name)
    return result


def translate_h5(raw_names: Iterable[str]) -> Translation:
    """Keras .h5 names: `GROUP/WEIGHT:0`, the group being a layer's name that the weight's name repeats."""
    result = Translation()
    for raw_name in raw_names:
        name = re.sub(r":\d+$", "", raw_name)
        canonical = canonical_variable(name)
        reason = ignored_reason(name, H5)
        if canonical:
            result.add(canonical, raw_name)
        elif reason:
            result.ignored[raw_name] = reason
        else:
            result.unknown.append(raw_name)
    return result


def translate_object(raw_names: Iterable[str], graph: ObjectGraph) -> Translation:
    """TF2 object-based names: attribute paths; slots called `average` are the moving averages.

    Levels, connections and the backbone's name are not part of a path: they come from the variables' full names
    in the object graph, else from its structure. Where path and full name disagree the checkpoint is refused.
    """
    result = Translation()
    paths: dict[str, tuple[str, bool]] = {}
    for raw_name in raw_names:
        slot = re.fullmatch(rf"(.+)/\.OPTIMIZER_SLOT/(?:.+/)?average{re.escape(VALUE_SUFFIX)}", raw_name)
        reason = None if slot else ignored_reason(raw_name, OBJECT)
        if reason:
            result.ignored[raw_name] = reason
        elif slot or raw_name.endswith(VALUE_SUFFIX):
            paths[raw_name] = (slot[1] if slot else raw_name.removesuffix(VALUE_SUFFIX), slot is not None)
        else:
            result.unknown.append(raw_name)
    context = _Context([path for path, _ in paths.values()], graph)
    for raw_name, (path, ema) in paths.items():
        full_name = graph.full_names.get(path + VALUE_SUFFIX, "")
        saved_as = canonical_variable(full_name)
        canonical = context.canonical(path)
        if canonical is None:
            canonical = saved_as or _of_hub_trainer(path)
            reason = None if canonical else ignored_reason(full_name, H5)
            if reason:
                result.ignored[raw_name] = reason
                continue
            if canonical is None:
                result.unknown.append(raw_name)
                continue
        if saved_as not in (None, canonical):
            raise InputError(
                f"expected {raw_name} to be {canonical}, as its place in the model says, found it saved as "
                f"{saved_as}; save the checkpoint again from the model of google/automl."
            )
        result.add(canonical, raw_name, ema)
    return result


def _of_hub_trainer(path: str) -> str | None:
    """The canonical name of a path below google/automl's trainer of a hub module (tf2/train_lib.py): a TF1 name with
    its slashes escaped below `base_model`, or the prediction layers `classes` and `boxes`.
    """
    match = re.fullmatch(r"(?:.+/)?(?P<part>base_model|classes|boxes)/(?P<name>[^/]+)", path)
    if match is None:
        return None
    name = unescape(match["name"])
    if match["part"] == "base_model":
        return canonical_variable(re.sub(r":\d+$", "", name))
    net = {"classes": "class", "boxes": "box"}[match["part"]]
    return canonical_variable(f"{net}_net/{net}-predict/{name}")


class _Context:
    """What paths of one object-based checkpoint leave out."""

    def __init__(self, paths: list[str], graph: ObjectGraph) -> None:
        self.root = _common_root(paths)
        self.paths = {path.removeprefix(self.root) for path in paths if path.startswith(self.root)}
        self.full_names = {
            key.removesuffix(VALUE_SUFFIX).removeprefix(self.root): name for key, name in graph.full_names.items()
        }
        self.levels = len(self._numbers(r"(?:class|box)_net/bns/0/(\d+)/.*"))
        self.scope = (
            self._from_full_names(r"backbone/.+", r"(?:.+/)?([^/]+)/(?:stem|blocks)_?\d*/.+") or PLACEHOLDER_SCOPE
        )
        first = self._from_full_names(r"(?:class|box)_net/bns/\d+/0/.+", r".*-bn-(\d+)/.+")
        extra = graph.child_names(f"{self.root}resample_layers") or []
        top = 5 + sum(name.isdigit() for name in extra)  # tf2/efficientdet_keras.py: one per level from 6 on
        self.min_level = int(first) if first else top - self.levels + 1
        self.nodes = len(self._numbers(r"fpn_cells/cells/0/fnodes/(\d+)/.*"))

    def canonical(self, path: str) -> str | None:
        if not path.startswith(self.root):
            return None
        path = path.removeprefix(self.root)
        for pattern, target in _OBJECTS:
            match = pattern.fullmatch(path)
            if match:
                return target.format(**match.groupdict(), **self._words(match.groupdict()))
        return None

    def _words(self, groups: dict[str, str]) -> dict[str, str]:
        words = {"scope": self.scope}
        if "block" in groups:
            expand, fused = (
                any(f"backbone/_blocks/{groups['block']}/{layer}/{leaf}" in self.paths for leaf in ("kernel", "gamma"))
                for layer in ("_expand_conv", "_fused_conv")
            )
            words |= {"project": "_1" if expand or fused else ""}
            words |= {"bn1": "_1" if expand else "", "bn2": "_2" if expand else "_1"}
        if "extra" in groups:
            words["extra_level"] = str(6 + int(groups["extra"]))
        if "step" in groups:
            words["level"] = str(self.min_level + int(groups["step"]))
        if "node" in groups:
            words["inputs"] = str(self.levels + int(groups["node"]))
            edge = groups.get("edge")
            if edge is not None:
                words["wsm"] = "WSM" if edge == "0" else f"WSM_{edge}"
                if "leaf" in groups:  # a resampling layer, not a weight of the edge
                    words["offset"] = self._offset(groups["cell"], int(groups["node"]), int(edge))
        return words

    def _offset(self, cell: str, node: int, edge: int) -> str:
        """Which of the features so far input number `edge` of a node is."""
        saved = self._from_full_names(
            rf"fpn_cells/cells/{cell}/fnodes/{node}/resample_layers/{edge}/.+",
            r".*/resample_\d+_(\d+)_\d+/.+",
        )
        if saved is not None:
            return saved
        if self.nodes == 2 * (self.levels - 1):
            return str(build_fpn_graph("bifpn", 1, self.levels).nodes[node].inputs_offsets[edge])
        raise InputError(
            "expected the names of variables in the checkpoint's object graph, found none, and "
            f"{self.nodes} nodes per BiFPN cell of {self.levels} levels are not the default graph; "
            "save the checkpoint with TensorFlow 2."
        )

    def _numbers(self, pattern: str) -> set[str]:
        return {match[1] for path in self.paths if (match := re.fullmatch(pattern, path))}

    def _from_full_names(self, path_pattern: str, name_pattern: str) -> str | None:
        for path, name in self.full_names.items():
            if re.fullmatch(path_pattern, path) and (match := re.fullmatch(name_pattern, name)):
                return match[1]
        return None


def _common_root(paths: list[str]) -> str:
    """What stands before the parts of the model ("" or "model/"), the same for all of them."""
    known = re.compile(r"((?:[^/]+/)*?)(?:backbone/_|fpn_cells/cells/|(?:class|box)_net/|resample_layers/\d)")
    roots = sorted({match[1] for path in paths if (match := known.match(path))})
    if len(roots) > 1:
        raise InputError(
            f"expected one model in the checkpoint, found {len(roots)}, below {', '.join(map(repr, roots))}; "
            "save the checkpoint from one model."
        )
    return roots[0] if roots else ""
