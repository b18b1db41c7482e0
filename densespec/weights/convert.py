"""Converts weights from any layout to any other, tensor by tensor, if the target can hold them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from densespec.errors import WeightsError, in_words
from densespec.network.differences import TRAINING_ONLY, fields_of
from densespec.network.graph import Graph
from densespec.weights.comparing import Effect, effect_of, exact
from densespec.weights.containers import WRITERS, container_of, write_file
from densespec.weights.containers.base import byte_size, numpy_dtype
from densespec.weights.layouts import Layout, get_layout
from densespec.weights.layouts.canonical import ACTIVATION
from densespec.weights.naming import layout_tensors
from densespec.weights.opening import IdentifiedWeights, open_weights
from densespec.weights.reading import takes_reading_options
from densespec.weights.tensors import Tensor, Tensors
from densespec.weights.whole_models import write_model, writer_of

DEFAULT_LAYOUTS = {
    "safetensors": "densespec",
    "torch": "torchvision",
    "keras-weights": "densespec-keras",
    "keras": "densespec-keras",
    "keras-legacy": "keras-applications",
    "msgpack": "flax",
    "orbax": "flax-nnx",
}
"""A container gets this layout if none is asked for."""

Differences = Mapping[str, tuple[Any, Any]]
"""Maps fields of a spec to the source's value and the target's value."""

Progress = Callable[[int, int], None]
"""Is told the number of bytes that are written, and of all that will be written."""


class DifferentNetwork(WeightsError):
    """The target's implementation is another network than the source's."""


@dataclass(frozen=True)
class Conversion:
    """Describes what a conversion did.

    Attributes:
        differences: The fields in which the target's implementation is another network, each with
            the source's value and the target's.
        effect: The measured effect of these differences; None if there are none, or if the target
            can't hold the weights.
        training_differences: The fields in which the target only trains differently.
        not_finite: The canonical names of arrays with NaN or infinite values.
        notes: Sentences that say what the target can't state of the source, and which differences
            are too small for float32.
    """

    source: IdentifiedWeights
    path: Path
    container: str
    layout: Layout
    differences: Differences = field(default_factory=dict)
    effect: Effect | None = None
    training_differences: Differences = field(default_factory=dict)
    not_finite: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    keeps_activation: bool = True

    @property
    def is_another(self) -> bool:
        """Say whether the target's implementation computes more than a rounding apart."""
        return bool(self.differences) and not (self.effect and self.effect.is_rounding)


@takes_reading_options
def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to_layout: str | None = None,
    dtype: str | None = None,
    allow_different: bool = False,
    progress: Progress | None = None,
    **reading: Any,
) -> Conversion:
    """Convert a weight file to another layout; the target is written whole or not at all.

    Args:
        to_layout: The target's layout; None chooses it by the suffix.
        dtype: The dtype to which floating-point arrays are cast; None keeps their dtypes.
        allow_different: Whether to write even if the target's implementation computes something
            else, by more than float32's own rounding of the network.
        progress: Called with the number of bytes written and of all bytes.
        {reading}

    Raises:
        WeightsError: The source can't be read or does not fit, or the target can't be written.
        DifferentNetwork: The target's implementation is another network; the message says in what,
            and what it changes, measured.
    """
    target = Path(target)
    container = container_of(target)
    layout = get_layout(to_layout or DEFAULT_LAYOUTS.get(container, "densespec"))
    _check_target(target, container, layout)
    with open_weights(source, **reading) as found:
        if layout.implements.get("classifier_bias"):
            found = found.with_classifier_bias()
        differences = layout.differences(found.spec)
        lasting = {k: v for k, v in differences.items() if k not in TRAINING_ONLY}
        effect = _effect(found, lasting) if lasting else None
        if lasting and not allow_different and not (effect and effect.is_rounding):
            raise DifferentNetwork(_refusal(layout, lasting, effect))
        unsaid = _unsaid(found.graph, layout, container)
        bad: list[str] = []
        tensors = {
            name: _watched(name, _cast(tensor, dtype), bad)
            for name, tensor in found.tensors.items()
        }
        _write(target, container, layout, found, tensors, lasting, progress)
        return Conversion(
            source=found,
            path=target,
            container=container,
            layout=layout,
            differences=lasting,
            effect=effect,
            training_differences={k: v for k, v in differences.items() if k in TRAINING_ONLY},
            not_finite=tuple(dict.fromkeys(bad)),
            notes=(
                *unsaid,
                *_arguments(found.graph, layout),
                *_below_rounding(lasting, effect),
            ),
            keeps_activation=not unsaid,
        )


