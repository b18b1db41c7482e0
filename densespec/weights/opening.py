"""Opens weights: finds whose layout they have, which network they make, and its arrays by name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from densespec.errors import SHOWN, DensespecError, SpecError, WeightsError, bare
from densespec.network.arrays import Arrays
from densespec.network.catalogue import SpecLike, resolve
from densespec.network.differences import variant_of
from densespec.network.graph import CLASSIFIER, Graph, with_spec
from densespec.network.spec import DenseNetSpec
from densespec.pretrained.accompaniment import NOTHING, Accompaniment
from densespec.pretrained.fetching import FetchedWeights, fetch
from densespec.pretrained.registry import find, nearest_names
from densespec.weights import averages
from densespec.weights.beside import stated_beside
from densespec.weights.channels import fitted_channels
from densespec.weights.containers import SUFFIXES, is_folder_of_weights, open_file
from densespec.weights.digests import checked
from densespec.weights.dimensions import fitted_dimensions
from densespec.weights.evidence import Contradiction, NoNetwork
from densespec.weights.finding import WRAPPERS, Claim, claim_of, claims_on, under_prefix, unwrapped
from densespec.weights.fitting import fit
from densespec.weights.heads import zero_bias
from densespec.weights.layouts import Layout, get_layout
from densespec.weights.nearest import nearest_to, no_known_layout
from densespec.weights.order import ORDER, layout_in_order
from densespec.weights.reading import ReadingOptions, takes_reading_options
from densespec.weights.side_by_side import of_names, told_of_networks
from densespec.weights.stated.keras_parts import models_in, of_model
from densespec.weights.stated.network import StatedNetwork, StatedOtherwise
from densespec.weights.stated.torch_modules import modules_in
from densespec.weights.tensors import OpenFile, Tensors
from densespec.weights.without import by_every_name, likely_apart, without_layers


@dataclass(frozen=True, kw_only=True)
class IdentifiedWeights:
    """Describes arrays whose network is known, as is the role of each array in it.

    Attributes:
        container: The kind of file; for arrays in memory, the kind of file that has such names.
        layout: The layout whose names they have.
        spec: The network's spec. What shapes leave open is as in the layout's implementation.
        graph: The network, which ends as the file states; it has a classifier only if the arrays
            have one.
        tensors: The network's arrays by canonical name, with canonical axes. They are read when
            needed.
        extra: The other arrays, such as an optimizer's state, by their names in the layout.
        metadata: The texts that a file has beside its arrays.
        assumptions: Sentences that say what was assumed because the file does not state it.
        remarks: Sentences that say what else a user should know of how the arrays were read.
        headless: The reason why no classifier was recognised although there are linear layers;
            empty otherwise.
        assumed: The fields of the spec that were assumed, with their values.
        path: The path of the file; None for arrays in memory.
        accompaniment: What goes with the arrays: where they are from, what images need, labels.
    """

    container: str
    layout: Layout
    spec: DenseNetSpec
    graph: Graph
    tensors: Tensors
    extra: Tensors = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    headless: str = ""
    assumed: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    accompaniment: Accompaniment = NOTHING

    @property
    def notes(self) -> tuple[str, ...]:
        """Say in sentences all that a user should know of how the arrays were read."""
        return (*_unwrapped(self.metadata), *self.remarks, *self.of_head, *self.assumptions)

    @property
    def cautions(self) -> tuple[str, ...]:
        """Return the notes of what could be wrong or be missed, but not of where the arrays lay."""
        return (*self.remarks, *self.assumptions)

    @property
    def of_head(self) -> tuple[str, ...]:
        """Make a note of why there is no classifier, if there are linear layers."""
        return (f"the head is left out: {self.headless}",) if self.headless else ()

    @property
    def variant(self) -> str | None:
        """Name the spec's variant, whatever its classes and channels are; None for no variant."""
        return variant_of(self.spec)

    @property
    def has_classifier(self) -> bool:
        return self.graph.has_classifier

    @property
    def dtypes(self) -> tuple[str, ...]:
        """List the dtypes of the network's arrays in alphabetical order."""
        return tuple(sorted({tensor.dtype for tensor in self.tensors.values()}))

    def with_classifier_bias(self) -> IdentifiedWeights:
        """Return the same network with a bias of zeros where the classifier has none."""
        if not self.has_classifier or self.spec.classifier_bias:
            return self
        graph = with_spec(self.graph, self.spec.replace(classifier_bias=True))
        bias = zero_bias(self.tensors[f"{CLASSIFIER}.kernel"])
        tensors = {**self.tensors, f"{CLASSIFIER}.bias": bias}
        return replace(self, spec=graph.spec, graph=graph, tensors=tensors)

    def arrays(self) -> Arrays:
        """Read every array of the network now."""
        return {name: tensor.read() for name, tensor in self.tensors.items()}


