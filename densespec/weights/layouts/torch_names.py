"""Names arrays as torchvision does, and networks derived from it, and densespec's own modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from densespec.network.graph import Graph
from densespec.weights.evidence import Evidence, KernelShape, evidence_by_name
from densespec.weights.layouts import renamed
from densespec.weights.layouts.parts import Part, under
from densespec.weights.stated.torch_modules import modules_in
from densespec.weights.tensors import Tensor, Tensors

COUNTER = "num_batches_tracked"
COUNTERS = (COUNTER, "total_ops", "total_params")
"""Modules count these, by themselves or by tools that measure them."""

Key = Callable[[str], str]
"""Returns an array's key in a ``state_dict`` from its canonical name. Shapes are the same."""

_MARKS = {
    "timm": "norm0.act.",
    "monai": ".layers.conv1.",
    "monai-0.3": "class_layers.class.",
    "gpleiss": "norm_final.",
}
"""Some key of a spelling contains this mark, and none of torchvision's does."""

TIMM = "timm.models.densenet.DenseNet"
"""The class of timm's networks."""

_WHOLE = {"stem_pool": "features.pool0", "final.norm": "features.norm5", "final.relu": "relu"}
_STEM = re.compile(r"stem\.(\D+)(\d?)")
_LEAVES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "running_variance": "running_var",
    "slope": "weight",
}
"""Maps names of arrays to those in a ``state_dict``, where they differ."""

_OLD_SPELLINGS = (
    (".norm.1.", ".norm1."),
    (".norm.2.", ".norm2."),
    (".conv.1.", ".conv1."),
    (".conv.2.", ".conv2."),
    (".bn.norm_", ".norm1."),  # gpleiss' first layer that saves memory
    (".bn.conv_", ".conv1."),
)


def module_path(node: str) -> str:
    """Return the dotted path of the module that computes a node, in torchvision's names.

    What torchvision computes without a module, such as the final ReLU, is outside ``features``.
    """
    if node in _WHOLE:
        return _WHOLE[node]
    if stem := _STEM.fullmatch(node):  # of which the first has no number here
        return f"features.{stem[1]}{int(stem[2] or 1) - 1}"
    if node.startswith("stem_pool."):
        return f"features.pool0.{node.removeprefix('stem_pool.')}"
    if node.startswith("block"):
        return re.sub(r"\blayer", "denselayer", f"features.dense{node}")
    return f"features.{node}" if node.startswith("transition") else node


def key_of(path: Callable[[str], str]) -> Key:
    """Make the function that names keys in a ``state_dict`` from the paths of modules."""

    def key(weight: str) -> str:
        node, _, leaf = weight.rpartition(".")
        return f"{path(node)}.{_LEAVES.get(leaf, leaf)}"

    return key


state_key = key_of(module_path)
"""Returns torchvision's key of an array."""


def state_keys(graph: Graph, key: Key = state_key) -> dict[str, str]:
    """Return the key in the ``state_dict`` of every array of a network, by canonical name."""
    return {weight.name: key(weight.name) for weight in graph.weights}


def keys(key: Key = state_key) -> Callable[[Graph, str], dict[str, str]]:
    """Make the function that names a network's arrays, in any container."""
    return lambda graph, container: state_keys(graph, key)


def evidence(key: Key = state_key) -> Callable[[Tensors], Evidence]:
    """Make the function that reads what the shapes say, by the same names."""

    def of(tensors: Tensors) -> Evidence:
        def find(canonical: str) -> KernelShape | None:
            name = key(canonical)
            return KernelShape(name, tensors[name].shape) if name in tensors else None

        return evidence_by_name(find)

    return of


def counters(key: Key = state_key) -> Callable[[Graph], dict[str, Tensor]]:
    """Make the function that adds PyTorch's counts of batches, which strict loading needs."""

    def of(graph: Graph) -> dict[str, Tensor]:
        zero = Tensor.of(np.zeros((), np.int64))
        return {
            name.replace("running_mean", COUNTER): zero
            for name in state_keys(graph, key).values()
            if name.endswith(".running_mean")
        }

    return of


def is_counter(name: str) -> bool:
    return name.endswith(COUNTERS)


