"""Caches features: runs the frozen part once over the data, and trains the rest on its output.

In training, everything frozen computes what it does in inference, image by image. So without
augmentation an image gives the same features in every epoch, and a head trained on them is the head
trained behind the frozen part.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densespec.backends import Backend
from densespec.data import Batches
from densespec.data.batches import LabelledBatch
from densespec.errors import WeightsError
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, split
from densespec.recipes.recipe import TrainingRecipe
from densespec.training.errors import TrainingError
from densespec.weights.containers import open_file, write_file
from densespec.weights.tensors import Tensor

LARGEST = 2 << 30
"""Features of at most this many bytes are cached without being asked for."""

Advance = Callable[[int, int], None]
"""Is told how many of how many images are done."""


@dataclass(frozen=True)
class Cut:
    """Holds the two parts of a network.

    Attributes:
        before: the frozen part; its output is the features.
        after: the part that trains; its input has the name of the output of ``before``.
    """

    before: Graph
    after: Graph

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the features of one image."""
        return tuple(size for size in self.before.output.shape if size is not None)


def cut(graph: Graph) -> Cut:
    """Cut a network before the first node that trains.

    Raises:
        ValueError: nothing is frozen, or the border lies inside a layer.
    """
    if graph.trainable_from is None:
        raise ValueError("no part of the network is frozen")
    return Cut(*split(graph, graph.trainable_from))


def why_not(graph: Graph, recipe: TrainingRecipe, devices: int) -> str | None:
    """Say why the features of a run can't be cached; None if they can."""
    if recipe.changes_images:
        return (
            f"augmentation is {recipe.augmentation!r}, or the recipe changes images otherwise, so "
            "that no image is seen twice and no features can be used twice: set augmentation = "
            "'none' and nothing else, or leave the cache out"
        )
    if devices > 1:
        return f"the run is on {devices} devices: use one device, where the head is quick enough"
    try:
        cut(graph)
    except ValueError as error:
        return str(error)
    return None


def may_cache(
    choice: bool | str, graph: Graph, recipe: TrainingRecipe, devices: int, images: int
) -> tuple[bool, str | None]:
    """Decide whether to cache features, and what to say about it.

    Args:
        choice: True, False, or ``"auto"``, which caches features if that is possible and they are
            small.
        images: the number of images of the data set.

    Raises:
        TrainingError: it is asked for and impossible; the message says why.
    """
    if choice is False or (choice == "auto" and graph.trainable_from is None):
        return False, None
    reason = why_not(graph, recipe, devices)
    if reason and choice is True:
        raise TrainingError(f"features can't be cached: {reason}")
    if reason:
        return False, f"features are not cached: {reason}"
    parts = cut(graph)
    item = 8 if recipe.dtype == "float64" else 4
    size = images * math.prod(parts.shape) * item
    text = f"{images} x {' x '.join(map(str, parts.shape))}, {size / 1e6:.0f} MB"
    if choice == "auto" and size > LARGEST:
        return False, f"features are not cached, being {text}: ask for the cache to have it"
    return True, f"features of {parts.before.output.name} are cached ({text})"


@dataclass(frozen=True, eq=False)
class FeatureBatches:
    """Gives the batches of a split with features in the place of images.

    Attributes:
        batches: the batches of images, which decide the order.
        features: the features of each image of the split, in the split's order.
    """

    batches: Batches
    features: np.ndarray

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[LabelledBatch]:
        """Yield the batches of an epoch, beginning at a step."""
        for step in range(start_step, len(self)):
            rows = self.batches.rows(epoch, step)
            yield self.features[rows], self.batches.split.y[rows]


def fingerprint(parts: Cut, arrays: Mapping[str, np.ndarray], data: str, dtype: str) -> str:
    """Return a digest of everything that the features depend on."""
    digest = hashlib.sha256(f"{data} {dtype} {parts.before.output.name}".encode())
    digest.update(repr([(node.name, node.op) for node in parts.before.nodes]).encode())
    for weight in parts.before.weights:
        digest.update(weight.name.encode())
        digest.update(np.ascontiguousarray(arrays[weight.name], np.float64).tobytes())
    return digest.hexdigest()


def cached(
    path: Path,
    key: str,
    engine: Backend,
    parts: Cut,
    arrays: Mapping[str, np.ndarray],
    batches: Mapping[str, Batches],
    *,
    dtype: str,
    advance: Advance,
) -> Arrays:
    """Return the features of some splits, from the file at ``path`` if ``key`` is theirs."""
    known = _read(path, key)
    if known.keys() >= batches.keys():
        return known
    own = {weight.name: arrays[weight.name] for weight in parts.before.weights}
    model = engine.build(
        parts.before,
        own,
        dtype=dtype,
        data_format=engine.data_format(None),
        name="frozen",
    )
    total, done, found = sum(len(b.split) for b in batches.values()), 0, {}
    name = parts.before.output.name
    for part, images in batches.items():
        plain = _in_order(images)
        features = np.empty(
            (len(images.split), *parts.shape), "float64" if dtype == "float64" else "float32"
        )
        for step, (x, _) in enumerate(plain.epoch(0)):
            start = step * plain.batch_size
            features[start : start + len(x)] = engine.forward(model, parts.before, x, [name])[name]
            done += len(x)
            advance(done, total)
        found[part] = features
    write_file(path, {p: Tensor.of(f) for p, f in found.items()}, {"key": key})
    return found


def _in_order(batches: Batches) -> Batches:
    return Batches(
        batches.split,
        batches.normalisation,
        batch_size=batches.batch_size,
        shuffle=False,
        size=batches.size,
        dtype=batches.dtype,
    )


def _read(path: Path, key: str) -> Arrays:
    try:
        with open_file(path) as file:
            if file.metadata.get("key") != key:
                return {}
            return {name: tensor.read() for name, tensor in file.tensors.items()}
    except WeightsError:  # absent, or damaged: it is made anew
        return {}
