"""Opening weights: whose layout they have, which network they are of, and its arrays by name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densespec.errors import WeightsError
from densespec.network.arrays import Arrays
from densespec.network.catalogue import SpecLike
from densespec.network.differences import variant_of
from densespec.network.graph import Graph, lower
from densespec.network.spec import DenseNetSpec
from densespec.weights.containers import open_file
from densespec.weights.evidence import Contradiction
from densespec.weights.inferring import infer_network
from densespec.weights.layouts import Layout, get_layout
from densespec.weights.naming import canonical_tensors, claimants
from densespec.weights.stated.network import StatedNetwork
from densespec.weights.tensors import Tensors


@dataclass(frozen=True, kw_only=True)
class IdentifiedWeights:
    """Arrays of which it is known what network they are of, and which of its arrays each is.

    Attributes:
        container: The kind of file, or in memory the kind whose names the arrays have.
        layout: Whose names they have.
        spec: The network's. What shapes leave open is as the layout's implementation has it.
        graph: The network, which ends as the file states; it has a classifier only if the arrays
            have one.
        tensors: The network's arrays by canonical name, with canonical axes, read when needed.
        extra: What else is there, such as an optimizer's state, by its name in the layout.
        metadata: The texts that a file has beside its arrays.
        notes: What a user should know of how the arrays were read, in sentences.
        path: The file's; None for arrays in memory.
    """

    container: str
    layout: Layout
    spec: DenseNetSpec
    graph: Graph
    tensors: Tensors
    extra: Tensors = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    path: Path | None = None

    @property
    def variant(self) -> str | None:
        """The spec's name in the catalogue, whatever its classes and channels; None without one."""
        return variant_of(self.spec)

    @property
    def has_classifier(self) -> bool:
        return self.graph.has_classifier

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that the network's arrays have, in alphabetical order."""
        return tuple(sorted({tensor.dtype for tensor in self.tensors.values()}))

    def arrays(self) -> Arrays:
        """Read every array of the network now."""
        return {name: tensor.read() for name, tensor in self.tensors.items()}


@contextlib.contextmanager
def open_weights(
    path: str | os.PathLike[str],
    *,
    layout: str | None = None,
    spec: SpecLike | None = None,
    otherwise: SpecLike | None = None,
    stated: StatedNetwork | None = None,
) -> Iterator[IdentifiedWeights]:
    """Open a weight file of any layout; its tensors can be read until the block ends.

    Args:
        layout: The file's layout; it is found by inspection otherwise.
        spec: The network's; it is worked out from metadata, shapes and layout otherwise.
        otherwise: The spec to take if it can't be worked out.
        stated: The network that is stated beside the file; what the file states itself otherwise.

    Raises:
        WeightsError: The file can't be read, or its arrays do not fit the network; names the file
            and the first arrays that are missing, unexpected or of another shape.
    """
    path = Path(path)
    with contextlib.closing(open_file(path)) as file:
        try:
            identified = identify(
                file.tensors,
                file.metadata,
                file.container,
                layout=layout,
                spec=spec,
                otherwise=otherwise,
                stated=stated,
                path=path,
            )
        except WeightsError as error:
            raise type(error)(_with_path(path, error)) from error
        yield identified


def _with_path(path: Path, error: WeightsError) -> str:
    return str(error) if str(path) in str(error) else f"{path}: {error}"


def identify(
    tensors: Tensors,
    metadata: Mapping[str, str],
    container: str,
    *,
    layout: str | None = None,
    spec: SpecLike | None = None,
    otherwise: SpecLike | None = None,
    stated: StatedNetwork | None = None,
    path: Path | None = None,
) -> IdentifiedWeights:
    """Work out which network named arrays are of, and which of its arrays each is.

    Args:
        tensors: The arrays by the names that they have where they come from, a file or not.
        metadata: Texts that come with them.
        container: The kind of file that they are in, or would have these names in.
        path: The file's, if they are in one.
        layout, spec, otherwise, stated: As for :func:`open_weights`.

    Raises:
        WeightsError: They are of no layout, of no DenseNet, or do not fit the network.
    """
    *likelier, last = [get_layout(layout)] if layout else claimants(tensors, metadata)
    given: dict[str, Any] = {"spec": spec, "otherwise": otherwise, "stated": stated, "path": path}
    ruled_out = []
    for known in likelier:
        try:
            return _identify_as(known, tensors, metadata, container, **given)
        except Contradiction as error:
            ruled_out.append(f"it is not {known.name}'s, as {error}")
    try:
        return _identify_as(last, tensors, metadata, container, **given)
    except WeightsError as error:
        raise type(error)("; ".join([str(error), *ruled_out])) from error


def _identify_as(
    layout: Layout,
    tensors: Tensors,
    metadata: Mapping[str, str],
    container: str,
    *,
    spec: SpecLike | None,
    otherwise: SpecLike | None,
    stated: StatedNetwork | None,
    path: Path | None,
) -> IdentifiedWeights:
    normal = layout.normalise(tensors)
    own = {name: tensor for name, tensor in normal.items() if not layout.ignored(name)}
    stated = stated or layout.stated_network(metadata)
    network = infer_network(layout, own, stated, given=spec, otherwise=otherwise)
    graph = lower(network.spec, include_top=network.has_classifier, **network.ends)
    return IdentifiedWeights(
        container=container,
        layout=layout,
        spec=network.spec,
        graph=graph,
        tensors=canonical_tensors(layout, container, graph, own),
        extra={name: tensor for name, tensor in normal.items() if name not in own},
        metadata=metadata,
        notes=(*_unwrapped(metadata), *layout.notes(metadata), *network.notes),
        path=path,
    )


def _unwrapped(metadata: Mapping[str, str]) -> Iterator[str]:
    if "unwrapped" in metadata:
        yield f"read from under {metadata['unwrapped']!r}"