def _arguments(graph: Graph, layout: Layout) -> Iterator[str]:
    """Yield a note of what a file can't state, so that whoever builds the network has to."""
    fields = fields_of(graph.spec)
    said = ("activation", "norm", "batch_norm_epsilon")
    usual = {"norm": "batch"} | {n: v for n, v in layout.usual.items() if v is not None}
    told = {"activation": "prelu"}  # by its slopes
    there = [
        name
        for name in said
        if name in layout.usual and fields[name] not in (usual[name], told.get(name))
    ]
    if there:
        values = " and ".join(f"{name} = {fields[name]!r}" for name in there)
        yield f"a file of layout {layout.name!r} can't say {values}: build the network with it"


def _unsaid(graph: Graph, layout: Layout, container: str) -> tuple[str, ...]:
    activation = graph.classifier_activation
    says_it = container not in WRITERS or ACTIVATION in layout.metadata(graph, container)
    if activation is None or says_it:
        return ()
    return (
        f"the source ends in a {activation}, which a {container} file of layout {layout.name!r} "
        f"can't say: it gives logits; build it with classifier_activation={activation!r}",
    )


def _cast(tensor: Tensor, dtype: str | None) -> Tensor:
    if dtype is None or tensor.dtype == dtype:
        return tensor
    return Tensor(tensor.shape, dtype, lambda: tensor.read().astype(numpy_dtype(dtype)))


def _watched(name: str, tensor: Tensor, bad: list[str]) -> Tensor:
    def read() -> np.ndarray:
        array = tensor.read()
        if not np.isfinite(array).all():
            bad.append(name)
        return array

    return Tensor(tensor.shape, tensor.dtype, read)


def _check_target(target: Path, container: str, layout: Layout) -> None:
    """Check that a layout can be written into such a file.

    Raises:
        WeightsError: The layout does not live there, or nothing writes its whole models.
    """
    if container not in layout.containers:
        raise WeightsError(
            f"{target}: layout {layout.name!r} lives in {' or '.join(layout.containers)} files, "
            f"not in {container} ones"
        )
    if container not in WRITERS:
        writer_of(layout, target)


def _write(
    target: Path,
    container: str,
    layout: Layout,
    found: IdentifiedWeights,
    tensors: Tensors,
    differences: Differences,
    progress: Progress | None,
) -> None:
    if container not in WRITERS:
        arrays = {name: tensor.read() for name, tensor in tensors.items()}
        write_model(layout, target, found.graph, arrays, name=found.variant or "densenet")
        return
    named = layout_tensors(layout, container, found.graph, tensors)
    metadata = dict(layout.metadata(found.graph, container))
    if "densespec" in metadata:
        metadata |= found.accompaniment.texts()
    if differences:
        metadata["densespec.differences"] = "; ".join(_there_and_here(differences))
    total = sum(byte_size(tensor.shape, tensor.dtype) for tensor in named.values())
    written = 0

    def advance(count: int) -> None:
        nonlocal written
        written += count
        if progress:
            progress(written, total)

    write_file(target, named, metadata, container=container, progress=advance)


def _there_and_here(differences: Differences) -> list[str]:
    """Say what the target has there, and the source has here."""
    return in_words({name: (theirs, ours) for name, (ours, theirs) in differences.items()})


def _refusal(layout: Layout, differences: Differences, effect: Effect | None) -> str:
    measured = (
        f"With these weights its feature map differs by {effect.difference:.1e} of the largest "
        "value"
        if effect
        else "It cannot hold these weights"
    )
    return (
        f"{layout.name} ({layout.about}) computes another network: "
        f"{'; '.join(_there_and_here(differences))}. {measured}. To write it all the same, allow "
        "differences (--allow-different)"
    )


def _effect(found: IdentifiedWeights, differences: Differences) -> Effect | None:
    changes = {name: theirs for name, (_, theirs) in differences.items()}
    return effect_of(changes, found.spec, exact(found))


def _below_rounding(differences: Differences, effect: Effect | None) -> Iterator[str]:
    """Yield a note of differences that are too small for a refusal."""
    if differences and effect and effect.is_rounding:
        apart = "; ".join(in_words(differences, "in the source", "in the target"))
        yield (
            f"{apart}: the feature map differs by {effect.difference:.1e} of its largest value, "
            f"which is below float32's own rounding of this network, {effect.rounding:.1e}"
        )