@contextlib.contextmanager
@takes_reading_options
def open_weights(
    path: str | os.PathLike[str],
    *,
    otherwise: SpecLike | None = None,
    stated: StatedNetwork | None = None,
    **reading: Any,
) -> Iterator[IdentifiedWeights]:
    """Open a weight file of any layout; its tensors can be read until the block ends.

    Args:
        path: The path of the file, or the name of trained weights, which are fetched if they are
            not here; a path that exists is never taken for a name.
        otherwise: The spec to take if it can't be worked out.
        stated: The network that is stated beside the file; None takes what the file itself states,
            or timm's ``config.json`` beside it.
        {reading}

    Raises:
        WeightsError: The file can't be read, or its arrays do not fit the network; the message
            names the file and the first arrays that are missing, unexpected or of another shape.
    """
    options = ReadingOptions(**reading)
    trained = _trained(os.fspath(path), options.spec or otherwise)
    if trained is not None:
        path, row = trained.path, trained.row
        options = options.otherwise(spec=row.spec, layout=row.layout)
    path = Path(path)
    averaged = averages.asked_for(path, options.key)
    with _opened(path, None if averaged else options.key) as file:
        try:
            tensors = checked(path, file.tensors, file.metadata)
            tensors, beside = averages.chosen(tensors, averages=averaged)
            identified = identify(
                tensors,
                file.metadata,
                file.naming,
                options,
                otherwise=otherwise,
                stated=stated or (None if trained else stated_beside(path)),
                path=path,
            )
        except WeightsError as error:
            raise type(error)(_with_path(path, error)) from error
        except SpecError as error:
            raise WeightsError(f"{path}: its network can't be: {error}") from error
        remarks = (*file.notes, *beside, *identified.remarks)
        found = replace(identified, container=file.container, remarks=remarks)
        yield _with_trained(found, trained)


def _trained(name: str, otherwise: SpecLike | None) -> FetchedWeights | None:
    """Fetch the file of the trained weights that a name means; None for a path.

    Raises:
        WeightsError: The name means several files, or none for this network; or the file can't be
            fetched.
    """
    if Path(name).is_file() or is_folder_of_weights(Path(name)):
        return None
    row = find(name, None if otherwise is None else resolve(otherwise))
    return None if row is None else fetch(row)


@contextlib.contextmanager
def _opened(path: Path, key: str | None) -> Iterator[OpenFile]:
    """Open a file; where there is none, say which names are near as well.

    Raises:
        WeightsError: It can't be read.
    """
    try:
        file = open_file(path, key=key)
    except WeightsError as error:
        if path.exists() or str(path).lower().endswith(tuple(SUFFIXES)):
            raise
        near = nearest_names(str(path))
        raise WeightsError(
            f"{path}: no such file, and no name of trained weights: {near}"
        ) from error
    with contextlib.closing(file):
        yield file


def _with_trained(
    identified: IdentifiedWeights, trained: FetchedWeights | None
) -> IdentifiedWeights:
    if trained is None:
        return replace(identified, accompaniment=_stated_accompaniment(identified))
    accompaniment = trained.accompaniment().fitted_to(identified.graph)
    assumptions = (*identified.assumptions, *trained.assumptions)
    return replace(identified, accompaniment=accompaniment, assumptions=assumptions)


def _stated_accompaniment(identified: IdentifiedWeights) -> Accompaniment:
    """Read what one of our files states to go with its arrays."""
    if "densespec" not in identified.metadata:
        return NOTHING
    try:
        return Accompaniment.from_texts(identified.metadata).fitted_to(identified.graph)
    except WeightsError as error:
        raise WeightsError(f"{identified.path}: {error}") from error


def _with_path(path: Path, error: WeightsError) -> str:
    return str(error) if str(path) in str(error) else f"{path}: {error}"


def identify(
    tensors: Tensors,
    metadata: Mapping[str, str],
    container: str,
    options: ReadingOptions | None = None,
    *,
    otherwise: SpecLike | None = None,
    stated: StatedNetwork | None = None,
    path: Path | None = None,
) -> IdentifiedWeights:
    """Work out which network named arrays belong to, and the role of each array.

    Args:
        tensors: The arrays by the names that they have where they come from, a file or not.
        metadata: Texts that come with them.
        container: The kind of file that would have these names, such as the one that they are in.
        options: What a user says of them.
        otherwise: The spec to take if it can't be worked out.
        stated: The network that is stated beside them; None takes what the metadata state.
        path: The file's, if they are in one.

    Raises:
        WeightsError: They are of no layout, of no DenseNet, or do not fit the network.
    """
    options = options or ReadingOptions()
    tensors = tensors if modules_in(metadata) else unwrapped(tensors)
    if options.prefix is not None:
        tensors, metadata = _under(WRAPPERS.sub("", options.prefix), tensors, metadata)
    if options.without is not None:
        options = options.replace(without=by_every_name(options.without, metadata))
        tensors, metadata = without_layers(tensors, metadata, options.without or ())
    networks = partial(_of_networks, tensors, metadata, container, options)
    try:
        claims = _claims(tensors, metadata, options)
    except WeightsError as error:
        raise type(error)(f"{error}{networks()}") from error
    given: dict[str, Any] = {"options": options, "otherwise": otherwise, "stated": stated}
    try:
        return _first_that_fits(claims, metadata, container, path, **given)
    except NoNetwork as error:
        nearest = nearest_to(tensors)
        raise WeightsError(f"{error}. {nearest}" if nearest else str(error)) from error
    except WeightsError as error:
        several = networks()
        told = f"{error}{_of_inner_models(metadata)}{several}"
        if options.without is None and not several:

            def read_without(layers: Sequence[str]) -> None:
                identify(tensors, metadata, container, options.replace(without=layers, prefix=None))

            told += _of_layers(error, metadata, read_without)
        raise type(error)(told) from error