def claims(spelling: str = "torchvision") -> Callable[[Tensors, Mapping[str, str]], bool]:
    """Make the function that says whether a file has torchvision's names in this spelling."""

    def of(tensors: Tensors, metadata: Mapping[str, str]) -> bool:
        found = state_key("stem.conv.kernel") in tensors
        return found and _spelling(tensors, metadata) == spelling

    return of


def _spelling(tensors: Tensors, metadata: Mapping[str, str]) -> str:
    for spelling, mark in _MARKS.items():
        if any(mark in name for name in tensors):
            return spelling
    kinds = {module.kind for module in modules_in(metadata).values()}
    return "timm" if TIMM in kinds else "torchvision"


def normalise(tensors: Tensors) -> dict[str, Tensor]:
    """Change old spellings to the present one."""
    return renamed(tensors, _modern)


def _modern(name: str) -> str:
    for old, new in _OLD_SPELLINGS:
        name = name.replace(old, new)
    return name


_named = under(
    "features.conv0.weight",
    root="features.",
    first="denseblock1.denselayer1.",
    body=r"conv[0-2]|norm[0-2]|denseblock\d+|transition\d+|norm5|norm_final",
)
_NUMBERED_LAYER = re.compile(r"((?:.*\.)?)\d{1,6}\.denselayer1\.(?:layers\.)?norm1\.weight")


def parts(names: Iterable[str]) -> Iterator[Part]:
    """Find where networks of torchvision's names lie.

    A checkpoint of a wrapped model has names such as ``module.densenet121.features.conv0.weight``,
    timm's feature extractor has ``features_conv0.weight``, and what keeps the features alone has
    ``backbone.conv0.weight``, or ``backbone.0.weight`` where it numbers them.
    """
    names = list(names)
    yield from _named(names)
    for prefix in {match[1] for name in names if (match := _NUMBERED_LAYER.fullmatch(name))}:
        yield _numbered(prefix, names)


def _numbered(prefix: str, names: Iterable[str]) -> Part:
    """Recognise a network whose features are numbered by their arrays."""
    start = re.compile(re.escape(prefix) + r"(\d{1,6})\.(.+)")
    inside = {name: match.groups() for name in names if (match := start.fullmatch(name))}
    called = dict(_called(inside.values()))
    return Part(prefix, {n: f"features.{called[i]}.{rest}" for n, (i, rest) in inside.items()})


def _called(inside: Iterable[Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Yield torchvision's name for each feature, by its number.

    Args:
        inside: The number of the feature that each array is in, and the rest of its name.
    """
    arrays: dict[str, set[str]] = {}
    for number, rest in inside:
        arrays.setdefault(number, set()).add(rest)
    blocks = transitions = convs = norms = 0
    for number in sorted(arrays, key=int):
        if any(rest.startswith("denselayer1.") for rest in arrays[number]):
            blocks += 1
            yield number, f"denseblock{blocks}"
        elif "conv.weight" in arrays[number]:
            transitions += 1
            yield number, f"transition{transitions}"
        elif "running_mean" in arrays[number]:
            yield number, "norm5" if blocks else f"norm{norms}"
            norms += 1
        else:
            yield number, f"conv{convs + 3 * (blocks > 0)}"
            convs += 1


IMPLEMENTS: Mapping[str, object] = {
    "compression": 0.5,
    "stem_kind": "conv-norm-relu",
    "stem_kernel": 7,
    "stem_stride": 2,
    "stem_pool": 3,
    "padding": "symmetric",
    "conv_bias": False,
    "batch_norm_epsilon": 1e-5,
    "batch_norm_momentum": 0.1,
    "running_variance": "unbiased",
    "transition_relu": True,
    "final_norm": True,
    "dropout_place": "layer",
    "head_units": (),
    "head_dropout_rate": 0.0,
    "classifier_bias": True,
    "global_pool": "avg",
    "stem_pool_kind": "max",
    "transition_pool_kind": "avg",
    "activation": "relu",
    "norm": "batch",
    "norm_affine": True,
}
"""Torchvision's network, and those that took its code, fix these fields."""

CIFAR: Mapping[str, object] = {
    "stem_kind": "conv",
    "stem_kernel": 3,
    "stem_stride": 1,
    "stem_pool": None,
    "spatial_dims": 2,
}
"""Such a network for small images has these fields in its stem."""