def _of_networks(
    tensors: Tensors, metadata: Mapping[str, str], container: str, options: ReadingOptions
) -> str:
    """Say how to choose one of several networks in a flat Keras model: each way is tried."""
    if options.prefix is not None or options.without is not None:
        return ""

    def read_under(prefix: str) -> None:
        identify(tensors, metadata, container, options.replace(prefix=prefix))

    return told_of_networks(tensors, metadata, read_under)


def _under(
    prefix: str, tensors: Tensors, metadata: Mapping[str, str]
) -> tuple[Tensors, Mapping[str, str]]:
    """Take one model of a file, what lies under a prefix, or layers whose names start with it."""
    own, narrowed, start = of_model(tensors, metadata, prefix)
    if not start:
        return own, narrowed
    try:
        return under_prefix(own, start), narrowed
    except WeightsError:
        found = of_names(tensors, metadata, prefix)
        if found is None:
            raise
        return found


def _of_inner_models(metadata: Mapping[str, str]) -> str:
    """Say how to read only a model that lies within the model of a Keras file."""
    if not (names := models_in(metadata)):
        return ""
    inner = " or ".join(f"--prefix {bare(name)}" for name in names[:SHOWN])
    return f"; of the models within it, one can be read by its name ({inner})"


def _of_layers(error: WeightsError, metadata: Mapping[str, str], read_without: Any) -> str:
    """Say which layers to leave out of a Keras file, so that the rest is read: that is tried.

    Args:
        read_without: Reads it without some layers.
    """
    layer = error.layer if isinstance(error, StatedOtherwise) else None
    for layers in likely_apart(metadata, layer):
        with contextlib.suppress(DensespecError):
            read_without(layers)
            names = ",".join(map(bare, layers))
            return f"; if {names} is no part of the network, the rest is read by --without {names}"
    return ""


def _first_that_fits(
    claims: Sequence[Claim], metadata: Mapping[str, str], *place: Any, **given: Any
) -> IdentifiedWeights:
    """Identify the arrays by the first claim that their shapes do not contradict."""
    *likelier, last = claims
    ruled_out = []
    for claim in likelier:
        try:
            return _identified(claim, metadata, *place, **given)
        except Contradiction as error:
            ruled_out.append(f"it is not {claim.layout.name}'s, as {error}")
    try:
        return _identified(last, metadata, *place, **given)
    except WeightsError as error:
        if not ruled_out:
            raise
        raise type(error)("; ".join([str(error), *ruled_out])) from error


def _claims(tensors: Tensors, metadata: Mapping[str, str], options: ReadingOptions) -> list[Claim]:
    if options.layout == ORDER:
        return [claim_of(layout_in_order(tensors), tensors)]
    if options.layout is not None:
        return [claim_of(get_layout(options.layout), tensors)]
    claims = claims_on(tensors, metadata)
    if not claims:
        raise WeightsError(no_known_layout(tensors))
    return claims


def _identified(
    claim: Claim,
    metadata: Mapping[str, str],
    container: str,
    path: Path | None,
    **given: Any,
) -> IdentifiedWeights:
    found = fit(claim, container, metadata, **given)
    options, spec = given["options"], found.graph.spec
    graph, tensors, channels = fitted_channels(
        found.graph, found.tensors, options.in_channels or spec.in_channels
    )
    graph, tensors, dimensions = fitted_dimensions(
        graph, tensors, options.spatial_dims or spec.spatial_dims
    )
    return IdentifiedWeights(
        container=container,
        layout=claim.layout,
        spec=graph.spec,
        graph=graph,
        tensors=tensors,
        extra=found.extra,
        metadata=metadata,
        assumptions=(*found.assumptions, *channels, *dimensions),
        remarks=found.remarks,
        headless=found.headless,
        assumed=found.assumed,
        path=path,
    )


def _unwrapped(metadata: Mapping[str, str]) -> Iterator[str]:
    if "unwrapped" in metadata:
        yield f"read from under {metadata['unwrapped']!r}"
